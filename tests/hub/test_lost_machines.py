"""Machines that are terminated behind the hub's back, or never answer."""

from __future__ import annotations

from .beside import Stage
from .hubs import Hub, User
from .processes import eventually
from .words import assert_fit_for_a_user


def terminate(user: User) -> str:
    """As somebody in the console would; the instance's id."""
    instance_id = str(user.worker()["id"])
    user.hub.cloud.on_worker(instance_id, "terminate")
    eventually(lambda: not user.workers(), 5, "it is terminated")
    return instance_id


def holds(user: User, home_id: str) -> bool:
    """Whether the user's worker has that home."""
    return home_id in [m["volume_id"] for m in user.worker()["mappings"].values()]


def test_a_user_whose_stopped_machine_was_terminated_gets_a_new_one_with_the_same_home(
    quick_hub: Hub,
) -> None:
    mia = quick_hub.user("mia")
    mia.start()
    home = mia.home()["id"]
    mia.stop()
    mia.becomes("stopped")
    lost = terminate(mia)
    mia.start()
    assert mia.worker()["id"] != lost
    assert mia.home()["id"] == home
    assert holds(mia, home)


def test_the_hub_notices_that_a_running_machine_was_terminated(quick_hub: Hub) -> None:
    ned = quick_hub.user("ned")
    ned.start()
    home = ned.home()["id"]
    lost = terminate(ned)
    eventually(lambda: ned.server_model() is None, 15, "the hub notices")
    ned.start()
    assert ned.worker()["id"] != lost
    assert ned.home()["id"] == home
    assert holds(ned, home)


def test_machines_that_do_not_answer_in_time_are_stopped_and_the_second_try_adopts_them(
    stage: Stage,
) -> None:
    hub = stage.hub(stage.stub_cloud)
    hub.config["Spawner"]["start_timeout"] = 10  # the spawner's own limit is 5 s less
    hub.start_patiently()
    oda, pat = hub.user("oda"), hub.user("pat")
    pat.start()
    pat.stop()
    pat.becomes("stopped")
    hub.cloud.on_worker(pat.worker()["id"], "fault", {"ssh": "hang"})
    hub.cloud.control("POST", "workers/hang-boots", {"count": 1})
    oda.ask_start()  # this one refuses connections
    eventually(oda.workers, 5, "the machine is theirs")
    pat.ask_start()  # this one takes them and says nothing
    for user in (oda, pat):
        message = str(list(user.progress())[-1]["message"])
        assert "was not ready after 5 s" in message
        assert "Start your server again" in message
        assert_fit_for_a_user(message)
        user.becomes("stopped")
        machine, home = user.worker()["id"], user.home()["id"]
        assert machine in hub.story(), "the operator is told which machine it was"
        hub.cloud.on_worker(machine, "fault", {"ssh": None})
        user.start()
        assert [user.worker()["id"], user.home()["id"]] == [machine, home]
    assert len(hub.view().alive) == 2
