"""The plan's supply of workers for nobody: launches for those who wait, and the pool of spares.

Pure. Owns how many workers are launched, of which kind and where, and which spares run or rest.
Must not decide who gets one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ec2spawner.actions import Launch, Refuse, Start, Stop
from ec2spawner.draft import Draft, batches, by_kind, is_spare
from ec2spawner.errors import LaunchFailed
from ec2spawner.listing import Launching, Listing
from ec2spawner.model import InstanceState, Worker
from ec2spawner.placement import Offering, Profile, choose
from ec2spawner.wishes import Crowd, Demand, Policy

Owners = tuple[str, ...]

MAX_LAUNCH = 100
"""Workers in one RunInstances: AWS advises 5 calls of 100 over 1 of 500 (API reference, 2026)."""


class Supply:
    """The needs of one planning run, and what is on its way already (``under_way``)."""

    def __init__(self, draft: Draft, under_way: Sequence[Launching]) -> None:
        self._draft = draft
        self._under_way = under_way
        self._needs: dict[tuple[str, str | None], list[Demand]] = defaultdict(list)

    def need(self, demand: Demand, zone: str | None) -> None:
        """Somebody waits for a worker; with a home of their own, in its ``zone``."""
        self._needs[demand.profile, zone].append(demand)

    # ---- for those who wait

    def launch(self) -> None:
        """Launch what the needs exceed of what is on its way already."""
        # Who is bound to a zone first: the others can use what is anywhere.
        needs = sorted(self._needs.items(), key=lambda need: need[0][1] is None)
        for (slug, zone), demands in needs:
            profile = self._draft.policy.profiles.get(slug)
            if profile is None:
                error = LaunchFailed(
                    "This hub has no machines of the kind that your server needs.",
                    why=f"there is no profile {slug!r}",
                    next_step="Tell the people who run this hub.",
                )
                self._draft.actions += [Refuse(d.owner.key, error) for d in demands]
                continue
            missing = demands[self._on_its_way(slug, zone, len(demands)) :]
            if missing:
                self._launch_for(profile, zone, missing)

    def _on_its_way(self, slug: str, zone: str | None, wanted: int) -> int:
        """Workers of a kind that are launched, or about to be, and not yet fit to be claimed.

        Whether one brings a home is not known before its volumes are listed: each counts for one
        of those who wait, whatever kind they wait for.
        """
        sent = sum(
            launch.count
            for launch in self._under_way
            if launch.profile == slug
            and (launch.with_home if zone is None else launch.zone == zone and not launch.with_home)
        )
        unclear = [
            spare
            for spare in self._draft.free_spares(slug)
            if spare.state is not InstanceState.STOPPED
            and (_may_become_bare(spare) if zone else not spare.volumes)
            and (zone is None or spare.zone == zone)
        ]
        counted = unclear[: max(0, wanted - sent)]
        self._draft.taken.update(w.instance_id for w in counted)
        return sent + len(counted)

    def _launch_for(self, profile: Profile, zone: str | None, demands: list[Demand]) -> None:
        draft = self._draft
        offering = choose(profile, draft.policy.subnets, draft.memory.failed, draft.now, zone)
        if not isinstance(offering, Offering):
            draft.actions += [Refuse(d.owner.key, offering) for d in demands]
            return
        home_gib = 0 if zone else profile.home_gib
        for owners in batches([[d.owner.key for d in demands]], MAX_LAUNCH):
            hold = draft.memory.holds.get(("launch", profile.slug))
            if hold and hold.until > draft.now:
                draft.refuse_if_final(owners, hold.error)
                continue
            reason = f"{len(owners)} wait for a worker"
            draft.actions.append(
                self._launching(offering, profile.slug, home_gib, len(owners), owners, reason)
            )

    def _launching(
        self, offering: Offering, slug: str, home_gib: int, count: int, owners: Owners, why: str
    ) -> Launch:
        image_id = self._draft.policy.image_id
        return Launch(offering, slug, home_gib, count, owners, why, image_id)

    # ---- the pool

    def keep_pool(self) -> None:
        """Have as many spares run and rest as the operator chose; launch none while users wait."""
        waits_for = {slug for slug, _ in self._needs}
        for profile in self._draft.policy.profiles.values():
            pool = self._pool(profile)
            self._draft.taken.update(pool.kept())
            self._draft.taken.update(self._spared(profile, pool))
            if profile.slug not in waits_for:
                self._balance(pool)
                self._top_up(profile, pool.missing())

    def _spared(self, profile: Profile, pool: _Pool) -> list[str]:
        """Spares of an older image that stay until those that take their places are prepared."""
        older = [
            w.instance_id
            for w in self._draft.free_spares(profile.slug)
            if _suits_a_newcomer(w) and self._draft.policy.is_outdated(w)
        ]
        ready = sum(w.is_prepared for w in (*pool.up, *pool.resting))
        return older[: max(0, pool.to_run + pool.to_rest - ready)]

    def _pool(self, profile: Profile) -> _Pool:
        ahead = self._ahead() if self._is_usual(profile) else 0
        spares = [
            w
            for w in self._draft.free_spares(profile.slug)
            if _suits_a_newcomer(w) and not self._draft.policy.is_outdated(w)
        ]
        sent = (n for n in self._under_way if n.profile == profile.slug and n.with_home)
        return _Pool(
            to_run=profile.pool_running + ahead,
            to_rest=max(0, profile.pool_stopped - ahead),  # who rests is called up first
            up=[w for w in spares if w.state is not InstanceState.STOPPED],
            resting=[w for w in spares if w.state is InstanceState.STOPPED],
            stopping=self._draft.stopping_spares(profile.slug),
            coming=sum(launching.count for launching in sent),
        )

    def _is_usual(self, profile: Profile) -> bool:
        return profile.slug == next(iter(self._draft.policy.profiles))

    def _ahead(self) -> int:
        """How many more spares are to run, for classes that are about to begin."""
        wishes, view = self._draft.wishes, self._draft.view
        newcomers = [
            key
            for key in wishes.expected
            if key not in wishes.wanted and not view.workers_of(key) and not view.homes_of(key)
        ]
        return len(newcomers) + sum(map(self._still_missing, wishes.crowds))

    def _still_missing(self, crowd: Crowd) -> int:
        came = sum(demand.since >= crowd.since for demand in self._draft.wishes.wanted.values())
        return max(0, crowd.count - came)

    def _balance(self, pool: _Pool) -> None:
        stopped = [i for i in pool.to_stop() if not self._draft.on_hold("stop", i)]
        self._draft.actions += [Stop(ids, "a spare that rests") for ids in batches([stopped])]
        workers = self._draft.view.workers
        called = [
            i
            for i in pool.to_start()
            if self._draft.has_room_to_start(workers[i]) and not self._draft.on_hold("start", i)
        ]
        self._draft.actions += [
            Start(ids, "a spare that is to run", is_ahead=True)
            for ids in batches(by_kind(self._draft.view, called))
        ]

    def _top_up(self, profile: Profile, missing: int) -> None:
        draft = self._draft
        offering = choose(profile, draft.policy.subnets, draft.memory.failed, draft.now)
        if missing <= 0 or not isinstance(offering, Offering):
            return
        if draft.on_hold("launch", profile.slug) or draft.is_image_on_hold():
            return
        for start in range(0, missing, MAX_LAUNCH):
            count = min(MAX_LAUNCH, missing - start)
            reason = f"{count} spares are missing"
            draft.actions.append(
                self._launching(offering, profile.slug, profile.home_gib, count, (), reason)
            )


@dataclass(frozen=True)
class _Pool:
    """One profile's spares, the readiest first, and how many are to run and to rest."""

    to_run: int
    to_rest: int
    up: list[Worker]
    resting: list[Worker]
    stopping: list[str]
    coming: int
    """Launched, and not listed yet."""

    def kept(self) -> list[str]:
        """Ids that are of use; the others are for the reaper."""
        first = [*self.up[: self.to_run], *self.resting[: self.to_rest]]
        # One that is up too many may be on its way to rest, and the other way round.
        others = [*self.up[self.to_run :], *self.resting[self.to_rest :]]
        places = max(0, self.to_run + self.to_rest - len(first) - len(self.stopping))
        return [w.instance_id for w in [*first, *others[:places]]]

    def missing(self) -> int:
        """How many are to be launched; negative where there are too many."""
        there = len(self.up) + len(self.resting) + len(self.stopping) + self.coming
        return self.to_run + self.to_rest - there

    def to_stop(self) -> list[str]:
        """Prepared ones of which too many are up, as far as there are places to rest."""
        ready = [w for w in self.up if w.is_prepared and w.state is InstanceState.RUNNING]
        places = max(0, self.to_rest - len(self.resting) - len(self.stopping))
        return [w.instance_id for w in ready[self.to_run :][:places]]

    def to_start(self) -> list[str]:
        """Resting ones that are called up."""
        missing = max(0, self.to_run - len(self.up) - self.coming)
        return [w.instance_id for w in self.resting[self.to_rest :][:missing]]


def _may_become_bare(spare: Worker) -> bool:
    """Whether it will turn out to have no home; while it is pending, one may be listed yet.

    What is listed without any volume is not listed in full: every instance has a root volume.
    """
    is_new = spare.state is InstanceState.PENDING and spare.home_volume_id is None
    return is_new or not spare.volumes


def _suits_a_newcomer(spare: Worker) -> bool:
    """Whether it has a blank home, or may have: its volumes are not listed yet."""
    return spare.home_volume_id is not None or not spare.volumes


def unprepared(
    view: Listing, policy: Policy, looked_at: Collection[str], *, is_class_near: bool
) -> list[Worker]:
    """Running spares of a pool that were never looked at."""
    return [
        w
        for w in view.workers.values()
        if w.state is InstanceState.RUNNING and w.private_ip and is_spare(w)
        if not w.is_prepared and w.instance_id not in looked_at
        if _has_pool(policy.profiles.get(w.profile), is_class_near)
    ]


def _has_pool(profile: Profile | None, is_class_near: bool) -> bool:
    return profile is not None and bool(
        profile.pool_running or profile.pool_stopped or is_class_near
    )
