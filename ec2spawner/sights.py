"""What is to be seen of one owner's machine: what a waiting user reads of, and when it is ready.

Pure. Owns the stages of a start as they show in a listing, and what makes a worker fit to serve its
owner. Must not know who waits, nor decide what is done.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ec2spawner import moving, replacing
from ec2spawner.errors import LaunchFailed
from ec2spawner.listing import Listing, current_worker
from ec2spawner.model import InstanceState, Volume, VolumeState, Worker

NEW_HOME_SECONDS = 120.0
"""How long after a launch its home is looked for by id, until a listing of volumes shows it."""

_STAGES = {
    InstanceState.PENDING: "booting",
    InstanceState.RUNNING: "running",
    InstanceState.STOPPING: "stopping",
    InstanceState.STOPPED: "starting",
}
_EXCHANGES = frozenset({"replaced", "exchanged", "stuck"})


@dataclass(frozen=True)
class Sight:
    """What the fleet knows of one owner's machine, for the progress that a user reads.

    ``stage``: "aws-away", "unknown", "in-line", "launching", "home-busy", "replaced", "exchanged",
    "stuck", "copying", "copied", "starting", "stopping", "booting" or "running". ``place`` in line,
    from 1 on, and the ``seconds`` until their turn; ``percent`` of a copy.
    """

    stage: str
    worker: Worker | None = None
    place: int = 0
    seconds: float = 0.0
    percent: int | None = None


# ---- what a user reads


def sight_of(view: Listing, owner_key: str, stopping: Mapping[str, float], now: float) -> Sight:
    """The stage at which an owner's machine is; ``stopping``: by id, since when it is."""
    worker = current_worker(view, owner_key)
    homes = view.homes_of(owner_key)
    if worker and not worker.home_volume_id and view.retired_of(owner_key):
        stage = _stage_without_worker(view, homes, stopping, now)
        return Sight(stage if stage in _EXCHANGES else _STAGES[worker.state], worker)
    if worker:
        return Sight(_STAGES[worker.state], worker)
    move = moving.stage_of(view, homes[0], now) if homes else None
    if move:
        return Sight(move[0], percent=move[1])
    return Sight(_stage_without_worker(view, homes, stopping, now))


def _stage_without_worker(
    view: Listing, homes: Sequence[Volume], stopping: Mapping[str, float], now: float
) -> str:
    busy = bool(homes) and homes[0].state is not VolumeState.AVAILABLE
    holder = replacing.holder_of(view, homes[0]) if busy else None
    if holder is None:
        return "home-busy" if busy else "launching"
    if now - stopping.get(holder.instance_id, now) >= replacing.FORCE_AFTER_SECONDS:
        return "stuck"
    return "replaced" if holder.broken else "exchanged"


# ---- what can serve its owner


def coming_worker(view: Listing, owner_key: str) -> Worker | None:
    """The owner's worker, if it boots or runs, can be reached, and has a home."""
    worker = current_worker(view, owner_key) if view.is_known else None
    if worker is None or not worker.private_ip or not worker.home_volume_id:
        return None
    is_up = worker.state in (InstanceState.PENDING, InstanceState.RUNNING)
    return worker if is_up else None


def has_its_home(view: Listing, owner_key: str, worker: Worker) -> bool:
    """Whether the owner's worker is known to hold the owner's current home, which is to stay."""
    homes = view.homes_of(owner_key)
    if worker.home_volume_id not in view.volumes:
        return not homes  # it came with the launch, and is not listed yet
    return bool(homes) and homes[0].volume_id == worker.home_volume_id and not homes[0].moving


def wrong_home(view: Listing, owner_key: str, worker: Worker) -> LaunchFailed | None:
    """Why the owner's worker can never serve: it holds a home that is not the current one."""
    homes = view.homes_of(owner_key)
    if not homes or homes[0].moving or homes[0].volume_id == worker.home_volume_id:
        return None
    return LaunchFailed(
        "Your machine holds another home disk than your current one.",
        why=f"{worker.instance_id} has {worker.home_volume_id}, the current home is "
        f"{homes[0].volume_id}",
        next_step="Nothing was changed. Tell the people who run this hub.",
    )


# ---- what is to be looked at often


def awaited_ids(view: Listing, owner_keys: Collection[str], now: float) -> set[str]:
    """Ids that are listed every second while these owners wait, beside what is in transition."""
    lately = now - NEW_HOME_SECONDS
    ids = {
        w.home_volume_id
        for w in view.workers.values()
        if w.home_volume_id and w.home_volume_id not in view.volumes and w.launched_at > lately
    }
    for key in owner_keys:
        ids |= _held_elsewhere(view, key)
    return ids | moving.awaited_ids(view, owner_keys, now)


def _held_elsewhere(view: Listing, owner_key: str) -> set[str]:
    """The home of somebody who waits, and who has it, unless it is the worker to be served."""
    worker = current_worker(view, owner_key)
    served = worker.instance_id if worker else ""
    held = [v for v in view.homes_of(owner_key)[:1] if _holder(v) not in ("", served)]
    return {i for v in held for i in (v.volume_id, _holder(v))}


def _holder(volume: Volume) -> str:
    """Id of the instance that still holds a volume, or ""."""
    return (volume.attached_to or "") if volume.state is not VolumeState.AVAILABLE else ""
