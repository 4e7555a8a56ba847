"""CloudFormation stacks: looked at, and brought to what they should be by change sets.

Owns the waiting for them and the words for their failures. Must not know what is in a stack.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ec2spawner.cloud import Effect, Gateway
from ec2spawner.errors import CloudError, Denied, EC2SpawnerError, Rejected
from ec2spawner.model import tags_of

from .facts import StackFacts
from .planning import StackChange
from .reporter import Elapsed, Reporter

POLL_SECONDS = (1.0, 2.0, 3.0, 5.0)
"""Pauses between looks; the last one stays. CloudFormation publishes no limits of its API."""

CHANGE_SET_DEADLINE_SECONDS = 300.0
STACK_DEADLINE_SECONDS = 1800.0
ALREADY_THERE = "AlreadyExistsException"
NOT_NOW = "InvalidChangeSetStatus"
"""Of a change set that is still being made, or was executed (API reference, 2026)."""
DROP_TRIES = 5
DROP_DEADLINE_SECONDS = 15.0  # of each: whoever pressed Ctrl-C waits for it
NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
"""The words of an empty change set, for which CloudFormation has no code (2026)."""


class StackFailed(EC2SpawnerError):
    """CloudFormation could not make or change a stack."""

    code = "stack-failed"


@dataclass
class _ChangeSet:
    """One that was asked for; ``ready`` is what it says, None if it would change nothing."""

    stack: str
    name: str
    ready: dict[str, Any] | None = None
    is_to_drop: bool = True  # not if it was executed, or never made


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
        self._previews: list[tuple[StackChange, list[ResourceChange]]] = []

    async def find(self, name: str) -> StackFacts | None:
        """The stack, once CloudFormation is no longer at work on it; None if there is none."""
        stack = await self.find_any(name)
        if stack is None or stack.is_empty:
            return None
        if stack.is_remains:
            return stack
        reply = await self._call("get_template", {"StackName": name, "TemplateStage": "Original"})
        body = reply["TemplateBody"]
        return replace(stack, template=body if isinstance(body, str) else "")

    async def preview(self, change: StackChange) -> list[ResourceChange]:
        """What CloudFormation would do to a stack that is there; changes nothing.

        Of the same change it is asked once.
        """
        known = next((lines for asked, lines in self._previews if asked == change), None)
        if known is None:
            async with self._change_set(change, is_shown=False) as change_set:
                known = changes_of(change_set.ready or {})
            self._previews.append((change, known))
        return known

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
        async with self._change_set(change) as change_set:
            if change_set.ready:
                check(changes_of(change_set.ready))
                await self._execute(change_set)
        if change_set.ready:
            await self._wait(change_set.ready["StackId"], change)
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
        stack = await self.look_at_all(name)
        return None if stack is None or stack.is_empty else stack

    async def look_at_all(self, name: str) -> StackFacts | None:
        """The stack as it is now, also one that was named only, and never made."""
        stack = await self._look(name)
        return None if stack is None or stack.status == "DELETE_COMPLETE" else stack

    async def _look(self, name: str) -> StackFacts | None:
        try:
            reply = await self._call("describe_stacks", {"StackName": name})
        except Rejected as error:
            # CloudFormation has one code for all that is wrong with a call; only the text tells.
            if error.aws_code == "ValidationError" and "does not exist" in error.why:
                return None
            raise
        return parse_stack(reply["Stacks"][0])

    async def find_any(self, name: str) -> StackFacts | None:
        """The stack when nothing is under way, also an empty one; by name, so no deleted one."""
        elapsed: Elapsed | None = None
        while True:
            stack = await self.look_at_all(name)
            if stack is None or stack.is_empty or not stack.is_moving:
                return stack
            elapsed = elapsed or self._elapsed(f"Waiting for the stack {name}")
            await self._pause(elapsed, stack.status, STACK_DEADLINE_SECONDS)

    async def _remove(self, name: str, stack_id: str) -> None:
        self._reporter.progress(f"Removing what a failed creation of {name} left behind …")
        await self._call("delete_stack", {"StackName": stack_id}, Effect.REPEATABLE)
        await self.find_any(name)

    async def _execute(self, change_set: _ChangeSet) -> None:
        params = {"StackName": change_set.stack, "ChangeSetName": change_set.name}
        token = {"ClientRequestToken": change_set.name}
        await self._call("execute_change_set", {**params, **token}, Effect.REPEATABLE)
        change_set.is_to_drop = False

    @contextlib.asynccontextmanager
    async def _change_set(
        self, change: StackChange, *, is_shown: bool = True
    ) -> AsyncIterator[_ChangeSet]:
        """A change set that can be executed; it goes, however this ends, if it was not."""
        change_set = _ChangeSet(change.spec.name, f"ec2spawner-{secrets.token_hex(6)}")
        try:
            change_set.ready = await self._make_change_set(change, change_set, is_shown=is_shown)
            yield change_set
        finally:
            if change_set.is_to_drop:
                await self._drop(change_set)

    async def _drop(self, change_set: _ChangeSet) -> None:
        """Delete it; one that cannot be deleted changes nothing, and goes with its stack."""
        params = {"StackName": change_set.stack, "ChangeSetName": change_set.name}
        for _ in range(DROP_TRIES):
            try:
                await self._gateway.call(
                    "cloudformation",
                    "delete_change_set",
                    params,
                    effect=Effect.REPEATABLE,
                    deadline_seconds=DROP_DEADLINE_SECONDS,
                )
            except CloudError as error:
                if error.aws_code == NOT_NOW:
                    await self.sleep(POLL_SECONDS[0])
                    continue
            return

    async def _make_change_set(
        self, change: StackChange, change_set: _ChangeSet, *, is_shown: bool
    ) -> dict[str, Any] | None:
        """What the change set says once it is whole; None if it turns out to change nothing."""
        spec = change.spec
        params = {
            "StackName": spec.name,
            "ChangeSetName": change_set.name,
            "ChangeSetType": "CREATE" if change.is_new else "UPDATE",
            "ClientToken": change_set.name,
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
        except Denied:
            change_set.is_to_drop = False
            raise
        except Rejected as error:
            if error.aws_code != ALREADY_THERE:  # else a repeated call met its first
                change_set.is_to_drop = False
                if _says_no_changes(error.why):
                    return None
                raise
        return await self._ready_change_set(spec.name, change_set.name, is_shown=is_shown)

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
