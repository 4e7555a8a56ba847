"""The plan's other half: what nobody wants is stopped, and in the end removed.

Pure. Owns the rules by which something may go: a grace time, a second sighting, a fresh and
complete listing, and for a home a completed snapshot. Must not do I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ec2spawner import replacing, spotloss
from ec2spawner.actions import (
    MAX_IDS,
    Action,
    DeleteSnapshot,
    DeleteVolume,
    MakeSnapshot,
    Stop,
    Tag,
    Terminate,
)
from ec2spawner.listing import Listing, came_double
from ec2spawner.model import (
    TAG_CLUSTER,
    TAG_DELETED,
    TAG_EXPIRES,
    TAG_GENERATION,
    TAG_OWNER,
    TAG_REPLACED,
    TAG_ROLE,
    TAG_USER,
    DeletedMark,
    InstanceState,
    Role,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
    Worker,
)
from ec2spawner.wishes import Memory, Policy, Wishes

FRESH_SECONDS = 120.0
"""A listing older than this is no ground for stopping or removing anything."""

OUTLIVES_SECONDS = 300.0
"""A home's last snapshot must have so long to live when the home is deleted; else it could be gone
at the same time, and the home is snapshotted anew."""


def plan_unwanted(
    view: Listing,
    wishes: Wishes,
    policy: Policy,
    memory: Memory,
    now: float,
    taken: Collection[str] = frozenset(),
    unwritten: Collection[str] = frozenset(),
) -> list[Action]:
    """Stops, terminations and deletions that are due; none on a stale listing.

    ``taken`` are spares and copies that the plan has given to somebody; what is ``unwritten``, a
    mark of deletion for instance, may be stopped, but not removed before its tags stand.
    """
    if now - view.full_at > FRESH_SECONDS:
        return []
    rules = _Rules(view, wishes, policy, memory, now, taken, unwritten)
    return [*rules.workers(), *rules.spot_requests(), *rules.volumes(), *rules.snapshots()]


def sightings(
    view: Listing, wishes: Wishes, previous: Mapping[str, tuple[float, float]], now: float
) -> dict[str, tuple[float, float]]:
    """Since when each thing that nobody wants is known to be unwanted, carried on from before."""
    unwanted = [
        w.instance_id
        for w in view.workers.values()
        if w.is_alive and w.role == Role.WORKER.value and not is_wanted(w, wishes)
    ]
    unwanted += [v.volume_id for v in view.volumes.values() if is_orphan(v)]
    unwanted += [request.request_id for request in spotloss.needless(view)]
    return {i: previous.get(i, (now, view.full_at)) for i in unwanted}


def is_wanted(worker: Worker, wishes: Wishes) -> bool:
    """Whether somebody waits for, works on, or is expected on this worker; none is on a double.

    Nobody waits for a retired one; who works on it all the same is not disturbed.
    """
    if worker.is_retired:
        return replacing.is_worked_on(worker, wishes)
    demand = wishes.wanted.get(worker.owner or "")
    if worker.deleted is not None:
        return False
    if demand is None:
        return worker.owner in wishes.expected
    return demand.instance_id in ("", worker.instance_id)


def is_orphan(volume: Volume) -> bool:
    """A home that never was anybody's, and whose instance is gone."""
    return (
        volume.is_home
        and volume.role == Role.WORKER.value
        and volume.owner is None
        and volume.deleted is None
        and volume.state is VolumeState.AVAILABLE
    )


class _Rules:
    def __init__(
        self,
        view: Listing,
        wishes: Wishes,
        policy: Policy,
        memory: Memory,
        now: float,
        taken: Collection[str],
        unwritten: Collection[str],
    ) -> None:
        self._view = view
        self._wishes = wishes
        self._policy = policy
        self._memory = memory
        self._now = now
        self._taken = taken
        self._unwritten = unwritten

    def workers(self) -> list[Action]:
        """A worker is stopped first; only a stopped one is ever terminated."""
        released: list[str] = []
        retired: list[str] = []
        stuck: list[str] = []
        idle: list[str] = []
        gone: list[str] = []
        tagged: list[Action] = []
        for worker in self._view.workers.values():
            if not self._is_candidate(worker):
                continue
            i = worker.instance_id
            disk = spotloss.untagged_disk(self._view, worker)
            if disk and not self._is_held("tag", disk.ids[0]):
                tagged.append(disk)
            if worker.state is InstanceState.RUNNING and not self._is_held("stop", i):
                if worker.is_retired:
                    retired.append(i)
                elif worker.owner in self._wishes.released or worker.deleted:
                    released.append(i)
                elif self._is_ripe(i):
                    idle.append(i)
            elif worker.state is InstanceState.STOPPING and not self._is_held("force", i):
                if replacing.is_to_be_forced(worker, self._memory, self._now):
                    stuck.append(i)
            elif worker.state is InstanceState.STOPPED and not self._is_held("terminate", i):
                # An owner's worker stays, stopped, until it is given up; a spare goes.
                if self._may_end(worker) and not disk and i not in self._unwritten:
                    gone.append(i)
                elif self._is_double(worker):
                    tagged.append(self._give_up(worker))
        return [
            *tagged,
            *(Stop(ids, "its user is done") for ids in _batches(released)),
            *(Stop(ids, "retired") for ids in _batches(retired)),
            *(Stop(ids, "its stop does not end", is_forced=True) for ids in _batches(stuck)),
            *(Stop(ids, "nobody wants it") for ids in _batches(idle)),
            *(Terminate(ids, "given up, or nobody's") for ids in _batches(gone)),
        ]

    def spot_requests(self) -> list[Action]:
        """Requests for which EC2 launches, or has launched, what nobody wants."""
        requests = list(spotloss.needless(self._view))
        ripe = {
            r.request_id: self._is_ripe(r.request_id)
            and spotloss.is_second_look(self._view, self._memory.unwanted[r.request_id])
            and not self._is_held("cancel", r.request_id)
            and not self._is_held("tag", r.instance_id or "")
            for r in requests
        }
        return spotloss.cleared(self._view, ripe, self._now)

    def _may_end(self, worker: Worker) -> bool:
        if worker.deleted:
            return True
        if worker.is_retired:
            is_over = replacing.may_end(worker, self._policy, self._now)
            return is_over and self._is_ripe(worker.instance_id)
        return worker.owner is None and self._is_ripe(worker.instance_id)

    def _is_double(self, worker: Worker) -> bool:
        """Whether the owner works elsewhere, and never was on this one: no file of theirs is."""
        if worker.owner is None or worker.deleted or worker.is_retired:
            return False
        if not self._is_ripe(worker.instance_id):
            return False
        homes = self._view.homes_of(worker.owner)
        is_free = not self._is_held("tag", worker.instance_id)
        return is_free and came_double(self._view, worker, homes[0] if homes else None)

    def _give_up(self, worker: Worker) -> Tag:
        ids = (worker.instance_id, worker.home_volume_id or "")
        mark = DeletedMark(self._now, "").to_tag()
        return Tag(tuple(filter(None, ids)), ((TAG_DELETED, mark),), "it came double")

    def _is_candidate(self, worker: Worker) -> bool:
        return (
            worker.is_alive
            and worker.role == Role.WORKER.value
            and worker.instance_id not in self._taken
            and not is_wanted(worker, self._wishes)
        )

    def _is_ripe(self, resource_id: str) -> bool:
        """Seen unwanted for the grace time, and by a second full listing."""
        seen = self._memory.unwanted.get(resource_id)
        if seen is None:
            return False
        first_at, listed_at = seen
        waited = self._now - first_at >= self._policy.reaper_grace_seconds
        return waited and self._view.full_at > listed_at

    def _is_held(self, kind: str, resource_id: str) -> bool:
        hold = self._memory.holds.get((kind, resource_id))
        return hold is not None and hold.until > self._now

    def volumes(self) -> list[Action]:
        """Retire homes that were given up long enough ago, and orphans."""
        actions: list[Action] = []
        for volume in self._view.volumes.values():
            due = self._is_due(volume) and not self._is_held("retire", volume.volume_id)
            action = self._retire(volume) if due else None
            if action:
                actions.append(action)
        return actions

    def _is_due(self, volume: Volume) -> bool:
        if volume.state is not VolumeState.AVAILABLE or not volume.is_home:
            return False
        if volume.role != Role.WORKER.value or volume.volume_id in self._unwritten:
            return False
        if volume.volume_id in self._taken:
            return False
        mark = volume.deleted or volume.replaced
        if mark:
            return self._now - mark.at >= self._grace_of(volume)
        return is_orphan(volume) and self._is_ripe(volume.volume_id)

    def _grace_of(self, volume: Volume) -> float:
        """The days of grace; a few minutes for what nobody has had a file on, as far as is known.

        A hub that died right after the first mount may not have put that down: all the same such a
        home is saved first, and its snapshot lasts as long as if it had had its days.
        """
        full, short = self._policy.delete_grace_seconds, self._policy.reaper_grace_seconds
        is_blank = not (volume.generation or volume.base_generation or volume.origin)
        is_unused = is_blank and volume.volume_id not in self._wishes.mounted
        return min(full, short) if volume.deleted and is_unused else full

    def _retire(self, volume: Volume) -> Action | None:
        final = self._final_snapshot(volume)
        if final is None:
            return MakeSnapshot(
                volume.volume_id, self._snapshot_tags(volume), "before its deletion"
            )
        if final.state is SnapshotState.COMPLETED:
            return DeleteVolume(volume.volume_id, final.snapshot_id, "its snapshot is completed")
        return None

    def _final_snapshot(self, volume: Volume) -> Snapshot | None:
        """The volume's snapshot made since it was given up; an older one may lack files."""
        made = [
            s
            for s in self._view.snapshots.values()
            if s.volume_id == volume.volume_id
            and TAG_EXPIRES in s.tags
            and is_made_for(s, volume.tags)
            and s.expires_at > self._now + OUTLIVES_SECONDS
            and s.state is not SnapshotState.ERROR
        ]
        return max(made, key=lambda s: s.started_at) if made else None

    def _snapshot_tags(self, volume: Volume) -> tuple[tuple[str, str], ...]:
        kept = {TAG_CLUSTER, TAG_OWNER, TAG_USER, TAG_GENERATION, TAG_DELETED, TAG_REPLACED}
        mark = volume.deleted or volume.replaced
        grace_ends = mark.at + self._policy.delete_grace_seconds if mark else self._now
        expires = max(self._now, grace_ends) + self._policy.snapshot_expire_seconds
        return (
            *((k, v) for k, v in volume.tags.items() if k in kept),
            (TAG_ROLE, Role.WORKER.value),
            (TAG_EXPIRES, f"{expires:.0f}"),
        )

    def snapshots(self) -> list[Action]:
        """Snapshots whose time is over."""
        return [
            DeleteSnapshot(s.snapshot_id, "its time is over")
            for s in self._view.snapshots.values()
            if s.role == Role.WORKER.value
            and s.expires_at < self._now
            and s.state is SnapshotState.COMPLETED
            and not self._is_held("retire", s.snapshot_id)
        ]


def is_made_for(snapshot: Snapshot, tags: Mapping[str, str]) -> bool:
    """Whether a volume's snapshot was made when it was given up with these tags, and not before.

    It bears the volume's very marks; times would not do, for a hub's clock can be hours off, and
    who was taken back has worked on. What never was anybody's has no mark.
    """
    marks = {tag: tags[tag] for tag in (TAG_DELETED, TAG_REPLACED) if tag in tags}
    # One of a move has its mark too, but the move may have been called off.
    return not snapshot.moving and marks.items() <= snapshot.tags.items()


def _batches(ids: list[str]) -> list[tuple[str, ...]]:
    return [tuple(ids[i : i + MAX_IDS]) for i in range(0, len(ids), MAX_IDS)]
