"""The hub killed at each step of a user's deletion: nothing is lost, nothing stays half done."""

from __future__ import annotations

import contextlib

import pytest
import requests

from .beside import Beside, Stage, Step
from .hubs import Hub, User, at_once
from .processes import eventually
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


@Beside
def scenario(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.stub_cloud, proxy=stage.proxy()).start()
    prepare(hub)
    for when, at, nth in STEPS:
        with step(f"{when}-{at}-{nth}"):
            kill_in_a_deletion(hub, when, at, nth)
    with step("newcomers"):
        log_newcomers_in(hub)


def prepare(hub: Hub) -> None:
    """For each step a user, who has a running server and a stopped one."""
    users = [hub.user(name) for name in IDS]
    servers = [(user, server) for user in users for server in ("", "lab")]
    at_once(*(lambda u=user, s=server: u.start(s) for user, server in servers))
    at_once(*(lambda u=user: u.stop("lab") for user in users))


def kill_in_a_deletion(hub: Hub, when: str, at: str, nth: int) -> None:
    user = User(hub, f"{when}-{at}-{nth}")
    homes = {server: user.home(server)["id"] for server in ("", "lab")}
    hub.die_at(at, when, nth)
    with contextlib.suppress(requests.ConnectionError):
        hub.api("DELETE", f"users/{user.path}")
    hub.dies()
    hub.start()
    if hub.api("GET", f"users/{user.path}").status_code == 200:
        # The admin still sees the user, so everything must still be theirs.
        at_once(*(lambda s=server: user.is_ready(s) or user.start(s) for server in homes))
        for server, home_id in homes.items():
            assert user.home(server)["id"] == home_id
            mapped = [m["volume_id"] for m in user.worker(server)["mappings"].values()]
            assert home_id in mapped
        unmarked = lambda: not any(is_marked(user.home(server)) for server in homes)  # noqa: E731
        eventually(unmarked, 5, "the homes are given back")
        at_once(user.stop, lambda: user.stop("lab"))
        user.delete()
    eventually(lambda: is_over(user, "", "lab"), 15, "the deletion is through")
    assert {server: user.home(server)["id"] for server in homes} == homes


def log_newcomers_in(hub: Hub) -> None:
    old = {name: {h["id"] for h in hub.view().homes_of(name)} for name in IDS}
    users = [hub.user(name) for name in IDS]
    at_once(*(user.start for user in users))
    for user in users:
        mapped = {m["volume_id"] for m in user.worker()["mappings"].values()}
        assert mapped.isdisjoint(old[user.name])


@pytest.mark.parametrize("step", IDS)
def test_a_hub_killed_in_a_deletion_loses_nothing_and_leaves_nothing_half_done(step: str) -> None:
    scenario.outcome(step)


def test_newcomers_with_the_names_of_the_deleted_get_empty_homes() -> None:
    scenario.outcome("newcomers")
