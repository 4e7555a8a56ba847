"""EC2's token buckets: how many calls per second an account may make.

Owns AWS's table and the arithmetic of buckets. Pure but for the clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from ec2spawner.localcloud.clock import Clock
from ec2spawner.localcloud.ec2.failures import EC2Error


@dataclass(frozen=True)
class Limit:
    """Size of a bucket, and tokens that come back per second."""

    size: float
    per_second: float


# EC2 developer guide, "Request throttling for the Amazon EC2 API", 2026.
REQUEST_LIMITS: Mapping[str, Limit] = {
    "RunInstances": Limit(5, 2),
    "StartInstances": Limit(5, 2),
    "StopInstances": Limit(50, 5),
    "TerminateInstances": Limit(100, 5),
    "ModifyInstanceAttribute": Limit(50, 5),
    "AttachVolume": Limit(50, 5),
    "CreateImage": Limit(50, 5),
    "CreateFleet": Limit(50, 5),
    "DetachVolume": Limit(50, 5),
    "CancelSpotInstanceRequests": Limit(50, 5),
    "CreateTags": Limit(100, 10),
    "DeleteTags": Limit(100, 10),
    "CreateVolume": Limit(100, 5),
    "DeleteVolume": Limit(100, 5),
    "CreateSnapshot": Limit(100, 5),
    "DeleteSnapshot": Limit(100, 5),
}
UNFILTERED = ("DescribeInstances", "DescribeInstanceStatus", "DescribeVolumes")
UNFILTERED_LIMIT = Limit(50, 10)
DESCRIBE_LIMIT = Limit(100, 20)
OTHER_LIMIT = Limit(50, 5)
INSTANCE_LIMITS: Mapping[str, Limit] = {
    "RunInstances": Limit(1000, 2),
    "StartInstances": Limit(1000, 2),
    "StopInstances": Limit(1000, 20),
    "TerminateInstances": Limit(1000, 20),
}


@dataclass
class Bucket:
    """Tokens that come back with time."""

    limit: Limit
    tokens: float
    at: float

    def level(self, now: float) -> float:
        """Tokens there at ``now``."""
        back = max(0.0, now - self.at) * self.limit.per_second
        return min(self.limit.size, self.tokens + back)

    def take(self, count: float, now: float) -> None:
        """Remove tokens that ``level`` showed."""
        self.tokens, self.at = self.level(now) - count, now


@lru_cache(maxsize=512)
def _limit(action: str, *, is_filtered: bool) -> Limit:
    if action in REQUEST_LIMITS:
        return REQUEST_LIMITS[action]
    if action in UNFILTERED and not is_filtered:
        return UNFILTERED_LIMIT
    if action.startswith(("Describe", "Get", "List")):
        return DESCRIBE_LIMIT
    return OTHER_LIMIT


class Throttle:
    """The buckets of one account, per Region and action."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str, bool], Bucket] = {}

    def admit(self, region: str, action: str, flat: Mapping[str, str]) -> None:
        """Take the tokens of one EC2 call, or EC2Error RequestLimitExceeded with status 503."""
        is_filtered = "MaxResults" in flat or any(k.startswith("Filter.") for k in flat)
        kind = f"{action}/{'filtered' if is_filtered else 'plain'}"
        name = kind if action in UNFILTERED else action
        taken = [(self._bucket(region, name, _limit(action, is_filtered=is_filtered)), 1)]
        if action in INSTANCE_LIMITS:
            bucket = self._bucket(region, action, INSTANCE_LIMITS[action], instances=True)
            taken.append((bucket, _instances(flat)))
        now = self._clock()
        if any(bucket.level(now) < count for bucket, count in taken):
            raise EC2Error("RequestLimitExceeded", "Request limit exceeded.", 503)
        for bucket, count in taken:
            bucket.take(count, now)

    def _bucket(self, region: str, name: str, limit: Limit, *, instances: bool = False) -> Bucket:
        key = (region, name, instances)
        if key not in self._buckets:
            self._buckets[key] = Bucket(limit, limit.size, self._clock())
        return self._buckets[key]


def _instances(flat: Mapping[str, str]) -> int:
    if "MaxCount" in flat:
        return int(flat["MaxCount"]) if flat["MaxCount"].isdigit() else 1
    return sum(1 for name in flat if name.startswith("InstanceId.")) or 1
