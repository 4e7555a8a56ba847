"""The reconciler: the only one who changes the cluster, on behalf of all spawners.

Owns the loop that plans and executes until the cluster is as its users want it, and what they are
told meanwhile. Must not know JupyterHub, boto3 or SSH's details. Everything here runs on one event
loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ec2spawner import marks, metrics, pacing, planning, reaping, sights
from ec2spawner.actions import Refuse
from ec2spawner.census import Census
from ec2spawner.demands import Demands, Ticket
from ec2spawner.errors import CloudError
from ec2spawner.execution import Cloud, Executor, LaunchSettings
from ec2spawner.inventory import Inventory, wait_for_event
from ec2spawner.journal import Journal, Promise
from ec2spawner.listing import Listing, current_worker, overlay
from ec2spawner.model import TAG_DELETED, DeletedMark, InstanceState, Owner, Worker
from ec2spawner.promises import Promises
from ec2spawner.sights import Sight
from ec2spawner.statuses import keep_asking
from ec2spawner.steady import SteadyClock
from ec2spawner.tasks import Tasks
from ec2spawner.tenancy import SoleHub, Standing, Tenancy, is_final
from ec2spawner.throttle import Turn
from ec2spawner.vitals import Vitals
from ec2spawner.waiting import Waits
from ec2spawner.wishes import Crowd, Demand, Policy, Wishes

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.05
"""How long a tick waits for more of the same: a class's clicks fall into one."""
APART = 4.0
"""And so many times as long as the last tick took: the more there is to look at, the more falls
into one, and the hub's other work keeps four fifths of its time."""
DELETE_WAIT_SECONDS = 5.0
LINE_SECONDS = 2.0  # who waits longer than this for EC2's limits reads it


class Fleet:
    """Keeps one cluster as it is wished.

    ``clock`` gives epoch seconds that do not jump; ``turn`` tells how many calls of an EC2 action
    are free now, if a share of its bucket is left.
    """

    def __init__(
        self,
        cloud: Cloud,
        policy: Policy,
        settings: LaunchSettings,
        journal: Journal,
        *,
        clock: Callable[[], float] | None = None,
        turn: Callable[[str, float], Turn] = pacing.no_limit,
        lease: Tenancy | None = None,
    ) -> None:
        self._lease = lease or SoleHub()
        self._lease.on_change = self._wake_up
        self._cloud = cloud
        self.policy = policy
        self.journal = journal
        self._clock = clock = clock or SteadyClock()
        self.vitals = Vitals(clock)
        self._turn = turn
        self._due_at: float | None = None  # EC2's limits allow then what the last tick left out
        self.inventory = Inventory(
            cloud,
            clock=clock,
            on_change=self._on_listing,
            watched=self._watched_ids,
            has_spot=policy.has_spot,
        )
        self._executor = self._make_executor(settings)
        self.promises = self._make_promises()
        self._demands = Demands()
        self._watched: set[str] = set()
        self._unwanted: dict[str, tuple[float, float]] = {}
        self._homeless: dict[str, float] = {}
        self._census = Census()
        self._view: Listing | None = None
        self._accepted = Listing()  # the view without what is promised
        self._wake = asyncio.Event()
        self._waits = Waits()
        self._tick_seconds = 0.0
        self._tasks = Tasks("fleet")

    def _make_executor(self, settings: LaunchSettings) -> Executor:
        return Executor(
            self._cloud,
            settings,
            clock=self._clock,
            wishes=self._wishes,
            listing=self._raw,
            view=self.view,
            look_again=lambda: self.inventory.hurry(full=True),
            on_change=self._on_call,
        )

    def _make_promises(self) -> Promises:
        return Promises(
            self.journal,
            clock=self._clock,
            calls=self._executor.calls,
            listing=self._raw,
            view=self.view,
            on_change=self._wake_up,
            outdate=self._outdate,
        )

    # ---- life

    def start(self) -> None:
        """Begin to list and to reconcile; needs a running event loop."""
        self._tasks.spawn(self._lease.run(), "lease")
        self._tasks.spawn(self.inventory.run(), "inventory")
        self._tasks.spawn(self._run(), "fleet")
        statuses = keep_asking(self._cloud, self.vitals, self._has_lease, self._wake_up)
        self._tasks.spawn(statuses, "status checks")

    async def close(self) -> None:
        """End all tasks and give the lease back; nothing in the cluster changes by it."""
        await self._tasks.end()
        await self.journal.close()

    def accompany(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run something that speaks to the fleet for as long as the fleet runs."""
        self._tasks.spawn(work, name)

    # ---- what is wished

    def want(self, demand: Demand) -> Ticket:
        """An owner wants a running worker from now on. Takes a deletion by the same row back."""
        ticket = self._demands.want(demand)
        self.promises.take_back_deletion(demand.owner.key, demand.incarnation)
        ticket.refusal = self._no_tenancy()
        self._wake_up()
        return ticket

    def release(self, owner: Owner) -> None:
        """The owner's worker is not wanted any more and is to stop at once."""
        self._demands.released.add(owner.key)
        self.forget(owner)

    def forget(self, owner: Owner) -> None:
        """Nobody waits for the owner's worker any more; it may come back before the grace ends."""
        self._demands.forget(owner)
        self._wake_up()

    def note_served(self, owner: Owner, worker: Worker) -> None:
        """The owner's server answers: nobody waits for the worker, which is to run on."""
        self._demands.serve(owner, worker)

    def note_mounted(self, worker: Worker) -> None:
        """The worker came up and its home was mounted: its generation counts from now on."""
        self._executor.failures.note_fit(worker)
        if worker.home_volume_id:
            self._demands.mounted.add(worker.home_volume_id)
            self._wake_up()

    def prepare_ahead(self, owners: Collection[Owner], crowds: tuple[Crowd, ...]) -> None:
        """These owners' workers, and spares for these crowds, are to run for a class.

        Replaces what was said before; nothing is said again each minute.
        """
        if self._demands.expect(owners, crowds):
            self._wake_up()

    def note_prepared(self, spare: Worker) -> None:
        """The spare was looked at, and is as it should be."""
        self._executor.failures.note_fit(spare)
        self._demands.prepared.add(spare.instance_id)
        self._wake_up()

    def note_unfit(self, spare: Worker) -> None:
        """Nobody is to be given this spare; another takes its place, unless none comes up."""
        log.error("A spare does not come up, and is ended: %s", spare.instance_id)
        self._executor.failures.note_unfit(spare)
        self._demands.unfit.add(spare.instance_id)
        self._wake_up()

    def use_image(self, image_id: str) -> None:
        """New workers have this image from now on; "": their launch template's."""
        if image_id != self.policy.image_id:
            log.info("New workers have the image %s", image_id or "of their launch template")
            self.policy = replace(self.policy, image_id=image_id)
            self._wake_up()

    def unprepared_spares(self) -> list[Worker]:
        """Running spares of a pool that were never looked at; none of another hub's."""
        if not self._has_lease():
            return []
        return self._demands.unprepared(self.view(), self.policy)

    # ---- how well workers are

    def note_answer(self, worker: Worker) -> None:
        """The worker gave a sign of life."""
        self.vitals.note_answer(worker.instance_id)

    def note_silence(self, worker: Worker) -> None:
        """The worker was looked at, and does not answer; said again as long as it does not."""
        listed = self._raw().workers.get(worker.instance_id)
        if listed:
            self.vitals.note_silence(listed)

    def is_silent(self, worker: Worker) -> bool:
        """Whether the worker did not answer when it was last looked at."""
        return self.vitals.is_silent(worker.instance_id)

    def is_cut_off(self, worker: Worker) -> bool:
        """Whether a server is to be given up since its machine, which runs, is out of reach.

        Never on a listing that is not fresh: then the fault may be the hub's own network.
        """
        return self._is_fresh() and self.vitals.is_cut_off(worker.instance_id)

    def is_retired(self, worker: Worker) -> bool:
        """Whether its owner gets another worker in its place."""
        known = self.view().workers.get(worker.instance_id)
        return known is not None and known.is_retired

    # ---- what is wished, for good

    async def delete(self, owner: Owner, incarnation: str) -> None:
        """Give up the owner's worker and home: marked now, removed after the grace time.

        Returns when the mark stands, or after 5 s with the promise on disk. Raises ``OSError``
        when not even that could be written.
        """
        promise = self.give_up(owner, incarnation)
        time_now = asyncio.get_running_loop().time
        deadline = time_now() + DELETE_WAIT_SECONDS
        while promise and self.promises.is_open(promise) and time_now() < deadline:
            left = deadline - time_now()
            await self._waits.until(lambda: not self.promises.is_open(promise), left)

    def give_up(self, owner: Owner, incarnation: str) -> Promise | None:
        """The owner's worker and home are to be marked as deleted: the promise of it, if any.

        Raises ``OSError`` when it could not be written down.
        """
        self.release(owner)
        mark = DeletedMark(self._clock(), incarnation)
        tags = ((TAG_DELETED, mark.to_tag()),)
        return self.promises.make(owner, tags, f"{owner.label} was deleted")

    def rename(self, old: Owner, new: Owner) -> None:
        """The owner has another name from now on, and keeps worker and home."""
        self.promises.propose_rename(None, old, new)
        self.follow_rename(old, new)

    def follow_rename(self, old: Owner, new: Owner) -> None:
        """What is wanted for the owner is wanted under the new name."""
        self._demands.rename(old, new)
        self._wake_up()

    def _wishes(self) -> Wishes:
        return self._demands.wishes(self.promises.writes(), self.promises.unsettled())

    # ---- what is known

    def _raw(self) -> Listing:
        return self.inventory.listing

    def view(self) -> Listing:
        """The cluster as it will be once our calls show."""
        if self._view is None:
            self._accepted = overlay(self._raw(), self._executor.calls.expectations())
            writes = Wishes(writes=self.promises.writes())
            self._view = marks.with_writes(self._accepted, writes)
        return self._view

    def _outdate(self) -> None:
        self._view = None

    def _on_listing(self) -> None:
        """A look at the cluster is over: what was promised of it counts before anybody sees it."""
        self._outdate()
        self._executor.failures.look(self._raw())
        self.vitals.look(self._raw())
        self.promises.keep()
        self._census.take(self.view(), self._executor.failures.memory, self._clock())
        self._wake_up()

    def _on_call(self) -> None:
        """A call of ours was sent or answered: other ids are to be watched."""
        self._outdate()
        self.inventory.nudge()

    @property
    def problem(self) -> CloudError | None:
        """Why the cluster cannot be served or listed at the moment; None while it can."""
        return self._no_tenancy() or self.inventory.problem or self._lease.problem

    @property
    def is_anothers(self) -> bool:
        """Whether another hub serves the cluster: whatever runs there is that hub's."""
        return self._lease.standing is Standing.ANOTHERS

    def _has_lease(self) -> bool:
        return self._lease.standing is Standing.HELD

    def _no_tenancy(self) -> CloudError | None:
        """Why this hub cannot serve anybody, where waiting will not mend it."""
        problem = self._lease.problem
        return problem if is_final(problem) else None

    def sight(self, owner: Owner) -> Sight:
        """What is to be seen of an owner's machine."""
        view = self.view()
        if self.inventory.problem:
            return Sight("aws-away")
        if not view.is_known:
            return Sight("unknown")
        in_line = self._executor.line.place(owner.key)
        if in_line and in_line[1] - self._clock() > LINE_SECONDS:
            place, until = in_line
            return Sight("in-line", current_worker(view, owner.key), place, until - self._clock())
        return sights.sight_of(view, owner.key, self.vitals.stopping, self._clock())

    def is_gone(self, owner: Owner, instance_id: str) -> bool:
        """Whether a fresh listing shows that this instance cannot be serving its owner."""
        raw = self._raw()
        if not self._is_fresh():
            return False
        worker = self.view().workers.get(instance_id)
        if worker is None:  # a listing can lack what is there: two must
            return self.vitals.is_lacked(instance_id, raw.full_at)
        self.vitals.note_listed(instance_id)
        return worker.state not in (InstanceState.PENDING, InstanceState.RUNNING)

    def _is_fresh(self) -> bool:
        is_young = self.inventory.age() < reaping.FRESH_SECONDS
        return self._raw().is_known and self.inventory.problem is None and is_young

    async def provided(self, ticket: Ticket) -> Worker:
        """The owner's worker, claimed, with its home attached, booting or running.

        Waits as long as it takes; the caller has the deadline. Raises why it cannot be.
        """

        def ready() -> Worker | None:
            # Once it was ours, a lapse is no reason: nothing is written for who is ready already.
            is_ours = self._lease.standing in (Standing.HELD, Standing.LAPSED)
            return self._ready_worker(ticket) if is_ours else None

        while True:
            if ticket.refusal:
                raise ticket.refusal
            worker = ready()
            if worker:
                return worker
            await self._waits.until(lambda: bool(ready() or ticket.refusal))

    async def lost(self, ticket: Ticket, worker: Worker) -> None:
        """Return once the worker is no longer the one to wait for."""

        def is_lost() -> bool:
            now = self._ready_worker(ticket)
            return now is None or now.instance_id != worker.instance_id or bool(ticket.refusal)

        while not is_lost():
            await self._waits.until(is_lost)

    def watch(self, worker: Worker, on: bool) -> None:
        """Have a worker listed every second: it should answer, and does not."""
        if on:
            self._watched.add(worker.instance_id)
            self.inventory.hurry()
        else:
            self._watched.discard(worker.instance_id)

    def _ready_worker(self, ticket: Ticket) -> Worker | None:
        view = self.view()
        worker = sights.coming_worker(view, ticket.key)
        demand = self._demands.wanted.get(ticket.key)
        if worker is None or (demand and not planning.fits(worker, demand, self.policy)):
            return None
        if self._executor.calls.is_providing(worker):
            return None
        ticket.refusal = ticket.refusal or sights.wrong_home(view, ticket.key, worker)
        return worker if sights.has_its_home(view, ticket.key, worker) else None

    def _watched_ids(self) -> Collection[str]:
        """Ids to be listed every second beside what is in transition."""
        waiting = self._demands.waiting_keys()
        awaited = sights.awaited_ids(self._raw(), waiting, self._clock())
        return self._watched | self._executor.calls.unseen_ids() | awaited

    # ---- the loop

    def _wake_up(self) -> None:
        self._outdate()
        self._wake.set()
        self.inventory.nudge()

    async def next_change(self, timeout_seconds: float | None = None) -> None:
        """Wait for the next moment at which something may be different."""
        await self._waits.until(lambda: True, timeout_seconds)

    async def _run(self) -> None:
        while True:
            await self._wait_for_work()
            try:
                begun = asyncio.get_running_loop().time()
                self.tick()
                self._tick_seconds = asyncio.get_running_loop().time() - begun
            except Exception:
                log.exception("A tick of the fleet failed")
                await asyncio.sleep(1)

    async def _wait_for_work(self) -> None:
        moments = (self._executor.failures.next_retry_at(), self._due_at)
        next_at = min((at for at in moments if at and self._has_lease()), default=None)
        pause = None if next_at is None else max(0.05, next_at - self._clock())
        if not await wait_for_event(self._wake, pause):
            return
        await asyncio.sleep(max(GATHER_SECONDS, APART * self._tick_seconds))
        self._wake.clear()

    def tick(self) -> None:
        """Plan once, and begin to carry out what is planned; nothing without the lease."""
        if not self._has_lease():
            self._stand_by()
            return
        self.promises.keep()
        self._outdate()
        raw, expectations, now = self._raw(), self._executor.calls.expectations(), self._clock()
        wishes = self._wishes()
        view = self.view()
        self._unwanted = reaping.sightings(view, wishes, self._unwanted, now)
        memory = self._executor.failures.memory(MappingProxyType(self._unwanted))
        memory = replace(
            memory,
            homeless=self._look_for_homeless(view, wishes),
            silent=self.vitals.silent(),
            impaired=self.vitals.impaired,
            stopping=self.vitals.stopping,
        )
        planned = planning.plan(raw, expectations, wishes, self.policy, memory, now, self._accepted)
        actions, pause = pacing.due(planned, self._turn)
        self._due_at = None if pause is None else now + pause
        for action in actions:
            if isinstance(action, Refuse):
                self._refuse(action)
            else:
                self._tasks.spawn(self._carry_out(action), type(action).__name__)
        self._forget(view)
        self._waits.look()

    def _stand_by(self) -> None:
        """Tell those who wait why they do, if waiting is of no use."""
        self._demands.refuse_all(self._no_tenancy())
        if self.is_anothers:
            self._demands.released.clear()  # whose machine it was to be is for the other hub to say
        self._waits.look()

    def _look_for_homeless(self, view: Listing, wishes: Wishes) -> Mapping[str, float]:
        self._homeless = planning.homeless(view, wishes, self._homeless)
        second_look = planning.SECOND_LOOK_SECONDS
        is_open = any(view.full_at < missed + second_look for missed in self._homeless.values())
        if is_open or self._waits_for_a_promise():
            asyncio.get_running_loop().call_later(second_look, self._look_fully)
        return MappingProxyType(dict(self._homeless))

    def _waits_for_a_promise(self) -> bool:
        """Whether somebody gets nothing until it is known what a promise means."""
        return not self._demands.wanted.keys().isdisjoint(self.promises.unsettled())

    def _look_fully(self) -> None:
        if self._homeless or self._waits_for_a_promise():
            self.inventory.hurry(full=True)

    async def _carry_out(self, action: Any) -> None:
        try:
            await self._executor.execute(action)
        finally:
            self._wake_up()
        await self._executor.quotas.tell()

    def _refuse(self, action: Refuse) -> None:
        if self._demands.refuse(action.owner_key, action.error):
            metrics.ACTIONS.labels("Refuse", action.error.code).inc()

    def _forget(self, view: Listing) -> None:
        """Let go of what has come about."""
        if not view.is_known:
            return
        self._demands.let_go(view)
        self.journal.forget_pins({i for i, w in view.workers.items() if not w.is_alive})
