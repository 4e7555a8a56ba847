"""The hub killed at each step of a login; the next login finds everything.

Whatever the step: one machine is the user's, what was on the home is on it, and what came double
is nobody's and goes to the next newcomer.
"""

from __future__ import annotations

import pytest

from .beside import Beside, Stage, Step
from .hubs import Hub
from .processes import eventually

STEPS = [
    ("before", "spawn"),
    ("before", "save"),
    ("after", "save"),
    ("before", "launch"),
    ("after", "launch"),
    ("before", "claim"),
    ("after", "claim"),
    ("before", "connected"),
    ("before", "home"),
    ("before", "mount"),
    ("before", "server"),
    ("after", "ready"),
    ("before", "generation"),
    ("after", "generation"),
    ("before", "polling"),
    ("before", "wait-up"),
    ("after", "wait-up"),
    ("before", "route"),
    ("after", "route"),
]


IDS = [f"{when}-{step}" for when, step in STEPS]


@Beside
def scenario(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.stub_cloud, proxy=stage.proxy()).start()
    for when, at in STEPS:
        with step(f"{when}-{at}"):
            kill_in_a_first_login(hub, when, at)
    for when in ("before", "after"):
        with step(f"{when}-start-instances"):
            kill_in_a_later_login(hub, when)


def kill_in_a_first_login(hub: Hub, when: str, at: str) -> None:
    user = hub.user(f"{when}-{at}")
    machines_before = {i["id"] for i in hub.view().alive}
    hub.die_at(at, when)
    user.ask_start_of_a_mortal()
    hub.dies()
    homes = user.homes()
    hub.start()
    if not user.is_ready():
        user.start()
    assert user.ask("GET", "api").status_code == 200
    home = user.home()
    assert [home["id"]] == [h["id"] for h in homes] or not homes
    assert user.worker()["state"] == "running"
    assert [v["volume_id"] for v in user.worker()["mappings"].values()].count(home["id"]) == 1
    made = {i["id"] for i in hub.view().alive} - machines_before
    assert made == {user.worker()["id"]}
    assert hub.view().spares == []


def kill_in_a_later_login(hub: Hub, when: str) -> None:
    user = hub.user(f"{when}-start-instances")
    user.start()
    had = (user.worker()["id"], user.home()["id"])
    user.stop()
    user.becomes("stopped")
    hub.die_at("start-instances", when)
    user.ask_start_of_a_mortal()
    hub.dies()
    hub.start()
    user.start()
    assert (user.worker()["id"], user.home()["id"]) == had
    assert user.ask("GET", "api").status_code == 200
    assert hub.view().spares == []


@pytest.mark.parametrize("step", IDS)
def test_a_hub_killed_in_a_first_login_leaves_one_machine_that_the_next_login_gets(
    step: str,
) -> None:
    scenario.outcome(step)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hub_killed_while_it_starts_a_stopped_machine_starts_it_at_the_next_login(
    when: str,
) -> None:
    scenario.outcome(f"{when}-start-instances")


@pytest.mark.parametrize("fate", ["taken", "reaped"])
def test_a_machine_that_came_double_goes_to_the_next_newcomer_or_ends(
    stage: Stage, fate: str
) -> None:
    grace_seconds = 300 if fate == "taken" else 1
    hub = stage.hub(
        stage.stub_cloud, proxy=stage.proxy(), REAPER_GRACE_SECONDS=grace_seconds
    ).start()
    rae = hub.user("rae")
    hub.cloud.control("POST", "timings", {"fresh_ids_hidden_seconds": 600})
    try:
        hub.die_at("launch", "after")
        rae.ask_start_of_a_mortal()
        hub.dies()
        hub.start()
        rae.ask_start()
        eventually(lambda: len(hub.view().alive) == 2, 10, "one more was launched")
    finally:
        hub.cloud.control("POST", "timings", {"fresh_ids_hidden_seconds": 0})
    rae.wait_ready()
    (double,) = hub.view().spares
    if fate == "taken":
        both = 'ec2spawner_workers{profile="default",state="running"} 2.0'
        eventually(lambda: both in hub.api("GET", "metrics").text, 10, "the hub sees both")
        sue = hub.user("sue")
        sue.start()
        assert sue.worker()["id"] == double["id"]
    else:
        eventually(lambda: hub.view().spares == [], 20, "it is ended")
    assert rae.worker()["state"] == "running"
    assert hub.view().spares == []
