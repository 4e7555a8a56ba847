"""A hub over the emulated cloud, as far as the fleet's users are concerned: rows, starts, polls.

Stands for JupyterHub and ``EC2Spawner``: the fleet, the servers, the preparing of spares, the EC2
operations and the gateway below are the product's own. Its machines answer by what the emulated
cloud says of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from core.virtual import EPOCH

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.errors import EC2SpawnerError, WorkerRefused, WorkerUnreachable
from ec2spawner.execution import LaunchSettings
from ec2spawner.fleet import Fleet
from ec2spawner.journal import Journal
from ec2spawner.localcloud.ec2.records import Instance
from ec2spawner.model import HOME_DEVICE, InstanceState, Owner, Worker
from ec2spawner.placement import Market, Profile, Subnet
from ec2spawner.preparing import Preparing
from ec2spawner.servers import Servers
from ec2spawner.steady import SteadyClock
from ec2spawner.wishes import Demand, Policy
from soak.truth import Truth
from soak.wires import Life, Wires, World

CLUSTER = "class"
SLACK_SECONDS = 1.0
"""As ``wiring`` has it, which would bring JupyterHub with it."""
START_SECONDS = 300.0
POLL_SECONDS = 10.0
SSH_SECONDS = 3.0
"""From EC2's "running" to an answer by SSH."""
SERVER_SECONDS = 2.0
LOOK_SECONDS = 1.0
BROKEN_SECONDS = 10.0
PROFILES = (
    Profile("small", ("t3.medium", "t3.large"), 10, pool_running=1, pool_stopped=1),
    Profile("cheap", ("t3.small",), 10, (Market.SPOT, Market.ON_DEMAND)),
)


def policy_of(world: World) -> Policy:
    """Short times, so that whatever is removed in the end is removed within a story."""
    return Policy(
        profiles=MappingProxyType({profile.slug: profile for profile in PROFILES}),
        subnets=tuple(
            Subnet(subnet, f"us-east-1{zone}")
            for subnet, zone in zip(world.subnets, "ab", strict=True)
        ),
        reaper_grace_seconds=60,
        delete_grace_seconds=300,
        snapshot_expire_seconds=600,
        keep_broken_seconds=1800,
        allow_zone_move=True,
        refresh_workers=True,
    )


@dataclass
class Unit:
    """One server of somebody, and its row in the hub's database."""

    number: int
    owner: Owner
    row: str
    profile: str
    phase: str = ""  # "", "starting" or "running"
    worker: Worker | None = None
    logins: int = 0
    start: asyncio.Task[None] | None = None
    was_given_up: bool = False
    """Whether its deletion was begun, and not finished: its home may be gone in the end."""
    failures: list[str] = field(default_factory=list)

    def demand(self, now: float) -> Demand:
        """The wish for a running worker."""
        waits = self.phase != "running"
        return Demand(
            self.owner,
            self.profile,
            self.row,
            now,
            is_waiting=waits,
            is_known=self.logins > 0,
            instance_id="" if waits or self.worker is None else self.worker.instance_id,
        )


class Machines:
    """The machines behind the instances; implements ``remote.WorkerLink``."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._core = truth.core
        self._records: dict[str, str] = {}
        """By instance: the claim on its root disk."""
        self._servers: dict[str, tuple[int, float]] = {}
        """By instance: whose server runs, and since which boot."""

    def serves(self, instance_id: str) -> int | None:
        """Whose server answers there."""
        unit, boot = self._servers.get(instance_id, (None, 0.0))
        instance = self._core.instances.get(instance_id)
        return unit if instance and self._answers(instance) and boot == _boot(instance) else None

    def reboot(self, instance_id: str) -> None:
        """Its server is gone."""
        self._servers.pop(instance_id, None)

    def is_silent(self, worker: Worker) -> bool:
        """Whether nothing comes from the machine, not even a refusal."""
        instance = self._core.instances.get(worker.instance_id)
        return instance is None or not self._answers(instance)

    def refuses(self, worker: Worker) -> bool:
        """Whether the machine is up, and no server listens."""
        return not self.is_silent(worker) and self.serves(worker.instance_id) is None

    def _answers(self, instance: Instance) -> bool:
        now = self._core.clock()
        is_up = instance.state is InstanceState.RUNNING and instance.panicked_at is None
        return is_up and now >= instance.launched_at + SSH_SECONDS

    async def _connected(self, worker: Worker) -> Instance:
        while True:
            self._core.settle()
            instance = self._core.instances.get(worker.instance_id)
            if instance and self._answers(instance):
                return instance
            await asyncio.sleep(LOOK_SECONDS)

    async def _work(self, instance: Instance, seconds: float) -> None:
        """Have a command run there; it ends without an answer where the machine does."""
        boot = _boot(instance)
        await asyncio.sleep(seconds)
        self._core.settle()
        if not self._answers(instance) or _boot(instance) != boot:
            await asyncio.sleep(BROKEN_SECONDS)
            raise WorkerUnreachable("The connection broke.")

    async def start(
        self, worker: Worker, document: Mapping[str, Any], progress: Callable[[str], None]
    ) -> dict[str, Any]:
        instance = await self._connected(worker)
        progress("connected")
        claim = self._records.setdefault(instance.id, document["claim"])
        if claim != document["claim"]:
            raise WorkerRefused("It is another's.", reason="owner-mismatch")
        home = instance.mappings.get(HOME_DEVICE)
        if home is None or home.volume_id != document["volume_id"]:
            raise WorkerRefused("It has another home.", reason="home-missing")
        unit: Unit = document["unit"]
        if unit.was_given_up and home.volume_id not in self._truth.files:
            unit.logins = 0
        unit.was_given_up = False
        if self.serves(instance.id) != unit.number:
            self._truth.begin_server(instance, unit.number, unit.logins)
            unit.logins += 1
            self._servers[instance.id] = (unit.number, _boot(instance))
        await self._work(instance, SERVER_SECONDS)
        return {"event": "ready"}

    async def prepare(self, worker: Worker, document: Mapping[str, Any]) -> dict[str, Any]:
        instance = await self._connected(worker)
        await self._work(instance, 2 * SERVER_SECONDS)
        return {"event": "prepared"}

    async def stop(self, worker: Worker, timeout_seconds: float) -> dict[str, Any]:
        instance = self._core.instances.get(worker.instance_id)
        if instance is None or not self._answers(instance):
            raise WorkerUnreachable("It does not answer.")
        self._servers.pop(instance.id, None)
        return {"event": "stopped"}


def _boot(instance: Instance) -> float:
    return instance.launched_at


class Hub:
    """One life of a hub; ``kill`` ends it as SIGKILL does, ``close`` as SIGTERM."""

    def __init__(
        self,
        loop: Wires,
        world: World,
        machines: Machines,
        folder: Path,
        units: list[Unit],
        ahead: Callable[[], float],
    ) -> None:
        self.machines = machines
        self.units = units
        self._loop = loop
        self._ahead = ahead
        loop.life = self._life = Life()
        self._gateway = Gateway(
            "us-east-1",
            session_factory=world.session,
            clock=loop.time,
            jitter=random.Random(len(units)).random,
            slack_seconds=SLACK_SECONDS,
        )
        settings = LaunchSettings(world.template, MappingProxyType({"Owner": "school"}))
        self.fleet = Fleet(
            EC2(self._gateway, CLUSTER),
            policy_of(world),
            settings,
            Journal(folder / "journal.json"),
            clock=SteadyClock(self.wall, loop.time),
            turn=self._gateway.turn,
        )
        self.fleet.use_image(world.image_id)
        self.servers = Servers(self.fleet, self._link)  # type: ignore[arg-type]
        self.fleet.start()
        preparing = Preparing(self.fleet, self._link, dict)  # type: ignore[arg-type]
        self.fleet.accompany(preparing.run(), "preparing")
        self.fleet.accompany(self._poll(), "polls")
        for unit in units:
            self._load(unit)

    def wall(self) -> float:
        """What this computer's clock shows."""
        return EPOCH + self._loop.time() + self._ahead()

    async def _link(self) -> Machines:
        return self.machines

    def _load(self, unit: Unit) -> None:
        """What ``load_state`` makes of a row."""
        unit.start = None
        if unit.phase == "running":
            self.fleet.want(unit.demand(self.wall()))
        else:
            unit.phase = ""

    # ---- what users do

    def log_in(self, unit: Unit) -> None:
        """Begin to start a server."""
        if unit.phase == "":
            unit.phase = "starting"
            unit.start = asyncio.ensure_future(self._start(unit))

    async def _start(self, unit: Unit) -> None:
        try:
            unit.worker = await asyncio.wait_for(
                self.servers.start(
                    unit.demand(self.wall()), lambda w: _document(unit, w), lambda step: None
                ),
                START_SECONDS,
            )
            unit.phase = "running"
        except (EC2SpawnerError, asyncio.TimeoutError) as error:
            unit.failures.append(f"{type(error).__name__}: {error}")
            if "cannot become the kind" in str(error):  # a spot machine: they do as they are told
                unit.profile = next(p.slug for p in PROFILES if p.slug != unit.profile)
            await self.servers.stop(unit.owner, None)
            unit.phase = ""

    async def log_out(self, unit: Unit) -> None:
        """Stop a server, or its start."""
        await _end(unit.start)
        unit.start = None
        worker = unit.worker if unit.phase == "running" else None
        unit.phase = ""
        await self.servers.stop(unit.owner, worker)

    async def delete(self, unit: Unit) -> None:
        """Stop a server for good, and let its row go."""
        await self.log_out(unit)
        self.units.remove(unit)
        await self.fleet.delete(unit.owner, unit.row)

    def is_served(self, unit: Unit) -> bool:
        """Whether the unit's server answers."""
        worker = unit.worker if unit.phase == "running" else None
        return worker is not None and self.machines.serves(worker.instance_id) == unit.number

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            for unit in self.units:
                if unit.phase == "running" and unit.worker and self._is_dead(unit, unit.worker):
                    self.fleet.forget(unit.owner)
                    unit.phase = ""

    def _is_dead(self, unit: Unit, worker: Worker) -> bool:
        """As ``Servers.is_dead`` has it."""
        if self.fleet.is_gone(unit.owner, worker.instance_id):
            return True
        if self.machines.is_silent(worker):
            self.fleet.note_silence(worker)
            return self.fleet.is_cut_off(worker)
        self.fleet.note_answer(worker)
        return self.machines.refuses(worker)

    # ---- how it ends

    def kill(self, *, last_arrive: bool) -> None:
        """Die; what was on its way to AWS arrives or not."""
        self._life.is_over, self._life.last_arrive = True, last_arrive
        self._gateway.close()
        for task in [*self.fleet._tasks.running, *(u.start for u in self.units if u.start)]:
            task.cancel()
        if self.fleet.journal._later:
            self.fleet.journal._later.cancel()

    async def close(self) -> None:
        """End in good order."""
        for unit in self.units:
            await _end(unit.start)
            unit.phase = "running" if unit.phase == "running" else ""
        await self.fleet.close()
        self._gateway.close()


async def _end(task: asyncio.Task[None] | None) -> None:
    if task and not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _document(unit: Unit, worker: Worker) -> Mapping[str, Any]:
    return {"unit": unit, "claim": worker.claim, "volume_id": worker.home_volume_id}
