"""A term of a class as a state machine: students, a hub, a cloud, and all that happens to them.

Owns what can happen, what must hold after each step, and how it ends: calm, with everybody served
and nothing left over. A story that fails is cut down by hypothesis to the shortest one.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ec2spawner.localcloud.ec2 import health, lifecycle, power, spot
from ec2spawner.localcloud.ec2.records import Instance
from ec2spawner.model import TAG_DELETED, TAG_OWNER, TAG_REPLACED, InstanceState, Owner
from soak.hubs import PROFILES, Hub, Machines, Unit
from soak.truth import LIVE, Truth
from soak.wires import LATE, DirectWorld, Wires, World, add_image

PEOPLE = 5
CHANGES = (
    "RunInstances",
    "StartInstances",
    "StopInstances",
    "TerminateInstances",
    "CreateTags",
    "DeleteTags",
    "AttachVolume",
    "DetachVolume",
    "CreateSnapshot",
    "CreateVolume",
    "DeleteVolume",
    "DeleteSnapshot",
    "ModifyInstanceAttribute",
    "CancelSpotInstanceRequests",
)
ACTIONS = (*CHANGES, "Describe*", "Create*", "*")
PAUSES = st.sampled_from((0.0, 0.06, 0.2, 1.0, 5.0, 20.0, 90.0))
WHO = st.integers(0, 100)
NOTICE_SECONDS = 120.0
"""Between a spot instance's notice and its end."""
SETTLE_SECONDS = 30.0
STEP_SECONDS = 60.0
CALM_SECONDS = 6000.0 + 10_800.0
"""The second part: so far ahead can marks be that were written before the clock jumped back."""
TRIES = 30
PATIENCE_SECONDS = 900.0
"""After so long with a server that does not answer, its user stops it, and starts it again."""
MAX_CALM_TASKS = 16
"""The loops of fleet, inventory, preparing and polls, what these wait for, and the story's own."""
MEMORY_FOLDER = Path("/dev/shm")

told: Counter[str] = Counter()
"""How often each thing happened, over all stories of this process."""


class _Complaints(logging.Handler):
    """Keeps what the product logs of itself with a traceback: nobody foresaw it."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(logging.Formatter().format(record))


class Story(RuleBasedStateMachine):
    """One term; see the module."""

    world_of: Callable[[Wires], World] = DirectWorld

    def __init__(self) -> None:
        super().__init__()
        parent = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="ec2spawner-soak-", dir=parent))
        self.loop = Wires()
        asyncio.set_event_loop(self.loop)
        self.world = type(self).world_of(self.loop)
        self.core = self.world.core
        self.truth = Truth(self.core, lambda: self.world.is_late)
        self.machines = Machines(self.truth)
        self.complaints = _Complaints()
        logging.getLogger("ec2spawner").addHandler(self.complaints)
        logging.getLogger("asyncio").addHandler(self.complaints)
        self.numbers = 0
        self.ahead = 0.0
        self.units: list[Unit] = []
        self.is_spoilt = False
        self.hub: Hub | None = None
        for _ in range(PEOPLE):
            self.newcomer(f"user{self.numbers}")
        self.newcomer("user0", "lab")
        self.do(self.begin())

    # ---- telling

    def do(self, work: Coroutine[Any, Any, Any], seconds: float = 0.0) -> None:
        """Let something happen, and time pass after it."""
        self.loop.begin_anew()
        try:
            self.loop.run_until_complete(self._and_then(work, seconds))
        except BaseException as error:
            self.spoil(error)
            raise

    def spoil(self, error: BaseException) -> None:
        """It cannot go on."""
        self.is_spoilt = True
        told["spoilt"] += 1

    async def _and_then(self, work: Coroutine[Any, Any, Any], seconds: float) -> None:
        await work
        await asyncio.sleep(seconds)

    def newcomer(self, user: str, server: str = "") -> None:
        """Another row in the hub's database."""
        self.numbers += 1
        profile = PROFILES[self.numbers % len(PROFILES)].slug
        unit = Unit(self.numbers, Owner(user, server), f"row{self.numbers}", profile)
        self.units.append(unit)

    async def begin(self) -> None:
        """A hub starts."""
        self.hub = Hub(
            self.loop, self.world, self.machines, self.folder, self.units, lambda: self.ahead
        )

    async def a_running_hub(self) -> Hub:
        """The hub, started anew where it is dead."""
        if self.hub is None:
            await self.begin()
        assert self.hub is not None
        return self.hub

    def chosen(self, who: int) -> Unit:
        """One of the units."""
        return self.units[who % len(self.units)]

    def instance(self, who: int, *states: InstanceState) -> Instance | None:
        """One of the cluster's instances in one of these states."""
        found = [i for i in self.truth.alive() if i.state in states]
        return found[who % len(found)] if found else None

    # ---- students

    @rule(who=WHO, pause=PAUSES)
    def log_in(self, who: int, pause: float) -> None:
        async def happens() -> None:
            (await self.a_running_hub()).log_in(self.chosen(who))

        self.do(happens(), pause)

    @rule(pause=PAUSES)
    def class_begins(self, pause: float) -> None:
        async def happens() -> None:
            hub = await self.a_running_hub()
            for unit in self.units:
                hub.log_in(unit)

        self.do(happens(), pause)

    @rule(who=WHO, pause=PAUSES)
    def log_out(self, who: int, pause: float) -> None:
        async def happens() -> None:
            await (await self.a_running_hub()).log_out(self.chosen(who))

        self.do(happens(), pause)

    @rule(pause=PAUSES)
    def class_ends(self, pause: float) -> None:
        async def happens() -> None:
            hub = await self.a_running_hub()
            await asyncio.gather(*map(hub.log_out, self.units))

        self.do(happens(), pause)

    @rule(who=WHO, same_name=st.booleans(), is_seen=st.booleans(), pause=PAUSES)
    def delete(self, who: int, same_name: bool, is_seen: bool, pause: float) -> None:
        """Is replaced by somebody new, who may be called the same and may come at once."""
        unit = self.chosen(who)

        async def happens() -> None:
            hub = await self.a_running_hub()
            await hub.delete(unit)
            name = unit.owner.user if same_name else f"user{self.numbers}"
            self.newcomer(name, unit.owner.server)
            if not is_seen:
                hub.log_in(self.units[-1])

        self.do(happens(), pause)

    @rule(who=WHO, seconds=st.sampled_from((0.0, 0.3, 4.0)), pause=PAUSES)
    def deletion_is_cut_off(self, who: int, seconds: float, pause: float) -> None:
        """The hub dies before the row is gone: nobody was deleted."""

        async def happens() -> None:
            hub, unit = await self.a_running_hub(), self.chosen(who)
            unit.was_given_up = True
            deleting = asyncio.ensure_future(hub.delete(unit))
            await asyncio.sleep(seconds)
            hub.kill(last_arrive=True)
            deleting.cancel()
            await asyncio.gather(deleting, return_exceptions=True)
            if unit not in self.units:
                self.units.append(unit)
            await self.begin()

        self.do(happens(), pause)

    @rule(who=WHO, pause=PAUSES)
    def rename(self, who: int, pause: float) -> None:
        unit = self.chosen(who)

        async def happens() -> None:
            hub = await self.a_running_hub()
            self.numbers += 1
            new = Owner(f"renamed{self.numbers}", unit.owner.server)
            self.truth.renamed.update({(key, new.key) for key in self._keys_before(unit)})
            hub.fleet.rename(unit.owner, new)
            unit.owner = new

        self.do(happens(), pause)

    def _keys_before(self, unit: Unit) -> set[str]:
        """All names that the unit had: a rename may overtake the one before."""
        keys = {unit.owner.key}
        return keys | {old for old, new in self.truth.renamed if new in keys}

    @rule(who=WHO, pause=PAUSES)
    def choose_another_kind(self, who: int, pause: float) -> None:
        unit = self.chosen(who)

        async def happens() -> None:
            hub = await self.a_running_hub()
            await hub.log_out(unit)
            slugs = [profile.slug for profile in PROFILES]
            unit.profile = slugs[1 - slugs.index(unit.profile)]
            hub.log_in(unit)

        self.do(happens(), pause)

    # ---- the hub

    @rule(last_arrive=st.booleans(), down=st.sampled_from((0.0, 2.0, 30.0, 1000.0)), pause=PAUSES)
    def hub_is_killed(self, last_arrive: bool, down: float, pause: float) -> None:
        async def happens() -> None:
            hub = await self.a_running_hub()
            hub.kill(last_arrive=last_arrive)
            await asyncio.sleep(down)
            await self.begin()

        self.do(happens(), pause)

    @rule(days=st.sampled_from((0.5, 3.0)))
    def hub_is_away_for_days(self, days: float) -> None:
        async def happens() -> None:
            (await self.a_running_hub()).kill(last_arrive=False)
            await asyncio.sleep(days * 86400)
            await self.begin()

        self.do(happens())

    @precondition(lambda self: not self.hub.fleet.journal.promises)
    @rule(pause=PAUSES)
    def hub_loses_its_disk(self, pause: float) -> None:
        """What it had promised and not yet written would be lost: that is said in its module."""

        async def happens() -> None:
            (await self.a_running_hub()).kill(last_arrive=True)
            (self.folder / "journal.json").unlink(missing_ok=True)
            await self.begin()

        self.do(happens(), pause)

    @rule(is_told=st.booleans(), pause=PAUSES)
    def image_is_built(self, is_told: bool, pause: float) -> None:
        """The hub learns of it at its next look, or after its next start."""

        async def happens() -> None:
            self.world.image_id = add_image(self.core)
            if is_told:
                (await self.a_running_hub()).fleet.use_image(self.world.image_id)

        self.do(happens(), pause)

    @rule(pause=PAUSES)
    def hub_restarts(self, pause: float) -> None:
        async def happens() -> None:
            await (await self.a_running_hub()).close()
            await self.begin()

        self.do(happens(), pause)

    @rule(minutes=st.sampled_from((-60, -7, -1, 1, 3, 10, 120)), pause=PAUSES)
    def clock_jumps(self, minutes: int, pause: float) -> None:
        async def happens() -> None:
            self.ahead = max(-3600.0, min(7200.0, self.ahead + 60.0 * minutes))

        self.do(happens(), pause)

    @rule(seconds=st.sampled_from((3.0, 45.0, 200.0, 900.0)))
    def time_passes(self, seconds: float) -> None:
        self.do(asyncio.sleep(0), seconds)

    # ---- the way to AWS

    @rule(
        action=st.sampled_from(ACTIONS),
        fault=st.sampled_from(("lose-reply", "never-answer", "error", "throttle")),
        when=st.sampled_from(("before", "after")),
        count=st.sampled_from((1, 1, 2, 7)),
        skip=st.sampled_from((0, 0, 1)),
    )
    def calls_fail(self, action: str, fault: str, when: str, count: int, skip: int) -> None:
        if fault == "throttle":
            when = "before"
        rule_ = {"action": action, "fault": fault, "when": when, "count": count, "skip": skip}
        self.world.trouble.add({**rule_, "status": 500})

    @rule(action=st.sampled_from(CHANGES), skip=st.sampled_from((0, 0, 1)))
    def call_arrives_late(self, action: str, skip: int) -> None:
        """After its sender has given up, and tried again."""
        lost = {"action": action, "fault": "lose-reply", "when": "before"}
        self.world.trouble.add({**lost, "code": LATE, "skip": skip})

    @rule(kind=st.sampled_from(("refuse", "never-answer", "error", None, None)), pause=PAUSES)
    def aws_comes_and_goes(self, kind: str | None, pause: float) -> None:
        async def happens() -> None:
            self.world.trouble.outage = kind

        self.do(happens(), pause)

    @rule(
        lag=st.sampled_from((0.0, 0.0, 2.0, 8.0)),
        hidden=st.sampled_from((0.0, 0.0, 3.0)),
        mappings=st.sampled_from((0.3, 2.0, 6.0)),
    )
    def listings_lag(self, lag: float, hidden: float, mappings: float) -> None:
        timings = self.core.timings
        timings.listing_lag_seconds = lag
        timings.fresh_ids_hidden_seconds = hidden
        timings.mappings_hidden_seconds = mappings

    # ---- what AWS has

    @rule(
        kind=st.sampled_from(("t3.medium", "t3.*", "*")),
        zone=st.sampled_from(("us-east-1a", "us-east-1*")),
        market=st.sampled_from(("*", "spot")),
        code=st.sampled_from(("InsufficientInstanceCapacity", "Unsupported")),
        running=st.sampled_from((0, 0, 2, 4)),
    )
    def capacity_goes(self, kind: str, zone: str, market: str, code: str, running: int) -> None:
        limit = {"type": kind, "zone": zone, "market": market, "code": code}
        self.world.capacity.set({"rules": [{**limit, "max_running": running}]})

    @rule(zone=st.sampled_from("ab"), who=WHO, pause=PAUSES)
    def zone_is_full(self, zone: str, who: int, pause: float) -> None:
        """And somebody comes back, whose home may be there."""
        limit = {"type": "*", "zone": f"us-east-1{zone}", "market": "*", "max_running": 0}
        self.world.capacity.set({"rules": [limit]})

        async def happens() -> None:
            hub, unit = await self.a_running_hub(), self.chosen(who)
            await hub.log_out(unit)
            await asyncio.sleep(60)
            hub.log_in(unit)

        self.do(happens(), pause)

    @rule(vcpus=st.sampled_from((0, 4, 8)))
    def quota_is_small(self, vcpus: int) -> None:
        self.world.capacity.set({"vcpu_quota": {"on-demand": vcpus, "spot": vcpus}})

    @rule()
    def capacity_is_back(self) -> None:
        self.world.capacity.set({})

    @rule(subnet=st.integers(0, 1), full=st.booleans())
    def addresses_come_and_go(self, subnet: int, full: bool) -> None:
        self.world.set_full(subnet, full=full)

    # ---- machines

    @rule(who=WHO, pause=PAUSES)
    def machine_is_ended(self, who: int, pause: float) -> None:
        """In the console; for a spot machine, EC2 launches another.

        Not that other one, whose disk bears no tag yet: nobody could know whose it is.
        """

        async def happens() -> None:
            alive = [i for i in self.truth.alive() if self.truth.is_known(i)]
            if alive:
                lifecycle.begin_terminate(self.core, alive[who % len(alive)], lifecycle.USER_STOP)

        self.do(happens(), pause)

    @rule(who=WHO, pause=PAUSES)
    def machine_powers_off(self, who: int, pause: float) -> None:
        async def happens() -> None:
            instance = self.instance(who, InstanceState.RUNNING)
            if instance:
                power.machine_powered_off(self.core, instance.id)

        self.do(happens(), pause)

    @rule(who=WHO, pause=PAUSES)
    def machine_panics(self, who: int, pause: float) -> None:
        async def happens() -> None:
            instance = self.instance(who, InstanceState.RUNNING)
            if instance:
                health.panic(self.core, instance)
                self.machines.reboot(instance.id)

        self.do(happens(), pause)

    @rule(who=WHO, pause=PAUSES)
    def machine_is_stuck(self, who: int, pause: float) -> None:
        async def happens() -> None:
            instance = self.instance(who, InstanceState.RUNNING, InstanceState.STOPPING)
            if instance:
                health.stick(self.core, instance)

        self.do(happens(), pause)

    @rule(who=WHO, pause=PAUSES)
    def operator_heals(self, who: int, pause: float) -> None:
        async def happens() -> None:
            instance = self.instance(who, InstanceState.RUNNING, InstanceState.STOPPING)
            if instance:
                health.heal(self.core, instance)

        self.do(happens(), pause)

    @rule(who=WHO, seconds=st.sampled_from((1.0, NOTICE_SECONDS)), pause=PAUSES)
    def spot_is_taken_back(self, who: int, seconds: float, pause: float) -> None:
        async def happens() -> None:
            found = [i for i in self.truth.alive() if i.is_spot and i.state in LIVE]
            if found:
                spot.interrupt(self.core, found[who % len(found)], seconds)

        self.do(happens(), pause)

    # ---- what must hold

    @invariant()
    def nothing_is_wrong(self) -> None:
        told["steps"] += 1
        try:
            self.truth.look()
            assert not self.loop.failures, self.loop.failures
            assert not self.complaints.found, self.complaints.found[0]
            tasks = len(asyncio.all_tasks(self.loop))
            assert tasks < 200, f"{tasks} tasks"
        except BaseException as error:
            self.spoil(error)
            raise

    # ---- how it ends

    def teardown(self) -> None:
        try:
            if not self.is_spoilt:
                told["stories"] += 1
                self.do(self.calm_down())
                self.nothing_is_wrong()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        told["virtual seconds"] += int(self.loop.time())
        told["AWS calls"] += self.truth.calls.total()
        told["copies"] += self.truth.calls["CreateVolume"]
        told["moves"] += self.truth.moves
        if self.hub:
            self.hub.kill(last_arrive=False)
        self.loop.begin_anew()
        self.loop.run_until_complete(_end_all())
        self.loop.close()
        asyncio.set_event_loop(None)
        for name in ("ec2spawner", "asyncio"):
            logging.getLogger(name).removeHandler(self.complaints)
        self.world.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def calm_down(self) -> None:
        """All troubles end; then everybody is served, and nothing is left over."""
        hub = await self.a_running_hub()
        self.world.trouble.clear()
        self.world.capacity.set({})
        self.listings_lag(0.0, 0.0, 0.3)
        for subnet in range(2):
            self.world.set_full(subnet, full=False)
        await asyncio.sleep(NOTICE_SECONDS + SETTLE_SECONDS)  # whom EC2 takes back, it has then
        for unit in self.units[::2]:
            await hub.log_out(unit)
        await asyncio.gather(*(self._patiently(hub, unit) for unit in self.units))
        for unit in self.units[1::2]:
            await hub.log_out(unit)
        await self._until_calm(hub)
        assert not hub.fleet.journal.promises

    async def _patiently(self, hub: Hub, unit: Unit) -> None:
        """A refusal is no end: who clicks again is served."""
        unit.failures.clear()
        begun = self.loop.time()
        while not hub.is_served(unit):
            hub.log_in(unit)
            await asyncio.sleep(5)
            waited = self.loop.time() - begun
            if waited % PATIENCE_SECONDS < 5 <= waited and unit.phase == "running":
                await hub.log_out(unit)  # as one does
            assert waited < TRIES * STEP_SECONDS, self._why_not(hub, unit)

    def _why_not(self, hub: Hub, unit: Unit) -> str:
        """All that may tell why somebody is never served."""
        key = unit.owner.key
        machines = [
            (i.id, i.state.value, f"due {i.due_at}", f"{i.is_stuck=}", i.tags, i.mappings)
            for i in self.truth.alive()
            if i.tags.get(TAG_OWNER) == key
        ]
        homes = [(h.id, h.state.value, h.tags) for h in self.truth.homes() if key in str(h.tags)]
        words = [f"{unit.owner} is never served: {sorted(set(unit.failures))}"]
        words += [f"at {self.core.clock()}", f"machines: {machines}", f"homes: {homes}"]
        words += [f"promises: {hub.fleet.journal.promises}", f"{hub.fleet.problem=}"]
        return "\n".join(words)

    async def _until_calm(self, hub: Hub) -> None:
        begun = self.loop.time()
        while left := self._left_over(hub):
            assert self.loop.time() - begun < CALM_SECONDS, left
            await asyncio.sleep(STEP_SECONDS)

    def _left_over(self, hub: Hub) -> list[str]:
        """What is not yet as it is to be."""
        wanted = {u.owner.key: u for u in self.units[::2]}
        left = [f"{u.owner} is not served" for u in wanted.values() if not hub.is_served(u)]
        left += [f"promised: {p}" for p in hub.fleet.journal.promises]
        spares: Counter[tuple[str, bool]] = Counter()
        owned: Counter[str] = Counter()
        for instance in self.truth.alive():
            owner = instance.tags.get(TAG_OWNER)
            is_live = instance.state in LIVE
            if TAG_DELETED in instance.tags:
                left.append(f"{instance.id} was given up")
            elif owner is None:
                spares[instance.tags.get("ec2spawner:profile", "?"), is_live] += 1
            else:
                owned[owner] += 1
                if is_live and owner not in wanted:
                    left.append(f"{instance.id} of {owner} runs")
        left += [f"{owner} has {n} machines" for owner, n in owned.items() if n > 1]
        for profile in PROFILES:
            for is_live, number in ((True, profile.pool_running), (False, profile.pool_stopped)):
                found = spares.pop((profile.slug, is_live), 0)
                if found != number:
                    left.append(f"{found} spares of {profile.slug}, {is_live=}")
        left += [f"{number} of {kind}" for kind, number in spares.items()]
        names = {unit.owner.key for unit in self.units}
        kept = [home for home in self.truth.homes() if TAG_DELETED not in home.tags]
        homes = Counter(home.tags.get(TAG_OWNER) for home in kept)
        left += [f"{owner} has {n} homes" for owner, n in homes.items() if owner and n > 1]
        for home in self.truth.homes():
            owner = home.tags.get(TAG_OWNER)
            is_over = TAG_DELETED in home.tags or TAG_REPLACED in home.tags
            if is_over or (owner is None and home.attachment is None):
                left.append(f"{home.id} is still there")
            elif owner and owner not in names:
                left.append(f"{home.id} is {owner}'s, who is not")
        tasks = Counter(_work_of(t) for t in asyncio.all_tasks(self.loop) if not t.done())
        if tasks.total() > MAX_CALM_TASKS:
            left.append(f"{tasks.total()} tasks: {tasks}")
        return left


def _work_of(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", task.get_name())


async def _end_all() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
