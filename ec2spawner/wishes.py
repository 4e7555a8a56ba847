"""What the fleet is asked for, what the operator chose, and what earlier attempts taught.

Plain values that the plan decides by. Must not know EC2's calls, nor decide anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ec2spawner.model import Owner, Worker
from ec2spawner.placement import Failure, Market, Profile, Scope, Subnet

POOL_LAUNCH = "launch for the pool"
"""Kind of what is on hold for an image of which no spare comes up."""


@dataclass(frozen=True)
class Policy:
    """What the operator chose, as far as decisions need it. Times in seconds."""

    profiles: Mapping[str, Profile]
    subnets: tuple[Subnet, ...]
    reaper_grace_seconds: float = 300.0
    delete_grace_seconds: float = 7 * 86400.0
    snapshot_expire_seconds: float = 30 * 86400.0
    boot_bound_seconds: float = 300.0
    """A running worker that does not answer its waiting user for so long is broken."""
    keep_broken_seconds: float = 86400.0
    allow_zone_move: bool = False
    """Whether a home may be copied to another zone where its own has no machine."""
    image_id: str = ""
    """The image that new workers have; "" where it is not known: each launch template's own."""
    refresh_workers: bool = False
    """Whether a stopped worker of another image gives way to a new one when its owner comes."""

    @property
    def has_spot(self) -> bool:
        """Whether any machine may come from the spot market."""
        return any(Market.SPOT in profile.markets for profile in self.profiles.values())

    def is_outdated(self, worker: Worker) -> bool:
        """Whether a worker was launched from another image than new ones are."""
        return bool(self.image_id and worker.image_id) and worker.image_id != self.image_id


@dataclass(frozen=True)
class Demand:
    """An owner wants a running worker. ``incarnation`` names the server's row in the hub."""

    owner: Owner
    profile: str
    incarnation: str
    since: float
    is_waiting: bool = True
    """Whether somebody waits for the worker. Where nobody does, it is only left running: a machine
    that was stopped or ended outside the hub stays so until its user comes."""
    is_known: bool = False
    """Whether the row has had a worker before: its home is then not taken for missing at once."""
    instance_id: str = ""
    """The worker on which the owner's server answers, once it does."""
    is_bounded: bool = False
    """Whether the user asks, and no admin: a user has only so many homes."""


@dataclass(frozen=True)
class TagWrite:
    """Tags that must come to stand on these resources, whatever happens: a rename, a deletion."""

    ids: tuple[str, ...]
    tags: tuple[tuple[str, str | None], ...]
    reason: str


@dataclass(frozen=True)
class Crowd:
    """So many people are expected; who came ``since`` then (epoch seconds), is one of them."""

    count: int
    since: float


@dataclass(frozen=True)
class Wishes:
    """All that is wanted of the fleet at one moment, by owner key."""

    wanted: Mapping[str, Demand] = field(default_factory=lambda: MappingProxyType({}))
    released: frozenset[str] = frozenset()
    """Owners whose worker is to stop at once."""
    writes: tuple[TagWrite, ...] = ()
    mounted: frozenset[str] = frozenset()
    """Homes that were mounted since the hub started."""
    prepared: frozenset[str] = frozenset()
    """Spares that were looked at since the hub started, and are as they should be."""
    unfit: frozenset[str] = frozenset()
    """Spares that nobody is to be given."""
    expected: frozenset[str] = frozenset()
    """Owners whose class is about to begin: their workers are to run, though nobody waits yet."""
    crowds: tuple[Crowd, ...] = ()
    """Classes that are about to begin, and of which only the number is known."""


@dataclass(frozen=True)
class Memory:
    """What earlier attempts and listings taught."""

    failed: Mapping[Scope, Failure] = field(default_factory=lambda: MappingProxyType({}))
    holds: Mapping[tuple[str, str], Failure] = field(default_factory=lambda: MappingProxyType({}))
    """By (kind of action, id): not to be tried again before its time."""
    unwanted: Mapping[str, tuple[float, float]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """By id: when it was first seen unwanted, and by the listing begun at which moment."""
    homeless: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """By owner key: when the first full listing was begun that showed neither worker nor home."""
    silent: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """By id: for how many seconds a running worker was seen not to answer."""
    impaired: frozenset[str] = frozenset()
    """Workers of which EC2 says that a status check fails."""
    stopping: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """By id: since when it was seen to stop."""
