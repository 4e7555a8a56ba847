"""Machines that go wrong under a real hub: told on the spawn page, and replaced with the same home.

The bounds are seconds here, where a real hub's are minutes.
"""

from __future__ import annotations

from typing import Any

import pytest

from ec2spawner.model import TAG_BROKEN

from .beside import Beside, Stage, Step
from .hubs import User
from .processes import eventually

QUICK: dict[str, Any] = {
    "ec2spawner.replacing:BOOT_BOUND_SECONDS": 4.0,
    "ec2spawner.replacing:CUT_OFF_IMPAIRED_SECONDS": 2.0,
    "ec2spawner.servers:SILENCE_SECONDS": 0.5,
    "ec2spawner.servers:ASK_SERVER_SECONDS": 1.0,
    "ec2spawner.remote:ANSWER_SECONDS": 1.0,
    "ec2spawner.vitals:ASK_AFTER_SECONDS": 1.0,
    "ec2spawner.statuses:STATUS_SECONDS": 1.0,
}
WORDS = "Your machine does not answer; you are getting another one with the same files."


def on_another(user: User, first: str, home: str) -> None:
    """The user is on another machine with the same home; the first one is kept, stopped."""
    view = user.hub.view()
    workers = {w["id"]: w for w in view.workers_of(user.name)}
    assert len(workers) == 2
    broken = workers.pop(first)
    (serves,) = workers.values()
    assert TAG_BROKEN in broken["tags"]
    assert broken["state"] == "stopped"
    assert serves["state"] == "running"
    assert [h["id"] for h in user.homes()] == [home]
    assert home in [m["volume_id"] for m in serves["mappings"].values()]
    assert user.ask("GET", "api").status_code == 200


@Beside
def scenario(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.stub_cloud)
    hub.constants.update(QUICK)
    hub.start()
    with step("a boot that hangs"):
        una = hub.user("una")
        una.start()
        first, home = una.worker()["id"], una.home()["id"]
        una.stop()
        una.becomes("stopped")
        una.hub.cloud.on_worker(first, "fault", {"ssh": "hang"})
        messages = [str(event.get("message")) for event in una.start()]
        assert any(WORDS in message for message in messages), messages
        on_another(una, first, home)
    with step("a check that fails"):
        vic = hub.user("vic")
        vic.start()
        first, home = vic.worker()["id"], vic.home()["id"]
        hub.cloud.on_worker(first, "cut-network")
        hub.cloud.on_worker(first, "impair")
        eventually(lambda: vic.server_model() is None, 30, "the hub gives it up")
        vic.start()
        on_another(vic, first, home)
    assert hub.errors() == []


@pytest.mark.parametrize("what", ["a boot that hangs", "a check that fails", "all"])
def test_a_machine_that_goes_wrong_is_replaced_with_the_same_home(what: str) -> None:
    scenario.outcome(what)
