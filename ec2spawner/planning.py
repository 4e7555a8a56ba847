"""The plan: from what is there, what is on its way and what is wanted, to a list of actions.

Pure: plain functions of frozen values and ``now``. Owns every decision about who gets which
worker; what nobody wants is ``reaping.py``'s. Must not do I/O, nor know how actions are executed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping

from ec2spawner.actions import MAX_IDS, Action, Attach, Claim, Launch, Refuse, Start, Stop, Tag
from ec2spawner.errors import (
    CapacityError,
    CredentialsError,
    Denied,
    EC2SpawnerError,
    LaunchFailed,
    QuotaError,
    Rejected,
    WrongState,
)
from ec2spawner.listing import Expectation, Launching, Listing, has_tags, overlay
from ec2spawner.model import (
    TAG_DELETED,
    TAG_GENERATION,
    InstanceState,
    Role,
    Volume,
    VolumeState,
    Worker,
)
from ec2spawner.placement import Offering, Profile, choose
from ec2spawner.reaping import plan_unwanted
from ec2spawner.wishes import Demand, Memory, Policy, Wishes

MAX_LAUNCH = 100
"""Workers in one RunInstances: AWS advises 5 calls of 100 over 1 of 500 (API reference, 2026)."""


SECOND_LOOK_SECONDS = 2.0
"""How much later the listing must be that confirms that a home is not there."""


def plan(
    listing: Listing,
    expectations: Iterable[Expectation],
    wishes: Wishes,
    policy: Policy,
    memory: Memory,
    now: float,
) -> list[Action]:
    """What is to be done now; nothing as long as the cluster has never been listed."""
    if not listing.is_known:
        return []
    expectations = list(expectations)
    accepted = overlay(listing, expectations)
    view = with_writes(accepted, wishes)
    launching = [e.launching for e in expectations if e.launching]
    answered = overlay(listing, (e for e in expectations if e.settled_at is not None))
    draft = _Draft(view, with_writes(answered, wishes), wishes, policy, memory, now)
    busy = {i for e in expectations if e.settled_at is None for i in e.tags}
    draft.write_tags(accepted, busy)
    waiting = (d for d in wishes.wanted.values() if d.is_waiting)
    for demand in sorted(waiting, key=lambda d: (d.since, d.owner.key)):
        draft.provide(demand)
    draft.launch(launching)
    unwritten = unwritten_ids(answered, wishes)
    unwanted = plan_unwanted(view, wishes, policy, memory, now, draft.taken, unwritten)
    return [*draft.actions(), *unwanted]


def with_writes(view: Listing, wishes: Wishes) -> Listing:
    """The listing as it is to be read while some tags must still come to stand."""
    if not wishes.writes:
        return view
    due = (
        Expectation(sent_at=index, tags={i: dict(w.tags) for i in w.ids})
        for index, w in enumerate(wishes.writes)
    )
    return overlay(view, due)


def final_tags(wishes: Wishes) -> Mapping[str, dict[str, str | None]]:
    """By id: the tags that must come to stand; of two writes of one tag, the later counts."""
    tags: dict[str, dict[str, str | None]] = defaultdict(dict)
    for write in wishes.writes:
        for resource_id in write.ids:
            tags[resource_id].update(write.tags)
    return tags


def unwritten_ids(listing: Listing, wishes: Wishes) -> set[str]:
    """Resources whose tags are not yet what they must become."""
    tags = final_tags(wishes)
    return {i for i, due in tags.items() if not has_tags(listing, i, due)}


def current_worker(view: Listing, owner_key: str) -> Worker | None:
    """The owner's one worker; of several, the one that holds the current home, else the oldest.

    None of those that came double with a home which was never mounted, while another one was: the
    owner's files are not on it.
    """
    homes = view.homes_of(owner_key)
    current = homes[0] if homes else None
    workers = [w for w in view.workers_of(owner_key) if not _came_double(view, w, current)]
    if len(workers) < 2:
        return workers[0] if workers else None
    holder = current.attached_to if current else None
    return min(workers, key=lambda w: (w.instance_id != holder, w.launched_at, w.instance_id))


def _came_double(view: Listing, worker: Worker, current: Volume | None) -> bool:
    held = view.volumes.get(worker.home_volume_id or "")
    return (
        current is not None
        and current.generation > 0
        and held is not None
        and held.volume_id != current.volume_id
        and held.owner == worker.owner
        and held.generation == 0
    )


def is_spare(worker: Worker) -> bool:
    """Whether a worker is nobody's and may be given to somebody."""
    return (
        worker.role == Role.WORKER.value
        and worker.owner is None
        and worker.deleted is None
        and worker.state in (InstanceState.PENDING, InstanceState.RUNNING, InstanceState.STOPPED)
    )


def homeless(view: Listing, wishes: Wishes, previous: Mapping[str, float]) -> dict[str, float]:
    """Who waits and should have a home, which the listing does not show; since which listing."""
    return {
        key: previous.get(key, view.full_at)
        for key, demand in wishes.wanted.items()
        if demand.is_known and demand.is_waiting
        if view.is_known and not view.homes_of(key) and not view.workers_of(key)
    }


class _Draft:
    """One planning run: collects actions; each worker is used at most once."""

    def __init__(
        self,
        view: Listing,
        answered: Listing,
        wishes: Wishes,
        policy: Policy,
        memory: Memory,
        now: float,
    ) -> None:
        self._view = view
        self._answered = answered
        self._wishes = wishes
        self._policy = policy
        self._memory = memory
        self._now = now
        self._spares = sorted((w for w in view.workers.values() if is_spare(w)), key=_readiness)
        self._singles: list[Action] = []
        self._starts: list[str] = []
        self._doubles: list[str] = []
        self._needs: dict[tuple[str, str | None], list[Demand]] = defaultdict(list)
        self.taken: set[str] = set()
        """Spares that are spoken for, and so no business of the reaper."""

    def actions(self) -> list[Action]:
        """All that was collected, many ids in one action where EC2 allows it."""
        starts = [Start(ids, "its user wants it") for ids in _batches(self._by_kind(self._starts))]
        stops = [
            Stop(ids, "its owner has another worker", is_double=True)
            for ids in _batches([self._doubles])
        ]
        return [*self._singles, *starts, *stops]

    def _by_kind(self, ids: list[str]) -> list[list[str]]:
        """One batch a (type, zone): what has no capacity fails alone."""
        kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
        for instance_id in ids:
            worker = self._view.workers[instance_id]
            kinds[worker.instance_type, worker.zone].append(instance_id)
        return list(kinds.values())

    # ---- tags

    def write_tags(self, accepted: Listing, busy: Collection[str]) -> None:
        """Tags that must come to stand, and first mounts.

        Not on what is ``busy``: a claim that is asked for again and again would come to stand over
        the new owner of a rename.
        """
        due: dict[tuple[tuple[str, str | None], ...], list[str]] = defaultdict(list)
        final = final_tags(self._wishes)
        for resource_id in unwritten_ids(accepted, self._wishes):
            if not self._on_hold("tag", resource_id) and resource_id not in busy:
                due[tuple(final[resource_id].items())].append(resource_id)
        for tags, ids in sorted(due.items(), key=lambda item: sorted(item[1])):
            self._singles += [
                Tag(some, tags, self._reason(some)) for some in _batches([sorted(ids)])
            ]
        fresh = tuple(
            i
            for i in sorted(self._wishes.mounted)
            if i in self._view.volumes
            and self._view.volumes[i].generation == 0
            and not self._on_hold("tag", i)
        )
        if fresh:
            self._singles.append(Tag(fresh, ((TAG_GENERATION, "1"),), "mounted for the first time"))

    def _reason(self, ids: Iterable[str]) -> str:
        return next(w.reason for w in reversed(self._wishes.writes) if not {*ids}.isdisjoint(w.ids))

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
            and not self._on_hold("stop", w.instance_id)
        ]
        if worker is None and self._undelete(demand):
            return
        homes = self._view.homes_of(key)
        home = homes[0] if homes else None
        if worker is None:
            self._find_worker(demand, home)
        else:
            self._advance(demand, worker, home)

    def _advance(self, demand: Demand, worker: Worker, home: Volume | None) -> None:
        dead_end = _dead_end(worker, home)
        if dead_end:
            self._singles.append(Refuse(demand.owner.key, dead_end))
            return
        if worker.state is InstanceState.STOPPED:
            self._try(
                "start", worker.instance_id, demand, lambda: self._starts.append(worker.instance_id)
            )
        settled = worker.state in (InstanceState.RUNNING, InstanceState.STOPPED)
        if home is None:
            self._adopt_blank_home(demand, worker)
        elif (
            settled
            and worker.home_volume_id is None
            and home.state is VolumeState.AVAILABLE
            and self._is_claimed(demand, worker)
        ):
            action = Attach(home.volume_id, worker.instance_id, "its owner's home")
            self._try("attach", home.volume_id, demand, lambda: self._singles.append(action))

    def _is_claimed(self, demand: Demand, worker: Worker) -> bool:
        """Whether EC2 has said that the worker is the owner's: no home goes to it on a maybe."""
        known = self._answered.workers.get(worker.instance_id)
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
            return  # else a machine on its way out still holds it; the next listing tells
        if home is None and self._may_be_overlooked(demand):
            return
        spare = self._spare_for(demand, home)
        if spare is None:
            self._needs[demand.profile, home.zone if home else None].append(demand)
            return
        if home:
            self._claim(demand, spare, None, "the owner's worker is gone, the home is there")
        else:
            self._claim(demand, spare, spare.home_volume_id, "first login")

    def _may_be_overlooked(self, demand: Demand) -> bool:
        """Whether a home that was there before is missed in one listing only."""
        missed_at = self._memory.homeless.get(demand.owner.key)
        return demand.is_known and (
            missed_at is None or self._view.full_at < missed_at + SECOND_LOOK_SECONDS
        )

    def _claim(self, demand: Demand, worker: Worker, volume_id: str | None, reason: str) -> None:
        self.taken.add(worker.instance_id)
        claim = Claim(demand.owner, worker.instance_id, volume_id, reason)
        self._try("claim", worker.instance_id, demand, lambda: self._singles.append(claim))

    def _spare_for(self, demand: Demand, home: Volume | None) -> Worker | None:
        for spare in self._spares:
            if spare.instance_id in self.taken or spare.profile != demand.profile:
                continue
            if self._is_somebodys(spare):
                continue
            if home is None and self._has_blank_home(spare):
                return spare
            if home and spare.zone == home.zone and self._has_no_home(spare):
                return spare
        return None

    def _is_somebodys(self, spare: Worker) -> bool:
        """Whether it was found to have an owner that the listing does not show yet."""
        hold = self._memory.holds.get(("claim", spare.instance_id))
        return hold is not None and isinstance(hold.error, WrongState) and hold.until > self._now

    def _has_blank_home(self, spare: Worker) -> bool:
        """A volume that the listing does not know yet counts: it came with the launch."""
        if spare.home_volume_id is None:
            return False
        home = self._view.volumes.get(spare.home_volume_id)
        return home is None or (home.owner is None and not home.deleted and not home.generation)

    @staticmethod
    def _has_no_home(spare: Worker) -> bool:
        # EC2 shows a launch's volumes only after a while: no device of a pending worker says
        # nothing yet.
        return spare.home_volume_id is None and bool(spare.volumes)

    def _undelete(self, demand: Demand) -> bool:
        """A deletion that the hub did not finish (the row is still there) is taken back."""
        if not demand.incarnation or self._view.homes_of(demand.owner.key):
            return False
        ids = tuple(
            r.instance_id if isinstance(r, Worker) else r.volume_id
            for r in self._view.given_up_by(demand.owner.key)
            if r.deleted and r.deleted.incarnation == demand.incarnation
        )
        homes = [i for i in ids if i in self._view.volumes]
        if not homes:
            return False
        action = Tag(ids, ((TAG_DELETED, None),), "its user was not deleted after all")
        self._try("tag", homes[0], demand, lambda: self._singles.append(action))
        return True

    # ---- launches

    def launch(self, under_way: list[Launching]) -> None:
        """Launch what the needs exceed of what is on its way already."""
        # Who is bound to a zone first: the others can use what is anywhere.
        needs = sorted(self._needs.items(), key=lambda need: need[0][1] is None)
        for (slug, zone), demands in needs:
            profile = self._policy.profiles.get(slug)
            if profile is None:
                error = LaunchFailed(
                    "This hub has no machines of the kind that your server needs.",
                    why=f"there is no profile {slug!r}",
                    next_step="Tell the people who run this hub.",
                )
                self._singles += [Refuse(d.owner.key, error) for d in demands]
                continue
            supply = self._supply(slug, zone, under_way, len(demands))
            missing = demands[supply:]
            if missing:
                self._launch_for(profile, zone, missing)

    def _supply(self, slug: str, zone: str | None, under_way: list[Launching], wanted: int) -> int:
        """Workers of a kind that are launched, or about to be, and not yet fit to be claimed.

        Whether one brings a home is not known before its volumes are listed: each counts for one
        of those who wait, whatever kind they wait for.
        """
        sent = sum(
            launch.count
            for launch in under_way
            if launch.profile == slug
            and (launch.with_home if zone is None else launch.zone == zone and not launch.with_home)
        )
        unclear = [
            spare
            for spare in self._spares
            if spare.instance_id not in self.taken
            and spare.profile == slug
            and spare.state is not InstanceState.STOPPED
            and not spare.volumes  # not listed yet: every instance has a root volume
            and (zone is None or spare.zone == zone)
        ]
        counted = unclear[: max(0, wanted - sent)]
        self.taken.update(w.instance_id for w in counted)
        return sent + len(counted)

    def _launch_for(self, profile: Profile, zone: str | None, demands: list[Demand]) -> None:
        offering = choose(profile, self._policy.subnets, self._memory.failed, self._now, zone)
        if not isinstance(offering, Offering):
            self._singles += [Refuse(d.owner.key, offering) for d in demands]
            return
        home_gib = 0 if zone else profile.home_gib
        for owners in _batches([[d.owner.key for d in demands]], MAX_LAUNCH):
            hold = self._memory.holds.get(("launch", profile.slug))
            if hold and hold.until > self._now:
                self._refuse_if_final(owners, hold.error)
                continue
            reason = f"{len(owners)} wait for a worker"
            self._singles.append(
                Launch(offering, profile.slug, home_gib, len(owners), owners, reason)
            )

    # ---- holds

    def _on_hold(self, kind: str, resource_id: str) -> bool:
        hold = self._memory.holds.get((kind, resource_id))
        return hold is not None and hold.until > self._now

    def _try(self, kind: str, resource_id: str, demand: Demand, act: Callable[[], object]) -> None:
        """Act, unless the same failed a moment ago; what waiting cannot mend, the user is told."""
        hold = self._memory.holds.get((kind, resource_id))
        if hold is None or hold.until <= self._now:
            act()
        else:
            self._refuse_if_final((demand.owner.key,), hold.error)

    def _refuse_if_final(self, owner_keys: Iterable[str], error: EC2SpawnerError) -> None:
        if isinstance(error, FINAL_ERRORS):
            self._singles += [Refuse(key, error) for key in owner_keys]


FINAL_ERRORS = (CapacityError, QuotaError, Denied, Rejected, CredentialsError)
"""Failures that a user is told at once: more of the same waiting will not mend them."""


def _dead_end(worker: Worker, home: Volume | None) -> LaunchFailed | None:
    """Why an owner's worker can never be the owner's again without an operator's help."""
    if not worker.volumes or worker.home_volume_id:
        return None  # not known yet, or it has one
    if home is None:
        why = f"{worker.instance_id} has no home volume, and none bears its owner's tag"
    elif home.zone != worker.zone:
        why = (
            f"{worker.instance_id} is in zone {worker.zone}, "
            f"{home.volume_id} in {home.zone}: terminate the worker, and the next login follows "
            "the home"
        )
    else:
        return None
    return LaunchFailed(
        "Your machine and your files do not come together.",
        why=why,
        next_step="Nothing was changed. Tell the people who run this hub.",
    )


def _readiness(worker: Worker) -> tuple[int, str]:
    order = (InstanceState.RUNNING, InstanceState.PENDING, InstanceState.STOPPED)
    return order.index(worker.state), worker.instance_id


def _batches(groups: Iterable[list[str]], size: int = MAX_IDS) -> list[tuple[str, ...]]:
    return [tuple(group[i : i + size]) for group in groups for i in range(0, len(group), size)]
