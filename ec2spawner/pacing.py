"""Which planned actions are sent now, and which are planned anew once EC2's limits allow a call.

An action that EC2's request limit would make wait is left out, not queued: those who come meanwhile
are in the same call then. So a class that comes one by one costs two launches a second, not one for
each student. Pure. Owns whose calls go first. Must not know how an action is carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ec2spawner.actions import Action, Launch, Start, Stop, Tag, Terminate
from ec2spawner.throttle import Turn

USERS_SHARE = 0.5
"""Share of the bucket of CreateTags that is left to the claims of users who wait."""


@dataclass(frozen=True)
class Call:
    """The EC2 action of a kind of ours, and the share of its bucket that it leaves to others."""

    action: str
    left_share: float = 0.0


CALLS: Mapping[type[object], Call] = MappingProxyType(
    {
        Launch: Call("RunInstances"),
        Start: Call("StartInstances"),
        Stop: Call("StopInstances"),
        Terminate: Call("TerminateInstances"),
        Tag: Call("CreateTags", USERS_SHARE),
    }
)
"""Kinds that take many at once. All others are one call for one thing: waiting joins nothing."""


def no_limit(action: str, left_share: float) -> Turn:
    """Where nobody limits calls."""
    return Turn(1_000_000, 0.0)


def due(
    actions: Iterable[Action], turn: Callable[[str, float], Turn]
) -> tuple[list[Action], float | None]:
    """The actions to send now, and in how many seconds to plan what was left out (None: nothing).

    ``turn`` tells of an EC2 action, and a share of its bucket to be left, how many calls are free.
    """
    free: dict[str, int] = {}
    waits: list[float] = []
    sent: list[Action] = []
    for action in actions:
        call = CALLS.get(type(action))
        if call is None:
            sent.append(action)
            continue
        now = turn(call.action, call.left_share)
        left = free.setdefault(call.action, now.free)
        if left > 0:
            free[call.action] = left - 1
            sent.append(action)
        else:
            waits.append(now.wait_seconds)
    return sent, min(waits, default=None)
