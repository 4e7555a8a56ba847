"""Has the manager take over what lies in the bucket, by Run Command: a package, or its settings.

Owns the one command that is sent, the wait for its end, and the words for each ending. What
happens on the machine is ``upgrade.sh``'s affair: it goes on without whoever has sent it, copies
the database before, and goes back if the hub fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ec2spawner.cloud import Effect, Gateway
from ec2spawner.errors import CloudError, EC2SpawnerError, Throttled, Unreachable
from ec2spawner.manager.place import REFRESH, UPGRADE

from .reporter import Elapsed, Reporter

DOCUMENT = "AWS-RunShellScript"
POLL_SECONDS = (0.2, 2.0)
"""Pauses between looks: in the first seconds, and then."""
AGENT_SECONDS = 180.0
"""Within which the agent of a machine that was just started says that it is there."""
KNOWN_SECONDS = 60.0
"""Within which a command that was sent can be asked for."""
RUN_SECONDS = 4500
"""What ec2spawner-upgrade@.service may take, and its settling."""
WAIT_SECONDS = RUN_SECONDS + 120.0
DELIVERY_SECONDS = 60  # at least 30 (SSM API reference, "SendCommand", 2026)

NO_AGENT = "InvalidInstanceId"
NOT_KNOWN_YET = "InvocationDoesNotExist"
ENDED = ("Success", "Failed", "Cancelled", "TimedOut")
NO_SUCH_FILE = 127
SAME = "is in use already"
LINES, LINE_CHARS = 60, 200
"""At most so much of a machine's words is shown."""


class UpgradeFailed(EC2SpawnerError):
    """The manager did not take it over; ``faults`` are the last lines of what it said."""

    code = "upgrade-failed"

    def __init__(self, what: str, lines: list[str], next_step: str) -> None:
        self.faults = tuple(lines)
        super().__init__(what, why="\n".join(lines), next_step=next_step)


@dataclass
class Upgrading:
    """Sends the command to one manager, and stays until it has ended."""

    gateway: Gateway
    reporter: Reporter
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic

    async def run(self, instance_id: str, word: str) -> bool:
        """Have the manager do ``upgrade.sh WORD``; whether that changed anything.

        Sent twice for the same word, the second waits for what the first has begun. Raises
        UpgradeFailed, CloudError.
        """
        what = "take over its settings" if word == REFRESH else "change to the package"
        elapsed = Elapsed(self.reporter, self.clock, f"Waiting for the manager to {what}")
        command_id = await self._send(instance_id, word, elapsed)
        try:
            reply = await self._await_end(instance_id, command_id, elapsed)
        except asyncio.CancelledError:
            self.reporter.progress("The manager goes on with it by itself.")
            raise
        lines = readable(str(reply.get("StandardOutputContent", "")))
        elapsed.finish(str(reply["Status"]))
        for line in lines:
            self.reporter.progress(f"  {line}")
        failure = failure_of(reply, lines)
        if failure:
            raise failure
        return not any(line.endswith(SAME) for line in lines)

    async def _send(self, instance_id: str, word: str, elapsed: Elapsed) -> str:
        params = {
            "DocumentName": DOCUMENT,
            "InstanceIds": [instance_id],
            "Parameters": {
                "commands": [f"{UPGRADE} {word}"],
                "executionTimeout": [str(RUN_SECONDS)],
            },
            "TimeoutSeconds": DELIVERY_SECONDS,
        }
        while True:
            try:
                reply = await self.gateway.call(
                    "ssm", "send_command", params, effect=Effect.REPEATABLE
                )
                return str(reply["Command"]["CommandId"])
            except CloudError as error:
                if error.aws_code != NO_AGENT:
                    raise
            if elapsed.seconds > AGENT_SECONDS:
                raise UpgradeFailed(
                    f"The manager {instance_id} takes no commands of Systems Manager.",
                    [],
                    "Look in the console whether it runs, and in Fleet Manager whether its agent"
                    f" is online. On the machine, as root: {UPGRADE} {word}",
                )
            elapsed.tick("its agent of Systems Manager is not there yet")
            await self.sleep(POLL_SECONDS[elapsed.seconds > POLL_SECONDS[1]])

    async def _await_end(
        self, instance_id: str, command_id: str, elapsed: Elapsed
    ) -> Mapping[str, Any]:
        sent_at = elapsed.seconds
        while True:
            reply = await self._ask(instance_id, command_id, elapsed.seconds - sent_at)
            state = str(reply["Status"]) if reply else "AWS does not say"
            if reply and state in ENDED:
                return reply
            if elapsed.seconds - sent_at > WAIT_SECONDS:
                raise UpgradeFailed(
                    f"The manager has not ended it after {elapsed.seconds:.0f} s.",
                    [],
                    "Run the same command again: it waits on. To look: a session by Systems"
                    " Manager, and `journalctl -u 'ec2spawner-upgrade@*'`.",
                )
            elapsed.tick(state)
            await self.sleep(POLL_SECONDS[elapsed.seconds > POLL_SECONDS[1]])

    async def _ask(
        self, instance_id: str, command_id: str, since_seconds: float
    ) -> Mapping[str, Any] | None:
        """How it stands; None while AWS does not answer, or does not know it yet."""
        params = {"CommandId": command_id, "InstanceId": instance_id}
        try:
            reply: Mapping[str, Any] = await self.gateway.call(
                "ssm", "get_command_invocation", params
            )
            return reply
        except (Throttled, Unreachable):
            return None
        except CloudError as error:
            if error.aws_code == NOT_KNOWN_YET and since_seconds < KNOWN_SECONDS:
                return None
            raise


def failure_of(reply: Mapping[str, Any], lines: list[str]) -> UpgradeFailed | None:
    """What to say of a command that has ended; None if all is well."""
    if reply["Status"] == "Success":
        return None
    if reply.get("ResponseCode") == NO_SUCH_FILE:
        return UpgradeFailed(
            "The manager is not set up yet.",
            lines,
            "Run the same command again when its hub answers; --replace-manager makes it anew.",
        )
    if reply["Status"] == "Failed":
        return UpgradeFailed(
            "The manager did not take it over; it is as it was before.",
            lines,
            "Mend what it says, and run the same command again.",
        )
    return UpgradeFailed(
        f"Systems Manager gave it up ({reply.get('StatusDetails') or reply['Status']}).",
        lines,
        "Run the same command again: what the manager has begun, it ends by itself.",
    )


def readable(text: str) -> list[str]:
    """The last lines of what a machine said, which is not trusted: printable, and bounded."""
    lines = ["".join(c for c in line if c.isprintable()) for line in text.splitlines()]
    return [line[:LINE_CHARS] for line in lines if line.strip()][-LINES:]
