"""Many people, and everything that goes wrong at once: nobody ever gets another one's files.

Each seed is one story of logins, logouts, deletions, renames, hubs that die, replies that are
lost, AWS out of reach, and machines ended in the console. A story that fails can be told again by
its seed, and by PYTHONHASHSEED where the order of a set mattered.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from core.fakes import RUNNING, STOPPED, FakeCloud
from core.kit import POLICY, Hub, demand
from core.virtual import run
from ec2spawner.errors import EC2SpawnerError, OutcomeUnknown, Throttled, Unreachable
from ec2spawner.model import TAG_DELETED, TAG_OWNER, Owner, Worker

ACTIONS = [
    "RunInstances",
    "StartInstances",
    "StopInstances",
    "TerminateInstances",
    "CreateTags",
    "DeleteTags",
    "AttachVolume",
    "DescribeTags",
    "DescribeInstances",
    "DescribeVolumes",
    "CreateSnapshot",
    "DeleteVolume",
]
FAULTS = [OutcomeUnknown("lost"), Unreachable("gone"), Throttled("slow")]
CALM_POLICY = replace(
    POLICY, delete_grace_seconds=600, reaper_grace_seconds=120, snapshot_expire_seconds=1200
)


@dataclass
class Person:
    """Somebody with a row in the hub: a rename changes the name, and nothing else."""

    name: str
    row: str
    home: str | None = None
    worker: str = ""
    login: asyncio.Task[Worker] | None = None
    is_in: bool = False

    @property
    def owner(self) -> Owner:
        return Owner(self.name)


class Story:
    """A seed's cluster, people and troubles."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.dice = random.Random(seed)
        self.cloud = FakeCloud(may_rename=True, snapshot_seconds=30.0)
        self.hub = Hub(self.cloud, folder, CALM_POLICY)
        self.numbers = 0
        self.people = [self.newcomer() for _ in range(6)]
        self.lost_homes: set[str] = set()
        """Homes of people who were deleted: nobody may ever see them again."""

    def newcomer(self, name: str = "") -> Person:
        self.numbers += 1
        return Person(name or f"user{self.numbers}", f"row{self.numbers}")

    # ---- what happens

    async def go_on(self) -> None:
        weights = {
            self.log_in: 8,
            self.log_out: 4,
            self.delete: 2,
            self.rename: 2,
            self.kill_the_hub: 2,
            self.lose_a_reply: 4,
            self.aws_goes_away: 1,
            self.end_a_machine: 2,
            self.switch_a_machine_off: 1,
            self.listings_lag: 1,
        }
        (happens,) = self.dice.choices(list(weights), list(weights.values()))
        await happens()
        await asyncio.sleep(self.dice.choice([0.0, 0.03, 0.2, 1.0, 4.0, 20.0]))

    async def log_in(self) -> None:
        person = self.dice.choice(self.people)
        if person.login is None and not person.is_in:
            person.login = asyncio.ensure_future(self.served(person))

    async def served(self, person: Person) -> Worker:
        is_known = person.home is not None  # the row says so
        worker = await self.hub.log_in(person.name, incarnation=person.row, is_known=is_known)
        person.is_in, person.worker = True, worker.instance_id
        self.saw(person, worker.home_volume_id or "")
        return worker

    def saw(self, person: Person, home: str) -> None:
        assert home not in self.lost_homes, f"{person} sees a deleted person's files"
        assert person.home in (None, home), f"{person} sees other files: {home}"
        others = {p.home for p in self.people if p is not person}
        assert home not in others, f"{person} sees somebody else's files"
        person.home = home

    async def log_out(self) -> None:
        person = self.dice.choice(self.people)
        await self.ended(person)
        self.hub.fleet.release(person.owner)

    async def ended(self, person: Person) -> None:
        person.is_in = False
        login, person.login = person.login, None
        if login:
            login.cancel()
            with contextlib.suppress(asyncio.CancelledError, EC2SpawnerError):
                await login

    async def delete(self) -> None:
        person = self.dice.choice(self.people)
        await self.ended(person)
        await self.hub.fleet.delete(person.owner, person.row)
        if person.home:
            self.lost_homes.add(person.home)
        same_name = self.dice.choice([person.name, ""])
        self.people[self.people.index(person)] = self.newcomer(same_name)

    async def rename(self) -> None:
        person = self.dice.choice(self.people)
        self.numbers += 1
        new = Owner(f"renamed{self.numbers}")
        self.hub.fleet.rename(person.owner, new)
        person.name = new.user

    async def kill_the_hub(self) -> None:
        for person in self.people:
            is_in = person.is_in
            await self.ended(person)
            person.is_in = is_in
        self.hub = self.hub.kill()
        for person in self.people:
            if person.is_in:  # what load_state does
                runs = demand(person.name, incarnation=person.row, is_known=True)
                serves = replace(runs, is_waiting=False, instance_id=person.worker)
                self.hub.fleet.want(serves)

    async def lose_a_reply(self) -> None:
        self.cloud.fail(
            self.dice.choice(ACTIONS),
            self.dice.choice(FAULTS),
            times=self.dice.choice([1, 1, 2]),
            after=False,
        )
        if self.dice.random() < 0.5:
            self.cloud.fail(self.dice.choice(ACTIONS), after=True)

    async def aws_goes_away(self) -> None:
        self.cloud.away = True
        asyncio.get_running_loop().call_later(self.dice.choice([1, 10, 200]), self.aws_is_back)

    def aws_is_back(self) -> None:
        self.cloud.away = False

    async def end_a_machine(self) -> None:
        alive = self.cloud.alive()
        if alive:
            self.cloud.terminate_behind_our_back(self.dice.choice(alive).instance_id)

    async def switch_a_machine_off(self) -> None:
        running = [w.instance_id for w in self.cloud.alive() if w.state is RUNNING]
        if running:
            self.cloud._stop([self.dice.choice(running)])

    async def listings_lag(self) -> None:
        self.cloud.lag_seconds = self.dice.choice([0.0, 0.5, 3.0])

    # ---- how it ends

    async def calm_down(self) -> None:
        self.cloud.away, self.cloud.lag_seconds = False, 0.0
        self.cloud.faults.clear()
        for person in self.people:
            await self.ended(person)
        await asyncio.sleep(30)
        workers = await asyncio.wait_for(
            asyncio.gather(*(self.patiently(person) for person in self.people)), 600
        )
        assert len({w.instance_id for w in workers}) == len(workers)
        await asyncio.sleep(2500)
        alive = {w.instance_id: w for w in self.cloud.alive()}
        for person, worker in zip(self.people, workers, strict=True):
            assert self.cloud.state(worker.instance_id) is RUNNING
            owned = [w for w in self.cloud.owned_by(person.owner.key) if w.state is not STOPPED]
            tags = self.cloud.tags(worker.instance_id)
            assert [w.instance_id for w in owned] == [worker.instance_id], (person, worker, tags)
        for i, w in alive.items():
            assert w.owner, f"{i} is nobody's, and costs money"
            assert TAG_DELETED not in w.tags, f"{i} was given up long ago"
        for home in self.lost_homes:
            assert self.cloud.volumes[home].gone_at < float("inf"), f"{home} is still there"
            tags = self.cloud.volumes[home].tags.at(1e12)
            assert TAG_OWNER in tags, "and its snapshot says whose it was"
        assert not self.cloud.sins, self.cloud.sins

    async def patiently(self, person: Person) -> Worker:
        """A refusal in bad times is no end: who clicks again is served."""
        for _ in range(20):
            try:
                return await self.served(person)
            except EC2SpawnerError:
                self.hub.fleet.release(person.owner)
                await asyncio.sleep(20)
        raise AssertionError(f"{person} is never served")


async def tell(seed: int, folder: Path) -> None:
    random.seed(seed)  # the poller's jitter
    story = Story(seed, folder)
    for _ in range(60):
        await story.go_on()
    await story.calm_down()


@pytest.mark.parametrize("seed", range(12))
def test_nobody_ever_sees_another_ones_files_nor_loses_their_own(tmp_path: Path, seed: int) -> None:
    run(tell(seed, tmp_path))
