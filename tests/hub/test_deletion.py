"""Users who are deleted, and what becomes of their machines and homes."""

from __future__ import annotations

from ec2spawner.model import TAG_DELETED

from .beside import Beside, Stage, Step
from .clouds import Row
from .hubs import SHORT_CALLS, Hub, User, at_once
from .processes import eventually


def is_marked(row: Row) -> bool:
    return TAG_DELETED in row["tags"]


def is_over(user: User, *servers: str) -> bool:
    """Whether a deletion is through: machines gone, homes there, detached and marked."""
    homes = [home for server in servers for home in user.homes(server)]
    machines = [worker for server in servers for worker in user.workers(server)]
    return not machines and all(is_marked(h) and h["attachment"] is None for h in homes)


def test_a_deleted_users_homes_are_kept_apart_and_machines_end(quick_hub: Hub) -> None:
    old = quick_hub.user("hal")
    at_once(old.start, lambda: old.start("lab"))
    homes = {server: old.home(server)["id"] for server in ("", "lab")}
    old.stop("lab")
    old.delete()
    eventually(lambda: is_over(old, "", "lab"), 15, "the deletion is through")
    assert {server: old.home(server)["id"] for server in homes} == homes
    new = quick_hub.user("hal")
    at_once(new.start, lambda: new.start("lab"))
    for server, home_id in homes.items():
        assert [h["id"] for h in new.homes(server) if not is_marked(h)] != [home_id]
        mapped = [m["volume_id"] for m in new.worker(server)["mappings"].values()]
        assert home_id not in mapped


def test_a_removed_server_loses_its_home_and_the_default_one_keeps_its_own(quick_hub: Hub) -> None:
    ida = quick_hub.user("ida")
    at_once(ida.start, lambda: ida.start("lab"))
    home, lab_home = ida.home()["id"], ida.home("lab")["id"]
    ida.stop("lab", remove=True)
    eventually(lambda: is_over(ida, "lab"), 15, "the removal is through")
    ida.start("lab")
    assert [h["id"] for h in ida.homes("lab") if is_marked(h)] == [lab_home]
    assert ida.home()["id"] == home
    assert not is_marked(ida.home())
    assert ida.worker()["state"] == "running"


def test_a_deleted_users_running_servers_end_and_homes_are_kept(quick_hub: Hub) -> None:
    jon = quick_hub.user("jon")
    at_once(jon.start, lambda: jon.start("lab"), lambda: jon.start("gym"))
    homes = {server: jon.home(server)["id"] for server in ("", "lab", "gym")}
    jon.delete()
    eventually(lambda: is_over(jon, *homes), 15, "the deletion is through")
    assert {server: jon.home(server)["id"] for server in homes} == homes
    assert jon.path not in quick_hub.api("GET", "proxy").text
    new = quick_hub.user("jon")
    new.start()
    assert [h["id"] for h in new.homes() if not is_marked(h)] != [homes[""]]


def test_a_user_whose_named_server_just_starts_is_not_deleted_by_half(quick_hub: Hub) -> None:
    leo = quick_hub.user("leo")
    leo.start()
    quick_hub.cloud.fault(action="RunInstances", fault="delay", seconds=3)
    assert leo.ask_start("lab").status_code == 202
    answer = quick_hub.api("DELETE", f"users/{leo.path}")
    assert answer.status_code == 500  # JupyterHub's answer to a server that is starting
    leo.wait_ready("lab")
    assert not is_marked(leo.home())
    assert not is_marked(leo.home("lab"))
    home = leo.home()["id"]
    leo.start()
    assert leo.home()["id"] == home


@Beside
def grace(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.stub_cloud, DELETE_GRACE_DAYS=2).start()
    kim = hub.user("kim")
    kim.start()
    home = kim.home()["id"]
    files = hub.cloud.home_of(home)
    files.mkdir(exist_ok=True)
    (files / "thesis.txt").write_text("done")
    kim.delete()
    eventually(lambda: is_over(kim, ""), 15, "the deletion is through")
    hub.advance(1.9 * 86400)
    assert kim.home()["id"] == home
    assert hub.view().snapshots == []
    hub.advance(0.2 * 86400)
    seen: list[tuple[str, bool]] = []

    def is_gone() -> bool:
        view = hub.view()
        seen.extend((s["state"], bool(kim.homes())) for s in view.snapshots)
        return not view.homes_of("kim")

    eventually(is_gone, 15, "the home is deleted")
    assert ("completed", False) in [*seen, *[(s["state"], False) for s in hub.view().snapshots]]
    snapshot = hub.view().snapshots[0]
    assert snapshot["volume_id"] == home
    copy = hub.cloud.folder / "state" / "snapshots" / snapshot["id"] / "data" / "thesis.txt"
    assert copy.read_text() == "done"


def test_after_the_grace_time_a_home_is_snapshotted_and_then_deleted() -> None:
    grace.outcome()


def test_a_deletion_while_aws_is_away_is_kept_until_it_is_back(stage: Stage) -> None:
    hub = stage.hub(stage.stub_cloud)
    hub.constants.update(SHORT_CALLS)
    hub.start()
    leo = hub.user("leo")
    leo.start()
    home = leo.home()["id"]
    hub.cloud.outage(on=True)
    leo.delete()
    assert not is_marked(leo.home())
    hub.restart(gently=False)
    hub.cloud.outage(on=False)
    eventually(lambda: is_over(leo, ""), 20, "the deletion is through")
    assert leo.home()["id"] == home
