"""What the cluster is made of: states, tags, owners, and EC2's answers as frozen values.

Owns the names of tags and states, and the parsing of instances, volumes and snapshots out of
EC2's replies. Must not know boto3, the hub, or any decision. Standard library only: the worker
imports it too.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from functools import cached_property
from types import MappingProxyType
from typing import Any

TAG_CLUSTER = "ec2spawner:cluster"
TAG_ROLE = "ec2spawner:role"
TAG_PROFILE = "ec2spawner:profile"
TAG_OWNER = "ec2spawner:owner"
TAG_USER = "ec2spawner:user"
TAG_CLAIM = "ec2spawner:claim"  # random, written with the owner; a rename leaves it as it is
TAG_GENERATION = "ec2spawner:generation"
TAG_DELETED = "ec2spawner:deleted"
TAG_BROKEN = "ec2spawner:broken"  # on a worker that does not serve: when it was found, and why
TAG_REPLACED = "ec2spawner:replaced"  # on what another took the place of: since when, and why
TAG_PREPARED = "ec2spawner:prepared"  # on a spare that was booted to the end and looked at
TAG_REQUEST = "ec2spawner:request"  # on a snapshot: random, tells what a lost reply had made
TAG_MOVING = "ec2spawner:moving"  # on a home that moves, and on its snapshot for it: which move
TAG_MOVED_FROM = "ec2spawner:moved-from"  # on a copy: see ``Origin``
TAG_MOVED_TO = "ec2spawner:moved-to"  # on a home that has moved: the copy that is it now
TAG_RESTORED = "ec2spawner:restored"  # on a home that was brought back: when, and from what
TAG_LAST_OF = "ec2spawner:last-of"  # on a snapshot: the home that was to be deleted after it
TAG_EXPIRES = "ec2spawner:expires"  # on a snapshot: epoch seconds after which it may go

HOME_DEVICE = "/dev/sdf"
"""Device name under which a home is mapped; on the worker it is found by its NVMe serial."""

SPOT_INTERRUPTED = "Server.SpotInstanceShutdown"
"""State reason of a spot instance that EC2 stopped (EC2 API reference, "StateReason", 2026)."""

TAG_VALUE_MAX = 256  # characters; AWS EC2 user guide, "Tag restrictions", 2026


class Role(str, Enum):
    """What an instance or volume of the cluster is for."""

    WORKER = "worker"
    BUILDER = "builder"
    MANAGER = "manager"
    IMAGE = "image"  # a worker image and its snapshots
    NAT = "nat"  # the instance by which a network's workers reach the outside


class InstanceState(str, Enum):
    """EC2's instance states, by the names that EC2 uses."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    SHUTTING_DOWN = "shutting-down"
    TERMINATED = "terminated"


TRANSITIONS: Mapping[InstanceState, frozenset[InstanceState]] = MappingProxyType(
    {
        InstanceState.PENDING: frozenset(
            {InstanceState.RUNNING, InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED}
        ),
        InstanceState.RUNNING: frozenset({InstanceState.STOPPING, InstanceState.SHUTTING_DOWN}),
        InstanceState.STOPPING: frozenset({InstanceState.STOPPED, InstanceState.SHUTTING_DOWN}),
        InstanceState.STOPPED: frozenset({InstanceState.PENDING, InstanceState.SHUTTING_DOWN}),
        InstanceState.SHUTTING_DOWN: frozenset({InstanceState.TERMINATED}),
        InstanceState.TERMINATED: frozenset(),
    }
)
"""Which state may follow which (EC2 user guide, "Instance lifecycle", 2026)."""

ALIVE = frozenset(
    {
        InstanceState.PENDING,
        InstanceState.RUNNING,
        InstanceState.STOPPING,
        InstanceState.STOPPED,
    }
)
"""States in which an instance can still serve; `shutting-down` only holds its volumes."""

IN_TRANSITION = frozenset(
    {InstanceState.PENDING, InstanceState.STOPPING, InstanceState.SHUTTING_DOWN}
)


class VolumeState(str, Enum):
    """EC2's volume states."""

    CREATING = "creating"
    AVAILABLE = "available"
    IN_USE = "in-use"
    DELETING = "deleting"
    DELETED = "deleted"
    ERROR = "error"


class SnapshotState(str, Enum):
    """EC2's states of an EBS snapshot."""

    PENDING = "pending"
    COMPLETED = "completed"
    ERROR = "error"
    RECOVERABLE = "recoverable"
    RECOVERING = "recovering"


def slug(text: str, max_length: int = 24) -> str:
    """A readable piece of ``text`` in ``[a-z0-9-]``, at most ``max_length`` long; may be empty."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")[:max_length].strip("-")


@dataclass(frozen=True)
class Owner:
    """A user's server: whose a worker and a home are. ``server`` is "" for the default one."""

    user: str
    server: str = ""

    @cached_property
    def key(self) -> str:
        """The owner tag's value: a readable prefix and 80 bits of hash; compared, never parsed."""
        digest = hashlib.sha256(json.dumps([self.user, self.server]).encode()).hexdigest()[:20]
        readable = "-".join(p for p in (slug(self.user), slug(self.server, 16)) if p)
        return f"{readable}-{digest}" if readable else digest

    @property
    def label(self) -> str:
        """The user tag's value, for people and bills: characters that every AWS service takes."""
        text = f"{self.user}/{self.server}" if self.server else self.user
        return re.sub(r"[^\w .:/=+\-@]", "_", text)[:TAG_VALUE_MAX]


@dataclass(frozen=True)
class DeletedMark:
    """When a home was given up, and by which incarnation of its server's row in the hub."""

    at: float  # epoch seconds
    incarnation: str

    def to_tag(self) -> str:
        """The tag's value."""
        return f"{self.at:.0f} {self.incarnation}"

    @classmethod
    def from_tag(cls, value: str) -> DeletedMark:
        """Read a mark; a value that nobody of ours wrote counts as deleted at time 0 by nobody.

        Whoever decides must treat that as "never delete by itself": the time is unknown.
        """
        match = re.fullmatch(r"(\d{1,12}) (\w*)", value)
        return cls(float(match[1]), match[2]) if match else cls(float("inf"), "")


@dataclass(frozen=True)
class Mark:
    """Since when something is no longer in use, and why: a slug."""

    at: float  # epoch seconds
    reason: str

    def to_tag(self) -> str:
        """The tag's value."""
        return f"{self.at:.0f} {self.reason}"

    @classmethod
    def from_tag(cls, value: str) -> Mark:
        """Read a mark; one that nobody of ours wrote never comes to be old."""
        match = re.fullmatch(r"(\d{1,12}) ([a-z-]{1,40})", value)
        return cls(float(match[1]), match[2]) if match else cls(float("inf"), "unknown")


@dataclass(frozen=True)
class Origin:
    """Of a copy in another zone: the home of which it is one, made by which move.

    ``generation`` is the home's own; the copy's is the next one, once it was mounted.
    """

    volume_id: str
    generation: int
    move: str

    def to_tag(self) -> str:
        """The tag's value."""
        return f"{self.volume_id} {self.generation} {self.move}"

    @classmethod
    def from_tag(cls, value: str) -> Origin | None:
        """Read an origin; None for what nobody of ours wrote."""
        match = re.fullmatch(r"(vol-[\w-]{1,40}) (\d{1,9}) (\S{1,40})", value, re.ASCII)
        return cls(match[1], int(match[2]), match[3]) if match else None


def tags_of(raw: Mapping[str, Any]) -> Mapping[str, str]:
    """The tags of a resource, as EC2 and CloudFormation show them."""
    return MappingProxyType({t["Key"]: t.get("Value", "") for t in raw.get("Tags") or ()})


def _epoch(moment: datetime | None) -> float:
    return moment.timestamp() if moment else 0.0


_NO_TAGS: Mapping[str, str] = MappingProxyType({})


class _Tagged:
    """Reads the cluster's tags of a resource, each once: a listing of thousands is asked often."""

    tags: Mapping[str, str]

    @cached_property
    def role(self) -> str:
        """A ``Role``'s value, or ""."""
        return self.tags.get(TAG_ROLE, "")

    @cached_property
    def owner(self) -> str | None:
        """Key of the owner, or None for nobody's."""
        return self.tags.get(TAG_OWNER) or None

    @cached_property
    def claim(self) -> str | None:
        """The claim's random id, or None."""
        return self.tags.get(TAG_CLAIM) or None

    @cached_property
    def deleted(self) -> DeletedMark | None:
        """The mark of a resource that was given up, or None."""
        value = self.tags.get(TAG_DELETED)
        return DeletedMark.from_tag(value) if value is not None else None

    @cached_property
    def broken(self) -> Mark | None:
        """The mark of a worker that was found not to serve, or None."""
        value = self.tags.get(TAG_BROKEN)
        return Mark.from_tag(value) if value is not None else None

    @cached_property
    def replaced(self) -> Mark | None:
        """The mark of what another took the place of, or None."""
        value = self.tags.get(TAG_REPLACED)
        return Mark.from_tag(value) if value is not None else None

    @cached_property
    def is_retired(self) -> bool:
        """Whether it is broken or replaced: nobody is ever given it again."""
        return TAG_BROKEN in self.tags or TAG_REPLACED in self.tags

    @cached_property
    def moving(self) -> str | None:
        """Which move of a home this is about, or None."""
        return self.tags.get(TAG_MOVING) or None

    @cached_property
    def generation(self) -> int:
        """How often this owner's home was made anew when it was mounted; 0 if never mounted."""
        value = self.tags.get(TAG_GENERATION, "")
        return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0


@dataclass(frozen=True)
class Worker(_Tagged):
    """One EC2 instance of the cluster, as a listing showed it."""

    instance_id: str
    state: InstanceState
    zone: str = ""
    instance_type: str = ""
    subnet_id: str = ""
    private_ip: str = ""
    image_id: str = ""
    launched_at: float = 0.0  # epoch seconds; EC2 renews it at every start
    stopped_at: float = 0.0  # epoch seconds of the last stop; 0 where EC2 does not say
    is_spot: bool = False
    client_token: str = ""
    state_reason: str = ""
    spot_request_id: str = ""  # of a spot instance: the request outlives it unless it is cancelled
    volumes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    tags: Mapping[str, str] = field(default_factory=lambda: _NO_TAGS)

    @property
    def profile(self) -> str:
        """Slug of the profile it was launched for, or ""."""
        return self.tags.get(TAG_PROFILE, "")

    @property
    def is_prepared(self) -> bool:
        """Whether it was booted to the end once and looked at: a start of it is fast."""
        return TAG_PREPARED in self.tags

    @property
    def market(self) -> str:
        """How it is paid for: "spot" or "on-demand"."""
        return "spot" if self.is_spot else "on-demand"

    @property
    def is_alive(self) -> bool:
        """Whether it can still serve: everything but on its way out or gone."""
        return self.state in ALIVE

    @property
    def is_interrupted(self) -> bool:
        """Whether EC2 took a spot instance back: only EC2 itself can start it again."""
        return self.is_spot and self.state_reason == SPOT_INTERRUPTED

    @property
    def home_volume_id(self) -> str | None:
        """Id of the volume at the home's device; unknown (None) for a while after a launch."""
        return self.volumes.get(HOME_DEVICE)


@dataclass(frozen=True)
class Volume(_Tagged):
    """One EBS volume of the cluster."""

    volume_id: str
    state: VolumeState
    zone: str = ""
    size_gib: int = 0
    attached_to: str | None = None
    device: str = ""
    created_at: float = 0.0  # epoch seconds
    tags: Mapping[str, str] = field(default_factory=lambda: _NO_TAGS)

    @property
    def is_home(self) -> bool:
        """False for a root volume: a launch tags all volumes that it makes alike."""
        return self.device in ("", HOME_DEVICE)

    @cached_property
    def origin(self) -> Origin | None:
        """Of which home it is the copy, or None."""
        value = self.tags.get(TAG_MOVED_FROM)
        return Origin.from_tag(value) if value else None

    @property
    def moved_to(self) -> str | None:
        """The copy that has taken its place in another zone, or None."""
        return self.tags.get(TAG_MOVED_TO) or None

    @property
    def base_generation(self) -> int:
        """Its generation; of a copy that was never mounted, that of the home it is a copy of."""
        return self.generation or (self.origin.generation if self.origin else 0)


@dataclass(frozen=True)
class Snapshot(_Tagged):
    """One EBS snapshot of the cluster."""

    snapshot_id: str
    state: SnapshotState
    volume_id: str = ""
    size_gib: int = 0
    started_at: float = 0.0  # epoch seconds
    percent: int | None = None
    """How far it is, as far as EC2 says it."""
    is_archived: bool = False
    """Whether it lies in the archive, from which it must be brought first: hours to days."""
    tags: Mapping[str, str] = field(default_factory=lambda: _NO_TAGS)

    @property
    def expires_at(self) -> float:
        """When it may go, epoch seconds; never, where nobody of ours wrote the tag."""
        value = self.tags.get(TAG_EXPIRES, "")
        return float(value) if value.isascii() and value.isdigit() else float("inf")


@dataclass(frozen=True)
class SpotRequest(_Tagged):
    """One spot request: while it is open, EC2 launches instances for it, without our tags."""

    request_id: str
    state: str  # open, active, disabled (its instance is stopped), closed, cancelled, failed
    status: str = ""  # EC2's status code, such as "fulfilled" or "marked-for-stop"
    instance_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=lambda: _NO_TAGS)


def parse_worker(raw: Mapping[str, Any]) -> Worker:
    """One element of DescribeInstances' or RunInstances' ``Instances``."""
    return Worker(
        instance_id=raw["InstanceId"],
        state=InstanceState(raw["State"]["Name"]),
        zone=raw.get("Placement", {}).get("AvailabilityZone", ""),
        instance_type=raw.get("InstanceType", ""),
        subnet_id=raw.get("SubnetId") or "",
        private_ip=raw.get("PrivateIpAddress") or "",
        image_id=raw.get("ImageId") or "",
        launched_at=_epoch(raw.get("LaunchTime")),
        stopped_at=_stopped_at(raw.get("StateTransitionReason") or ""),
        is_spot=raw.get("InstanceLifecycle") == "spot",
        client_token=raw.get("ClientToken") or "",
        state_reason=(raw.get("StateReason") or {}).get("Code", ""),
        spot_request_id=raw.get("SpotInstanceRequestId") or "",
        volumes=MappingProxyType(
            {
                m["DeviceName"]: m["Ebs"]["VolumeId"]
                for m in raw.get("BlockDeviceMappings") or ()
                if "VolumeId" in m.get("Ebs", {}) and m["Ebs"].get("Status") != "detached"
            }
        ),
        tags=tags_of(raw),
    )


def _stopped_at(reason: str) -> float:
    """From "User initiated (2026-01-31 13:59:00 GMT)"; EC2 gives the moment nowhere else.

    (EC2 user guide, "Troubleshoot instance stop", 2026.)
    """
    match = re.search(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)", reason, re.ASCII)
    try:
        moment = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S") if match else None
    except ValueError:
        return 0.0
    return _epoch(moment.replace(tzinfo=timezone.utc)) if moment else 0.0


def parse_volume(raw: Mapping[str, Any]) -> Volume:
    """One element of DescribeVolumes' ``Volumes``."""
    attached = [a for a in raw.get("Attachments") or () if a.get("State") != "detached"]
    return Volume(
        volume_id=raw["VolumeId"],
        state=VolumeState(raw["State"]),
        zone=raw.get("AvailabilityZone", ""),
        size_gib=raw.get("Size", 0),
        attached_to=attached[0]["InstanceId"] if attached else None,
        device=attached[0].get("Device", "") if attached else "",
        created_at=_epoch(raw.get("CreateTime")),
        tags=tags_of(raw),
    )


def parse_snapshot(raw: Mapping[str, Any]) -> Snapshot:
    """One element of DescribeSnapshots' ``Snapshots``, or CreateSnapshot's reply."""
    return Snapshot(
        snapshot_id=raw["SnapshotId"],
        state=SnapshotState(raw["State"]),
        volume_id=raw.get("VolumeId", ""),
        size_gib=raw.get("VolumeSize", 0),
        started_at=_epoch(raw.get("StartTime")),
        percent=_percent(raw.get("Progress") or ""),
        is_archived=raw.get("StorageTier") == "archive",
        tags=tags_of(raw),
    )


def _percent(text: str) -> int | None:
    match = re.fullmatch(r"(\d{1,3})%", text, re.ASCII)
    return min(100, int(match[1])) if match else None


def parse_spot_request(raw: Mapping[str, Any]) -> SpotRequest:
    """One element of DescribeSpotInstanceRequests' ``SpotInstanceRequests``."""
    return SpotRequest(
        request_id=raw["SpotInstanceRequestId"],
        state=raw["State"],
        status=(raw.get("Status") or {}).get("Code", ""),
        instance_id=raw.get("InstanceId") or None,
        tags=tags_of(raw),
    )


def impaired_since(raw: Mapping[str, Any]) -> float | None:
    """Since when a check of DescribeInstanceStatus' ``InstanceStatuses`` fails (epoch seconds).

    None where EC2 does not say.
    """
    details = [
        detail
        for check in ("InstanceStatus", "SystemStatus", "AttachedEbsStatus")
        for detail in (raw.get(check) or {}).get("Details") or ()
    ]
    moments = [_epoch(d["ImpairedSince"]) for d in details if d.get("ImpairedSince")]
    return min(moments, default=None)
