"""The hub killed at each step of a first login; the next login finds everything.

Whatever the step: one machine is the user's, what was on the home is on it, and what came double
is nobody's and goes to the next newcomer.
"""

from __future__ import annotations

import pytest

from .beside import Beside, Stage, Step
from .hubs import Hub

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


@pytest.mark.parametrize("step", IDS)
def test_a_hub_killed_in_a_first_login_leaves_one_machine_that_the_next_login_gets(
    step: str,
) -> None:
    scenario.outcome(step)
