"""Which planned actions are sent now, and which are planned anew once EC2's limits allow a call.

An action that EC2's request limit would make wait is left out, not queued: those who come meanwhile
are in the same call then. So a class that comes one by one costs two launches a second, not one for
each student. Pure. Owns whose calls go first. Must not know how an action is carried out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from ec2spawner.actions import Action, Launch, Start, Stop, Tag, Terminate
from ec2spawner.throttle import Turn

USERS_SHARE = 0.5
"""Share of a bucket that is left to the calls of users who wait."""

CALLS: Mapping[type[object], str] = MappingProxyType(
    {
        Launch: "RunInstances",
        Start: "StartInstances",
        Stop: "StopInstances",
        Terminate: "TerminateInstances",
        Tag: "CreateTags",
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
    begun: Counter[str] = Counter()
    waits: list[float] = []
    sent: list[Action] = []
    for action in actions:
        call = CALLS.get(type(action))
        if call is None:
            sent.append(action)
            continue
        now = turn(call, left_share(action))
        if now.free > begun[call]:
            begun[call] += 1
            sent.append(action)
        else:
            waits.append(now.wait_seconds)
    return sent, min(waits, default=None)


def left_share(action: Action) -> float:
    """The share of its bucket that an action leaves: none, if somebody waits for it."""
    is_ahead = isinstance(action, Launch) and not action.for_owners
    is_ahead = is_ahead or (isinstance(action, Start) and action.is_ahead)
    return USERS_SHARE if is_ahead or isinstance(action, Tag) else 0.0
