"""Change sets and their waits, with a CloudFormation that is slow, empty, or fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ec2spawner.cloud import DEFAULT_DEADLINE_SECONDS, Gateway
from ec2spawner.errors import Rejected
from launch_cluster.facts import StackSpec
from launch_cluster.planning import StackChange
from launch_cluster.reporter import Reporter
from launch_cluster.stacks import StackFailed, Stacks, failure_reasons

SPEC = StackSpec("s", "template", {"A": "1"}, {"t": "1"})
NEW = StackChange(SPEC, is_new=True)
UPDATE = StackChange(SPEC, is_new=False, differences=("x",))
ABSENT = Rejected("no", why="Stack with id s does not exist", aws_code="ValidationError")


class Script(Gateway):
    """Answers each operation from its list; the last answer stays."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = {"get_template": [{"TemplateBody": "template"}], **answers}
        self.made: list[tuple[str, dict[str, Any]]] = []
        self.deadlines: dict[str, float] = {}

    async def call(self, service: str, operation: str, params: Any = None, **more: Any) -> Any:
        self.made.append((operation, dict(params)))
        self.deadlines[operation] = more.get("deadline_seconds", DEFAULT_DEADLINE_SECONDS)
        waiting = self.answers.get(operation, [{}])
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.made]


def stack(status: str) -> dict[str, Any]:
    return {"Stacks": [{"StackName": "s", "StackId": "arn:s", "StackStatus": status}]}


def change_set(status: str, reason: str = "") -> dict[str, Any]:
    return {
        "Status": status,
        "StatusReason": reason,
        "ChangeSetName": "c",
        "StackId": "arn:s",
        "Changes": [],
    }


READY = change_set("CREATE_COMPLETE")


class Time:
    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def stacks_on() -> Callable[[Gateway], tuple[Stacks, Time]]:
    def stacks_on(gateway: Gateway) -> tuple[Stacks, Time]:
        time = Time()
        return Stacks(gateway, Reporter(), sleep=time.sleep, clock=lambda: time.now), time

    return stacks_on


@pytest.mark.parametrize("answer", [ABSENT, stack("REVIEW_IN_PROGRESS"), stack("DELETE_COMPLETE")])
async def test_a_stack_that_was_never_made_is_absent(stacks_on: Any, answer: Any) -> None:
    stacks, _ = stacks_on(Script(describe_stacks=[answer]))
    assert await stacks.find("s") is None


async def test_another_refusal_is_not_taken_for_absence(stacks_on: Any) -> None:
    refused = Rejected("no", why="1 validation error", aws_code="ValidationError")
    stacks, _ = stacks_on(Script(describe_stacks=[refused]))
    with pytest.raises(Rejected):
        await stacks.find("s")


async def test_a_stack_at_work_is_waited_for_gently(stacks_on: Any) -> None:
    working = [stack("CREATE_IN_PROGRESS")] * 20
    stacks, time = stacks_on(Script(describe_stacks=[*working, stack("CREATE_COMPLETE")]))
    found = await stacks.find("s")
    assert found.status == "CREATE_COMPLETE"
    assert found.template == "template"
    assert len(time.pauses) == 20
    assert time.pauses[0] >= 1
    assert time.pauses[-1] == 5


async def test_a_stack_that_never_settles_is_given_up_with_a_next_step(stacks_on: Any) -> None:
    stacks, _ = stacks_on(Script(describe_stacks=[stack("UPDATE_IN_PROGRESS")]))
    with pytest.raises(StackFailed, match="goes on from there"):
        await stacks.find("s")


async def test_a_new_stack_is_made_by_a_change_set_that_deletes_it_on_failure(
    stacks_on: Any,
) -> None:
    gateway = Script(
        describe_change_set=[change_set("CREATE_PENDING"), READY],
        describe_stacks=[stack("CREATE_IN_PROGRESS"), stack("CREATE_COMPLETE")],
    )
    stacks, _ = stacks_on(gateway)
    assert (await stacks.apply(NEW)).status == "CREATE_COMPLETE"
    made = dict(gateway.made)["create_change_set"]
    assert (made["ChangeSetType"], made["OnStackFailure"]) == ("CREATE", "DELETE")
    assert made["Tags"] == [{"Key": "t", "Value": "1"}]
    assert made["Parameters"] == [{"ParameterKey": "A", "ParameterValue": "1"}]
    assert "execute_change_set" in gateway.names


async def test_an_update_does_not_ask_to_delete_the_stack(stacks_on: Any) -> None:
    gateway = Script(describe_change_set=[READY], describe_stacks=[stack("UPDATE_COMPLETE")])
    stacks, _ = stacks_on(gateway)
    await stacks.apply(UPDATE)
    made = dict(gateway.made)["create_change_set"]
    assert made["ChangeSetType"] == "UPDATE"
    assert "OnStackFailure" not in made


@pytest.mark.parametrize(
    "words",
    [
        "The submitted information didn't contain changes. Submit different information to create",
        "No updates are to be performed.",
    ],
)
async def test_an_empty_change_set_is_removed_and_nothing_is_executed(
    stacks_on: Any, words: str
) -> None:
    gateway = Script(
        describe_change_set=[change_set("FAILED", words)],
        describe_stacks=[stack("CREATE_COMPLETE")],
    )
    stacks, _ = stacks_on(gateway)
    await stacks.apply(UPDATE)
    assert "delete_change_set" in gateway.names
    assert "execute_change_set" not in gateway.names


async def test_a_change_set_that_fails_otherwise_says_why(stacks_on: Any) -> None:
    gateway = Script(describe_change_set=[change_set("FAILED", "Transform failed")])
    stacks, _ = stacks_on(gateway)
    with pytest.raises(StackFailed, match="Transform failed"):
        await stacks.apply(UPDATE)
    assert "execute_change_set" not in gateway.names


async def test_a_change_set_whose_first_answer_was_lost_is_gone_on_with(stacks_on: Any) -> None:
    there = Rejected("no", why="ChangeSet c already exists", aws_code="AlreadyExistsException")
    gateway = Script(
        create_change_set=[there],
        describe_change_set=[READY],
        describe_stacks=[stack("CREATE_COMPLETE")],
    )
    stacks, _ = stacks_on(gateway)
    await stacks.apply(NEW)
    assert "execute_change_set" in gateway.names


@pytest.mark.parametrize("change", [NEW, UPDATE])
@pytest.mark.parametrize("at", ["create_change_set", "describe_change_set", "execute_change_set"])
async def test_a_change_set_goes_when_the_command_is_broken_off(
    stacks_on: Any, change: StackChange, at: str
) -> None:
    gateway = Script(**{"describe_change_set": [READY], at: [asyncio.CancelledError()]})
    stacks, _ = stacks_on(gateway)
    with pytest.raises(asyncio.CancelledError):
        await stacks.apply(change)
    made = [params for name, params in gateway.made if name == "create_change_set"]
    dropped = [params for name, params in gateway.made if name == "delete_change_set"]
    assert dropped == [{"StackName": "s", "ChangeSetName": made[0]["ChangeSetName"]}]


async def test_a_preview_that_is_broken_off_leaves_no_change_set(stacks_on: Any) -> None:
    gateway = Script(describe_change_set=[asyncio.CancelledError()])
    stacks, _ = stacks_on(gateway)
    with pytest.raises(asyncio.CancelledError):
        await stacks.preview(UPDATE)
    assert gateway.names[-1] == "delete_change_set"
    assert gateway.deadlines["delete_change_set"] <= 15  # whoever pressed Ctrl-C waits for it


async def test_a_change_set_that_is_still_being_made_is_dropped_once_it_is(stacks_on: Any) -> None:
    busy = Rejected("no", why="in progress", aws_code="InvalidChangeSetStatus")
    gateway = Script(
        describe_change_set=[asyncio.CancelledError()], delete_change_set=[busy, busy, {}]
    )
    stacks, time = stacks_on(gateway)
    with pytest.raises(asyncio.CancelledError):
        await stacks.preview(UPDATE)
    assert gateway.names.count("delete_change_set") == 3
    assert time.now > 0


async def test_what_was_executed_is_not_dropped(stacks_on: Any) -> None:
    gateway = Script(describe_change_set=[READY], describe_stacks=[stack("UPDATE_COMPLETE")])
    stacks, _ = stacks_on(gateway)
    await stacks.apply(UPDATE)
    assert "delete_change_set" not in gateway.names


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (NEW, "DELETE_COMPLETE"),
        (NEW, "ROLLBACK_COMPLETE"),
        (NEW, "ROLLBACK_FAILED"),
        (UPDATE, "UPDATE_ROLLBACK_COMPLETE"),
    ],
)
async def test_a_failed_stack_tells_the_reasons_of_its_events(
    stacks_on: Any, change: StackChange, status: str
) -> None:
    events = {
        "StackEvents": [
            event("Bucket", "CREATE_FAILED", "Resource creation cancelled"),
            event("Vpc", "CREATE_FAILED", "The maximum number of VPCs has been reached."),
            event("s", "CREATE_IN_PROGRESS", "User Initiated"),
        ]
    }
    gateway = Script(
        describe_change_set=[READY],
        describe_stacks=[stack(status)],
        describe_stack_events=[events],
    )
    stacks, _ = stacks_on(gateway)
    with pytest.raises(StackFailed) as caught:
        await stacks.apply(change)
    assert status in caught.value.what
    assert caught.value.why == "Vpc: The maximum number of VPCs has been reached."
    assert caught.value.next_step


async def test_remains_are_deleted_before_a_stack_is_made_anew(stacks_on: Any) -> None:
    gateway = Script(
        describe_change_set=[READY],
        describe_stacks=[stack("DELETE_IN_PROGRESS"), ABSENT, stack("CREATE_COMPLETE")],
    )
    stacks, _ = stacks_on(gateway)
    await stacks.apply(StackChange(SPEC, is_new=True, remains="arn:old"))
    assert gateway.made[0] == ("delete_stack", {"StackName": "arn:old"})
    assert gateway.names.index("delete_stack") < gateway.names.index("create_change_set")


def event(resource: str, status: str, reason: str) -> dict[str, Any]:
    return {
        "LogicalResourceId": resource,
        "ResourceStatus": status,
        "ResourceStatusReason": reason,
    }


def test_reasons_are_told_oldest_first_and_bounded() -> None:
    events = [event(f"r{n}", "CREATE_FAILED", "x" * 400) for n in range(9)]
    text = failure_reasons(events)
    assert text.startswith("r8: ")
    assert len(text) <= 600
