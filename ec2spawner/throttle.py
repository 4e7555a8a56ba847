"""Token buckets in front of AWS, so that AWS never has to refuse.

Owns EC2's documented limits and the arithmetic of a bucket. Pure: time is given, nothing sleeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import MappingProxyType

ON_WAIT: ContextVar[Callable[[float], None] | None] = ContextVar("ON_WAIT", default=None)
"""Told in how many seconds a call is sent that EC2's limits hold back; each task has its own."""


@dataclass(frozen=True)
class Limit:
    """Size of a bucket and its refill per second, both in tokens."""

    size: float
    refill_per_second: float


# docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html, read 2026
REQUEST_LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        "RunInstances": Limit(5, 2),
        "StartInstances": Limit(5, 2),
        "StopInstances": Limit(50, 5),
        "TerminateInstances": Limit(100, 5),
        "ModifyInstanceAttribute": Limit(50, 5),
        "AttachVolume": Limit(50, 5),
        "DetachVolume": Limit(50, 5),
        "CreateImage": Limit(50, 5),
        "CancelSpotInstanceRequests": Limit(50, 5),  # the page's row for other mutating actions
        "GetConsoleOutput": Limit(100, 20),  # its row for Get*
        "CreateTags": Limit(100, 10),
        "DeleteTags": Limit(100, 10),
        "CreateVolume": Limit(100, 5),
        "DeleteVolume": Limit(100, 5),
        "CreateSnapshot": Limit(100, 5),
        "DeleteSnapshot": Limit(100, 5),
    }
)
DESCRIBE_LIMIT = Limit(100, 20)  # Describe* with a filter or MaxResults; ours always have one
INSTANCE_LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        "RunInstances": Limit(1000, 2),
        "StartInstances": Limit(1000, 2),
        "StopInstances": Limit(1000, 20),
        "TerminateInstances": Limit(1000, 20),
    }
)


ROUNDING = 1e-6
"""A token that lacks no more than this is there: who waited for it is not to wait once more."""


class Bucket:
    """Tokens that refill with time; a reservation says how long to wait before it may be used.

    A reservation can take the level below zero: those who come later wait behind it, so the order
    of arrival is the order of service.
    """

    def __init__(self, limit: Limit, now: float) -> None:
        self._limit = limit
        self._level = limit.size
        self._at = now

    def level(self, now: float) -> float:
        """Tokens free at ``now``; negative while reservations wait."""
        gained = max(0.0, now - self._at) * self._limit.refill_per_second
        return min(self._limit.size, self._level + gained)

    def reserve(self, tokens: float, now: float) -> float:
        """Take ``tokens``; seconds to wait until they are there."""
        self._level = self.level(now) - tokens
        self._at = max(now, self._at)
        return max(0.0, -self._level / self._limit.refill_per_second)

    def turn(self, left_share: float, now: float) -> Turn:
        """How many calls are free now, without those of a share of the bucket that is left."""
        free = self.level(now) - left_share * self._limit.size
        whole = max(0, math.floor(free + ROUNDING))
        return Turn(whole, max(0.0, (whole + 1 - free) / self._limit.refill_per_second))


@dataclass(frozen=True)
class Turn:
    """How many calls could be sent at once now, and in how many seconds one more than those."""

    free: int
    wait_seconds: float


class Throttle:
    """The buckets of one process, by EC2 action.

    With ``slack_seconds`` they are smaller than EC2's by what refills in that time: EC2 counts a
    call when it arrives, and one that was long on its way can come together with the next ones.
    """

    def __init__(self, now: float, slack_seconds: float = 0.0) -> None:
        def bucket(limit: Limit) -> Bucket:
            size = max(1.0, limit.size - slack_seconds * limit.refill_per_second)
            return Bucket(replace(limit, size=size), now)

        self._requests = {action: bucket(limit) for action, limit in REQUEST_LIMITS.items()}
        self._instances = {action: bucket(limit) for action, limit in INSTANCE_LIMITS.items()}
        self._describe = bucket(DESCRIBE_LIMIT)

    def turn(self, action: str, left_share: float, now: float) -> Turn:
        """How many calls of an action are free now, beyond a share of its bucket that is left."""
        bucket = self._describe if action.startswith("Describe") else self._requests[action]
        return bucket.turn(left_share, now)

    def levels(self) -> Mapping[tuple[str, str], Callable[[float], float]]:
        """By action and what is counted ("requests", "instances"): tokens free at a moment."""
        describes = {("Describe*", "requests"): self._describe}
        requests = {(action, "requests"): bucket for action, bucket in self._requests.items()}
        instances = {(action, "instances"): bucket for action, bucket in self._instances.items()}
        return {k: b.level for k, b in {**describes, **requests, **instances}.items()}

    def reserve(self, action: str, instances: int, now: float) -> float:
        """Seconds to wait before ``action`` on so many instances is within EC2's limits."""
        bucket = self._describe if action.startswith("Describe") else self._requests.get(action)
        wait = bucket.reserve(1, now) if bucket else 0.0
        if instances and action in self._instances:
            wait = max(wait, self._instances[action].reserve(instances, now))
        return wait
