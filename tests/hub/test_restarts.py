"""A hub that ends and begins anew, and users who do not notice."""

from __future__ import annotations

import pytest

from .beside import Beside, Stage, Step
from .hubs import at_once
from .processes import eventually


@Beside
def scenario(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.cloud, proxy=stage.proxy()).start()
    ada, ben = hub.user("ada"), hub.user("ben")
    at_once(ada.start, lambda: ben.start("lab"))
    kernel = ada.kernel()
    kernel.run("kept = 40")
    workers = [ada.worker(), ben.worker("lab")]
    for name, end, kept in (("SIGTERM", hub.stop, 41), ("SIGKILL", hub.kill, 42)):
        with step(name):
            end()
            assert kernel.run("kept += 1; print(kept)") == f"{kept}\n"
            hub.start()
            eventually(lambda: ada.is_ready() and ben.is_ready("lab"), 10, "both are found")
            assert kernel.run("print(kept)") == f"{kept}\n"
            assert [ada.worker(), ben.worker("lab")] == workers
            assert hub.errors() == []
    with step("stop"):
        at_once(ada.stop, lambda: ben.stop("lab"))
        ada.becomes("stopped")
        ben.becomes("stopped", "lab")


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
def test_servers_go_on_while_the_hub_is_restarted_and_are_found_again(end: str) -> None:
    scenario.outcome(end)


def test_servers_that_were_found_again_can_be_stopped() -> None:
    scenario.outcome("stop")


@Beside
def lost_database(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.stub_cloud, proxy=stage.proxy(), REAPER_GRACE_SECONDS=1).start()
    users = [hub.user(name) for name in ("runs", "stopped", "stays-away")]
    at_once(*(user.start for user in users))
    users[1].stop()
    users[1].becomes("stopped")
    had = [(user.worker()["id"], user.home()["id"]) for user in users]
    hub.kill()
    (hub.folder / "jupyterhub.sqlite").unlink()
    (hub.folder / "ec2spawner_journal.json").unlink()
    hub.start()
    here = [hub.user(user.name) for user in users[:2]]
    at_once(*(user.start for user in here))
    assert [user.ask("GET", "api").status_code for user in here] == [200, 200]
    assert [(user.worker()["id"], user.home()["id"]) for user in users] == had
    users[2].becomes("stopped")  # nobody came for it
    assert [user.worker()["state"] for user in here] == ["running", "running"]


def test_a_lost_database_costs_nobody_worker_or_home() -> None:
    lost_database.outcome()
