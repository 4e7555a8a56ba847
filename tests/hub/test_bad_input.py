"""AWS or a machine goes wrong: words for the user, the story for the operator, nothing lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ec2spawner.placement import FAILED_OFFERING_SECONDS

from .beside import Beside, Stage, Step
from .clouds import Cloud
from .hubs import SHORT_CALLS, Hub, User, at_once
from .processes import Nursery, eventually
from .words import assert_fit_for_a_user

REFUSALS: dict[str, tuple[str, str, int, str]] = {
    "no-capacity": ("RunInstances", "InsufficientInstanceCapacity", 500, "capacity"),
    "quota": ("RunInstances", "VcpuLimitExceeded", 400, "quota"),
    "subnet-full": ("RunInstances", "InsufficientFreeAddressesInSubnet", 400, "subnet-full"),
    "denied": ("RunInstances", "UnauthorizedOperation", 403, "denied"),
    "expired": ("RunInstances", "RequestExpired", 400, "credentials"),
    "rejected": ("RunInstances", "InvalidParameterCombination", 400, "rejected"),
}


LOCKED_OUT = "The Amazon cloud does not let this hub in at the moment."
NONSENSE = {
    "garbage": "does not understand",
    "endless": "does not understand",
    "fail": "does not understand",
    "hang": "was not ready",
}
"""What the worker's command answers, and words of the message."""


@pytest.fixture(scope="module")
def unlucky(stub_cloud: Cloud, folder: Path, nursery: Nursery) -> Iterator[Hub]:
    hub = Hub(stub_cloud, folder / "unlucky-hub", nursery)
    hub.constants.update(SHORT_CALLS)
    yield hub.start()
    hub.close()


@pytest.mark.parametrize("name", REFUSALS)
def test_what_aws_refuses_is_told_in_words_and_leaves_nothing_running(
    request: pytest.FixtureRequest, unlucky: Hub, name: str
) -> None:
    request.node.hubs = [unlucky]
    action, aws_code, status, reason = REFUSALS[name]
    user = unlucky.user(name)
    unlucky.cloud.fail(action, aws_code, status)
    told_before = len(unlucky.story())
    try:
        message = user.fail_to_start()
    finally:
        unlucky.cloud.forgive()
    assert_fit_for_a_user(message)
    told = unlucky.story()[told_before:]
    assert aws_code in told
    assert action in told
    assert "Traceback" not in told
    assert user.workers() == []
    metrics = unlucky.api("GET", "metrics").text
    assert f'reason="{reason}"' in metrics or f'status="{reason}"' in metrics
    unlucky.advance(FAILED_OFFERING_SECONDS + 1)


def test_who_was_refused_can_start_later(request: pytest.FixtureRequest, unlucky: Hub) -> None:
    request.node.hubs = [unlucky]
    users = [unlucky.user(name) for name in REFUSALS]
    at_once(*(user.start for user in users))
    assert {user.worker()["state"] for user in users} == {"running"}


def test_credentials_that_expire_are_told_in_words_until_they_are_renewed(
    request: pytest.FixtureRequest, unlucky: Hub
) -> None:
    request.node.hubs = [unlucky]
    user = unlucky.user("all-expired")
    unlucky.cloud.fail("*", "AuthFailure", 401)
    try:
        eventually(lambda: LOCKED_OUT in unlucky.page(), 10, "the page says so")
        assert_fit_for_a_user(user.fail_to_start())
    finally:
        unlucky.cloud.forgive()
    assert "AuthFailure" in unlucky.story()
    unlucky.advance(FAILED_OFFERING_SECONDS + 1)
    eventually(lambda: LOCKED_OUT not in unlucky.page(), 20, "the page says no more of it")
    user.start()


def test_a_machine_with_another_host_key_is_not_trusted(
    request: pytest.FixtureRequest, unlucky: Hub
) -> None:
    request.node.hubs = [unlucky]
    user = unlucky.user("host-key")
    user.start()
    machine = user.worker()["id"]
    user.stop()
    user.becomes("stopped")
    unlucky.cloud.on_worker(machine, "fault", {"host_key": "new"})
    message = user.fail_to_start()
    assert "could not prove" in message
    assert_fit_for_a_user(message)
    assert "another SSH host key" in unlucky.story()
    user.becomes("stopped")
    unlucky.cloud.on_worker(machine, "fault", {"host_key": None})
    user.start()
    assert user.worker()["id"] == machine


@Beside
def nonsense(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.cloud)
    hub.config["Spawner"]["start_timeout"] = 25  # the spawner's own limit is 5 s less
    hub.start_patiently()
    pia = hub.user("pia")
    pia.start()
    machine = pia.worker()["id"]
    pia.stop()
    pia.becomes("stopped")
    for answers, words in NONSENSE.items():
        with step(answers):
            stage.cloud.on_worker(machine, "fault", {"command": answers})
            pia.ask_start()
            message = str(list(pia.progress())[-1]["message"])
            assert words in message, message
            assert_fit_for_a_user(message.removeprefix("Spawn failed: "))
            pia.becomes("stopped")
            assert len(hub.view().alive) == 1
            assert len(pia.homes()) == 1
            assert "Traceback" not in hub.story()


@pytest.mark.parametrize("answers", NONSENSE)
def test_a_machine_that_answers_nonsense_or_never_is_not_believed(answers: str) -> None:
    nonsense.outcome(answers)


@Beside
def bad_homes(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.cloud).start()
    quin = hub.user("quin")
    quin.start()
    quin.write("thesis.txt", "done")
    machine, files = quin.worker()["id"], hub.cloud.home_of(quin.home()["id"])
    quin.stop()
    with step("foreign"):
        mark = files.parent / "filesystem"
        mark.write_text("xfs")
        assert "a file system that this hub did not make" in fails(quin)
        assert (files / "thesis.txt").read_text() == "done"
        mark.write_text("ext4")
    with step("full"):
        faults = hub.cloud.folder / "state" / "instances" / machine / "faults.json"
        mode = files.stat().st_mode
        files.chmod(0o1755)  # a home whose preparation was cut short
        faults.write_text(json.dumps({"disk": "full"}))
        assert "disk of your machine is full" in fails(quin)
        faults.write_text("{}")
        files.chmod(mode)
    with step("kept"):
        quin.start()
        assert quin.read("thesis.txt") == "done"


@pytest.mark.parametrize("home", ["foreign", "full", "kept"])
def test_a_home_that_is_foreign_or_full_is_told_in_words_and_left_alone(home: str) -> None:
    bad_homes.outcome(home)


def fails(user: User) -> str:
    """A start that fails with a fit message; the machine stops."""
    user.becomes("stopped")
    message = user.fail_to_start()
    assert_fit_for_a_user(message)
    user.becomes("stopped")
    return message


def test_a_message_with_internals_would_be_noticed() -> None:
    bad: list[Any] = [
        "AWS did not carry out RunInstances (InsufficientInstanceCapacity). Try again later.",
        "Your machine i-0123456789abcdef0 does not answer. Start your server again.",
        "Your machine at 10.0.0.7 does not answer. Start your server again.",
        "It failed: ConnectionRefusedError. Start your server again.",
        "Your machine does not answer, and that is all that there is to say.",
    ]
    for message in bad:
        with pytest.raises(AssertionError):
            assert_fit_for_a_user(message)
