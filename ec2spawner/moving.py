"""Homes that move to another zone, since theirs has no machine for their owners.

Pure. Owns when a home moves, in which steps, and when a move is called off. A move is a mark on the
home, which is attached to nothing while it bears it; so the snapshot that is made meanwhile, and
the copy that is made of that, have all its files. The copy is nobody's until a machine is there for
it; then one call makes it the owner's, and the next says on the old home which copy it is now. Who
takes the mark away, makes void whatever bears its number. Must not know calls, nor how a new
machine comes about.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from ec2spawner.actions import (
    CallOffMove,
    CopyHome,
    EndMove,
    FollowSource,
    GiveUpCopy,
    MoveStep,
    SaveHome,
)
from ec2spawner.draft import Draft, is_bare
from ec2spawner.errors import EC2SpawnerError
from ec2spawner.listing import Listing
from ec2spawner.model import (
    TAG_CLUSTER,
    TAG_EXPIRES,
    TAG_GENERATION,
    TAG_OWNER,
    TAG_ROLE,
    TAG_USER,
    Role,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
    Worker,
)
from ec2spawner.placement import Offering, Profile, choose
from ec2spawner.wishes import Demand

MOVED = "moved"
"""Reason of the mark on a home that has moved."""
FRESH_SECONDS = 120.0
"""A listing older than this is no ground for giving a copy up."""
CREATING = VolumeState.CREATING
UNLISTED_SECONDS = 600.0
"""So long after a move, a copy that no listing shows is overlooked, and not gone."""

FindSpare = Callable[[Demand, Volume], Worker | None]


@dataclass(frozen=True)
class Course:
    """What is to be done about a home that moves; nothing at all: to wait."""

    step: MoveStep | None = None
    zone: str | None = None
    """Where its owner needs a machine by now."""
    error: EC2SpawnerError | None = None
    """Why neither here nor anywhere else."""


# ---- whether


def other_zone(draft: Draft, demand: Demand, zone: str) -> str | None:
    """The best zone other than this one that may have room for the owner; None where none may.

    A quota is the Region's, and so it bars all zones.
    """
    profile = draft.policy.profiles.get(demand.profile)
    if profile is None or not draft.policy.allow_zone_move:
        return None
    others = tuple(s for s in draft.policy.subnets if s.zone != zone)
    found = choose(profile, others, draft.memory.failed, draft.now)
    return found.zone if isinstance(found, Offering) else None


def _room(draft: Draft, profile: Profile, zone: str) -> Offering | EC2SpawnerError:
    return choose(profile, draft.policy.subnets, draft.memory.failed, draft.now, zone)


def course(draft: Draft, demand: Demand, home: Volume, find_spare: FindSpare) -> Course | None:
    """What becomes of a free home whose owner has no machine; None if it gets one where it is."""
    profile = draft.policy.profiles.get(demand.profile)
    if profile is None:
        return None
    here = _room(draft, profile, home.zone)
    has_spare = find_spare(demand, home) is not None
    stays = has_spare or isinstance(here, Offering)
    there = other_zone(draft, demand, home.zone)
    if home.moving is None:
        if stays or there is None:
            return None
        is_free = home.state is VolumeState.AVAILABLE  # and not on a retired machine yet
        return Course(_save(draft, demand, home, f"{draft.now:.3f}") if is_free else None)
    if home.state is not VolumeState.AVAILABLE:
        return Course()
    copies = copies_under_way(draft.view, home)
    draft.taken.update(c.volume_id for c in copies)  # somebody waits for them
    if any(c.owner for c in copies):
        return Course(_end(demand, home, copies))
    saved = snapshots_of(draft.view, home, draft.now)
    if has_spare or (stays and (there is None or not saved)):
        return Course(_call_off(draft.view, home, "there is room again where it is"))
    if there is None:
        return Course(error=here if not isinstance(here, Offering) else None)
    return _forward(draft, demand, home, profile, there, find_spare)


def _forward(
    draft: Draft, demand: Demand, home: Volume, profile: Profile, there: str, find: FindSpare
) -> Course:
    """The next step of a move that goes on."""
    usable = [
        c
        for c in copies_under_way(draft.view, home)
        if isinstance(_room(draft, profile, c.zone), Offering) or find(demand, c)
    ]
    for copy in usable:
        spare = find(demand, copy)
        if spare is None:
            return Course(zone=copy.zone)
        draft.taken.add(spare.instance_id)  # the machine is there before the home is
        is_made = copy.state is VolumeState.AVAILABLE
        return Course(_end(demand, home, [copy]) if is_made else None)
    saved = snapshots_of(draft.view, home, draft.now)
    if not saved:
        return Course(_save(draft, demand, home, home.moving or ""))
    done = [s for s in saved if s.state is SnapshotState.COMPLETED]
    return Course(_copy(home, done[0], there) if done else None)


def settled(draft: Draft, demand: Demand, home: Volume) -> MoveStep | None:
    """What is done about the mark on a home that is attached, or whose owner has a machine.

    It is taken away before anybody is served; only if the copy is the owner's already, that is the
    home.
    """
    if home.moving is None:
        return None
    copies = copies_under_way(draft.view, home)
    if any(c.owner for c in copies):
        return _end(demand, home, copies)
    return _call_off(draft.view, home, "its owner has a machine where it is")


def is_left_behind(worker: Worker, home: Volume | None, held: Volume | None) -> bool:
    """Whether an owner's machine has nothing of its owner's on it, since the home has moved."""
    if home is None or home.origin is None:
        return False
    if held is not None:
        return held.replaced is not None
    return is_bare(worker) and worker.zone != home.zone


def is_overlooked(view: Listing, owner_key: str, now: float) -> bool:
    """Whether the owner's home has moved, and its copy is not listed yet, or not as theirs."""
    for source in view.volumes.values():
        if source.moved_to and source.owner == owner_key and source.deleted is None:
            copy, mark = view.volumes.get(source.moved_to), source.replaced
            if copy is None and mark and 0 <= now - mark.at < UNLISTED_SECONDS:
                return True
            if copy and not (copy.generation or copy.deleted or copy.is_retired):
                return copy.owner != owner_key
    return False


def unnamed(kind: str, source_id: str) -> str:
    """By what a "snap" or "vol" of a home goes while EC2 has not said its id."""
    return f"{kind}-of-{source_id}"


# ---- what is there of a move


def copies_under_way(view: Listing, home: Volume) -> list[Volume]:
    """Copies that can become the owner's home by the move that is under way; the owner's first."""
    found = [
        v
        for v in view.volumes.values()
        if v.origin is not None
        and (v.origin.volume_id, v.origin.move) == (home.volume_id, home.moving)
        and v.owner in (None, home.owner)
        and not (v.generation or v.deleted or v.is_retired)
        and v.state in (CREATING, VolumeState.AVAILABLE, VolumeState.IN_USE)
    ]
    return sorted(found, key=lambda v: (v.owner is None, v.created_at, v.volume_id))


def snapshots_of(view: Listing, home: Volume, now: float) -> list[Snapshot]:
    """Snapshots that the move under way has made, and that are to be had yet; the oldest first."""
    found = [
        s
        for s in view.snapshots.values()
        if (s.volume_id, s.moving) == (home.volume_id, home.moving)
        and s.state in (SnapshotState.PENDING, SnapshotState.COMPLETED)
        and s.expires_at > now
    ]
    is_pending = SnapshotState.PENDING
    return sorted(found, key=lambda s: (s.state is is_pending, s.started_at, s.snapshot_id))


def put_right(draft: Draft) -> Iterator[MoveStep]:
    """What is done about copies that a late call gave to an owner, or a rename has missed."""
    view = draft.view
    if draft.now - view.full_at > FRESH_SECONDS:
        return
    for copy in view.volumes.values():
        origin, source = copy.origin, view.volumes.get(copy.origin.volume_id if copy.origin else "")
        is_settled = bool(copy.generation or copy.deleted or copy.is_retired)
        if origin is None or source is None or copy.owner is None or is_settled:
            continue
        if draft.on_hold("move", copy.volume_id):
            continue
        if source.moved_to == copy.volume_id:
            if source.owner != copy.owner or source.deleted:
                reason = "the home that it is now says otherwise"
                yield FollowSource(source.volume_id, origin.move, reason, copy.volume_id)
        elif copy.state is VolumeState.AVAILABLE and not may_become(copy, source):
            yield GiveUpCopy(source.volume_id, origin.move, "its move is over", copy.volume_id)


def may_become(copy: Volume, source: Volume) -> bool:
    """Whether a copy can yet become its owner's home."""
    is_open = source.deleted is None and not source.is_retired and source.owner == copy.owner
    return is_open and copy.origin is not None and source.moving == copy.origin.move


# ---- what is seen of it


def stage_of(view: Listing, home: Volume, now: float) -> tuple[str, int | None] | None:
    """The stage of a move as a waiting user reads of it, and how far it is in percent."""
    if home.moving is None:
        return None
    saved = snapshots_of(view, home, now)
    if copies_under_way(view, home) or any(s.state is SnapshotState.COMPLETED for s in saved):
        return "copied", None
    return "copying", max((s.percent or 0 for s in saved), default=None)


def awaited_ids(view: Listing, owner_keys: Collection[str], now: float) -> set[str]:
    """Snapshots and copies whose completion an owner waits for."""
    homes = (home for key in owner_keys for home in view.homes_of(key)[:1] if home.moving)
    ids: set[str] = set()
    for home in homes:
        copies = copies_under_way(view, home)
        saved = snapshots_of(view, home, now)
        ids.update(c.volume_id for c in copies if c.state is CREATING)
        ids.update(s.snapshot_id for s in saved if s.state is SnapshotState.PENDING)
    return ids


# ---- steps


def _save(draft: Draft, demand: Demand, home: Volume, move: str) -> SaveHome:
    kept = {TAG_CLUSTER, TAG_OWNER, TAG_USER, TAG_GENERATION}
    expires = draft.now + draft.policy.snapshot_expire_seconds
    tags = (
        *((k, v) for k, v in home.tags.items() if k in kept),
        (TAG_ROLE, Role.WORKER.value),
        (TAG_EXPIRES, f"{expires:.0f}"),
    )
    reason = f"zone {home.zone} has no room"
    return SaveHome(home.volume_id, move, reason, demand.owner.key, tags)


def _copy(home: Volume, saved: Snapshot, zone: str) -> CopyHome:
    return CopyHome(
        home.volume_id,
        home.moving or "",
        f"zone {home.zone} has no room",
        saved.snapshot_id,
        zone,
        max(home.size_gib, saved.size_gib),
        home.base_generation,
    )


def _end(demand: Demand, home: Volume, copies: list[Volume]) -> EndMove:
    copy_id = copies[0].volume_id
    return EndMove(home.volume_id, home.moving or "", "all files are there", demand.owner, copy_id)


def _call_off(view: Listing, home: Volume, reason: str) -> CallOffMove | None:
    """None while EC2 has not said which snapshot is made: it is to be gone first."""
    snapshots = [
        s.snapshot_id
        for s in view.snapshots.values()
        if (s.volume_id, s.moving) == (home.volume_id, home.moving)
    ]
    if unnamed("snap", home.volume_id) in snapshots:
        return None
    copies = [c.volume_id for c in copies_under_way(view, home) if c.state is not CREATING]
    return CallOffMove(
        home.volume_id, home.moving or "", reason, tuple(sorted(snapshots)), tuple(copies)
    )
