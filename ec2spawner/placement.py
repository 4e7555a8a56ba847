"""Where a worker may be launched or started: the ladder of offerings, and what does not work now.

Pure. Owns the order of the rungs, and how far a failure reaches: a type without capacity in its
zone, a full subnet, a quota on all types of its class. Must not know owners, nor who waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from ec2spawner.errors import CloudError, LaunchFailed, QuotaError, SubnetFull
from ec2spawner.model import Worker
from ec2spawner.quotas import quota_code

FAILED_OFFERING_SECONDS = 180.0
"""How long an offering without capacity is left out (as Karpenter does; AWS.md's sources)."""


class Market(str, Enum):
    """How a machine is paid for, by the names that EC2's offers go by."""

    ON_DEMAND = "on-demand"
    SPOT = "spot"


@dataclass(frozen=True)
class Profile:
    """What an operator offers: instance types in order of preference, and the home's size."""

    slug: str
    instance_types: tuple[str, ...]
    home_gib: int
    markets: tuple[Market, ...] = (Market.ON_DEMAND,)
    """In order of preference: all types of the first are tried before those of the second."""
    name: str = ""
    description: str = ""
    groups: frozenset[str] = frozenset()
    """Groups of the hub whose members may have it; none: everybody may."""
    pool_running: int = 0
    """Spares that run, for first logins."""
    pool_stopped: int = 0
    """Spares that were booted once and are stopped."""


@dataclass(frozen=True)
class Subnet:
    """A subnet for workers, and its zone."""

    subnet_id: str
    zone: str


@dataclass(frozen=True)
class Offering:
    """One rung: a type in a subnet, and how it is paid for. Its zone follows from the subnet."""

    instance_type: str
    subnet_id: str
    zone: str
    market: Market = Market.ON_DEMAND


@dataclass(frozen=True)
class Failure:
    """Why something is not tried again before ``until`` (epoch seconds)."""

    error: CloudError
    until: float


def offering_of(worker: Worker) -> Offering:
    """The rung on which a worker is."""
    market = Market(worker.market)
    return Offering(worker.instance_type, worker.subnet_id, worker.zone, market)


Scope = tuple[str, ...]
"""How far a failure reaches: of a quota, of a subnet, or of a type in a zone."""


def scopes(offering: Offering, *, is_start: bool = False) -> tuple[Scope, ...]:
    """All that can stand in an offering's way: its quota, its subnet, its capacity.

    A start needs no address, and is tried although a launch found no capacity: who has a stopped
    machine has no other.
    """
    market = offering.market.value
    quota = ("quota", market, quota_code(offering.instance_type, market))
    place = (offering.instance_type, offering.zone, market)
    if is_start:
        return quota, ("capacity to start", *place)
    return quota, ("subnet", offering.subnet_id), ("capacity", *place)


def scope_of(offering: Offering, error: CloudError, *, is_start: bool = False) -> Scope:
    """What else will fail as this offering has."""
    quota, *others = scopes(offering, is_start=is_start)
    if isinstance(error, QuotaError):
        return quota
    return others[0] if isinstance(error, SubnetFull) else others[-1]


def why_not(
    offering: Offering, failed: Mapping[Scope, Failure], now: float, *, is_start: bool = False
) -> CloudError | None:
    """Why an offering is known not to work now."""
    for scope in scopes(offering, is_start=is_start):
        failure = failed.get(scope)
        if failure and failure.until > now:
            return failure.error
    return None


def rungs(
    profile: Profile, subnets: tuple[Subnet, ...], zone: str | None = None
) -> Iterator[Offering]:
    """The profile's ladder, best first: every subnet (of ``zone``, if given) for each type."""
    for market in profile.markets:
        for instance_type in profile.instance_types:
            for subnet in subnets:
                if zone is None or subnet.zone == zone:
                    yield Offering(instance_type, subnet.subnet_id, subnet.zone, market)


def choose(
    profile: Profile,
    subnets: tuple[Subnet, ...],
    failed: Mapping[Scope, Failure],
    now: float,
    zone: str | None = None,
) -> Offering | CloudError | LaunchFailed:
    """The best rung that is not known to fail, or why there is none."""
    last: CloudError | LaunchFailed = LaunchFailed(
        "Your files lie in a zone where this hub has no network.",
        why=f"no subnet of the cluster is in zone {zone}",
        next_step="Tell the people who run this hub.",
    )
    for offering in rungs(profile, subnets, zone):
        error = why_not(offering, failed, now)
        if error is None:
            return offering
        last = error
    return last


def choose_type(
    worker: Worker, instance_types: tuple[str, ...], failed: Mapping[Scope, Failure], now: float
) -> str | CloudError:
    """As which of the types a stopped worker can be started where it is, or why as none."""
    last: CloudError | None = None
    for instance_type in instance_types:
        there = replace(offering_of(worker), instance_type=instance_type)
        error = why_not(there, failed, now, is_start=True)
        if error is None:
            return instance_type
        last = error
    assert last is not None  # noqa: S101 - there was a type at least, and it left its error
    return last
