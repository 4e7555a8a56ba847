"""Which deleted home is brought back, how, and what forbids it: plain functions.

A home that was deleted bears a mark; until its time is over it is a volume, then a snapshot. To
bring it back is to take the mark off. A volume that is made of a snapshot bears the mark from its
first moment, so that a command that dies leaves something that is nobody's home and goes by itself.
Must not call AWS.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ec2spawner.errors import EC2SpawnerError
from ec2spawner.listing import Listing
from ec2spawner.model import (
    TAG_REPLACED,
    TAG_RESTORED,
    DeletedMark,
    InstanceState,
    Owner,
    Role,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
)

SETTLED_SECONDS = 180.0
"""So long after a deletion, the hub may still write its mark again: a listing can be older than it
looks, and until one shows the mark for certain the hub holds on to it (``promises``)."""
INCARNATION = "restore"
"""In the mark of a volume that this command has made and not finished."""

Home = Volume | Snapshot


class CannotRestore(EC2SpawnerError):
    """A home that cannot be brought back as it was asked."""

    code = "restore"


@dataclass(frozen=True)
class Restoration:
    """What is to be done: a volume becomes the home, or one that is made of a snapshot."""

    target: Owner
    home: Home
    zone: str
    size_gib: int
    generation: int
    others: tuple[Home, ...] = ()
    is_done: bool = False


def plan_restore(
    view: Listing,
    source: Owner,
    target: Owner,
    wanted: str | None,
    zones: Collection[str],
    now: float,
) -> Restoration:
    """How ``source``'s home becomes ``target``'s; raises CannotRestore with the reason.

    ``wanted`` names the volume or snapshot; None: what was deleted last. ``zones``: those that have
    workers, the one for a new volume first.
    """
    done = _done(view, target, wanted)
    if done:
        return done
    found = candidates(view, source, target)
    chosen = _named(view, found, source, wanted) if wanted else (found[0] if found else None)
    if chosen is None:
        raise CannotRestore(
            f"There is no deleted home of {source.label}.",
            why=_what_there_is(view, source),
            next_step="Check the name; of a named server, name it with --server.",
        )
    forbidden = conflict(view, target, chosen)
    if forbidden:
        raise forbidden
    others = tuple(home for home in found if home is not chosen)
    if isinstance(chosen, Snapshot):
        half = _half_made(view, target, chosen)
        if half is None:
            return _from_snapshot(chosen, target, zones, others)
        chosen = half
    return _from_volume(chosen, target, zones, now, others)


# ---- what there is


def candidates(view: Listing, source: Owner, target: Owner) -> list[Home]:
    """What could be brought back, the best first: volumes, which lack nothing; the last deleted."""
    volumes = [
        v
        for v in view.volumes.values()
        if v.owner == source.key or (v.owner == target.key and _is_half_done(v))
        if v.is_home and v.role == Role.WORKER.value
        if v.deleted is not None and v.replaced is None and v.moving is None
        if v.state not in (VolumeState.DELETING, VolumeState.DELETED, VolumeState.ERROR)
        if v.generation
    ]
    snapshots = [
        s
        for s in view.snapshots.values()
        if s.owner == source.key and s.role == Role.WORKER.value
        if s.moving is None and TAG_REPLACED not in s.tags and s.generation
        if s.state in (SnapshotState.COMPLETED, SnapshotState.PENDING)
    ]
    saved = [s for s in snapshots if s.volume_id not in {v.volume_id for v in volumes}]
    newest: list[Home] = [*sorted(volumes, key=_age), *sorted(saved, key=_age)]
    return newest


def _age(home: Home) -> tuple[float, str]:
    return -given_up_at(home), id_of(home)


def given_up_at(home: Home) -> float:
    """When it was deleted or saved, epoch seconds; 0 if a mark of nobody's does not tell."""
    mark = home.deleted
    if mark is not None and mark.at != float("inf"):
        return mark.at
    return home.started_at if isinstance(home, Snapshot) else 0.0


def id_of(home: Home) -> str:
    """The id of a volume or snapshot."""
    return home.snapshot_id if isinstance(home, Snapshot) else home.volume_id


def restored_from(volume: Volume) -> str | None:
    """Of what it was brought back; None for a home that never was."""
    found = re.fullmatch(r"\d{1,12} ((?:vol|snap)-[\w-]{1,40})", volume.tags.get(TAG_RESTORED, ""))
    return found[1] if found else None


def _is_half_done(volume: Volume) -> bool:
    """Whether it was given to another owner, and the mark not yet taken off."""
    at = volume.tags.get(TAG_RESTORED, "").partition(" ")[0]
    return restored_from(volume) is not None and float(at) >= given_up_at(volume)


def restored_tag(source_id: str, now: float) -> str:
    """What the tag of a home that is brought back says."""
    return f"{now:.0f} {source_id}"


def half_made_mark(now: float) -> str:
    """The mark of a volume that is made of a snapshot, until it becomes the home."""
    return DeletedMark(now, INCARNATION).to_tag()


def _half_made(view: Listing, target: Owner, snapshot: Snapshot) -> Volume | None:
    """What a command that was interrupted has made of the snapshot for the same owner."""
    found = [
        v
        for v in view.volumes.values()
        if v.owner == target.key and restored_from(v) == snapshot.snapshot_id
        if v.deleted is not None and v.deleted.incarnation == INCARNATION
        if v.state in (VolumeState.CREATING, VolumeState.AVAILABLE)
    ]
    return min(found, key=lambda v: (v.created_at, v.volume_id), default=None)


def _done(view: Listing, target: Owner, wanted: str | None) -> Restoration | None:
    """What was asked for stands already: the current home is what it was brought back as."""
    homes = view.homes_of(target.key)
    home = homes[0] if homes else None
    if home is None or restored_from(home) is None:
        return None
    if wanted in (None, home.volume_id, restored_from(home)):
        return Restoration(target, home, home.zone, home.size_gib, home.generation, is_done=True)
    return None


def _named(view: Listing, found: list[Home], source: Owner, wanted: str) -> Home:
    chosen = next((home for home in found if id_of(home) == wanted), None)
    if chosen is None:  # one that would not be taken by itself
        chosen = view.volumes.get(wanted) or view.snapshots.get(wanted)
    if chosen is None:
        why = f"{wanted} does not exist, or is not of this cluster."
    elif chosen.owner != source.key:
        why = f"{wanted} is not of {source.label}."
    elif isinstance(chosen, Volume) and chosen.deleted is None:
        why = f"{wanted} is not deleted."
    elif chosen.moving is not None:
        why = f"{wanted} is part of a move to another zone."
    else:
        return chosen
    raise CannotRestore(
        f"{wanted} cannot be brought back.", why=why, next_step=_choice(found, source)
    )


def _choice(found: Iterable[Home], source: Owner) -> str:
    ids = ", ".join(id_of(home) for home in found)
    return f"Choose one of {ids}." if ids else f"There is no deleted home of {source.label}."


def _what_there_is(view: Listing, source: Owner) -> str:
    homes = view.homes_of(source.key)
    if not homes:
        return "No volume and no snapshot of the cluster bears that owner's tag and the mark."
    return f"The current home is {homes[0].volume_id}, which is not deleted."


# ---- what forbids it


def conflict(view: Listing, target: Owner, chosen: Home) -> CannotRestore | None:
    """Why a home must not become the target's now: another one with files is in use."""
    chosen_id = id_of(chosen)
    homes = [h for h in view.homes_of(target.key) if h.volume_id != chosen_id]
    used = next((h for h in homes if h.generation or h.origin), None)
    if used:
        return CannotRestore(
            f"{target.label} has another home with files, {used.volume_id}: it stays.",
            why="Which of both is the home could not be told any more.",
            next_step="Add --as restored: the old files come as a server of that name, from which"
            " they can be copied.",
        )
    for worker in view.workers_of(target.key):
        held = view.volumes.get(worker.home_volume_id or "")
        if worker.state is not InstanceState.STOPPED:
            return CannotRestore(
                f"A machine of {target.label} is {worker.state.value}.",
                why=f"{worker.instance_id} is being given a new home.",
                next_step="Stop the server in the hub's panel, and run it again.",
            )
        if held is None or held.volume_id == chosen_id or held.owner != target.key:
            return CannotRestore(
                f"{target.label} has a machine without a home of its own.",
                why=f"{worker.instance_id} and the home that is brought back would not meet.",
                next_step="Terminate that machine in the EC2 console, and run it again.",
            )
    return None


def newcomers(view: Listing, target: Owner, known: Collection[str]) -> list[Volume]:
    """Homes that the target has got since; ``known`` are ids of those of before."""
    return [home for home in view.homes_of(target.key) if home.volume_id not in known]


def _from_snapshot(
    snapshot: Snapshot, target: Owner, zones: Collection[str], others: tuple[Home, ...]
) -> Restoration:
    if snapshot.is_archived:
        raise CannotRestore(
            f"{snapshot.snapshot_id} lies in the archive of AWS.",
            why="It takes up to 72 hours to come from there.",
            next_step="Run: aws ec2 restore-snapshot-tier --temporary-restore-days 7 --snapshot-id"
            f" {snapshot.snapshot_id}; and this command again when that is done.",
        )
    if snapshot.state is not SnapshotState.COMPLETED:
        raise CannotRestore(
            f"{snapshot.snapshot_id} is {snapshot.state.value}.",
            next_step="Run it again when the snapshot is completed.",
        )
    zone = next(iter(zones))
    return Restoration(
        target, snapshot, zone, snapshot.size_gib, max(1, snapshot.generation), others
    )


def _from_volume(
    volume: Volume, target: Owner, zones: Collection[str], now: float, others: tuple[Home, ...]
) -> Restoration:
    mark = volume.deleted
    is_ours = mark is not None and mark.incarnation == INCARNATION
    if volume.attached_to or volume.state is VolumeState.IN_USE:
        raise CannotRestore(
            f"{volume.volume_id} is on the machine {volume.attached_to}, which is being ended.",
            next_step="Run it again in a few minutes.",
        )
    if mark and not is_ours and mark.at != float("inf") and now - mark.at < SETTLED_SECONDS:
        raise CannotRestore(
            f"{volume.volume_id} was deleted a moment ago.",
            why="The hub may not be through with its deletion.",
            next_step=f"Run it again in {SETTLED_SECONDS / 60:.0f} minutes.",
        )
    if volume.zone not in zones:
        saved = [id_of(h) for h in others if isinstance(h, Snapshot)]
        raise CannotRestore(
            f"{volume.volume_id} is in zone {volume.zone}, where this cluster has no machines.",
            next_step=f"Name a snapshot instead: {', '.join(saved)}."
            if saved
            else "Make a snapshot of it with its tags, and name that.",
        )
    return Restoration(
        target, volume, volume.zone, volume.size_gib, max(1, volume.generation), others
    )
