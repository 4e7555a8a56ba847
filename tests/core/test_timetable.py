"""Before a class begins, its machines run; when nobody came, they go back."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime, time, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

from core.fakes import RUNNING, STOPPED, FakeCloud
from core.kit import Hub, demand, until
from core.virtual import clock, in_virtual_time
from ec2spawner.model import Owner
from ec2spawner.schedule import ClassTime
from ec2spawner.timetable import Timetable

MINUTE = 60.0


class Town:
    """A hub with a timetable; the class begins in two hours of virtual time, rounded to minutes."""

    def __init__(self, folder: Path, *, group: str | None = None, count: int | None = None) -> None:
        self.cloud = FakeCloud()
        self.hub = Hub(self.cloud, folder)
        self.members: dict[str, list[Owner]] = {}
        begin = datetime.fromtimestamp(clock() + 120 * MINUTE, timezone.utc)
        self.begins_at = begin.replace(second=0, microsecond=0).timestamp()
        at = time(begin.hour, begin.minute)
        zone = ZoneInfo("UTC")
        of = ClassTime(begin.weekday(), at, zone, 15 * MINUTE, 30 * MINUTE, group, count)
        self.timetable = Timetable(
            self.hub.fleet, (of,), lambda name: self.members.get(name, []), clock=clock
        )
        self.task = asyncio.ensure_future(self.timetable.run())

    async def is_now(self, minutes: float) -> None:
        """Wait until so long after the class's beginning."""
        await asyncio.sleep(self.begins_at + minutes * MINUTE - clock())

    def states(self) -> Counter[str]:
        return Counter(w.state.value for w in self.cloud.alive())

    async def have_been_here(self, users: list[str]) -> None:
        await asyncio.gather(*(self.hub.log_in(user) for user in users))
        for user in users:
            self.hub.fleet.release(Owner(user))
        await until(lambda: self.states() == {"stopped": len(users)}, 120)


@in_virtual_time
async def test_a_groups_machines_run_before_its_class_and_spares_for_its_newcomers(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path, group="biology101")
    await town.have_been_here(["ann", "bob", "zoe"])
    town.members["biology101"] = [Owner("ann"), Owner("bob"), Owner("cem"), Owner("dan")]
    await town.is_now(-16)
    assert town.states() == {"stopped": 3}
    await town.is_now(-14)
    assert town.states() == {"running": 4, "stopped": 1}
    running = {w.owner for w in town.cloud.alive() if w.state is RUNNING}
    assert running == {Owner("ann").key, Owner("bob").key, None}
    begun = clock()
    await asyncio.gather(town.hub.log_in("ann", is_known=True), town.hub.log_in("cem"))
    assert clock() - begun < 1.5
    await town.is_now(29)  # nobody goes before: bob and dan may be late
    assert town.states() == {"running": 4, "stopped": 1}
    await town.is_now(45)
    assert town.states() == {"running": 2, "stopped": 2}
    assert town.cloud.count()["RunInstances"] == 2  # the first logins of before, and the spares


@in_virtual_time
async def test_spares_for_a_class_that_nobody_knows_are_not_made_twice(tmp_path: Path) -> None:
    town = Town(tmp_path, count=4)
    await town.is_now(-14)
    assert town.states() == {"running": 4}
    for number in range(4):
        await town.hub.log_in(f"user{number}")
        await asyncio.sleep(70)
    assert town.states() == {"running": 4}
    assert town.cloud.count()["RunInstances"] == 1
    await town.is_now(60)
    assert town.states() == {"running": 4}


@in_virtual_time
async def test_a_class_to_which_nobody_comes_leaves_nothing_running(tmp_path: Path) -> None:
    town = Town(tmp_path, count=3)
    await town.is_now(-5)
    assert town.states() == {"running": 3}
    await town.is_now(60)
    assert town.states() == {}


@in_virtual_time
async def test_a_hub_that_is_begun_in_the_middle_of_it_knows(tmp_path: Path) -> None:
    town = Town(tmp_path, group="biology101")
    await town.have_been_here(["ann"])
    town.members["biology101"] = [Owner("ann")]
    await town.is_now(10)
    assert town.states() == {"running": 1}
    town.task.cancel()
    town.hub = town.hub.kill()
    again = Timetable(
        town.hub.fleet, town.timetable._classes, lambda name: town.members[name], clock=clock
    )
    town.task = asyncio.ensure_future(again.run())
    await town.is_now(29)
    assert town.states() == {"running": 1}
    await town.is_now(45)
    assert [w.state for w in town.cloud.alive()] == [STOPPED]


@in_virtual_time
async def test_a_group_that_cannot_be_looked_up_keeps_no_other_class_waiting(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path, group="biology101")
    await town.have_been_here(["ann"])

    def fails(name: str) -> list[Owner]:
        raise RuntimeError("database is locked")

    town.timetable._members = fails
    await town.is_now(-10)
    assert town.states() == {"stopped": 1}
    town.timetable._members = lambda name: [demand("ann").owner]
    await town.is_now(-8)
    assert town.states() == {"running": 1}
