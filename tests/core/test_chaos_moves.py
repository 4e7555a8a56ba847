"""Homes that move again and again while everything goes wrong: the newest files are always there.

Each seed is a story of two people whose zones fill up and empty, of hubs that die, replies that
are lost, and listings that lag. At each login somebody writes a file, which the next one must find.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from core.fakes import RUNNING, FakeCloud
from core.kit import POLICY, Hub, demand
from core.virtual import clock, run
from ec2spawner.errors import (
    EC2SpawnerError,
    OutcomeUnknown,
    Throttled,
    Unreachable,
    WorkerRefused,
)
from ec2spawner.model import TAG_GENERATION, Owner, Worker
from ec2spawner.placement import Subnet

SUBNETS = (*POLICY.subnets, Subnet("subnet-c", "c"))
MOVES = replace(
    POLICY,
    subnets=SUBNETS,
    allow_zone_move=True,
    delete_grace_seconds=600,
    reaper_grace_seconds=120,
    snapshot_expire_seconds=1200,
)
ACTIONS = (
    *("CreateSnapshot", "CreateVolume", "CreateTags", "DeleteTags", "DeleteSnapshot"),
    *("AttachVolume", "DetachVolume", "RunInstances", "StartInstances", "DescribeTags"),
    *("DescribeVolumes", "DescribeInstances", "DescribeSnapshots"),
)
FAULTS = (OutcomeUnknown("lost"), Unreachable("gone"), Throttled("slow"))


@dataclass
class Person:
    name: str
    row: str
    files: str = ""
    login: asyncio.Task[None] | None = None
    is_in: bool = False
    worker: str = ""

    @property
    def owner(self) -> Owner:
        return Owner(self.name)


class Story:
    def __init__(self, seed: int, folder: Path) -> None:
        self.dice = random.Random(seed)
        self.cloud = FakeCloud(may_rename=True, snapshot_seconds=20.0)
        self.hub = Hub(self.cloud, folder, MOVES)
        self.people = [Person("ann", "row1"), Person("bob", "row2")]
        self.numbers = 0

    async def go_on(self) -> None:
        weights = {
            self.log_in: 6,
            self.log_out: 3,
            self.zones_fill: 6,
            self.kill_the_hub: 3,
            self.lose_a_reply: 4,
            self.rename: 1,
            self.end_a_machine: 1,
            self.listings_lag: 1,
            self.a_machine_is_free: 1,
        }
        (happens,) = self.dice.choices(list(weights), list(weights.values()))
        await happens()
        await asyncio.sleep(self.dice.choice([0.0, 0.1, 0.5, 2.0, 8.0, 25.0, 200.0]))

    async def log_in(self) -> None:
        person = self.dice.choice(self.people)
        if person.login is None and not person.is_in:
            person.login = asyncio.ensure_future(self.served(person))

    async def served(self, person: Person) -> None:
        worker = await self.hub.log_in(
            person.name, incarnation=person.row, is_known=bool(person.files)
        )
        self.is_served(person, worker)

    def is_served(self, person: Person, worker: Worker) -> None:
        home = self.cloud.volumes[worker.home_volume_id or ""]
        if home.holder.at(clock()) != worker.instance_id:  # of a call whose reply was lost
            raise WorkerRefused("Its home is not there.", reason="home-missing")
        assert home.files == person.files, f"{person} finds {home.files!r} on {home.volume_id}"
        self.numbers += 1
        home.files = person.files = f"{person.row}'s file {self.numbers}"
        person.is_in, person.worker = True, worker.instance_id

    async def log_out(self) -> None:
        person = self.dice.choice(self.people)
        await self.ended(person)
        self.hub.fleet.release(person.owner)

    async def ended(self, person: Person) -> None:
        login, person.login = person.login, None
        if login:
            login.cancel()
            with contextlib.suppress(asyncio.CancelledError, EC2SpawnerError):
                await login
        person.is_in = False

    async def zones_fill(self) -> None:
        """And who is somewhere comes down."""
        full = self.dice.choice([(), ("a",), ("b",), ("c",), ("a", "b"), ("b", "c"), ("a", "c")])
        for zone in "abc":
            self.set_room(zone, is_there=zone not in full)
        for person in self.people:
            if person.is_in and self.dice.random() < 0.7:
                await self.ended(person)
                self.hub.fleet.release(person.owner)

    def set_room(self, zone: str, *, is_there: bool) -> None:
        place = ("t3.medium", zone)
        self.cloud.capacity[("t3.medium", f"subnet-{zone}")] = 1000 if is_there else 0
        if is_there:
            self.cloud.no_room_to_start.discard(place)
        else:
            self.cloud.no_room_to_start.add(place)

    async def kill_the_hub(self) -> None:
        for person in self.people:
            is_in = person.is_in
            await self.ended(person)
            person.is_in = is_in
        self.hub = self.hub.kill()
        for person in self.people:
            if person.is_in:
                runs = demand(person.name, incarnation=person.row, is_known=True)
                self.hub.fleet.want(replace(runs, is_waiting=False, instance_id=person.worker))

    async def lose_a_reply(self) -> None:
        action, fault = self.dice.choice(ACTIONS), self.dice.choice(FAULTS)
        is_lost = isinstance(fault, OutcomeUnknown) and self.dice.random() < 0.6
        self.cloud.fail(action, fault, times=self.dice.choice([1, 2]), after=is_lost)

    async def rename(self) -> None:
        person = self.dice.choice(self.people)
        self.numbers += 1
        new = Owner(f"renamed{self.numbers}")
        self.hub.fleet.rename(person.owner, new)
        person.name = new.user

    async def end_a_machine(self) -> None:
        alive = [w for w in self.cloud.alive() if not w.is_retired]  # whose home may be on its way
        if alive:
            self.cloud.terminate_behind_our_back(self.dice.choice(alive).instance_id)

    async def listings_lag(self) -> None:
        self.cloud.lag_seconds = self.dice.choice([0.0, 0.5, 3.0])

    async def a_machine_is_free(self) -> None:
        self.cloud.put_instance(RUNNING, home=None, zone=self.dice.choice("abc"))

    async def calm_down(self) -> None:
        self.cloud.lag_seconds = 0.0
        self.cloud.faults.clear()
        for zone in "abc":
            self.set_room(zone, is_there=True)
        for person in self.people:
            await self.ended(person)
            self.hub.fleet.release(person.owner)
        await asyncio.sleep(30)
        for person in self.people:
            await self.patiently(person)
        await asyncio.sleep(4000)
        alive = self.cloud.alive()
        homes = [v for v in self.cloud.volumes.values() if v.gone_at > clock()]
        assert sorted(v.files for v in homes) == sorted(p.files for p in self.people)
        assert all(TAG_GENERATION in v.tags.at(clock()) for v in homes)
        assert sorted(w.owner or "" for w in alive) == sorted(p.owner.key for p in self.people)
        assert not self.cloud.sins, self.cloud.sins

    async def patiently(self, person: Person) -> None:
        for _ in range(30):
            try:
                await asyncio.wait_for(self.served(person), 300)
            except (EC2SpawnerError, asyncio.TimeoutError):
                self.hub.fleet.release(person.owner)
                await asyncio.sleep(20)
            else:
                return
        raise AssertionError(f"{person} is never served")


async def tell(seed: int, folder: Path) -> None:
    random.seed(seed)  # the poller's jitter
    story = Story(seed, folder)
    for _ in range(80):
        await story.go_on()
        for person in story.people:
            if person.login and person.login.done():
                login, person.login = person.login, None
                error = login.exception() if not login.cancelled() else None
                if isinstance(error, AssertionError):
                    raise error
                if error:
                    story.hub.fleet.release(person.owner)
        assert not story.cloud.sins, story.cloud.sins
    await story.calm_down()


@pytest.mark.parametrize("seed", range(10))
def test_the_newest_files_are_there_wherever_a_home_has_moved(tmp_path: Path, seed: int) -> None:
    run(tell(seed, tmp_path))
