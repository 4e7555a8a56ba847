"""Named servers, renamed users and servers, and names with any character that a hub admits."""

from __future__ import annotations

import pytest

from .beside import Beside, Stage, Step
from .hubs import Hub, at_once

ODD_NAMES = ["zoë müller", "a.b+c@x.org", "o'brien", "long" * 50]


@Beside
def scenario(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.cloud).start()
    servers = [(hub.user(name), "") for name in ODD_NAMES]
    servers.append((hub.user("o'brien"), "second-try"))
    at_once(*(lambda u=user, s=server: u.start(s) for user, server in servers))
    for number, (user, server) in enumerate(servers):
        user.write("whose.txt", str(number), server)
    found = [user.read("whose.txt", server) for user, server in servers]
    assert found == [str(number) for number in range(len(servers))]
    assert len({user.worker(server)["id"] for user, server in servers}) == len(servers)
    assert len({user.home(server)["id"] for user, server in servers}) == len(servers)
    at_once(*(lambda u=user, s=server: u.stop(s) for user, server in servers))
    assert hub.errors() == []


def test_odd_names_and_named_servers_get_machines_and_homes_of_their_own() -> None:
    scenario.outcome()


@pytest.mark.parametrize("state", ["stopped", "running"])
def test_a_renamed_user_keeps_machines_and_homes_and_the_old_name_gets_new_ones(
    quick_hub: Hub, state: str
) -> None:
    old = quick_hub.user(f"old-{state}")
    at_once(old.start, lambda: old.start("lab"))
    kept = {server: (old.worker(server)["id"], old.home(server)["id"]) for server in ("", "lab")}
    if state == "stopped":
        at_once(old.stop, lambda: old.stop("lab"))
        old.becomes("stopped")
        old.becomes("stopped", "lab")
    answer = quick_hub.api("PATCH", f"users/{old.path}", json={"name": f"new-{state}"})
    assert answer.status_code == 200, answer.text
    new, stranger = quick_hub.user(f"new-{state}"), quick_hub.user(old.name)
    stranger.start()
    if state == "running":
        assert new.is_ready("lab")
        at_once(new.stop, lambda: new.stop("lab"))
    at_once(new.start, lambda: new.start("lab"))
    for server, (worker_id, home_id) in kept.items():
        assert new.worker(server)["id"] == worker_id
        assert new.home(server)["id"] == home_id
    assert stranger.worker()["id"] not in {w for w, _ in kept.values()}
    assert stranger.home()["id"] not in {h for _, h in kept.values()}


def test_a_renamed_server_keeps_its_machine_and_home(quick_hub: Hub) -> None:
    gil = quick_hub.user("gil")
    gil.start("draft")
    worker, home = gil.worker("draft")["id"], gil.home("draft")["id"]
    gil.stop("draft")
    answer = quick_hub.api("PATCH", f"users/{gil.path}/servers/draft", json={"name": "final"})
    assert answer.status_code == 200, answer.text
    at_once(lambda: gil.start("final"), lambda: gil.start("draft"))
    assert gil.worker("final")["id"] == worker
    assert gil.home("final")["id"] == home
    assert gil.home("draft")["id"] != home
