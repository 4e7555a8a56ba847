"""The hub killed at each step of a first login; the next login finds everything.

Whatever the step: one machine is the user's, what was on the home is on it, and what came double
is nobody's and goes to the next newcomer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .clouds import Cloud
from .conftest import QUICK_LOOKS, QUICK_POLLS
from .hubs import Hub, Proxy
from .processes import Nursery

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


@pytest.fixture(scope="module")
def mortal(stub_cloud: Cloud, apart: Proxy, folder: Path, nursery: Nursery) -> Iterator[Hub]:
    """A hub that each test of this module kills and starts again."""
    hub = Hub(stub_cloud, folder / "mortal-login-hub", nursery, proxy=apart)
    hub.config, hub.constants = QUICK_POLLS, QUICK_LOOKS
    yield hub.start()
    hub.close()


@pytest.mark.parametrize(("when", "step"), STEPS, ids=[f"{w}-{s}" for w, s in STEPS])
def test_a_hub_killed_in_a_first_login_leaves_one_machine_that_the_next_login_gets(
    request: pytest.FixtureRequest, mortal: Hub, when: str, step: str
) -> None:
    request.node.hubs = [mortal]
    user = mortal.user(f"{when}-{step}")
    machines_before = {i["id"] for i in mortal.view().alive}
    mortal.die_at(step, when)
    user.ask_start_of_a_mortal()
    mortal.dies()
    homes = user.homes()
    mortal.start()
    if not user.is_ready():
        user.start()
    assert user.ask("GET", "api").status_code == 200
    home = user.home()
    assert [home["id"]] == [h["id"] for h in homes] or not homes
    assert user.worker()["state"] == "running"
    assert [v["volume_id"] for v in user.worker()["mappings"].values()].count(home["id"]) == 1
    made = {i["id"] for i in mortal.view().alive} - machines_before
    assert made == {user.worker()["id"]}
    assert mortal.view().spares == []
