"""What a cluster costs: AWS's prices as values, and what is made of them.

Pure. Owns the names of what AWS charges for, the form of a price file, and the arithmetic from
sizes and hours to dollars. A price that is not known is never guessed: the item has none, and the
bill says so. Must not read a file or ask AWS.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Literal, Protocol

from pydantic import Field

from ec2spawner.configmodel import Frozen
from ec2spawner.model import Snapshot, Volume
from ec2spawner.profiles import ProfileChoice
from ec2spawner.settings import Choices, InstanceConfig

HOURS_A_MONTH = 730.0
"""A twelfth of a year of 8760 hours, as AWS's own calculator counts."""
WEEKS_A_MONTH = HOURS_A_MONTH / (24 * 7)
MINIMUM_SECONDS = 60
"""Billed at every start of a Linux machine (EC2 user guide, "On-Demand Instances", 2026)."""

GP3 = "gp3 gb-month"
SNAPSHOT = "snapshot gb-month"
SNAPSHOT_ARCHIVE = "snapshot-archive gb-month"
NAT_HOUR = "nat hour"
NAT_GB = "nat gb"
IPV4_HOUR = "ipv4 hour"
OTHERS = (GP3, SNAPSHOT, SNAPSHOT_ARCHIVE, NAT_HOUR, NAT_GB, IPV4_HOUR)
_INSTANCE = "instance "

PRODUCT = rf"^(?:{_INSTANCE}[a-z][a-z0-9-]*\.[a-z0-9-]+|{'|'.join(OTHERS)})$"
WORDS: Mapping[str, str] = {
    GP3: "a GB-month of gp3 volumes",
    SNAPSHOT: "a GB-month of snapshots",
    SNAPSHOT_ARCHIVE: "a GB-month of archived snapshots",
    NAT_HOUR: "an hour of a NAT gateway",
    NAT_GB: "a GB through a NAT gateway",
    IPV4_HOUR: "an hour of a public IPv4 address",
}

NAT_INSTANCE_TYPE, NAT_ROOT_GIB = "t4g.nano", 8
MANAGER_ROOT_GIB = 16
MANAGER_DATA_GIB = 10
NAT_GB_PER_STUDENT_WEEK = 0.5
"""Packages and pages that a student's machine fetches; nobody measured it."""
SHARED_FAMILIES: Mapping[bool, tuple[str, ...]] = {False: ("m7i", "m6i"), True: ("m7g",)}
"""Of which large machines are taken that many share, by whether they are Arm's: 4 GiB a vCPU."""
SHARED_GIB_PER_STUDENT = 2.0
SHARED_SYSTEM_GIB = 2.0
"""Of a shared machine, kept for its own system and the hub."""

_VCPUS: Mapping[str, int] = {
    **{"large": 2, "xlarge": 4, "2xlarge": 8, "4xlarge": 16, "8xlarge": 32},
    **{"12xlarge": 48, "16xlarge": 64, "24xlarge": 96, "48xlarge": 192},
}
_GIB_PER_VCPU: Mapping[str, int] = {"c6i": 2, "c7i": 2, "c7g": 2, "m6i": 4, "m7i": 4, "m7g": 4} | {
    "r6i": 8,
    "r7i": 8,
    "r7g": 8,
}
"""Of the families of which each size has the same share (EC2 instance types guide, 2026)."""


def instance(instance_type: str) -> str:
    """The product that an hour of a type is."""
    return f"{_INSTANCE}{instance_type}"


def memory_gib(instance_type: str) -> int | None:
    """Memory of a type of the families that share machines well; None for any other."""
    family, _, size = instance_type.partition(".")
    vcpus, share = _VCPUS.get(size), _GIB_PER_VCPU.get(family)
    return vcpus * share if vcpus and share else None


def describe(product: str) -> str:
    """A product in words."""
    return WORDS.get(product) or f"an hour of {product.removeprefix(_INSTANCE)}"


# ---- prices


class PriceEntry(Frozen):
    """Prices of one Region that have one source; the Region ``*`` stands for all."""

    region: str = Field(pattern=r"^(?:\*|[a-z]{2}(?:-[a-z]+)+-\d+)$")
    date: str = Field(pattern=r"^\d{4}(?:-\d\d(?:-\d\d)?)?$")
    source: str = Field(min_length=1)
    usd: dict[
        Annotated[str, Field(pattern=PRODUCT)],
        Annotated[float, Field(gt=0, lt=10_000, allow_inf_nan=False)],
    ]


class PriceFile(Frozen):
    """A file of prices; of two entries for one product, the later counts."""

    currency: Literal["USD"]
    entries: tuple[PriceEntry, ...]


@dataclass(frozen=True)
class Price:
    """What AWS asks for one unit, who says so, and as of when."""

    usd: float
    date: str
    source: str


@dataclass(frozen=True)
class Prices:
    """What is known of one Region."""

    region: str
    known: Mapping[str, Price]

    def usd(self, product: str) -> float | None:
        """The price of a unit, or None where none is known."""
        price = self.known.get(product)
        return price.usd if price else None


def prices_of(region: str, files: Iterable[PriceFile]) -> Prices:
    """A Region's prices; a later file counts more than an earlier one, a Region more than all."""
    known: dict[str, Price] = {}
    for file in files:
        for which in ("*", region):
            for entry in file.entries:
                if entry.region == which:
                    known |= {k: Price(v, entry.date, entry.source) for k, v in entry.usd.items()}
    return Prices(region, known)


# ---- bills


@dataclass(frozen=True)
class Item:
    """One line: so many units of one product. ``usd`` is None where no price is known."""

    what: str
    product: str
    quantity: float
    usd_per_unit: float | None

    @property
    def usd(self) -> float | None:
        """What the line costs."""
        return None if self.usd_per_unit is None else self.quantity * self.usd_per_unit

    @property
    def unit(self) -> str:
        """What is counted."""
        return {GP3: "GB", SNAPSHOT: "GB", SNAPSHOT_ARCHIVE: "GB", NAT_GB: "GB"}.get(
            self.product, "hours"
        )


@dataclass(frozen=True)
class Bill:
    """Items of a month, and their sum."""

    items: tuple[Item, ...]

    @property
    def usd(self) -> float:
        """The sum of what has a price; the least that it costs where something has none."""
        return math.fsum(item.usd for item in self.items if item.usd is not None)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Products without a price, each once."""
        return tuple(dict.fromkeys(i.product for i in self.items if i.usd_per_unit is None))

    def __add__(self, other: Bill) -> Bill:
        return Bill((*self.items, *other.items))


def _bill(prices: Prices, *lines: tuple[str, str, float]) -> Bill:
    """A bill of what there is some of."""
    return Bill(
        tuple(
            Item(what, product, quantity, prices.usd(product))
            for what, product, quantity in lines
            if quantity > 0
        )
    )


# ---- what is planned


class Nat(str, Enum):
    """How the private subnets that a cluster makes reach the outside; NONE: without its doing."""

    GATEWAY = "gateway"
    INSTANCE = "instance"
    NONE = "none"


@dataclass(frozen=True)
class Usage:
    """What a class makes of a cluster."""

    students: int
    hours_a_week: float
    weeks: float

    @property
    def hours_a_month(self) -> float:
        """Machine hours of all students in a month of classes."""
        return self.students * self.hours_a_week * WEEKS_A_MONTH

    @property
    def months(self) -> float:
        """How many months the course takes."""
        return self.weeks / WEEKS_A_MONTH


def cost_of_plan(
    choices: InstanceConfig, has_manager: bool, nat: Nat, prices: Prices
) -> Bill:  # the Region is the prices'
    """What a cluster costs a month before anybody works: manager, network, spare machines."""
    manager = choices.MANAGER_INSTANCE_TYPE
    data = MANAGER_DATA_GIB if has_manager else 0
    disks = MANAGER_ROOT_GIB + MANAGER_DATA_GIB if has_manager else 0
    always = HOURS_A_MONTH
    return _bill(
        prices,
        (f"manager ({manager})", instance(manager), always if has_manager else 0),
        ("manager's disks", GP3, disks),
        ("snapshots of the manager's data, at most", SNAPSHOT, data),
        ("manager's address", IPV4_HOUR, always if has_manager else 0),
    ) + (_nat(nat, prices) + _pools(choices, prices))


def _nat(nat: Nat, prices: Prices) -> Bill:
    """One, in whatever number of zones (``network.yaml``)."""
    if nat is Nat.GATEWAY:
        first = [("NAT gateway", NAT_HOUR, HOURS_A_MONTH)]
    elif nat is Nat.INSTANCE:
        kind = f"NAT instance ({NAT_INSTANCE_TYPE})"
        first = [
            (kind, instance(NAT_INSTANCE_TYPE), HOURS_A_MONTH),
            ("NAT instance's disk", GP3, NAT_ROOT_GIB),
        ]
    else:
        return Bill(())
    return _bill(prices, *first, (f"NAT {nat.value}'s address", IPV4_HOUR, HOURS_A_MONTH))


def _pools(choices: Choices, prices: Prices) -> Bill:
    bill = Bill(())
    for kind in kinds_of(choices):
        spares = kind.pool_running + kind.pool_stopped
        bill += _bill(
            prices,
            (
                f"spare machines that run ({kind.instance_type})",
                instance(kind.instance_type),
                kind.pool_running * HOURS_A_MONTH,
            ),
            ("disks of spare machines", GP3, spares * (choices.WORKER_EBS_SIZE + kind.home_gib)),
        )
    return bill


@dataclass(frozen=True)
class Kind:
    """A kind of machine: that of a profile, or the only one."""

    name: str
    instance_type: str
    home_gib: int
    pool_running: int
    pool_stopped: int


def kinds_of(choices: Choices) -> tuple[Kind, ...]:
    """The kinds of machines, the usual one first; of each, its best type."""
    if not choices.PROFILES:
        running, stopped = choices.POOL_RUNNING, choices.POOL_STOPPED
        home = choices.USER_HOME_EBS_SIZE
        return (Kind("", choices.WORKER_INSTANCE_TYPE, home, running, stopped),)
    return tuple(_kind_of(profile, choices) for profile in choices.PROFILES)


def _kind_of(profile: ProfileChoice, choices: Choices) -> Kind:
    return Kind(
        profile.SLUG,
        profile.INSTANCE_TYPES[0],
        profile.HOME_GIB or choices.USER_HOME_EBS_SIZE,
        profile.POOL_RUNNING,
        profile.POOL_STOPPED,
    )


def cost_of_use(
    choices: Choices, kind: Kind, usage: Usage, prices: Prices, *, nat: bool = True
) -> Bill:
    """What the students of a class add in a month in which it is held."""
    disk = choices.WORKER_EBS_SIZE + kind.home_gib
    traffic = usage.students * NAT_GB_PER_STUDENT_WEEK * WEEKS_A_MONTH if nat else 0
    return _bill(
        prices,
        (f"workers ({kind.instance_type})", instance(kind.instance_type), usage.hours_a_month),
        ("workers' disks and homes", GP3, usage.students * disk),
        ("traffic through the NAT gateway", NAT_GB, traffic),
    )


# ---- compared


@dataclass(frozen=True)
class Alternative:
    """Another way to give the same class machines: what it is, what is assumed, its month."""

    name: str
    assumption: str
    bill: Bill


@dataclass(frozen=True)
class Shared:
    """Machines that students share: how much memory each has there; None: the type that suits."""

    instance_type: str | None = None
    gib_per_student: float = SHARED_GIB_PER_STUDENT

    def machines(self, instance_type: str, students: int) -> int | None:
        """How many of a type it takes for all at once; None where they do not suit."""
        memory = memory_gib(instance_type) or 0
        seats = int((memory - SHARED_SYSTEM_GIB) // self.gib_per_student)
        return -(-students // seats) if seats > 0 else None

    def choose(self, like: str, students: int, prices: Prices) -> tuple[int, str] | None:
        """How many of which type: the fewest machines, of these the cheapest; None: none is known.

        ``like``: the type of a student's own machine, whose architecture is kept.
        """
        families = SHARED_FAMILIES[_is_arm(like)]
        types = [p.removeprefix(_INSTANCE) for p in prices.known if p.startswith(_INSTANCE)]
        asked = [self.instance_type] if self.instance_type else types
        found = [
            (count, prices.usd(instance(kind)) or math.inf, kind)
            for kind in asked
            if self.instance_type or kind.partition(".")[0] in families
            if (count := self.machines(kind, students)) is not None
        ]
        return (min(found)[0], min(found)[2]) if found else None


def _is_arm(instance_type: str) -> bool:
    """Whether a type is Arm's: Amazon's names have a g after the generation's number."""
    digit = next((i for i, c in enumerate(instance_type) if c.isdigit()), 0)
    return "g" in instance_type[digit:].partition(".")[0]


def alternatives(
    choices: Choices, kind: Kind, usage: Usage, prices: Prices, shared: Shared
) -> tuple[Alternative, ...]:
    """The same class on machines that never stop, and on few large ones; without what all need."""
    disk = choices.WORKER_EBS_SIZE + kind.home_gib
    own = Alternative(
        "a machine each, stopped when idle",
        f"{usage.hours_a_week:g} hours a week each",
        _machines(prices, kind.instance_type, usage.hours_a_month, usage.students * disk),
    )
    always = Alternative(
        "a machine each, always on",
        "the same machines, day and night",
        _machines(
            prices, kind.instance_type, usage.students * HOURS_A_MONTH, usage.students * disk
        ),
    )
    chosen = shared.choose(kind.instance_type, usage.students, prices)
    if chosen is None:
        return own, always
    count, large = chosen
    homes = count * choices.WORKER_EBS_SIZE + usage.students * kind.home_gib
    each = f"{shared.gib_per_student:g} GiB each, all at once"
    together = Alternative(
        f"{count} shared {large}, always on",
        f"{memory_gib(large)} GiB, {each}; nobody is apart",
        _machines(prices, large, count * HOURS_A_MONTH, homes),
    )
    return own, always, together


def _machines(prices: Prices, instance_type: str, hours: float, disk_gib: float) -> Bill:
    return _bill(
        prices,
        (f"machines ({instance_type})", instance(instance_type), hours),
        ("disks and homes", GP3, disk_gib),
    )


# ---- what is there


class Sized(Protocol):
    """What is charged by its size."""

    @property
    def size_gib(self) -> int:
        """Its size."""


def monthly_cost_of(
    volumes: Sequence[Sized], snapshots: Sequence[Sized], addresses: int, prices: Prices
) -> Bill:
    """What volumes, snapshots and public addresses cost a month while they stay."""
    return _bill(
        prices,
        (_counted(len(volumes), "volume"), GP3, sum(v.size_gib for v in volumes)),
        (
            f"{_counted(len(snapshots), 'snapshot')}, at most",
            SNAPSHOT,
            sum(s.size_gib for s in snapshots),
        ),
        (_counted(addresses, "address", "es"), IPV4_HOUR, addresses * HOURS_A_MONTH),
    )


@dataclass(frozen=True)
class Existing:
    """What of a cluster is there: machines that run, by type, and what is charged anyway."""

    volumes: tuple[Volume, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    addresses: int = 0
    nat_gateways: int = 0
    managers: tuple[str, ...] = ()  # types of those that run
    workers: tuple[str, ...] = ()  # types of those that run
    builders: tuple[str, ...] = ()
    nat_instances: tuple[str, ...] = ()
    others: tuple[str, ...] = ()  # that bear the cluster's tag, and no role that is known
    stopped: int = 0


def cost_of_existing(existing: Existing, prices: Prices) -> Bill:
    """What a cluster costs a month as it stands, if no worker runs."""
    return _bill(
        prices,
        *(
            (f"manager ({kind})", instance(kind), HOURS_A_MONTH * existing.managers.count(kind))
            for kind in dict.fromkeys(existing.managers)
        ),
        *(
            (_counted(count, f"{what} ({kind})"), instance(kind), HOURS_A_MONTH * count)
            for what, types in (
                ("NAT instance", existing.nat_instances),
                ("other machine", existing.others),
            )
            for kind, count in _tally(types).items()
        ),
        (
            _counted(existing.nat_gateways, "NAT gateway"),
            NAT_HOUR,
            existing.nat_gateways * HOURS_A_MONTH,
        ),
    ) + monthly_cost_of(existing.volumes, existing.snapshots, existing.addresses, prices)


def cost_of_running(existing: Existing, prices: Prices) -> Bill:
    """What the workers and builders that run cost an hour."""
    return _bill(
        prices,
        *(
            (_counted(count, f"{what} ({kind})"), instance(kind), float(count))
            for what, types in (("worker", existing.workers), ("builder", existing.builders))
            for kind, count in _tally(types).items()
        ),
    )


def _tally(types: Sequence[str]) -> dict[str, int]:
    return {kind: types.count(kind) for kind in dict.fromkeys(types)}


def _counted(count: int, noun: str, plural: str = "s") -> str:
    if count == 1:
        return f"1 {noun}"
    head, space, rest = noun.partition(" (")
    return f"{count} {head}{plural}{space}{rest}"
