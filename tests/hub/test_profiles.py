"""Kinds of machines: the hub's form, the rules of groups, and what is started."""

from __future__ import annotations

import re

import requests

from .beside import Beside, Stage, Step
from .hubs import User

PROFILES = [
    {"SLUG": "usual", "NAME": "Usual", "INSTANCE_TYPES": ["t3.medium", "t3.large"]},
    {"SLUG": "big", "NAME": "Big <i>", "INSTANCE_TYPES": ["m5.large"], "DESCRIPTION": "8 GB"},
    {"SLUG": "gpu", "NAME": "GPU", "INSTANCE_TYPES": ["g4dn.xlarge"], "GROUPS": ["ml"]},
]


def ask_for(user: User, profile: object) -> None:
    answer = user.hub.api("POST", f"users/{user.path}/server", json={"profile": profile})
    assert answer.status_code in (201, 202), answer.text


def refusal(user: User, profile: object) -> str:
    """What is read by whoever asks for a profile that is not theirs."""
    answer = user.hub.api("POST", f"users/{user.path}/server", json={"profile": profile})
    if answer.status_code >= 400:
        return str(answer.json()["message"])
    return str(list(user.progress())[-1]["message"])


def form_of(user: User) -> list[str]:
    """The profiles that a user sees after a login."""
    hub = user.hub
    with requests.Session() as browser:
        browser.trust_env = False
        browser.get(f"{hub.url}/hub/login", timeout=20)
        login = {"username": user.name, "password": hub.password}
        page = browser.post(
            f"{hub.url}/hub/login",
            params={"next": "/hub/spawn"},
            data={**login, "_xsrf": browser.cookies["_xsrf"]},
            timeout=20,
        )
    assert page.status_code == 200, page.text
    assert "Big &lt;i&gt;" in page.text
    return re.findall(r'type="radio" name="profile" id="[^"]*" value="(\w+)"', page.text)


@Beside
def choice(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.stub_cloud, PROFILES=PROFILES).start()
    ann, bob = hub.user("ann"), hub.user("bob")
    with step("rules"):
        assert form_of(ann) == ["usual", "big"]
        for profile in ("gpu", "nonsense", ["big"], {"a": 1}):
            assert "kind of machine" in refusal(ann, profile)
        assert ann.workers() == []
        ann.start()  # what was refused does not come up again
        assert ann.worker()["instance_type"] == "t3.medium"
    with step("groups"):
        hub.api("POST", "groups/ml")
        hub.api("POST", "groups/ml/users", json={"users": ["bob"]})
        assert form_of(bob) == ["usual", "big", "gpu"]
        ask_for(bob, "gpu")
        bob.wait_ready()
        assert bob.worker()["instance_type"] == "g4dn.xlarge"
    with step("another kind"):
        home, machine = ann.home()["id"], ann.worker()["id"]
        ann.stop()
        ask_for(ann, "big")
        ann.wait_ready()
        assert (ann.home()["id"], ann.worker()["id"]) == (home, machine)
        assert ann.worker()["instance_type"] == "m5.large"
        assert ann.worker()["tags"]["ec2spawner:profile"] == "big"
        ann.stop()
        ann.becomes("stopped")
        ann.start()  # the last choice holds
        assert ann.worker()["instance_type"] == "m5.large"
    assert not hub.errors()


def test_only_what_a_users_groups_may_have_is_offered_and_started() -> None:
    choice.outcome("rules")


def test_a_group_opens_its_kind_of_machine() -> None:
    choice.outcome("groups")


def test_another_kind_is_the_same_machine_with_the_same_files() -> None:
    choice.outcome("another kind")
