"""A small EC2 in memory, with EC2's manners, in the running loop's (virtual) time.

States take time; listings may be old; a reply can be lost before or after the effect; capacity is
limited; calls for many are all or nothing. It keeps a list of ``sins``: what no fleet may ever do.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from core.virtual import clock, until
from ec2spawner.ec2 import LaunchRequest
from ec2spawner.errors import (
    CapacityError,
    CloudError,
    NotFound,
    OutcomeUnknown,
    QuotaError,
    Rejected,
    SubnetFull,
    Unreachable,
    WrongState,
)
from ec2spawner.model import (
    HOME_DEVICE,
    SPOT_INTERRUPTED,
    TAG_BROKEN,
    TAG_CLAIM,
    TAG_CLUSTER,
    TAG_DELETED,
    TAG_MOVING,
    TAG_OWNER,
    TAG_PROFILE,
    TAG_REPLACED,
    TAG_ROLE,
    InstanceState,
    Role,
    Snapshot,
    SnapshotState,
    SpotRequest,
    Volume,
    VolumeState,
    Worker,
)

CLUSTER = "class"
PENDING, RUNNING = InstanceState.PENDING, InstanceState.RUNNING
STOPPING, STOPPED = InstanceState.STOPPING, InstanceState.STOPPED
SHUTTING_DOWN, TERMINATED = InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED

GIVEN_UP = frozenset({TAG_DELETED, TAG_BROKEN, TAG_REPLACED})

T = TypeVar("T")


class Timeline(Generic[T]):
    """A value that changes with time, also in the future; the past can be read."""

    def __init__(self, at: float, value: T) -> None:
        self._times = [at]
        self._values = [value]

    def set(self, at: float, value: T) -> None:
        """From ``at`` on it is this, whatever was to come."""
        cut = bisect_right(self._times, at)
        self._times[cut:] = [at]
        self._values[cut:] = [value]

    def then(self, at: float, value: T) -> None:
        """Later, at ``at``, it will be this."""
        self._times.append(at)
        self._values.append(value)

    def at(self, moment: float) -> T:
        return self._values[max(0, bisect_right(self._times, moment) - 1)]


@dataclass
class FakeInstance:
    instance_id: str
    created_at: float
    zone: str
    subnet_id: str
    instance_type: Timeline[str]
    private_ip: str
    state: Timeline[InstanceState]
    tags: Timeline[Mapping[str, str]]
    volumes: Timeline[Mapping[str, str]]
    launched_at: Timeline[float]
    is_spot: bool = False
    request_id: str = ""
    interrupted: Timeline[bool] = field(default_factory=lambda: Timeline(0.0, False))
    image_id: str = ""

    def seen(self, moment: float) -> Worker:
        return Worker(
            self.instance_id,
            self.state.at(moment),
            zone=self.zone,
            instance_type=self.instance_type.at(moment),
            subnet_id=self.subnet_id,
            private_ip=self.private_ip,
            launched_at=self.launched_at.at(moment),
            is_spot=self.is_spot,
            spot_request_id=self.request_id,
            image_id=self.image_id,
            state_reason=SPOT_INTERRUPTED if self.interrupted.at(moment) else "",
            volumes=MappingProxyType(dict(self.volumes.at(moment))),
            tags=MappingProxyType(dict(self.tags.at(moment))),
        )


@dataclass
class FakeVolume:
    volume_id: str
    created_at: float
    zone: str
    tags: Timeline[Mapping[str, str]]
    holder: Timeline[str | None]
    gone_at: float = float("inf")
    available_at: float = 0.0
    files: str = ""

    def seen(self, moment: float) -> Volume:
        holder = self.holder.at(moment)
        free = VolumeState.AVAILABLE if moment >= self.available_at else VolumeState.CREATING
        return Volume(
            self.volume_id,
            VolumeState.IN_USE if holder else free,
            zone=self.zone,
            size_gib=10,
            attached_to=holder,
            device=HOME_DEVICE if holder else "",
            created_at=self.created_at,
            tags=MappingProxyType(dict(self.tags.at(moment))),
        )


@dataclass
class FakeSnapshot:
    snapshot_id: str
    volume_id: str
    created_at: float
    state: Timeline[SnapshotState]
    tags: Mapping[str, str]
    gone_at: float = float("inf")
    files: str = ""

    def seen(self, moment: float) -> Snapshot:
        return Snapshot(
            self.snapshot_id,
            self.state.at(moment),
            volume_id=self.volume_id,
            started_at=self.created_at,
            percent=40 if self.state.at(moment) is SnapshotState.PENDING else 100,
            tags=MappingProxyType(dict(self.tags)),
        )


@dataclass
class Fault:
    """``action`` fails with ``error`` the next ``times`` times, before or after its effect."""

    action: str
    error: CloudError
    times: int = 1
    after: bool = False


@dataclass
class FakeCloud:
    """Implements ``execution.Cloud``."""

    cluster: str = CLUSTER
    boot_seconds: float = 5.0
    stop_seconds: float = 8.0
    latency_seconds: float = 0.2
    lag_seconds: float = 0.0  # how old listings are
    mapping_seconds: float = 1.0  # until a launch's volumes show in listings
    snapshot_seconds: float = 60.0
    detach_seconds: float = 1.0
    volume_seconds: float = 2.0  # until a volume of a snapshot is there
    away: bool = False
    instances: dict[str, FakeInstance] = field(default_factory=dict)
    volumes: dict[str, FakeVolume] = field(default_factory=dict)
    snapshots: dict[str, FakeSnapshot] = field(default_factory=dict)
    requests: dict[str, SpotRequest] = field(default_factory=dict)
    capacity: dict[tuple[str, str], int] = field(default_factory=dict)  # by type and subnet
    addresses: dict[str, int] = field(default_factory=dict)  # by subnet
    quota_instances: int = 10_000  # that run
    cannot_start: set[str] = field(default_factory=set)
    no_room_to_start: set[tuple[str, str]] = field(default_factory=set)  # by type and zone
    foreign_types: set[str] = field(default_factory=set)  # of another architecture
    silent: set[str] = field(default_factory=set)  # run, and never answer
    impaired: set[str] = field(default_factory=set)  # of which EC2 says so
    stuck: set[str] = field(default_factory=set)  # their stops do not end
    is_force_of_use: bool = True  # a stop by force ends those
    faults: list[Fault] = field(default_factory=list)
    calls: list[tuple[float, str, Any]] = field(default_factory=list)
    sins: list[str] = field(default_factory=list)
    may_rename: bool = False

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self._tokens: dict[str, tuple[LaunchRequest, list[str]]] = {}
        self._volume_tokens: dict[str, str] = {}
        self.on_call: Callable[[str], None] = lambda action: None

    # ---- what tests do and ask

    def fail(
        self, action: str, error: CloudError | None = None, *, times: int = 1, after: bool = False
    ) -> None:
        """Have ``action`` fail; by default its reply is lost."""
        error = error or OutcomeUnknown("No answer came.", action=action)
        if action.startswith("Describe") and isinstance(error, OutcomeUnknown):
            error = Unreachable(error.what, action=action)  # reading has no outcome
        self.faults.append(Fault(action, error, times, after))

    def count(self, since: float = 0.0) -> Counter[str]:
        """Calls by action."""
        return Counter(action for at, action, _ in self.calls if at >= since)

    def made(self, action: str) -> list[Any]:
        """What the calls of one action were about."""
        return [what for _, name, what in self.calls if name == action]

    def state(self, instance_id: str) -> InstanceState:
        return self.instances[instance_id].state.at(clock())

    def tags(self, resource_id: str) -> Mapping[str, str]:
        return self._resource(resource_id).tags.at(clock())

    def answers(self, instance_id: str) -> bool:
        """Whether the machine itself does."""
        return self.state(instance_id) is RUNNING and instance_id not in self.silent

    def alive(self) -> list[Worker]:
        """All instances that are not on their way out, as they are."""
        seen = (i.seen(clock()) for i in self.instances.values())
        return [w for w in seen if w.is_alive]

    def owned_by(self, key: str) -> list[Worker]:
        owned = (w for w in self.alive() if w.owner == key and w.deleted is None)
        return [w for w in owned if not w.is_retired]

    def homes_of(self, key: str) -> list[Volume]:
        seen = (v.seen(clock()) for v in self.volumes.values() if v.gone_at > clock())
        return [v for v in seen if v.owner == key and v.deleted is None]

    def put_instance(
        self,
        state: InstanceState = RUNNING,
        tags: Mapping[str, str] | None = None,
        *,
        home: str | None = "new",
        zone: str = "a",
        launched_at: float | None = None,
        instance_type: str = "t3.medium",
        profile: str = "default",
    ) -> str:
        """An instance that is there already; its home gets the same tags."""
        now = clock() if launched_at is None else launched_at
        number = next(self._numbers)
        instance_id = f"i-{number:05x}"
        all_tags = {
            TAG_CLUSTER: self.cluster,
            TAG_ROLE: Role.WORKER.value,
            TAG_PROFILE: profile,
            **(tags or {}),
        }
        mapping = {"/dev/sda1": f"vol-{number:05x}00"}
        if home == "new":
            home = self.put_volume(all_tags, zone=zone, created_at=now, holder=instance_id)
        if home:
            mapping[HOME_DEVICE] = home
            self.volumes[home].holder.set(now, instance_id)
        self.instances[instance_id] = FakeInstance(
            instance_id,
            now,
            zone,
            f"subnet-{zone}",
            Timeline(now, instance_type),
            f"127.77.{number // 250}.{number % 250 + 1}",
            Timeline(now, state),
            Timeline(now, all_tags),
            Timeline(now, mapping),
            Timeline(now, now),
        )
        return instance_id

    def put_volume(
        self,
        tags: Mapping[str, str] | None = None,
        *,
        zone: str = "a",
        created_at: float | None = None,
        holder: str | None = None,
    ) -> str:
        now = clock() if created_at is None else created_at
        volume_id = f"vol-{next(self._numbers):05x}"
        all_tags = {TAG_CLUSTER: self.cluster, TAG_ROLE: Role.WORKER.value, **(tags or {})}
        self.volumes[volume_id] = FakeVolume(
            volume_id, now, zone, Timeline(now, all_tags), Timeline(now, holder)
        )
        return volume_id

    def terminate_behind_our_back(self, instance_id: str, seconds: float = 3.0) -> None:
        self._end(self.instances[instance_id], clock(), seconds)

    # ---- execution.Cloud: listings

    async def list_workers(self, ids: Sequence[str] | None = None) -> list[Worker]:
        def effect() -> list[Worker]:
            return self._seen(self.instances.values(), ids)

        return await self._call("DescribeInstances", ids, effect)

    async def list_volumes(self, ids: Sequence[str] | None = None) -> list[Volume]:
        def effect() -> list[Volume]:
            moment = clock() - self.lag_seconds
            there = [v for v in self.volumes.values() if v.gone_at > moment]
            return self._seen(there, ids)

        return await self._call("DescribeVolumes", ids, effect)

    async def list_snapshots(self, ids: Sequence[str] | None = None) -> list[Snapshot]:
        def effect() -> list[Snapshot]:
            moment = clock() - self.lag_seconds
            there = [s for s in self.snapshots.values() if s.gone_at > moment]
            return self._seen(there, ids)

        return await self._call("DescribeSnapshots", ids, effect)

    def _seen(self, resources: Iterable[Any], ids: Sequence[str] | None) -> list[Any]:
        moment = clock() - self.lag_seconds
        known = [r.seen(moment) for r in resources if r.created_at <= moment]
        return [
            r
            for r in known
            if (ids is None or _id(r) in ids)
            and r.tags.get(TAG_CLUSTER) == self.cluster
            and r.tags.get(TAG_ROLE) == Role.WORKER.value
        ]

    async def tags_of(self, ids: Sequence[str]) -> dict[str, dict[str, str]]:
        def effect() -> dict[str, dict[str, str]]:
            return {i: dict(self.tags(i)) if self._exists(i) else {} for i in ids}

        return await self._call("DescribeTags", tuple(ids), effect)

    # ---- execution.Cloud: instances

    async def launch(self, request: LaunchRequest, token: str) -> list[Worker]:
        return await self._call("RunInstances", request, lambda: self._launch(request, token))

    def _launch(self, request: LaunchRequest, token: str) -> list[Worker]:
        if token in self._tokens:
            same, ids = self._tokens[token]
            if same != request:
                raise Rejected("IdempotentParameterMismatch", action="RunInstances")
        else:
            ids = [self._new(request) for _ in range(self._admitted(request))]
            self._tokens[token] = (request, ids)
        return [self.instances[i].seen(clock()) for i in ids]

    def _admitted(self, request: LaunchRequest) -> int:
        running = sum(w.state in (PENDING, RUNNING) for w in self.alive())
        place = (request.instance_type, request.subnet_id)
        limits = [
            (self.quota_instances - running, QuotaError),
            (self.capacity.get(place, 10_000), CapacityError),
            (self.addresses.get(request.subnet_id, 10_000), SubnetFull),
        ]
        for limit, kind in limits:
            if limit <= 0:
                raise kind(
                    "AWS did not carry out RunInstances (InsufficientXy).",
                    why="full",
                    action="RunInstances",
                )
        count = min(request.count, *(limit for limit, _ in limits))
        for left, key in ((self.capacity, place), (self.addresses, request.subnet_id)):
            if key in left:
                left[key] -= count  # type: ignore[index]
        return count

    def _new(self, request: LaunchRequest) -> str:
        now = clock()
        zone = request.subnet_id.rsplit("-", 1)[1]
        instance_id = self.put_instance(
            PENDING,
            {**request.cost_tags, TAG_PROFILE: request.profile},
            home="new" if request.home_gib else None,
            zone=zone,
            instance_type=request.instance_type,
        )
        made = self.instances[instance_id]
        made.image_id = request.image_id
        if request.market == "spot":
            self._make_spot(made)
        made.state.then(now + self.boot_seconds, RUNNING)
        if self.mapping_seconds:
            mapping = made.volumes.at(now)
            made.volumes = Timeline(now, MappingProxyType({}))
            made.volumes.then(now + self.mapping_seconds, mapping)
        return instance_id

    def _make_spot(self, made: FakeInstance) -> None:
        """Put a persistent request beside an instance: it outlives it."""
        made.is_spot, made.request_id = True, f"sir-{next(self._numbers):05x}"
        tags = MappingProxyType(dict(made.tags.at(clock())))
        self.requests[made.request_id] = SpotRequest(
            made.request_id, "active", "fulfilled", made.instance_id, tags
        )

    def interrupt(self, instance_id: str) -> None:
        """EC2 takes a spot instance back: it stops."""
        instance, now = self.instances[instance_id], clock()
        if instance.state.at(now) is RUNNING:
            instance.state.set(now, STOPPING)
            instance.state.then(now + self.stop_seconds, STOPPED)
            instance.interrupted.set(now, True)

    def give_back(self, instance_id: str) -> None:
        """EC2 has room again, and starts what it interrupted, by itself."""
        instance, now = self.instances[instance_id], clock()
        is_out = instance.interrupted.at(now) and instance.state.at(now) is STOPPED
        if is_out and instance.request_id in self.requests:
            instance.interrupted.set(now, False)
            instance.state.set(now, PENDING)
            instance.state.then(now + self.boot_seconds, RUNNING)
            instance.launched_at.set(now, now)

    async def list_spot_requests(self) -> list[SpotRequest]:
        def effect() -> list[SpotRequest]:
            return [r for r in self.requests.values() if r.tags.get(TAG_CLUSTER) == self.cluster]

        return await self._call("DescribeSpotInstanceRequests", None, effect)

    async def cancel_spot(self, request_ids: Sequence[str]) -> None:
        await self._call(
            "CancelSpotInstanceRequests", tuple(request_ids), lambda: self._cancel(request_ids)
        )

    def _cancel(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            request = self.requests.pop(request_id, None)
            instance = self.instances.get((request and request.instance_id) or "")
            if instance and instance.state.at(clock()) is STOPPED:
                self._end(instance, clock(), 3.0)

    def launch_again(self, request_id: str) -> str | None:
        """What EC2 does for a request whose instance was ended: another one, without our tags."""
        request = self.requests.get(request_id)
        old = self.instances.get((request and request.instance_id) or "")
        if request is None or old is None or old.seen(clock()).is_alive:
            return None
        fresh = self.put_instance(RUNNING, zone=old.zone)
        instance, now = self.instances[fresh], clock()
        instance.is_spot, instance.request_id = True, request_id
        home = instance.volumes.at(now)[HOME_DEVICE]
        instance.tags.set(now, {})
        self.volumes[home].tags.set(now, {})
        self.requests[request_id] = replace(request, instance_id=fresh)
        return fresh

    async def start(self, ids: Sequence[str]) -> None:
        await self._call("StartInstances", tuple(ids), lambda: self._start(ids))

    def _start(self, ids: Sequence[str]) -> None:
        self._require(ids, "StartInstances", {STOPPED, PENDING, RUNNING})
        if any(self.instances[i].interrupted.at(clock()) for i in ids):
            raise WrongState("IncorrectSpotRequestState", action="StartInstances")
        seen = (self.instances[i].seen(clock()) for i in ids)
        places = {(w.instance_type, w.zone) for w in seen}
        if self.cannot_start.intersection(ids) or self.no_room_to_start.intersection(places):
            raise CapacityError(
                "AWS did not carry out StartInstances (InsufficientXy).",
                why="full",
                action="StartInstances",
            )
        now = clock()
        for instance in (self.instances[i] for i in ids):
            if instance.state.at(now) is STOPPED:
                if TAG_BROKEN in instance.tags.at(now):
                    self.sins.append(f"started {instance.instance_id}, which is broken")
                instance.state.set(now, PENDING)
                instance.state.then(now + self.boot_seconds, RUNNING)
                instance.launched_at.set(now, now)

    async def set_type(self, instance_id: str, instance_type: str) -> None:
        def effect() -> None:
            self._require([instance_id], "ModifyInstanceAttribute", {STOPPED})
            if instance_type in self.foreign_types:
                raise Rejected("Unsupported", action="ModifyInstanceAttribute")
            self.instances[instance_id].instance_type.set(clock(), instance_type)

        await self._call("ModifyInstanceAttribute", (instance_id, instance_type), effect)

    async def stop(self, ids: Sequence[str], *, force: bool = False) -> None:
        action = "StopInstances by force" if force else "StopInstances"
        await self._call(action, tuple(ids), lambda: self._stop(ids, force=force))

    def _stop(self, ids: Sequence[str], *, force: bool = False) -> None:
        self._require(ids, "StopInstances", {STOPPED, STOPPING, RUNNING})
        now = clock()
        for instance in (self.instances[i] for i in ids):
            is_stuck = instance.instance_id in self.stuck
            if instance.state.at(now) is RUNNING:
                instance.state.set(now, STOPPING)
                if not is_stuck:
                    instance.state.then(now + self.stop_seconds, STOPPED)
            elif instance.state.at(now) is STOPPING and force and self.is_force_of_use:
                self.stuck.discard(instance.instance_id)
                instance.state.set(now + 1.0, STOPPED)

    async def statuses(self) -> dict[str, float | None]:
        def effect() -> dict[str, float | None]:
            running = {w.instance_id for w in self.alive() if w.state is RUNNING}
            return dict.fromkeys(self.impaired & running)

        return await self._call("DescribeInstanceStatus", None, effect)

    async def terminate(self, ids: Sequence[str], spot_requests: Sequence[str] = ()) -> None:
        def effect() -> None:
            self._cancel(spot_requests)
            self._terminate(ids)

        await self._call("TerminateInstances", tuple(ids), effect)

    def _terminate(self, ids: Sequence[str]) -> None:
        self._require(ids, "TerminateInstances", set(InstanceState))
        for i in ids:
            tags = self.tags(i)
            if TAG_OWNER in tags and GIVEN_UP.isdisjoint(tags):
                self.sins.append(f"terminated {i} of {tags[TAG_OWNER]}")
            self._end(self.instances[i], clock(), 3.0)

    def _end(self, instance: FakeInstance, now: float, seconds: float) -> None:
        instance.state.set(now, SHUTTING_DOWN)
        instance.state.then(now + seconds, TERMINATED)
        for volume in self.volumes.values():
            if volume.holder.at(now) == instance.instance_id:
                volume.holder.set(now + seconds, None)
        instance.volumes.set(now + seconds, {})

    # ---- execution.Cloud: tags and volumes

    async def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        await self._call("CreateTags", (tuple(ids), dict(tags)), lambda: self._tag(ids, tags))

    def _tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        self._require_there(ids, "CreateTags")
        for resource_id in ids:
            old = self.tags(resource_id)
            was, now_is = old.get(TAG_OWNER), tags.get(TAG_OWNER)
            may = self.may_rename and TAG_CLAIM not in tags
            if was and now_is and was != now_is and not may:
                self.sins.append(f"{resource_id} was {was}'s, given to {now_is}")
            claim = old.get(TAG_CLAIM) if resource_id in self.instances else None
            if claim and was and tags.get(TAG_CLAIM, claim) != claim:
                self.sins.append(f"{resource_id} got another claim")
            self._resource(resource_id).tags.set(clock(), {**old, **tags})

    async def untag(self, ids: Sequence[str], keys: Collection[str]) -> None:
        def effect() -> None:
            self._require_there(ids, "DeleteTags")
            for i in ids:
                kept = {k: v for k, v in self.tags(i).items() if k not in keys}
                self._resource(i).tags.set(clock(), kept)

        await self._call("DeleteTags", (tuple(ids), tuple(keys)), effect)

    async def attach(self, volume_id: str, instance_id: str) -> None:
        def effect() -> None:
            now = clock()
            volume, instance = self.volumes[volume_id], self.instances[instance_id]
            if volume.holder.at(now) == instance_id:
                return
            usable = instance.state.at(now) in (RUNNING, STOPPED)
            taken = HOME_DEVICE in instance.volumes.at(now)
            if volume.zone != instance.zone:
                raise Rejected("InvalidVolume.ZoneMismatch", action="AttachVolume")
            if volume.holder.at(now) or not usable or taken or now < volume.available_at:
                raise WrongState("IncorrectState", action="AttachVolume")
            if TAG_MOVING in self.tags(volume_id):
                self.sins.append(f"attached {volume_id}, which moves")
            tags = self.tags(volume_id)
            theirs = tags.get(TAG_OWNER) == self.tags(instance_id).get(TAG_OWNER)
            if not GIVEN_UP.isdisjoint({*tags, *self.tags(instance_id)}) or not (
                theirs or self.may_rename
            ):
                self.sins.append(f"attached {volume_id} to {instance_id}")
            volume.holder.set(now, instance_id)
            instance.volumes.set(now, {**instance.volumes.at(now), HOME_DEVICE: volume_id})

        await self._call("AttachVolume", (volume_id, instance_id), effect)

    async def detach(self, volume_id: str, instance_id: str) -> None:
        def effect() -> None:
            now = clock()
            volume, instance = self.volumes[volume_id], self.instances[instance_id]
            if volume.holder.at(now) != instance_id:
                return
            if instance.state.at(now) is not STOPPED:
                self.sins.append(f"detached {volume_id} from {instance_id}, which is not stopped")
            volume.holder.set(now + self.detach_seconds, None)
            left = {d: v for d, v in instance.volumes.at(now).items() if d != HOME_DEVICE}
            instance.volumes.set(now + self.detach_seconds, left)

        await self._call("DetachVolume", (volume_id, instance_id), effect)

    async def snapshot(self, volume_id: str, tags: Mapping[str, str]) -> Snapshot:
        def effect() -> Snapshot:
            self._require_there([volume_id], "CreateSnapshot")
            now = clock()
            state = Timeline(now, SnapshotState.PENDING)
            state.then(now + self.snapshot_seconds, SnapshotState.COMPLETED)
            snapshot_id = f"snap-{next(self._numbers):05x}"
            made = FakeSnapshot(snapshot_id, volume_id, now, state, dict(tags))
            made.files = self.volumes[volume_id].files
            self.snapshots[snapshot_id] = made
            return made.seen(now)

        return await self._call("CreateSnapshot", volume_id, effect)

    async def create_volume(
        self, snapshot_id: str, zone: str, size_gib: int, tags: Mapping[str, str], token: str
    ) -> Volume:
        def effect() -> Volume:
            now = clock()
            saved = self.snapshots.get(snapshot_id)
            if saved is None or saved.gone_at <= now:
                raise NotFound(f"{snapshot_id} is not there.", action="CreateVolume")
            if saved.state.at(now) is not SnapshotState.COMPLETED:
                raise WrongState("IncorrectState", action="CreateVolume")
            if token not in self._volume_tokens:
                self._volume_tokens[token] = made = self.put_volume(tags, zone=zone)
                self.volumes[made].files = saved.files
                self.volumes[made].available_at = now + self.volume_seconds
            return self.volumes[self._volume_tokens[token]].seen(now)

        return await self._call("CreateVolume", (snapshot_id, zone), effect)

    async def delete_volume(self, volume_id: str) -> None:
        def effect() -> None:
            now = clock()
            volume = self.volumes[volume_id]
            if volume.gone_at <= now:
                return
            if volume.holder.at(now):
                raise WrongState("VolumeInUse", action="DeleteVolume")
            tags = self.tags(volume_id)
            saved = any(
                s.volume_id == volume_id and s.state.at(now) is SnapshotState.COMPLETED
                for s in self.snapshots.values()
            )
            if not saved or (TAG_OWNER in tags and GIVEN_UP.isdisjoint(tags)):
                self.sins.append(f"deleted {volume_id}")
            volume.gone_at = now

        await self._call("DeleteVolume", volume_id, effect)

    async def quota(self, code: str) -> float:
        return await self._call("GetServiceQuota", code, lambda: 2.0 * self.quota_instances)

    async def vcpus(self, types: Iterable[str]) -> dict[str, int]:
        kinds = tuple(types)
        return await self._call("DescribeInstanceTypes", kinds, lambda: dict.fromkeys(kinds, 2))

    async def delete_snapshot(self, snapshot_id: str) -> None:
        def effect() -> None:
            self.snapshots[snapshot_id].gone_at = min(clock(), self.snapshots[snapshot_id].gone_at)

        await self._call("DeleteSnapshot", snapshot_id, effect)

    # ---- manners

    async def _call(self, action: str, what: Any, effect: Callable[[], T]) -> T:
        self.calls.append((clock(), action, what))
        self.on_call(action)
        await asyncio.sleep(self.latency_seconds / 2)
        if self.away:
            raise Unreachable("AWS does not answer.", action=action)
        fault = next((f for f in self.faults if f.action == action and f.times > 0), None)
        if fault:
            fault.times -= 1
            if not fault.after:
                await asyncio.sleep(self.latency_seconds / 2)
                raise copy.copy(fault.error)
        result = effect()
        await asyncio.sleep(self.latency_seconds / 2)
        if fault:
            raise copy.copy(fault.error)
        return result

    def _resource(self, resource_id: str) -> Any:
        found = self.instances.get(resource_id) or self.volumes.get(resource_id)
        assert found, resource_id
        return found

    def _exists(self, resource_id: str) -> bool:
        volume = self.volumes.get(resource_id)
        return resource_id in self.instances or bool(volume and volume.gone_at > clock())

    def _require_there(self, ids: Sequence[str], action: str) -> None:
        for i in ids:
            if not self._exists(i):
                raise NotFound(f"{i} is not there.", action=action)

    def _require(self, ids: Sequence[str], action: str, states: Collection[InstanceState]) -> None:
        assert 0 < len(ids) <= 1000
        self._require_there(ids, action)
        for i in ids:
            if self.state(i) not in states:
                raise WrongState(f"{i} is {self.state(i).value}.", action=action)


def _id(resource: Any) -> str:
    for name in ("instance_id", "volume_id", "snapshot_id"):
        if name == "volume_id" and isinstance(resource, Snapshot):
            continue
        if hasattr(resource, name):
            found: str = getattr(resource, name)
            return found
    raise TypeError(resource)


class FakeLink:
    """Implements ``remote.WorkerLink`` on a ``FakeCloud``'s machines: they answer once booted."""

    def __init__(self, cloud: FakeCloud, server_seconds: float = 2.0) -> None:
        self.cloud = cloud
        self.server_seconds = server_seconds
        self.started: list[tuple[str, Mapping[str, Any]]] = []
        self.stopped: list[str] = []
        self.prepared: list[str] = []
        self.first_boot_seconds = 20.0
        self.failures: list[Exception] = []
        self.claims: dict[str, Any] = {}
        """What each machine's own record says: it serves one claim only."""

    async def start(
        self, worker: Worker, document: Mapping[str, Any], progress: Callable[[str], None]
    ) -> dict[str, Any]:
        await until(lambda: self._answers(worker), 1e6, 0.1)
        progress("connected")
        self._fail_if_told()
        self.started.append((worker.instance_id, document))
        assert self.claims.setdefault(worker.instance_id, document["claim"]) == document["claim"]
        await asyncio.sleep(self.server_seconds)
        await until(lambda: self._answers(worker), 1e6, 0.1)  # down meanwhile, nobody is told
        return {"event": "ready"}

    async def prepare(self, worker: Worker, document: Mapping[str, Any]) -> dict[str, Any]:
        await until(lambda: self._answers(worker), 1e6, 0.1)
        await asyncio.sleep(self.first_boot_seconds)
        self._fail_if_told()
        self.prepared.append(worker.instance_id)
        return {"event": "prepared"}

    async def stop(self, worker: Worker, timeout_seconds: float) -> dict[str, Any]:
        self._fail_if_told()
        self.stopped.append(worker.instance_id)
        return {"event": "stopped"}

    def _answers(self, worker: Worker) -> bool:
        return self.cloud.answers(worker.instance_id)

    def _fail_if_told(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
