"""CloudFormation stacks: looked at, and brought to what they should be by change sets.

Owns the waiting for them and the words for their failures. Must not know what is in a stack.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ec2spawner.cloud import Effect, Gateway
from ec2spawner.errors import EC2SpawnerError, Rejected
from ec2spawner.model import tags_of

from .facts import StackFacts
from .planning import StackChange
from .reporter import Elapsed, Reporter

POLL_SECONDS = (1.0, 2.0, 3.0, 5.0)
"""Pauses between looks; the last one stays. CloudFormation publishes no limits of its API."""

CHANGE_SET_DEADLINE_SECONDS = 300.0
STACK_DEADLINE_SECONDS = 1800.0
ALREADY_THERE = "AlreadyExistsException"
NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
"""The words of an empty change set, for which CloudFormation has no code (2026)."""


class StackFailed(EC2SpawnerError):
    """CloudFormation could not make or change a stack."""

    code = "stack-failed"


@dataclass(frozen=True)
class ResourceChange:
    """One line of a change set."""

    action: str
    resource: str
    kind: str
    replacement: str = ""
    causes: tuple[str, ...] = ()  # properties whose change makes, or may make, it another one

    @property
    def is_replaced(self) -> bool:
        """Whether another one takes its place.

        For an instance whose root is a volume, as ours are, "Conditional" means so for its disks
        only (AWS::EC2::Instance, "Update requires", read 2026).
        """
        return self.replacement == "True" or "BlockDeviceMappings" in self.causes

    def __str__(self) -> str:
        mark = {"True": " (REPLACED)", "Conditional": " (may be replaced)"}
        return f"{self.action:7} {self.kind} {self.resource}{mark.get(self.replacement, '')}"


class Stacks:
    """Looks at stacks and changes them, through the gateway."""

    def __init__(
        self,
        gateway: Gateway,
        reporter: Reporter,
        *,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gateway = gateway
        self._reporter = reporter
        self.sleep = sleep
        self.clock = clock

    async def find(self, name: str) -> StackFacts | None:
        """The stack, once CloudFormation is no longer at work on it; None if there is none."""
        stack = await self._settled(name)
        if stack is None or stack.is_remains:
            return stack
        reply = await self._call("get_template", {"StackName": name, "TemplateStage": "Original"})
        body = reply["TemplateBody"]
        return replace(stack, template=body if isinstance(body, str) else "")

    async def preview(self, change: StackChange) -> list[ResourceChange]:
        """What CloudFormation would do to a stack that is there; changes nothing."""
        change_set = await self._make_change_set(change, is_shown=False)
        if change_set is None:
            return []
        await self._drop(change.spec.name, change_set["ChangeSetName"])
        return changes_of(change_set)

    async def apply(
        self,
        change: StackChange,
        check: Callable[[list[ResourceChange]], None] = lambda lines: None,
    ) -> StackFacts:
        """Make or change the stack and wait until it is whole; StackFailed says why it is not.

        ``check`` is shown what would be done, just before it is, and may raise.
        """
        if change.remains:
            await self._remove(change.spec.name, change.remains)
        change_set = await self._make_change_set(change)
        if change_set is not None:
            try:
                check(changes_of(change_set))
            except EC2SpawnerError:
                await self._drop(change.spec.name, change_set["ChangeSetName"])
                raise
            token = {"ClientRequestToken": change_set["ChangeSetName"]}
            params = {"StackName": change.spec.name, "ChangeSetName": change_set["ChangeSetName"]}
            await self._call("execute_change_set", {**params, **token}, Effect.REPEATABLE)
            await self._wait(change_set["StackId"], change)
        stack = await self.find(change.spec.name)
        if stack is None:
            raise StackFailed(f"The stack {change.spec.name} is gone.", next_step="Run it again.")
        return stack

    async def delete(self, stack: StackFacts) -> None:
        """Delete the stack and wait until it is gone; StackFailed says what holds it."""
        await self._call("delete_stack", {"StackName": stack.stack_id}, Effect.REPEATABLE)
        elapsed = self._elapsed(f"Deleting the stack {stack.name}")
        while (found := await self._look(stack.stack_id)) and found.status != "DELETE_COMPLETE":
            if not found.is_moving:
                raise StackFailed(
                    f"The stack {stack.name} was not deleted ({found.status}).",
                    why=await self._reasons(stack.stack_id),
                    next_step="Mend what is named there and run the same command again.",
                )
            await self._pause(elapsed, found.status, STACK_DEADLINE_SECONDS)
        self._reporter.progress(f"Deleting the stack {stack.name}: done, {elapsed.seconds:.0f} s")

    async def _call(
        self, operation: str, params: Mapping[str, Any], effect: Effect | None = None
    ) -> dict[str, Any]:
        return await self._gateway.call("cloudformation", operation, params, effect=effect)

    async def look(self, name: str) -> StackFacts | None:
        """The stack as it is now, whatever is under way; None if there is none."""
        stack = await self._look(name)
        is_there = stack and stack.status not in ("REVIEW_IN_PROGRESS", "DELETE_COMPLETE")
        return stack if is_there else None

    async def _look(self, name: str) -> StackFacts | None:
        try:
            reply = await self._call("describe_stacks", {"StackName": name})
        except Rejected as error:
            # CloudFormation has one code for all that is wrong with a call; only the text tells.
            if error.aws_code == "ValidationError" and "does not exist" in error.why:
                return None
            raise
        return parse_stack(reply["Stacks"][0])

    async def _settled(self, name: str) -> StackFacts | None:
        """The stack when nothing is under way; by name, so that a deleted one is None."""
        elapsed: Elapsed | None = None
        while True:
            stack = await self._look(name)
            if stack is None or stack.status in ("REVIEW_IN_PROGRESS", "DELETE_COMPLETE"):
                return None
            if not stack.is_moving:
                return stack
            elapsed = elapsed or self._elapsed(f"Waiting for the stack {name}")
            await self._pause(elapsed, stack.status, STACK_DEADLINE_SECONDS)

    async def _remove(self, name: str, stack_id: str) -> None:
        self._reporter.progress(f"Removing what a failed creation of {name} left behind …")
        await self._call("delete_stack", {"StackName": stack_id}, Effect.REPEATABLE)
        await self._settled(name)

    async def _drop(self, stack: str, change_set: str) -> None:
        params = {"StackName": stack, "ChangeSetName": change_set}
        await self._call("delete_change_set", params, Effect.REPEATABLE)

    async def _make_change_set(
        self, change: StackChange, *, is_shown: bool = True
    ) -> dict[str, Any] | None:
        """A change set that can be executed; None if it turns out to change nothing."""
        spec = change.spec
        name = f"ec2spawner-{secrets.token_hex(6)}"
        params = {
            "StackName": spec.name,
            "ChangeSetName": name,
            "ChangeSetType": "CREATE" if change.is_new else "UPDATE",
            "ClientToken": name,
            "TemplateBody": spec.template,
            "Parameters": [
                {"ParameterKey": key, "ParameterValue": value}
                for key, value in spec.parameters.items()
            ],
            "Tags": [{"Key": key, "Value": value} for key, value in spec.tags.items()],
            "Capabilities": ["CAPABILITY_NAMED_IAM"],  # roles with the cluster's name
            **({"OnStackFailure": "DELETE"} if change.is_new else {}),
        }
        try:
            await self._call("create_change_set", params, Effect.REPEATABLE)
        except Rejected as error:
            if _says_no_changes(error.why):
                return None
            if error.aws_code != ALREADY_THERE:  # else a repeated call met its first
                raise
        return await self._ready_change_set(spec.name, name, is_shown=is_shown)

    async def _ready_change_set(
        self, stack: str, name: str, *, is_shown: bool
    ) -> dict[str, Any] | None:
        elapsed = self._elapsed(f"Asking CloudFormation what changes in {stack}")
        params = {"StackName": stack, "ChangeSetName": name}
        while True:
            reply = await self._call("describe_change_set", params)
            if reply["Status"] == "CREATE_COMPLETE":
                if is_shown:
                    self._reporter.show(f"    {line}" for line in changes_of(reply))
                return reply
            if reply["Status"] == "FAILED":
                await self._drop(stack, name)
                why = str(reply.get("StatusReason", ""))
                if _says_no_changes(why):
                    return None
                raise StackFailed(f"CloudFormation cannot change the stack {stack}.", why=why)
            await self._pause(elapsed, reply["Status"], CHANGE_SET_DEADLINE_SECONDS)

    async def _wait(self, stack_id: str, change: StackChange) -> None:
        name = change.spec.name
        verb = "Making" if change.is_new else "Changing"
        elapsed = self._elapsed(f"{verb} the stack {name}")
        while True:
            stack = await self._look(stack_id)
            if stack and not stack.is_moving and stack.status != "REVIEW_IN_PROGRESS":
                break
            await self._pause(elapsed, stack.status if stack else "gone", STACK_DEADLINE_SECONDS)
        if stack.status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            raise StackFailed(
                f"The stack {name} was not {'made' if change.is_new else 'changed'}"
                f" ({stack.status}).",
                why=await self._reasons(stack_id),
                next_step="Mend what is named there and run the same command again.",
            )
        self._reporter.progress(f"{verb} the stack {name}: done, {elapsed.seconds:.0f} s")

    async def _reasons(self, stack_id: str) -> str:
        pages = await self._gateway.pages(
            "cloudformation", "describe_stack_events", {"StackName": stack_id}
        )
        return failure_reasons([event for page in pages for event in page["StackEvents"]])

    def _elapsed(self, text: str) -> Elapsed:
        return Elapsed(self._reporter, self.clock, text)

    async def _pause(self, elapsed: Elapsed, state: str, bound_seconds: float) -> None:
        if elapsed.seconds > bound_seconds:
            raise StackFailed(
                "CloudFormation is still at work.",
                why=f"{state} after {elapsed.seconds:.0f} s.",
                next_step="Run the same command later: it goes on from there.",
            )
        elapsed.tick(state)
        step = next((s for s in POLL_SECONDS if s > elapsed.seconds / 3), POLL_SECONDS[-1])
        await self.sleep(step)


def _says_no_changes(text: str) -> bool:
    return any(words in text for words in NO_CHANGES)


def parse_stack(raw: Mapping[str, Any]) -> StackFacts:
    """One element of DescribeStacks' ``Stacks``; its template is asked for separately."""
    return StackFacts(
        name=raw["StackName"],
        stack_id=raw["StackId"],
        status=raw["StackStatus"],
        parameters=MappingProxyType(
            {p["ParameterKey"]: p.get("ParameterValue", "") for p in raw.get("Parameters") or ()}
        ),
        tags=tags_of(raw),
        outputs=MappingProxyType(
            {o["OutputKey"]: o["OutputValue"] for o in raw.get("Outputs") or ()}
        ),
    )


def changes_of(change_set: Mapping[str, Any]) -> list[ResourceChange]:
    """The lines of a change set."""
    raw = [c["ResourceChange"] for c in change_set.get("Changes") or () if "ResourceChange" in c]
    return [
        ResourceChange(
            r["Action"],
            r["LogicalResourceId"],
            r["ResourceType"],
            r.get("Replacement", ""),
            _causes(r.get("Details") or ()),
        )
        for r in raw
    ]


def _causes(details: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    targets = [detail.get("Target") or {} for detail in details]
    found = [t.get("Name") for t in targets if t.get("RequiresRecreation") not in (None, "Never")]
    return tuple(dict.fromkeys(name for name in found if name))


def failure_reasons(events: list[Mapping[str, Any]]) -> str:
    """Why a stack failed, by its events, newest first as CloudFormation lists them.

    What was merely cancelled because something else failed is left out.
    """
    failed = [
        f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', 'no reason given')}"
        for event in reversed(events)
        if event.get("ResourceStatus", "").endswith("_FAILED")
        and "cancelled" not in event.get("ResourceStatusReason", "").lower()
    ]
    return "; ".join(failed[:3])[:600]
