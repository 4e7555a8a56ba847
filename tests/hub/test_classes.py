"""Before a class begins, its members' machines start by themselves."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from .beside import Beside, Stage, Step
from .processes import eventually


def soon(group: str) -> dict[str, Any]:
    """A class that begins in a few minutes."""
    begin = datetime.now(timezone.utc) + timedelta(minutes=5)
    return {
        "WEEKDAY": begin.strftime("%A").lower(),
        "TIME": begin.strftime("%H:%M"),
        "TIME_ZONE": "UTC",
        "MINUTES_AHEAD": 30,
        "GROUP": group,
    }


@Beside
def class_begins(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.stub_cloud, CLASS_SCHEDULE=[soon("biology101")], REAPER_GRACE_SECONDS=1)
    hub.constants["ec2spawner.timetable:LOOK_SECONDS"] = 0.5
    hub.start()
    ann, bob = hub.user("ann"), hub.user("bob")
    for user in (ann, bob):
        user.start()
        user.stop()
        user.becomes("stopped")
    cem = hub.user("cem")
    assert hub.api("POST", "groups/biology101").status_code == 201
    joined = hub.api("POST", "groups/biology101/users", json={"users": ["ann", "cem"]})
    assert joined.status_code == 200, joined.text
    ann.becomes("running")
    eventually(lambda: [w["state"] for w in hub.view().spares] == ["running"], 15, "a spare runs")
    spare = hub.view().spares[0]["id"]
    cem.start()
    assert cem.worker()["id"] == spare
    hub.api("DELETE", "groups/biology101/users", json={"users": ["ann"]})
    ann.becomes("stopped")  # nobody came
    assert bob.worker()["state"] == "stopped"
    assert hub.view().spares == []
    assert not hub.errors()


def test_members_machines_start_before_their_class_and_a_newcomer_finds_one() -> None:
    class_begins.outcome()
