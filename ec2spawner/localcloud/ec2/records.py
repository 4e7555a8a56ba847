"""What the emulated EC2 remembers: instances, volumes, snapshots, images and client tokens.

Owns the records and their form in JSON (for the journal). No behaviour: that is in the modules
beside this one. Times are epoch seconds; sizes are GiB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from ec2spawner.model import InstanceState, SnapshotState, VolumeState

ACCOUNT_ID = "123456789012"
CANONICAL_ACCOUNT_ID = "099720109477"  # Canonical's, which publishes Ubuntu's images


@dataclass
class Record:
    """A row of the emulated cloud: something with an id, kept in the journal."""

    kind: ClassVar[str]
    id: str

    def to_json(self) -> dict[str, Any]:
        """The row as JSON takes it."""
        return asdict(self)


@dataclass
class MappedVolume:
    """A volume on a device of an instance."""

    volume_id: str
    delete_on_termination: bool
    attached_at: float


@dataclass
class Instance(Record):
    """One EC2 instance."""

    kind: ClassVar[str] = "instance"
    sequence: int = 0  # order of listings, and of pages
    reservation_id: str = ""
    index: int = 0
    client_token: str = ""
    image_id: str = ""
    instance_type: str = ""
    architecture: str = "x86_64"
    key_name: str = ""
    zone: str = ""
    vpc_id: str = ""
    subnet_id: str = ""
    private_ip: str = ""
    public_ip: str = ""
    wants_public_ip: bool = False
    groups: list[tuple[str, str]] = field(default_factory=list)  # (id, name)
    interface_id: str = ""
    interface_tags: dict[str, str] = field(default_factory=dict)
    interface_is_kept: bool = False  # it was there before, and stays
    state: InstanceState = InstanceState.PENDING
    changed_at: float = 0.0
    shown_before: InstanceState | None = None  # the state before; a stale listing shows it
    due_at: float | None = None  # when the state changes by itself
    created_at: float = 0.0
    launched_at: float = 0.0
    reason_code: str = ""
    reason_message: str = ""
    transition_reason: str = ""
    impaired: dict[str, float] = field(default_factory=dict)  # status check -> since when
    builder_fault: str = ""  # see ``builders.FAULTS``
    panicked_at: float | None = None
    is_stuck: bool = False  # its stop does not end
    is_spot: bool = False
    spot_is_persistent: bool = False
    spot_request_id: str = ""
    interruption_at: float | None = None  # the machine has a notice that EC2 takes it back then
    user_data: str = ""  # base64
    profile_arn: str = ""
    metadata_options: dict[str, Any] = field(default_factory=dict)
    shutdown_behavior: str = "stop"
    hibernation: bool = False
    cpu_credits: str = ""
    monitoring: bool = False
    ebs_optimized: bool = False
    source_dest_check: bool = True
    disable_api_termination: bool = False
    disable_api_stop: bool = False
    root_device: str = "/dev/sda1"
    mappings: dict[str, MappedVolume] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Attachment:
    """Where a volume is attached, and since when its state holds."""

    instance_id: str
    device: str
    delete_on_termination: bool
    state: str  # attaching, attached, detaching
    at: float


@dataclass
class Volume(Record):
    """One EBS volume."""

    kind: ClassVar[str] = "volume"
    sequence: int = 0
    zone: str = ""
    size_gib: int = 0
    volume_type: str = "gp3"
    iops: int | None = None
    throughput: int | None = None
    encrypted: bool = False
    snapshot_id: str = ""
    client_token: str = ""
    state: VolumeState = VolumeState.CREATING
    due_at: float | None = None
    created_at: float = 0.0
    has_data: bool = True  # False while the snapshot's files are still being copied
    is_root: bool = False
    attachment: Attachment | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Snapshot(Record):
    """One EBS snapshot."""

    kind: ClassVar[str] = "snapshot"
    sequence: int = 0
    volume_id: str = ""
    size_gib: int = 0
    encrypted: bool = False
    description: str = ""
    state: SnapshotState = SnapshotState.PENDING
    started_at: float = 0.0
    due_at: float | None = None
    has_data: bool = True  # False while the volume's files are still being copied
    storage_tier: str = "standard"
    image_id: str = ""  # the image that needs it, if any
    volume_accounts: list[str] = field(default_factory=list)  # who else may make volumes of it
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class ImageDevice:
    """A device that instances of an image get."""

    device: str
    snapshot_id: str
    size_gib: int
    volume_type: str = "gp3"
    encrypted: bool = False
    delete_on_termination: bool = True


@dataclass
class Image(Record):
    """One AMI."""

    kind: ClassVar[str] = "image"
    sequence: int = 0
    name: str = ""
    description: str = ""
    owner_id: str = ACCOUNT_ID
    owner_alias: str = ""
    architecture: str = "x86_64"
    root_device: str = "/dev/sda1"
    devices: list[ImageDevice] = field(default_factory=list)
    state: str = "pending"  # pending, available, failed
    is_public: bool = False
    launch_accounts: list[str] = field(default_factory=list)
    created_at: float = 0.0
    due_at: float | None = None
    source_instance_id: str = ""
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class SpotRequest(Record):
    """One spot request: what EC2 launches for it, and whether it still would."""

    kind: ClassVar[str] = "spot-request"
    sequence: int = 0
    instance_id: str = ""
    is_persistent: bool = False
    interruption: str = "terminate"  # or stop, hibernate
    state: str = "active"  # open, active, disabled, closed, cancelled
    status: str = "fulfilled"
    changed_at: float = 0.0
    due_at: float | None = None  # when EC2 looks at it again
    created_at: float = 0.0
    zone: str = ""
    launch: dict[str, Any] = field(default_factory=dict)  # RunInstances' parameters, for one
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Token(Record):
    """What a client token stands for; ``id`` is action and token."""

    kind: ClassVar[str] = "token"
    fingerprint: str = ""
    resource_ids: list[str] = field(default_factory=list)
    used_at: float = 0.0


def _instance(row: dict[str, Any]) -> Instance:
    row["state"] = InstanceState(row["state"])
    row["shown_before"] = InstanceState(row["shown_before"]) if row["shown_before"] else None
    row["groups"] = [(g[0], g[1]) for g in row["groups"]]
    row["mappings"] = {d: MappedVolume(**m) for d, m in row["mappings"].items()}
    return Instance(**row)


def _volume(row: dict[str, Any]) -> Volume:
    row["state"] = VolumeState(row["state"])
    row["attachment"] = Attachment(**row["attachment"]) if row["attachment"] else None
    return Volume(**row)


def _snapshot(row: dict[str, Any]) -> Snapshot:
    row["state"] = SnapshotState(row["state"])
    return Snapshot(**row)


def _image(row: dict[str, Any]) -> Image:
    row["devices"] = [ImageDevice(**d) for d in row["devices"]]
    return Image(**row)


_READERS: dict[str, Callable[[dict[str, Any]], Record]] = {
    "instance": _instance,
    "volume": _volume,
    "snapshot": _snapshot,
    "image": _image,
    "spot-request": lambda row: SpotRequest(**row),
    "token": lambda row: Token(**row),
}


def from_json(kind: str, row: dict[str, Any]) -> Record:
    """The record that ``to_json`` made a row of."""
    return _READERS[kind](row)
