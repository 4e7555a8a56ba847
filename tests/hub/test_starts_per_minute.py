"""Whoever asks for start after start is told to wait; nobody else notices."""

from __future__ import annotations

import requests

from .beside import Beside, Stage, Step
from .hubs import User
from .visitors import enter

LIMIT = 2


def start(user: User, asking: User, server: str = "") -> requests.Response:
    """Ask for a start in the name of ``asking``, and wait for it."""
    headers = {"Authorization": f"token {asking.token}"}
    path = f"users/{user.path}/servers/{server}" if server else f"users/{user.path}/server"
    return user.hub.api("POST", path, headers=headers)


@Beside
def scenario(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.stub_cloud, STARTS_PER_MINUTE=LIMIT)
    hub.config["Authenticator"] = {"admin_users": ["root"]}
    hub.config["JupyterHub"] = {"tornado_settings": {"slow_spawn_timeout": 15}}  # as it is usually
    hub.start()
    ann, bob, root = hub.user("ann"), hub.user("bob"), hub.user("root")
    with step("refused"):
        assert start(ann, ann).status_code == 201
        assert start(ann, ann, "second").status_code == 201
        for server in ("third", "fourth"):
            refused = start(ann, ann, server)
            assert refused.status_code == 429, refused.text
            assert "2 starts within a minute" in refused.json()["message"]
            assert "Try again in" in refused.json()["message"]
        assert ann.workers("third") == ann.workers("fourth") == []
        with enter(hub, "ann") as reader:
            page = reader.go("/hub/spawn/ann/fourth")
            assert page.status_code == 429
            assert "2 starts within a minute" in page.text
            assert 'href="/hub/home"' in page.text
    with step("others"):
        assert start(bob, bob).status_code == 201
        assert ann.is_ready()
        assert start(ann, root, "third").status_code == 201
    assert not [line for line in hub.errors() if "429" not in line]


def test_a_user_who_asks_for_more_starts_than_allowed_is_refused_with_words() -> None:
    scenario.outcome("refused")


def test_others_start_meanwhile_and_an_admin_may_start_the_user_s_servers() -> None:
    scenario.outcome("others")
    scenario.outcome()
