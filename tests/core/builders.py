"""Short ways to say what a listing shows, for tests of pure decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from ec2spawner.actions import Action
from ec2spawner.listing import Expectation, Listing
from ec2spawner.model import (
    HOME_DEVICE,
    TAG_CLAIM,
    TAG_CLUSTER,
    TAG_DELETED,
    TAG_GENERATION,
    TAG_OWNER,
    TAG_PROFILE,
    TAG_ROLE,
    DeletedMark,
    InstanceState,
    Owner,
    Role,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
    Worker,
)
from ec2spawner.placement import Profile, Subnet
from ec2spawner.planning import plan
from ec2spawner.wishes import Demand, Memory, Policy, Wishes

NOW = 1_000_000.0
PENDING, RUNNING = InstanceState.PENDING, InstanceState.RUNNING
STOPPING, STOPPED = InstanceState.STOPPING, InstanceState.STOPPED
SHUTTING_DOWN, TERMINATED = InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED
AVAILABLE, IN_USE = VolumeState.AVAILABLE, VolumeState.IN_USE

POLICY = Policy(
    profiles=MappingProxyType({"default": Profile("default", ("small", "large"), 10)}),
    subnets=(Subnet("subnet-a", "a"), Subnet("subnet-b", "b")),
    reaper_grace_seconds=300,
    delete_grace_seconds=7 * 86400,
    snapshot_expire_seconds=30 * 86400,
)

ANN, BOB = Owner("ann"), Owner("bob")


def _tags(
    owner: Owner | None,
    deleted: DeletedMark | None,
    more: Mapping[str, str],
    role: str = Role.WORKER.value,
) -> Mapping[str, str]:
    tags = {TAG_CLUSTER: "class", TAG_ROLE: role, **more}
    if owner:
        tags[TAG_OWNER] = owner.key
        tags[TAG_CLAIM] = "claim"
    if deleted:
        tags[TAG_DELETED] = deleted.to_tag()
    return MappingProxyType(tags)


def worker(
    instance_id: str,
    state: InstanceState = RUNNING,
    owner: Owner | None = None,
    *,
    home: str | None = "same",
    deleted: DeletedMark | None = None,
    zone: str = "a",
    kind: str = "small",
    role: str = Role.WORKER.value,
    profile: str = "default",
    launched_at: float = 100.0,
    known_volumes: bool = True,
) -> Worker:
    """A worker; its home is ``vol-`` and its own number, unless told otherwise."""
    volumes = {"/dev/sda1": f"vol-root{instance_id[2:]}"} if known_volumes else {}
    if home and known_volumes:
        volumes[HOME_DEVICE] = f"vol-{instance_id[2:]}" if home == "same" else home
    return Worker(
        instance_id,
        state,
        zone=zone,
        instance_type=kind,
        subnet_id=f"subnet-{zone}",
        private_ip="127.77.0.9",
        launched_at=launched_at,
        volumes=MappingProxyType(volumes),
        tags=_tags(owner, deleted, {TAG_PROFILE: profile}, role),
    )


def home(
    volume_id: str,
    owner: Owner | None = None,
    on: str | None = None,
    *,
    generation: int | None = None,
    deleted: DeletedMark | None = None,
    zone: str = "a",
    created_at: float = 100.0,
    state: VolumeState | None = None,
    role: str = Role.WORKER.value,
    more: Mapping[str, str] | None = None,
) -> Volume:
    """A home, attached to ``on`` or available."""
    tags = dict(more or {})
    if generation is not None:
        tags[TAG_GENERATION] = str(generation)
    return Volume(
        volume_id,
        state or (IN_USE if on else AVAILABLE),
        zone=zone,
        attached_to=on,
        device=HOME_DEVICE if on else "",
        created_at=created_at,
        tags=_tags(owner, deleted, tags, role),
    )


def snapshot(
    snapshot_id: str,
    volume_id: str,
    state: SnapshotState = SnapshotState.COMPLETED,
    *,
    started_at: float = NOW,
    tags: Mapping[str, str] | None = None,
) -> Snapshot:
    """A snapshot of a home."""
    return Snapshot(
        snapshot_id,
        state,
        volume_id=volume_id,
        started_at=started_at,
        tags=MappingProxyType({TAG_CLUSTER: "class", TAG_ROLE: "worker", **(tags or {})}),
    )


def listing(*resources: Worker | Volume | Snapshot, full_at: float = NOW - 1) -> Listing:
    """What a complete listing, begun a second ago, shows."""
    return Listing(
        workers=MappingProxyType({r.instance_id: r for r in resources if isinstance(r, Worker)}),
        volumes=MappingProxyType({r.volume_id: r for r in resources if isinstance(r, Volume)}),
        snapshots=MappingProxyType(
            {r.snapshot_id: r for r in resources if isinstance(r, Snapshot)}
        ),
        full_at=full_at,
        snapshots_at=full_at,
    )


def wants(*owners: Owner, incarnation: str = "row", **more: Any) -> Wishes:
    """These owners want a worker."""
    wanted = {o.key: Demand(o, "default", incarnation, NOW - 10 + n) for n, o in enumerate(owners)}
    return Wishes(wanted=MappingProxyType(wanted), **more)


def planned(
    view: Listing,
    wishes: Wishes | None = None,
    *,
    expectations: Iterable[Expectation] = (),
    memory: Memory | None = None,
    policy: Policy = POLICY,
    now: float = NOW,
) -> list[Action]:
    """What is to be done now."""
    return plan(view, expectations, wishes or Wishes(), policy, memory or Memory(), now)


def unwanted_since(seconds: float, *ids: str, listed_before: float = 100.0) -> Memory:
    """All of these were seen unwanted first so long ago, by an earlier listing."""
    return Memory(
        unwanted=MappingProxyType(dict.fromkeys(ids, (NOW - seconds, NOW - listed_before)))
    )
