"""The reconciler: the only one who changes the cluster, on behalf of all spawners.

Owns the wishes (who wants a worker, whose is to stop, what tags must come to stand) and the loop
that plans and executes until the cluster is as wished. Must not know JupyterHub, boto3 or SSH's
details. Everything here runs on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ec2spawner import census, metrics, moving, pacing, planning, reaping, replacing
from ec2spawner.actions import Refuse
from ec2spawner.draft import is_spare
from ec2spawner.errors import CloudError, EC2SpawnerError, LaunchFailed
from ec2spawner.execution import Cloud, Executor, LaunchSettings
from ec2spawner.inventory import Inventory, wait_for_event
from ec2spawner.journal import Journal, Promise
from ec2spawner.listing import Listing, current_worker, overlay
from ec2spawner.model import (
    TAG_DELETED,
    DeletedMark,
    InstanceState,
    Owner,
    Volume,
    VolumeState,
    Worker,
)
from ec2spawner.placement import Market
from ec2spawner.promises import Promises
from ec2spawner.steady import SteadyClock
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
LINE_SECONDS = 2.0
"""Who waits longer than this for EC2's limits reads it."""
NEW_HOME_SECONDS = 120.0
"""How long after a launch its home is looked for by id, until a listing of volumes shows it."""
STATUS_SECONDS = 30.0
"""How often EC2 is asked for status checks, while somebody waits for a silent machine, or works on
one; otherwise it is not. EC2 checks every minute (EC2 user guide, "Status checks", 2026)."""


class Ticket:
    """One wait for a worker: whose it is (a rename may change that), and why it was refused."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.refusal: EC2SpawnerError | None = None

    @property
    def key(self) -> str:
        """The owner's key as of now."""
        return self.owner.key


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
        self._due_at: float | None = None
        """When EC2's limits allow what the last tick left out."""
        self.inventory = Inventory(
            cloud,
            clock=clock,
            on_change=self._on_listing,
            watched=self._watched_ids,
            has_spot=any(Market.SPOT in p.markets for p in policy.profiles.values()),
        )
        self._executor = Executor(
            cloud,
            settings,
            clock=clock,
            wishes=self._wishes,
            listing=self._raw,
            view=self.view,
            look_again=lambda: self.inventory.hurry(full=True),
            on_change=self._on_call,
        )
        self.promises = Promises(
            journal,
            clock=clock,
            calls=self._executor.calls,
            listing=self._raw,
            view=self.view,
            on_change=self._wake_up,
            outdate=self._outdate,
        )
        self._wanted: dict[str, Demand] = {}
        self._released: set[str] = set()
        self._mounted: set[str] = set()
        self._prepared: set[str] = set()
        self._unfit: set[str] = set()
        self._expected: frozenset[str] = frozenset()
        self._crowds: tuple[Crowd, ...] = ()
        self._tickets: dict[str, Ticket] = {}
        self._watched: set[str] = set()
        self._missing: dict[str, float] = {}
        """By id: the first full listing that lacked a worker which was asked for."""
        self._unwanted: dict[str, tuple[float, float]] = {}
        self._homeless: dict[str, float] = {}
        self._counted_at = 0.0
        self._view: Listing | None = None
        self._accepted = Listing()
        """The view without what is promised."""
        self._wake = asyncio.Event()
        self._waits = Waits()
        self._tick_seconds = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- life

    def start(self) -> None:
        """Begin to list and to reconcile; needs a running event loop."""
        self._spawn(self._lease.run(), "lease")
        self._spawn(self.inventory.run(), "inventory")
        self._spawn(self._run(), "fleet")
        self._spawn(self._ask_for_statuses(), "status checks")

    async def close(self) -> None:
        """End all tasks and give the lease back; nothing in the cluster changes by it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.journal.close()

    def accompany(self, work: Any, name: str) -> None:
        """Run something that speaks to the fleet for as long as the fleet runs."""
        self._spawn(work, name)

    def _spawn(self, work: Any, name: str) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            log.error("The fleet's task %s ended", task.get_name(), exc_info=task.exception())

    # ---- what is wished

    def want(self, demand: Demand) -> Ticket:
        """An owner wants a running worker from now on. Takes a deletion by the same row back."""
        key = demand.owner.key
        known = self._wanted.get(key)
        self._wanted[key] = replace(demand, since=known.since) if known else demand
        self._released.discard(key)
        self.promises.take_back_deletion(key, demand.incarnation)
        ticket = self._tickets.setdefault(key, Ticket(demand.owner))
        ticket.refusal = self._no_tenancy()
        self._wake_up()
        return ticket

    def release(self, owner: Owner) -> None:
        """The owner's worker is not wanted any more and is to stop at once."""
        self._released.add(owner.key)
        self.forget(owner)

    def forget(self, owner: Owner) -> None:
        """Nobody waits for the owner's worker any more; it may come back before the grace ends."""
        self._wanted.pop(owner.key, None)
        self._tickets.pop(owner.key, None)
        self._wake_up()

    def note_served(self, owner: Owner, worker: Worker) -> None:
        """The owner's server answers: nobody waits for the worker, which is to run on."""
        demand = self._wanted.get(owner.key)
        if demand:
            served = replace(demand, is_waiting=False, instance_id=worker.instance_id)
            self._wanted[owner.key] = served

    def note_mounted(self, worker: Worker) -> None:
        """The worker came up and its home was mounted: its generation counts from now on."""
        self._executor.failures.ended([worker.instance_id])
        if worker.home_volume_id:
            self._mounted.add(worker.home_volume_id)
            self._wake_up()

    def prepare_ahead(self, owners: Collection[Owner], crowds: tuple[Crowd, ...]) -> None:
        """These owners' workers, and spares for these crowds, are to run for a class.

        Replaces what was said before; nothing is said again each minute.
        """
        expected = frozenset(owner.key for owner in owners)
        if (expected, crowds) != (self._expected, self._crowds):
            self._expected, self._crowds = expected, crowds
            self._wake_up()

    def note_prepared(self, spare: Worker) -> None:
        """The spare was looked at, and is as it should be."""
        self._executor.failures.ended([spare.instance_id])
        self._prepared.add(spare.instance_id)
        self._wake_up()

    def note_unfit(self, spare: Worker) -> None:
        """Nobody is to be given this spare; another one is launched in its place."""
        log.error("A spare does not come up, and is replaced: %s", spare.instance_id)
        self._unfit.add(spare.instance_id)
        self._wake_up()

    def unprepared_spares(self) -> list[Worker]:
        """Running spares of a pool that were never looked at; none of another hub's."""
        if self._lease.standing is not Standing.HELD:
            return []
        return [
            w
            for w in self.view().workers.values()
            if w.state is InstanceState.RUNNING and w.private_ip and is_spare(w)
            if not w.is_prepared and w.instance_id not in self._prepared | self._unfit
            if self._has_pool(w.profile)
        ]

    def _has_pool(self, slug: str) -> bool:
        profile = self.policy.profiles.get(slug)
        return profile is not None and bool(
            profile.pool_running or profile.pool_stopped or self._expected or self._crowds
        )

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

    async def _ask_for_statuses(self) -> None:
        while True:
            await asyncio.sleep(STATUS_SECONDS)
            if not self.vitals.is_in_doubt or self._lease.standing is not Standing.HELD:
                self.vitals.impaired = frozenset()
                continue
            try:
                self.vitals.impaired = frozenset(await self._cloud.statuses())
            except CloudError as error:
                log.warning("Status checks cannot be listed: %s", error)
            except Exception:
                log.exception("The listing of status checks cannot be understood")
            self._wake_up()

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
        if old.key in self._released:
            self._released.add(new.key)
        demand = self._wanted.pop(old.key, None)
        if demand:
            self._wanted[new.key] = replace(demand, owner=new)
        ticket = self._tickets.pop(old.key, None)
        if ticket:
            ticket.owner = new
            self._tickets[new.key] = ticket
        self._wake_up()

    def _wishes(self) -> Wishes:
        unsettled = self.promises.unsettled()
        wanted = {
            key: replace(d, is_waiting=False) if key in unsettled else d
            for key, d in self._wanted.items()
        }
        return Wishes(
            wanted=MappingProxyType(wanted),
            released=frozenset(self._released),
            writes=self.promises.writes(),
            mounted=frozenset(self._mounted),
            prepared=frozenset(self._prepared),
            unfit=frozenset(self._unfit),
            expected=self._expected,
            crowds=self._crowds,
        )

    # ---- what is known

    def _raw(self) -> Listing:
        return self.inventory.listing

    def view(self) -> Listing:
        """The cluster as it will be once our calls show."""
        if self._view is None:
            self._accepted = overlay(self._raw(), self._executor.calls.expectations())
            writes = Wishes(writes=self.promises.writes())
            self._view = planning.with_writes(self._accepted, writes)
        return self._view

    def _outdate(self) -> None:
        self._view = None

    def _on_listing(self) -> None:
        """A look at the cluster is over: what was promised of it counts before anybody sees it."""
        self._outdate()
        self._executor.failures.look(self._raw())
        self.vitals.look(self._raw())
        self.promises.keep()
        self._count()
        self._wake_up()

    def _count(self) -> None:
        """Count the cluster for the metrics, at each full listing."""
        view, now = self.view(), self._clock()
        if view.full_at > self._counted_at:
            self._counted_at = view.full_at
            census.take(view, self._executor.failures.memory(MappingProxyType({})), now)

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
        worker = current_worker(view, owner.key)
        in_line = self._executor.line.place(owner.key)
        if in_line and in_line[1] - self._clock() > LINE_SECONDS:
            place, until = in_line
            return Sight("in-line", worker, place, until - self._clock())
        if worker and not worker.home_volume_id and view.retired_of(owner.key):
            stage = self._stage_without_worker(view, view.homes_of(owner.key))
            return Sight(stage if stage in _EXCHANGES else _STAGES[worker.state], worker)
        if worker:
            return Sight(_STAGES[worker.state], worker)
        homes = view.homes_of(owner.key)
        move = moving.stage_of(view, homes[0], self._clock()) if homes else None
        if move:
            return Sight(move[0], percent=move[1])
        return Sight(self._stage_without_worker(view, homes))

    def _stage_without_worker(self, view: Listing, homes: Sequence[Volume]) -> str:
        busy = bool(homes) and homes[0].state is not VolumeState.AVAILABLE
        holder = replacing.holder_of(view, homes[0]) if busy else None
        if holder is None:
            return "home-busy" if busy else "launching"
        if self._is_stuck(holder):
            return "stuck"
        return "replaced" if holder.broken else "exchanged"

    def _is_stuck(self, worker: Worker) -> bool:
        since = self.vitals.stopping.get(worker.instance_id, self._clock())
        return self._clock() - since >= replacing.FORCE_AFTER_SECONDS

    def is_gone(self, owner: Owner, instance_id: str) -> bool:
        """Whether a fresh listing shows that this instance cannot be serving its owner."""
        raw = self._raw()
        if not self._is_fresh():
            return False
        worker = self.view().workers.get(instance_id)
        if worker is None:  # a listing can lack what is there: two must
            return raw.full_at > self._missing.setdefault(instance_id, raw.full_at)
        self._missing.pop(instance_id, None)
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
        worker = current_worker(view, ticket.key) if view.is_known else None
        if worker is None or not worker.private_ip or not worker.home_volume_id:
            return None
        if worker.state not in (InstanceState.PENDING, InstanceState.RUNNING):
            return None
        demand = self._wanted.get(ticket.key)
        if demand and not planning.fits(worker, demand, self.policy):
            return None
        if self._executor.calls.is_providing(worker):
            return None
        return worker if self._is_right_home(ticket, view, worker) else None

    def _is_right_home(self, ticket: Ticket, view: Listing, worker: Worker) -> bool:
        homes = view.homes_of(ticket.key)
        attached = view.volumes.get(worker.home_volume_id or "")
        if attached is None and not homes:
            return True  # it came with the launch, and is not listed yet
        if homes and homes[0].moving:
            return False  # until that is called off, or at its end
        if attached and homes and attached.volume_id == homes[0].volume_id:
            return True
        if homes and homes[0].volume_id != worker.home_volume_id:
            ticket.refusal = LaunchFailed(
                "Your machine holds another home disk than your current one.",
                why=f"{worker.instance_id} has {worker.home_volume_id}, the current home is "
                f"{homes[0].volume_id}",
                next_step="Nothing was changed. Tell the people who run this hub.",
            )
        return False

    def _watched_ids(self) -> Collection[str]:
        """Ids to be listed every second beside what is in transition."""
        view = self._raw()
        ids = self._watched | self._executor.calls.unseen_ids()
        lately = self._clock() - NEW_HOME_SECONDS
        ids |= {
            w.home_volume_id
            for w in view.workers.values()
            if w.home_volume_id and w.home_volume_id not in view.volumes and w.launched_at > lately
        }
        waiting = [k for k in self._tickets if (d := self._wanted.get(k)) and d.is_waiting]
        for key in waiting:
            ids.update(self._held_elsewhere(view, key))
        return ids | moving.awaited_ids(view, waiting, self._clock())

    @staticmethod
    def _held_elsewhere(view: Listing, key: str) -> set[str]:
        """The home of somebody who waits, and who has it, unless it is the worker to be served."""
        worker = current_worker(view, key)
        served = worker.instance_id if worker else ""
        held = [v for v in view.homes_of(key)[:1] if _holder(v) not in ("", served)]
        return {i for v in held for i in (v.volume_id, _holder(v))}

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
        has_lease = self._lease.standing is Standing.HELD
        moments = (self._executor.failures.next_retry_at(), self._due_at) if has_lease else ()
        next_at = min((at for at in moments if at is not None), default=None)
        pause = None if next_at is None else max(0.05, next_at - self._clock())
        if not await wait_for_event(self._wake, pause):
            return
        await asyncio.sleep(max(GATHER_SECONDS, APART * self._tick_seconds))
        self._wake.clear()

    def tick(self) -> None:
        """Plan once, and begin to carry out what is planned; nothing without the lease."""
        if self._lease.standing is not Standing.HELD:
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
                self._spawn(self._carry_out(action), type(action).__name__)
        self._forget(view)
        self._waits.look()

    def _stand_by(self) -> None:
        """Tell those who wait why they do, if waiting is of no use."""
        refusal = self._no_tenancy()
        for ticket in self._tickets.values():
            ticket.refusal = ticket.refusal or refusal
        if self.is_anothers:
            self._released.clear()  # whose machine it was to be is for the other hub to say
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
        return not self._wanted.keys().isdisjoint(self.promises.unsettled())

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
        ticket = self._tickets.get(action.owner_key)
        if ticket and ticket.refusal is None:
            metrics.ACTIONS.labels("Refuse", action.error.code).inc()
            ticket.refusal = action.error

    def _forget(self, view: Listing) -> None:
        """Let go of what has come about."""
        if not view.is_known:
            return
        going = (InstanceState.PENDING, InstanceState.RUNNING, InstanceState.STOPPING)
        self._released = {
            key for key in self._released if any(w.state in going for w in view.workers_of(key))
        }
        self._mounted = {
            i for i in self._mounted if i not in view.volumes or not view.volumes[i].generation
        }
        self._prepared = {
            i for i in self._prepared if i not in view.workers or not view.workers[i].is_prepared
        }
        self._unfit = {i for i in self._unfit if i not in view.workers or view.workers[i].is_alive}
        self.journal.forget_pins({i for i, w in view.workers.items() if not w.is_alive})


_STAGES = {
    InstanceState.PENDING: "booting",
    InstanceState.RUNNING: "running",
    InstanceState.STOPPING: "stopping",
    InstanceState.STOPPED: "starting",
}


_EXCHANGES = frozenset({"replaced", "exchanged", "stuck"})


def _holder(volume: Volume) -> str:
    """Id of the instance that still holds a volume, or ""."""
    return (volume.attached_to or "") if volume.state is not VolumeState.AVAILABLE else ""
