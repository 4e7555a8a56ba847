"""Where a worker may be launched: the ladder of offerings, and what is known not to work now.

Pure. Owns the order of the rungs and the memory of failed ones. Must not know workers or owners.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ec2spawner.errors import CloudError, LaunchFailed, QuotaError

FAILED_OFFERING_SECONDS = 180.0
"""How long an offering without capacity is left out (as Karpenter does; AWS.md's sources)."""


@dataclass(frozen=True)
class Profile:
    """What an operator offers: instance types in order of preference, and the home's size."""

    slug: str
    instance_types: tuple[str, ...]
    home_gib: int


@dataclass(frozen=True)
class Subnet:
    """A subnet for workers, and its zone."""

    subnet_id: str
    zone: str


@dataclass(frozen=True)
class Offering:
    """One rung: a type in a subnet. Its zone follows from the subnet."""

    instance_type: str
    subnet_id: str
    zone: str


@dataclass(frozen=True)
class Failure:
    """Why something is not tried again before ``until`` (epoch seconds)."""

    error: CloudError
    until: float


def rungs(
    profile: Profile, subnets: tuple[Subnet, ...], zone: str | None = None
) -> Iterator[Offering]:
    """The profile's ladder, best first: every subnet (of ``zone``, if given) for each type."""
    for instance_type in profile.instance_types:
        for subnet in subnets:
            if zone is None or subnet.zone == zone:
                yield Offering(instance_type, subnet.subnet_id, subnet.zone)


def choose(
    profile: Profile,
    subnets: tuple[Subnet, ...],
    failed: Mapping[Offering, Failure],
    now: float,
    zone: str | None = None,
) -> Offering | CloudError | LaunchFailed:
    """The best rung that is not known to fail, or why there is none."""
    last: CloudError | None = None
    found_any = False
    for offering in rungs(profile, subnets, zone):
        found_any = True
        failure = failed.get(offering)
        if failure is None or failure.until <= now:
            return offering
        last = failure.error
        if isinstance(last, QuotaError):
            return last
    if not found_any:
        return LaunchFailed(
            "Your files lie in a zone where this hub has no network.",
            why=f"no subnet of the cluster is in zone {zone}",
            next_step="Tell the people who run this hub.",
        )
    assert last is not None  # noqa: S101 - every rung failed, and each left its error
    return last
