"""The hub killed at each step of a user's deletion: nothing is lost, nothing stays half done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from .clouds import Cloud
from .conftest import QUICK_LOOKS, QUICK_POLLS
from .hubs import Hub, Proxy, at_once
from .processes import Nursery, eventually
from .test_deletion import is_marked, is_over

STEPS = [
    ("before", "stop", 1),
    ("after", "stop", 1),
    ("before", "delete-forever", 1),
    ("before", "promise", 1),
    ("after", "promise", 1),
    ("before", "mark", 1),
    ("after", "mark", 1),
    ("after", "delete-forever", 1),
    ("before", "promise", 2),
    ("after", "promise", 2),
    ("before", "mark", 2),
    ("after", "mark", 2),
    ("after", "delete-forever", 2),
    ("before", "delete-user", 1),
    ("after", "delete-user", 1),
]
IDS = [f"{when}-{step}-{nth}" for when, step, nth in STEPS]


@pytest.fixture(scope="module")
def mortal(stub_cloud: Cloud, apart: Proxy, folder: Path, nursery: Nursery) -> Iterator[Hub]:
    """A hub with a user for each step, who has a running server and a stopped one."""
    hub = Hub(stub_cloud, folder / "mortal-deletion-hub", nursery, proxy=apart)
    hub.config, hub.constants = QUICK_POLLS, QUICK_LOOKS
    hub.start()
    users = [hub.user(name) for name in IDS]
    servers = [(user, server) for user in users for server in ("", "lab")]
    at_once(*(lambda u=user, s=server: u.start(s) for user, server in servers))
    at_once(*(lambda u=user: u.stop("lab") for user in users))
    yield hub
    hub.close()


@pytest.mark.parametrize(("when", "step", "nth"), STEPS, ids=IDS)
def test_a_hub_killed_in_a_deletion_loses_nothing_and_leaves_nothing_half_done(
    request: pytest.FixtureRequest, mortal: Hub, when: str, step: str, nth: int
) -> None:
    request.node.hubs = [mortal]
    user = mortal.user(f"{when}-{step}-{nth}")
    homes = {server: user.home(server)["id"] for server in ("", "lab")}
    mortal.die_at(step, when, nth)
    with contextlib.suppress(requests.ConnectionError):
        mortal.api("DELETE", f"users/{user.path}")
    mortal.dies()
    mortal.start()
    if mortal.api("GET", f"users/{user.path}").status_code == 200:
        # The admin still sees the user, so everything must still be theirs.
        at_once(*(lambda s=server: user.is_ready(s) or user.start(s) for server in homes))
        for server, home_id in homes.items():
            assert user.home(server)["id"] == home_id
            mapped = [m["volume_id"] for m in user.worker(server)["mappings"].values()]
            assert home_id in mapped
        eventually(lambda: not any(is_marked(user.home(server)) for server in homes), 5, "unmarked")
        at_once(user.stop, lambda: user.stop("lab"))
        user.delete()
    eventually(lambda: is_over(user, "", "lab"), 15, "the deletion is through")
    assert {server: user.home(server)["id"] for server in homes} == homes


def test_newcomers_with_the_names_of_the_deleted_get_empty_homes(
    request: pytest.FixtureRequest, mortal: Hub
) -> None:
    request.node.hubs = [mortal]
    old = {name: {h["id"] for h in mortal.view().homes_of(name)} for name in IDS}
    users = [mortal.user(name) for name in IDS]
    at_once(*(user.start for user in users))
    for user in users:
        mapped = {m["volume_id"] for m in user.worker()["mappings"].values()}
        assert mapped.isdisjoint(old[user.name])
