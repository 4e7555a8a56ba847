"""The plan: from what is there, what is on its way and what is wanted, to a list of actions.

Pure: plain functions of frozen values and ``now``. Owns every decision about who gets which
worker; what nobody wants is ``reaping.py``'s. Must not do I/O, nor know how actions are executed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from ec2spawner import marks, moving, refusals, replacing, spotloss
from ec2spawner.actions import (
    Action,
    Attach,
    ChangeType,
    Claim,
    Detach,
    MoveStep,
    Refuse,
    Start,
    Stop,
    Tag,
    Terminate,
)
from ec2spawner.draft import Draft, batches, by_kind, is_bare, is_spare
from ec2spawner.errors import CapacityError, EC2SpawnerError, WrongState
from ec2spawner.listing import (
    Expectation,
    Listing,
    current_worker,
    overlay,
)
from ec2spawner.model import (
    TAG_DELETED,
    TAG_PROFILE,
    TAG_REPLACED,
    InstanceState,
    Mark,
    Volume,
    VolumeState,
    Worker,
)
from ec2spawner.placement import Offering, choose, choose_type
from ec2spawner.reaping import plan_unwanted
from ec2spawner.supply import Supply
from ec2spawner.wishes import Demand, Memory, Policy, Wishes

SECOND_LOOK_SECONDS = 2.0
"""How much later the listing must be that confirms that a home is not there."""


def plan(
    listing: Listing,
    expectations: Iterable[Expectation],
    wishes: Wishes,
    policy: Policy,
    memory: Memory,
    now: float,
    accepted: Listing | None = None,
) -> list[Action]:
    """What is to be done now; nothing as long as the cluster has never been listed.

    ``accepted`` is the listing with all expectations, for who has it at hand.
    """
    if not listing.is_known:
        return []
    expectations = list(expectations)
    accepted = accepted or overlay(listing, expectations)
    view = marks.with_writes(accepted, wishes)
    launching = [e.launching for e in expectations if e.launching]
    settled = [e for e in expectations if e.settled_at is not None]
    is_quiet = len(settled) == len(expectations)
    answered = accepted if is_quiet else overlay(listing, settled)
    draft = Draft(view, marks.with_writes(answered, wishes), wishes, policy, memory, now)
    supply = Supply(draft, launching)
    busy = {i for e in expectations if e.settled_at is None for i in e.tags}
    owners = _Owners(draft, supply, busy)
    marks.write_tags(draft, accepted, busy)
    marks.mark_broken(draft)
    waiting = (d for d in wishes.wanted.values() if d.is_waiting)
    for demand in sorted(waiting, key=lambda d: (d.since, d.owner.key)):
        owners.provide(demand)
    supply.launch()
    owners.finish()
    owners.expect()
    supply.keep_pool()
    draft.actions += moving.put_right(draft)
    unwritten = marks.unwritten_ids(answered, wishes)
    unwanted = plan_unwanted(view, wishes, policy, memory, now, draft.taken, unwritten)
    return [*draft.actions, *unwanted]


def fits(worker: Worker, demand: Demand, policy: Policy) -> bool:
    """Whether a worker is of the kind that its owner wants; what an operator changed can wait."""
    profile = policy.profiles.get(demand.profile)
    if profile is None or worker.profile in ("", demand.profile):
        return True
    return worker.instance_type in profile.instance_types


def homeless(view: Listing, wishes: Wishes, previous: Mapping[str, float]) -> dict[str, float]:
    """Who waits and should have a home, which the listing does not show; since which listing."""
    return {
        key: previous.get(key, view.full_at)
        for key, demand in wishes.wanted.items()
        if demand.is_known and demand.is_waiting
        if view.is_known and not view.homes_of(key) and not view.workers_of(key)
    }


class _Owners:
    """The half of a planning run that is about owners and what is theirs."""

    def __init__(self, draft: Draft, supply: Supply, busy: Collection[str]) -> None:
        self._draft = draft
        self._supply = supply
        self._busy = busy
        """Ids whose tags are being written."""
        self._view = draft.view
        self._starts: list[str] = []
        self._doubles: list[str] = []
        self._others: list[str] = []
        """Workers of another kind than their owners want now."""

    def finish(self) -> None:
        """Plan what was collected, many ids in one action where EC2 allows it."""
        starts = batches(by_kind(self._view, self._starts))
        self._draft.actions += [Start(ids, "its user wants it") for ids in starts]
        self._draft.actions += [
            Stop(ids, reason, although_wanted=True)
            for reason, stopped in (
                ("its owner has another worker", self._doubles),
                ("its owner wants another kind", self._others),
            )
            for ids in batches([stopped])
        ]

    def expect(self) -> None:
        """Start the workers of those whose class is about to begin, after all who wait."""
        wishes, view = self._draft.wishes, self._view
        workers = (current_worker(view, key) for key in sorted(wishes.expected - {*wishes.wanted}))
        ids = [
            w.instance_id
            for w in workers
            if w and w.state is InstanceState.STOPPED and w.home_volume_id
            if not w.is_interrupted
            if self._draft.has_room_to_start(w)
            if not self._draft.on_hold("start", w.instance_id)
        ]
        self._draft.actions += [
            Start(some, "its user's class begins", is_ahead=True)
            for some in batches(by_kind(view, ids))
        ]

    # ---- one owner

    def provide(self, demand: Demand) -> None:
        """The next step towards a running worker with its home for one owner."""
        key = demand.owner.key
        worker = current_worker(self._view, key)
        self._doubles += [
            w.instance_id
            for w in self._view.workers_of(key)
            if w is not worker
            and w.state is InstanceState.RUNNING
            and not self._draft.on_hold("stop", w.instance_id)
        ]
        if worker is None and self._undelete(demand):
            return
        homes = self._view.homes_of(key)
        home = homes[0] if homes else None
        if home and self._is_given_up(home):
            return  # until EC2 says that it is not any more
        if home and home.moving and (worker or home.state is not VolumeState.AVAILABLE):
            self._move(demand, home, moving.settled(self._draft, demand, home))
        elif home and home.state is not VolumeState.AVAILABLE:
            self._free(demand, home)
        if worker is None:
            self._find_worker(demand, home)
        else:
            self._advance(demand, worker, home)

    def _free(self, demand: Demand, home: Volume) -> None:
        """Take a home off a retired worker, which is stopped first, and may be stuck at that."""
        holder = replacing.holder_of(self._view, home)
        if holder is None:
            return
        error = replacing.stuck(holder, self._draft.memory, self._draft.now)
        if error:
            self._draft.actions.append(Refuse(demand.owner.key, error))
        elif spotloss.ends_with_its_request(holder) and self._is_known_retired(holder):
            end = Terminate((holder.instance_id,), "another takes its place")
            self._draft.attempt(
                "terminate", holder.instance_id, demand, lambda: self._draft.actions.append(end)
            )
        elif holder.state is InstanceState.STOPPED and self._is_known_retired(holder):
            action = Detach(home.volume_id, holder.instance_id, "its worker is retired")
            self._draft.attempt(
                "detach", home.volume_id, demand, lambda: self._draft.actions.append(action)
            )

    def _is_given_up(self, home: Volume) -> bool:
        """Whether a deletion that is being taken back still stands, as far as EC2 has said."""
        known = self._draft.answered.volumes.get(home.volume_id)
        return known is not None and known.deleted is not None

    def _is_known_retired(self, worker: Worker) -> bool:
        """Whether EC2 has said that the mark stands: nobody gets another worker on a maybe."""
        known = self._draft.answered.workers.get(worker.instance_id)
        return known is not None and known.is_retired

    def _advance(self, demand: Demand, worker: Worker, home: Volume | None) -> None:
        held = self._view.volumes.get(worker.home_volume_id or "")
        if moving.is_left_behind(worker, home, held):
            self._retire(demand, worker, "left-behind", "its owner's home is in another zone")
            return
        dead_end = refusals.dead_end(worker, home, held)
        if dead_end:
            self._draft.actions.append(Refuse(demand.owner.key, dead_end))
            return
        if worker.state is InstanceState.STOPPED:
            if not self._start(demand, worker):
                return
        elif not fits(worker, demand, self._draft.policy):
            if worker.state is InstanceState.RUNNING:
                self._draft.attempt("stop", worker.instance_id, demand, self._stopper(worker))
            return
        settled = worker.state in (InstanceState.RUNNING, InstanceState.STOPPED)
        if home is None:
            self._adopt_blank_home(demand, worker)
        elif (
            settled
            and worker.volumes  # listed: it may have a home that is not shown yet
            and worker.home_volume_id is None
            and home.state is VolumeState.AVAILABLE
            and home.moving is None
            and home.volume_id not in self._busy
            and self._is_claimed(demand, worker)
        ):
            action = Attach(home.volume_id, worker.instance_id, "its owner's home")
            self._draft.attempt(
                "attach", home.volume_id, demand, lambda: self._draft.actions.append(action)
            )

    def _stopper(self, worker: Worker) -> Callable[[], object]:
        return lambda: self._others.append(worker.instance_id)

    def _start(self, demand: Demand, worker: Worker) -> bool:
        """Start a stopped worker, as the best type of its owner's profile that has room there.

        False if it cannot be: its owner is refused, or gets another one.
        """
        known = self._draft.answered.workers.get(worker.instance_id)
        if known and known.instance_type != worker.instance_type:
            return True  # a change of its type is under way
        if self._is_to_be_refreshed(demand, worker):
            self._retire(demand, worker, "refreshed", "its owner gets one of the newest image")
            return False
        wanted = self._choose_type(demand, worker)
        if isinstance(wanted, EC2SpawnerError):
            self._replace(demand, worker, wanted)
            return False
        if wanted != worker.instance_type:
            reason = f"{worker.instance_type} has no room, or another is wanted"
            self._draft.actions.append(ChangeType(worker.instance_id, wanted, reason))
        else:
            if worker.profile != demand.profile and worker.profile:
                self._retag(demand, worker)
            self._draft.attempt(
                "start", worker.instance_id, demand, lambda: self._starts.append(worker.instance_id)
            )
        return True

    def _choose_type(self, demand: Demand, worker: Worker) -> str | EC2SpawnerError:
        profile = self._draft.policy.profiles.get(demand.profile)
        types = profile.instance_types if profile else (worker.instance_type,)
        if worker.is_spot:  # EC2 changes no spot instance's type
            if not fits(worker, demand, self._draft.policy):
                return refusals.cannot_become(worker, demand.profile)
            if worker.is_interrupted:
                return refusals.interrupted(worker)
            types = (worker.instance_type,)
        failure = self._draft.memory.holds.get(("change-type", worker.instance_id))
        if failure and failure.until > self._draft.now:
            # It cannot become another: it starts as it is, unless its owner chose another kind.
            if not fits(worker, demand, self._draft.policy):
                return failure.error
            types = (worker.instance_type,)
        return choose_type(worker, types, self._draft.memory.failed, self._draft.now)

    def _replace(self, demand: Demand, worker: Worker, error: EC2SpawnerError) -> None:
        """Give the owner another worker in the place of one that cannot be started, if there is."""
        if worker.is_spot and self._may_launch(demand, worker.zone):
            why = "interrupted" if worker.is_interrupted else "spot"
        elif self._may_move(demand, worker, error):
            why = "no-room"
        else:
            self._draft.actions.append(Refuse(demand.owner.key, error))
            return
        self._retire(demand, worker, why, "it cannot be started")

    def _retire(self, demand: Demand, worker: Worker, why: str, reason: str) -> None:
        mark = Mark(self._draft.now, why).to_tag()
        action = Tag((worker.instance_id,), ((TAG_REPLACED, mark),), reason)
        self._draft.attempt(
            "tag", worker.instance_id, demand, lambda: self._draft.actions.append(action)
        )

    def _may_move(self, demand: Demand, worker: Worker, error: EC2SpawnerError) -> bool:
        """Whether the owner's home may move to where there is a machine."""
        is_full = isinstance(error, CapacityError) and bool(self._view.homes_of(demand.owner.key))
        return is_full and moving.other_zone(self._draft, demand, worker.zone) is not None

    def _may_launch(self, demand: Demand, zone: str) -> bool:
        """Whether a worker can be launched in a zone, as far as is known."""
        draft = self._draft
        profile = draft.policy.profiles.get(demand.profile)
        if profile is None:
            return False
        found = choose(profile, draft.policy.subnets, draft.memory.failed, draft.now, zone)
        return isinstance(found, Offering)

    def _is_to_be_refreshed(self, demand: Demand, worker: Worker) -> bool:
        """Whether a new one can take its place: the home is all that its owner needs of it."""
        policy, home_id = self._draft.policy, worker.home_volume_id
        home = self._view.volumes.get(home_id or "")
        is_home = home is not None and home.generation > 0 and home.owner == demand.owner.key
        is_due = policy.refresh_workers and policy.is_outdated(worker)
        is_held = self._draft.on_hold("launch", demand.profile)
        return is_due and is_home and not is_held and self._may_launch(demand, worker.zone)

    def _retag(self, demand: Demand, worker: Worker) -> None:
        tags = ((TAG_PROFILE, demand.profile),)
        action = Tag((worker.instance_id,), tags, "of another profile now")
        self._draft.attempt(
            "tag", worker.instance_id, demand, lambda: self._draft.actions.append(action)
        )

    def _is_claimed(self, demand: Demand, worker: Worker) -> bool:
        """Whether EC2 has said that the worker is the owner's: no home goes to it on a maybe."""
        known = self._draft.answered.workers.get(worker.instance_id)
        return known is not None and known.owner == demand.owner.key

    def _adopt_blank_home(self, demand: Demand, worker: Worker) -> None:
        """The worker is claimed, its blank home is not: a claim that was carried out by half."""
        blank = self._view.volumes.get(worker.home_volume_id or "")
        if blank and blank.owner is None and blank.deleted is None:
            self._claim(demand, worker, blank.volume_id, "half claimed")

    def _find_worker(self, demand: Demand, home: Volume | None) -> None:
        if home and home.state is not VolumeState.AVAILABLE:
            holder = self._view.workers.get(home.attached_to or "")
            if holder and is_spare(holder):
                self._claim(demand, holder, home.volume_id, "half claimed")
                return
            if holder is None or not self._is_known_retired(holder):
                return  # a machine on its way out still holds it; the next listing tells
        if home is None:
            if self._may_be_overlooked(demand):
                return
            draft = self._draft
            grace = draft.policy.delete_grace_seconds
            error = refusals.too_many_deleted(self._view, demand, grace, draft.now)
            if error:
                draft.actions.append(Refuse(demand.owner.key, error))
                return
        course = moving.course(self._draft, demand, home, self._spare_for) if home else None
        if home and course:
            self._follow(demand, home, course)
            return
        spare = self._spare_for(demand, home)
        if spare is None:
            self._supply.need(demand, home.zone if home else None)
            return
        if home:
            self._claim(demand, spare, None, "the owner's worker is gone, the home is there")
        else:
            self._claim(demand, spare, spare.home_volume_id, "first login")

    def _follow(self, demand: Demand, home: Volume, course: moving.Course) -> None:
        self._move(demand, home, course.step)
        if course.zone:
            self._supply.need(demand, course.zone)
        if course.error:
            self._draft.actions.append(Refuse(demand.owner.key, course.error))

    def _move(self, demand: Demand, home: Volume, step: MoveStep | None) -> None:
        """Go on with a move, one call at a time."""
        if step and home.volume_id not in self._busy:
            self._draft.attempt(
                "move", home.volume_id, demand, lambda: self._draft.actions.append(step)
            )

    def _may_be_overlooked(self, demand: Demand) -> bool:
        """Whether a home that was there before is missed in one listing only, or not listed yet."""
        if moving.is_overlooked(self._view, demand.owner.key, self._draft.now):
            return True
        if any(
            w.home_volume_id and w.home_volume_id not in self._view.volumes
            for w in self._view.retired_of(demand.owner.key)
        ):
            return True
        missed_at = self._draft.memory.homeless.get(demand.owner.key)
        return demand.is_known and (
            missed_at is None or self._view.full_at < missed_at + SECOND_LOOK_SECONDS
        )

    def _claim(self, demand: Demand, worker: Worker, volume_id: str | None, reason: str) -> None:
        self._draft.taken.add(worker.instance_id)
        claim = Claim(demand.owner, worker.instance_id, volume_id, reason)
        self._draft.attempt(
            "claim", worker.instance_id, demand, lambda: self._draft.actions.append(claim)
        )

    def _spare_for(self, demand: Demand, home: Volume | None) -> Worker | None:
        for spare in self._draft.spares:
            if spare.instance_id in self._draft.taken or spare.profile != demand.profile:
                continue
            if self._is_somebodys(spare):
                continue
            if home is None and self._has_blank_home(spare):
                return spare
            if home and spare.zone == home.zone and is_bare(spare):
                return spare
        return None

    def _is_somebodys(self, spare: Worker) -> bool:
        """Whether it was found to have an owner that the listing does not show yet."""
        hold = self._draft.memory.holds.get(("claim", spare.instance_id))
        return (
            hold is not None and isinstance(hold.error, WrongState) and hold.until > self._draft.now
        )

    def _has_blank_home(self, spare: Worker) -> bool:
        """A volume that the listing does not know yet counts: it came with the launch."""
        if spare.home_volume_id is None:
            return False
        home = self._view.volumes.get(spare.home_volume_id)
        return home is None or (home.owner is None and not home.deleted and not home.generation)

    def _undelete(self, demand: Demand) -> bool:
        """A deletion that the hub did not finish (the row is still there) is taken back."""
        if not demand.incarnation or self._view.homes_of(demand.owner.key):
            return False
        ids = tuple(
            r.instance_id if isinstance(r, Worker) else r.volume_id
            for r in self._view.given_up_by(demand.owner.key)
            if r.deleted and r.deleted.incarnation == demand.incarnation
            if not isinstance(r, Worker) or r.is_alive  # its end cannot be taken back
        )
        homes = [i for i in ids if i in self._view.volumes]
        if not homes:
            return False
        self._draft.taken.update(ids)
        if not self._busy_among(ids):
            self._take_back(demand, ids, homes[0])
        return True

    def _busy_among(self, ids: Iterable[str]) -> bool:
        return not {*ids}.isdisjoint(self._busy)

    def _take_back(self, demand: Demand, ids: tuple[str, ...], home: str) -> None:
        action = Tag(ids, ((TAG_DELETED, None),), "its user was not deleted after all")
        self._draft.attempt("tag", home, demand, lambda: self._draft.actions.append(action))
