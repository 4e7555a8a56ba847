"""What is known of the cluster at one moment, and what our own calls must still change in it.

Owns ``Listing``, the immutable picture that the inventory makes of EC2's answers, and
``Expectation``, the effect of a call of ours that a listing may not show yet. Pure: no I/O, no
clock. Must not decide what to do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TypeVar

from ec2spawner.model import (
    HOME_DEVICE,
    TAG_USER,
    InstanceState,
    Owner,
    Role,
    Snapshot,
    SpotRequest,
    Volume,
    VolumeState,
    Worker,
)

EXPECTATION_BOUND_SECONDS = 90.0
"""How long a call's effect is believed without being seen. EC2's listings lag by seconds, in bad
times by minutes (EC2 API reference, "Eventual consistency"); past it, a listing begun later is."""
UNANSWERED_BOUND_SECONDS = 10.0
"""The same for a call that may have had no effect at all; it is then made again."""

_GONE = (VolumeState.DELETING, VolumeState.DELETED)

V = TypeVar("V")


@dataclass(frozen=True)
class Listing:
    """Workers, homes and snapshots by id. Times are epoch seconds.

    ``full_at`` is when the last complete listing was begun (0: there was none yet); ``seen_at`` is
    the same for each id, which a refresh of some ids alone can have looked at later.
    """

    workers: Mapping[str, Worker] = field(default_factory=lambda: MappingProxyType({}))
    volumes: Mapping[str, Volume] = field(default_factory=lambda: MappingProxyType({}))
    snapshots: Mapping[str, Snapshot] = field(default_factory=lambda: MappingProxyType({}))
    full_at: float = 0.0
    snapshots_at: float = 0.0
    """The same for snapshots, which are not part of every full listing."""
    spot_requests: Mapping[str, SpotRequest] = field(default_factory=lambda: MappingProxyType({}))
    spot_at: float = 0.0
    """The same for spot requests, which are listed only where there is a spot market."""
    seen_at: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def is_known(self) -> bool:
        """Whether the cluster has been listed at all."""
        return self.full_at > 0

    def looked_at(self, resource_id: str) -> float:
        """When the listing was begun that last could have shown this id."""
        complete = self.snapshots_at if resource_id.startswith("snap-") else self.full_at
        return max(complete, self.seen_at.get(resource_id, 0.0))

    def workers_of(self, owner_key: str) -> tuple[Worker, ...]:
        """The owner's workers that can still serve; those given up or retired are left out."""
        return self._workers_by_owner.get(owner_key, ())

    def homes_of(self, owner_key: str) -> tuple[Volume, ...]:
        """The owner's homes, those given up or replaced left out, the current one first.

        Current is the one of the highest generation that was ever mounted; among equals the
        oldest: a later one is there because a listing did not show the first.
        """
        return self._homes_by_owner.get(owner_key, ())

    def put_by_of(self, owner_key: str) -> tuple[Volume, ...]:
        """Volumes that were the owner's home, or are to be it, and are not."""
        return self._put_by_owner.get(owner_key, ())

    def given_up_by(self, owner_key: str) -> tuple[Worker | Volume, ...]:
        """What the owner had when it was marked as deleted."""
        return self._given_up_by_owner.get(owner_key, ())

    @cached_property
    def _given_up_by_owner(self) -> Mapping[str, tuple[Worker | Volume, ...]]:
        found: dict[str, list[Worker | Volume]] = defaultdict(list)
        resources: Iterable[Worker | Volume] = (*self.workers.values(), *self.volumes.values())
        for resource in resources:
            if resource.owner and resource.deleted:
                found[resource.owner].append(resource)
        return {key: tuple(resources) for key, resources in found.items()}

    def deleted_homes_of(self, user: str) -> tuple[Volume, ...]:
        """Homes of all servers of a user that were given up and are still kept, the oldest first.

        By the user tag, in which some characters are one: it is not for deciding whose a home is.
        """
        return self._deleted_homes_by_user.get(Owner(user).label, ())

    @cached_property
    def _deleted_homes_by_user(self) -> Mapping[str, tuple[Volume, ...]]:
        found: dict[str, list[tuple[float, str, Volume]]] = defaultdict(list)
        for home in self.volumes.values():
            if home.is_home and home.deleted and home.state not in _GONE:
                user = home.tags.get(TAG_USER, "").partition("/")[0]
                found[user].append((home.deleted.at, home.volume_id, home))
        return {user: tuple(h for *_, h in sorted(homes)) for user, homes in found.items()}

    def retired_of(self, owner_key: str) -> tuple[Worker, ...]:
        """Workers that were the owner's, and are broken or replaced; they may hold a home yet."""
        return tuple(w for w in self._all_by_owner.get(owner_key, ()) if w.is_retired)

    @cached_property
    def _workers_by_owner(self) -> Mapping[str, tuple[Worker, ...]]:
        in_use = {k: [w for w in ws if not w.is_retired] for k, ws in self._all_by_owner.items()}
        return {key: tuple(workers) for key, workers in in_use.items() if workers}

    @cached_property
    def _all_by_owner(self) -> Mapping[str, list[Worker]]:
        found: dict[str, list[Worker]] = defaultdict(list)
        for worker in self.workers.values():
            ours = worker.role == Role.WORKER.value and worker.is_alive
            if worker.owner and ours and worker.deleted is None:
                found[worker.owner].append(worker)
        return found

    @cached_property
    def _homes_by_owner(self) -> Mapping[str, tuple[Volume, ...]]:
        return self._sorted_by_owner(is_home=True)

    @cached_property
    def _put_by_owner(self) -> Mapping[str, tuple[Volume, ...]]:
        return self._sorted_by_owner(is_home=False)

    def _sorted_by_owner(self, *, is_home: bool) -> Mapping[str, tuple[Volume, ...]]:
        found: dict[str, list[Volume]] = defaultdict(list)
        for home in self.volumes.values():
            ours = home.role == Role.WORKER.value and home.is_home and home.state not in _GONE
            if home.owner is None or not ours or home.deleted is not None:
                continue
            is_put_by = home.is_retired or self._is_only_a_copy(home)
            if is_put_by is not is_home:
                found[home.owner].append(home)
        return {
            key: tuple(sorted(homes, key=lambda v: (-v.generation, v.created_at, v.volume_id)))
            for key, homes in found.items()
        }

    def _is_only_a_copy(self, home: Volume) -> bool:
        """Whether the home of which it is a copy is there, and does not say that it is this now.

        Nor is it anybody's while the two do not say the same of whose it is.
        """
        if home.origin is None or home.generation:
            return False
        source = self.volumes.get(home.origin.volume_id)
        if source is None:
            return False
        is_same = source.owner == home.owner and source.deleted is None
        return source.moved_to != home.volume_id or not is_same


@dataclass(frozen=True)
class Launching:
    """A RunInstances that was sent and not answered yet: its kind of worker and how many."""

    profile: str
    with_home: bool
    zone: str
    count: int


@dataclass(frozen=True)
class Expectation:
    """What one call of ours does to the listing, until a later listing shows it.

    ``settled_at`` is when its answer came (or was given up on); None while it is under way.
    """

    sent_at: float
    settled_at: float | None = None
    launched: Mapping[str, Worker] = field(default_factory=lambda: MappingProxyType({}))
    states: Mapping[str, tuple[frozenset[InstanceState], InstanceState]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """By id: while the listing shows one of these states, it is to be read as that one."""
    tags: Mapping[str, Mapping[str, str | None]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """By id: tags that the call sets, or removes where None."""
    types: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """By id: the instance type that it becomes."""
    attached: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """By volume id: the instance it goes to."""
    detached: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """By volume id: the instance that it leaves; it is free when a listing says so, not before."""
    snapshots: Mapping[str, Snapshot] = field(default_factory=lambda: MappingProxyType({}))
    """Snapshots that the call began."""
    created: Mapping[str, Volume] = field(default_factory=lambda: MappingProxyType({}))
    """Volumes that the call makes of a snapshot; believed as what was launched is."""
    removed: frozenset[str] = frozenset()
    """Volumes and snapshots that the call deletes."""
    launching: Launching | None = None

    is_certain: bool = True
    """False if no answer came: then it is believed for a shorter time."""

    def rest(self, listing: Listing, now: float) -> Expectation | None:
        """What of it must still be believed: neither shown by a later listing nor past its bound.

        Id by id: one worker that never changes must not hide what became of all the others. What
        was launched or tagged is believed up to the bound: a listing that shows it can be followed
        by an older one that does not, and somebody would get a second machine.
        """
        if self.settled_at is None:
            return self
        bound = EXPECTATION_BOUND_SECONDS if self.is_certain else UNANSWERED_BOUND_SECONDS
        # While AWS does not answer, the listing may be older than the call: it says nothing of it.
        if now - self.settled_at > bound and listing.full_at > self.settled_at:
            return None
        lasting = (self.states, self.types, self.attached, self.detached, self.snapshots)
        if not (any(lasting) or self.removed):
            return self if self._is_something() else None
        workers, volumes, snapshots = listing.workers, listing.volumes, listing.snapshots
        left = replace(
            self,
            states=self._unseen(
                listing, self.states, lambda i, s: i not in workers or workers[i].state not in s[0]
            ),
            types=self._unseen(
                listing, self.types, lambda i, t: i in workers and workers[i].instance_type == t
            ),
            attached=self._unseen(listing, self.attached, lambda v, i: _is_attached(listing, v, i)),
            detached=self._unseen(
                listing,
                self.detached,
                lambda v, i: v not in volumes or volumes[v].attached_to != i,
            ),
            snapshots=self._unseen(listing, self.snapshots, lambda i, _: i in snapshots),
            removed=frozenset(
                i
                for i in self.removed
                if i in volumes or i in snapshots or listing.looked_at(i) <= self.settled_at
            ),
        )
        return left if left._is_something() else None

    def _unseen(
        self, listing: Listing, said: Mapping[str, V], is_shown: Callable[[str, V], bool]
    ) -> Mapping[str, V]:
        settled_at = self.settled_at or 0.0
        return MappingProxyType(
            {
                i: value
                for i, value in said.items()
                if listing.looked_at(i) <= settled_at or not is_shown(i, value)
            }
        )

    def _is_something(self) -> bool:
        instances = (self.launched, self.states, self.types, self.tags)
        said = (
            *instances,
            self.created,
            self.attached,
            self.detached,
            self.snapshots,
            self.removed,
        )
        return self.launching is not None or any(said)


def has_tags(listing: Listing, resource_id: str, tags: Mapping[str, str | None]) -> bool:
    """Whether the listing shows these tags (None: shows none such); an id that is gone does."""
    found = (
        listing.workers.get(resource_id)
        or listing.volumes.get(resource_id)
        or listing.snapshots.get(resource_id)
    )
    return found is None or _bears(found.tags, tags)


def overlay(listing: Listing, expectations: Iterable[Expectation]) -> Listing:
    """The listing as it will be once all of our calls show in it; later calls win."""
    workers, volumes = dict(listing.workers), dict(listing.volumes)
    snapshots = dict(listing.snapshots)
    for expected in sorted(expectations, key=lambda e: e.sent_at):
        for instance_id, worker in expected.launched.items():
            workers.setdefault(instance_id, worker)
        for instance_id, (before, after) in expected.states.items():
            known = workers.get(instance_id)
            if known and known.state in before:
                workers[instance_id] = replace(known, state=after)
        for instance_id, instance_type in expected.types.items():
            if instance_id in workers:
                workers[instance_id] = replace(workers[instance_id], instance_type=instance_type)
        for volume_id, made in expected.created.items():
            volumes.setdefault(volume_id, made)
        for resource_id, tags in expected.tags.items():
            tagged, volume = workers.get(resource_id), volumes.get(resource_id)
            if tagged and not _bears(tagged.tags, tags):
                workers[resource_id] = replace(tagged, tags=_merged(tagged.tags, tags))
            if volume and not _bears(volume.tags, tags):
                volumes[resource_id] = replace(volume, tags=_merged(volume.tags, tags))
        for snapshot_id, snapshot in expected.snapshots.items():
            snapshots.setdefault(snapshot_id, snapshot)
        for volume_id, instance_id in expected.detached.items():
            _detach(workers, volumes, volume_id, instance_id)
        for volume_id, instance_id in expected.attached.items():
            _attach(workers, volumes, volume_id, instance_id)
        for resource_id in expected.removed:
            volumes.pop(resource_id, None)
            snapshots.pop(resource_id, None)
    return replace(
        listing,
        workers=MappingProxyType(workers),
        volumes=MappingProxyType(volumes),
        snapshots=MappingProxyType(snapshots),
    )


def current_worker(view: Listing, owner_key: str) -> Worker | None:
    """The owner's one worker; of several, the one that holds the current home, else the oldest.

    None of those that came double with a home which was never mounted, while another one was: the
    owner's files are not on it.
    """
    homes = view.homes_of(owner_key)
    current = homes[0] if homes else None
    workers = [w for w in view.workers_of(owner_key) if not came_double(view, w, current)]
    if len(workers) < 2:
        return workers[0] if workers else None
    holder = current.attached_to if current else None
    return min(workers, key=lambda w: (w.instance_id != holder, w.launched_at, w.instance_id))


def came_double(view: Listing, worker: Worker, current: Volume | None) -> bool:
    """Whether a worker's home was never mounted, while the owner's current one was.

    A copy that has come from another zone is no such home: the owner's files are on it.
    """
    held = view.volumes.get(worker.home_volume_id or "")
    return (
        current is not None
        and current.generation > 0
        and held is not None
        and held.volume_id != current.volume_id
        and held.owner == worker.owner
        and held.generation == 0
        and held.origin is None
    )


def _is_attached(listing: Listing, volume_id: str, instance_id: str) -> bool:
    """Whether both show it: an instance and its volume are listed by two calls."""
    volume, worker = listing.volumes.get(volume_id), listing.workers.get(instance_id)
    is_held = volume is not None and volume.attached_to == instance_id
    return is_held and (worker is None or worker.home_volume_id == volume_id)


def _attach(
    workers: dict[str, Worker], volumes: dict[str, Volume], volume_id: str, instance_id: str
) -> None:
    volume, worker = volumes.get(volume_id), workers.get(instance_id)
    if volume and volume.state is VolumeState.AVAILABLE:
        volumes[volume_id] = replace(
            volume, state=VolumeState.IN_USE, attached_to=instance_id, device=HOME_DEVICE
        )
    if worker and HOME_DEVICE not in worker.volumes:
        mapped = {**worker.volumes, HOME_DEVICE: volume_id}
        workers[instance_id] = replace(worker, volumes=MappingProxyType(mapped))


def _bears(tags: Mapping[str, str], changes: Mapping[str, str | None]) -> bool:
    # As sets first, which is the quick way: most often, a claim of long ago stands.
    return changes.items() <= tags.items() or all(tags.get(k) == v for k, v in changes.items())


def _detach(
    workers: dict[str, Worker], volumes: dict[str, Volume], volume_id: str, instance_id: str
) -> None:
    """The instance has it no more; the volume is in use until EC2 says that it is not."""
    volume, worker = volumes.get(volume_id), workers.get(instance_id)
    if volume and volume.attached_to == instance_id:
        volumes[volume_id] = replace(volume, attached_to=None, device="")
    if worker and worker.home_volume_id == volume_id:
        mapped = {d: v for d, v in worker.volumes.items() if d != HOME_DEVICE}
        workers[instance_id] = replace(worker, volumes=MappingProxyType(mapped))


def _merged(tags: Mapping[str, str], changes: Mapping[str, str | None]) -> Mapping[str, str]:
    merged = {k: v for k, v in {**tags, **changes}.items() if v is not None}
    return MappingProxyType(merged)
