"""What the launch command sees in AWS, as frozen values. No I/O, no decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ec2spawner.settings import ServerConfig

from .imaging import Builder, WorkerImage


def _none() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True)
class StackSpec:
    """A stack as it should be."""

    name: str
    template: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class StackFacts:
    """A stack as it is. Empty and deleted ones are not there at all, but for ``down``."""

    name: str
    stack_id: str
    status: str
    parameters: Mapping[str, str] = field(default_factory=_none)
    tags: Mapping[str, str] = field(default_factory=_none)
    outputs: Mapping[str, str] = field(default_factory=_none)
    template: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether it has a name only: of its first change set, which was never executed."""
        return self.status == "REVIEW_IN_PROGRESS"

    @property
    def is_remains(self) -> bool:
        """Whether its creation failed: it holds nothing of use, and can only be deleted."""
        return self.status in ("ROLLBACK_COMPLETE", "CREATE_FAILED")

    @property
    def is_usable(self) -> bool:
        """Whether it is whole and can be updated."""
        return self.status in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")

    @property
    def is_moving(self) -> bool:
        """Whether CloudFormation is at work on it."""
        return self.status.endswith("_IN_PROGRESS")


@dataclass(frozen=True)
class KeyFacts:
    """The cluster's key: the public half by either of its two places; None if it is not there."""

    from_parameter: str | None = None
    from_pair: str | None = None


@dataclass(frozen=True)
class TypeFacts:
    """An instance type, as far as a worker needs it."""

    name: str
    architectures: tuple[str, ...]
    has_nvme: bool
    zones: tuple[str, ...]  # those of the Region that offer it, sorted
    vcpus: int = 0  # 0: EC2 did not say


@dataclass(frozen=True)
class ImageFacts:
    """An image, as far as a worker needs it."""

    image_id: str
    architecture: str
    root_device: str
    root_gib: int
    is_ebs: bool = True
    state: str = "available"
    tags: Mapping[str, str] = field(default_factory=_none)
    is_public: bool = True
    platform: str = ""  # "windows"; "": Linux
    virtualization: str = "hvm"
    has_ena: bool = True  # unless EC2 says that it has not
    further_disks: tuple[str, ...] = ()  # EBS disks besides the root's, by device


@dataclass(frozen=True)
class SubnetFacts:
    """A subnet that was named."""

    subnet_id: str
    vpc_id: str
    zone: str
    free_addresses: int
    state: str = "available"


@dataclass(frozen=True)
class HubData:
    """The hub's data that an earlier manager left: a volume, or a snapshot alone."""

    ident: str
    size_gib: int
    snapshot_id: str = ""  # "": of a volume of which one is still to be made
    held_by: str = ""  # the instance that the volume is attached to


@dataclass(frozen=True)
class PackageFacts:
    """The package of the launch command that runs, for a manager."""

    sha256: str
    release: str  # which a hub that was installed from it says of itself


@dataclass(frozen=True)
class ManagerFacts:
    """What the manager has, or could have."""

    stack: StackFacts | None = None
    kind: TypeFacts | None = None  # None: EC2 does not know the type
    image: ImageFacts | None = None  # None: EC2 does not know the image
    zone: str = ""  # of the public subnet; "" where that is not known yet
    has_key: bool = True  # whether EC2 knows the key pair that was named
    files: Mapping[str, str] = field(default_factory=_none)  # in the bucket, by key
    data: HubData | None = None  # which a new manager takes over; None: it begins without any
    is_refresh_due: bool = False  # whether it is still to take over what lies there
    release: str = ""  # as its hub says; "" if it does not answer, or does not say
    package: PackageFacts | None = None  # None: no upgrade is asked for
    lacks: tuple[str, ...] = ()  # SSM parameters of the OAuth client that are not there


@dataclass(frozen=True)
class Facts:
    """All that a plan is made from."""

    account: str
    partition: str = "aws"
    network: StackFacts | None = None
    cluster: StackFacts | None = None
    key: KeyFacts = KeyFacts()
    workers: int = 0  # that are alive
    kind: TypeFacts | None = None  # None: EC2 does not know the type
    kinds: Mapping[str, TypeFacts | None] = field(default_factory=lambda: MappingProxyType({}))
    """The types that profiles name."""

    image: ImageFacts | None = None  # base or custom one; None: EC2 does not know it
    image_id: str | None = None  # which was looked for; None: Canonical names none
    subnets: Mapping[str, SubnetFacts] = field(default_factory=lambda: MappingProxyType({}))
    worker_images: tuple[WorkerImage, ...] = ()  # that were built for the cluster
    builders: tuple[Builder, ...] = ()  # that are not gone
    current_image: str | None = None  # which new workers get; None: nothing is said yet
    recorded: ServerConfig | None = None  # the file that the last run wrote
    manager: ManagerFacts | None = None  # None: none is asked for
    nat_image_id: str | None = None  # for a NAT instance; None: there is none to be had
