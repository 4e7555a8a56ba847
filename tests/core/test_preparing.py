"""Spares of the pool: launched, booted once to the end, looked at, and then at rest."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from core.fakes import RUNNING, STOPPED, FakeCloud, FakeLink
from core.kit import POLICY, Hub, demand, until
from core.virtual import clock, in_virtual_time
from ec2spawner.errors import CapacityError, WorkerUnreachable
from ec2spawner.failures import IMAGE_HOLD_SECONDS, MAX_UNFIT
from ec2spawner.model import TAG_PREPARED, Worker
from ec2spawner.placement import Profile
from ec2spawner.preparing import PREPARE_SECONDS, Preparing
from ec2spawner.wishes import Crowd, Policy


def pool(running: int, stopped: int) -> Policy:
    usual = Profile("default", ("t3.medium",), 10, pool_running=running, pool_stopped=stopped)
    return replace(POLICY, profiles=MappingProxyType({"default": usual}))


class Town:
    """A hub that keeps a pool on a fake cloud."""

    def __init__(self, folder: Path, running: int, stopped: int, **options: Any) -> None:
        self.cloud = FakeCloud(**options)
        self.hub = Hub(self.cloud, folder, pool(running, stopped))
        self.link = FakeLink(self.cloud)
        self._begin()

    def _begin(self) -> None:
        preparing = Preparing(self.hub.fleet, self.open_link, dict)  # type: ignore[arg-type]
        self.task = asyncio.ensure_future(preparing.run())

    async def open_link(self) -> FakeLink:
        return self.link

    def kill(self) -> None:
        self.task.cancel()
        self.hub = self.hub.kill()
        self._begin()

    def spares(self) -> list[Worker]:
        return [w for w in self.cloud.alive() if w.owner is None]

    def states(self) -> Counter[str]:
        return Counter(w.state.value for w in self.spares())

    async def is_kept(self, running: int, stopped: int) -> float:
        expected = {"running": running, "stopped": stopped}
        return await until(lambda: self.states() == {k: n for k, n in expected.items() if n}, 900)


@in_virtual_time
async def test_spares_boot_to_the_end_and_then_rest(tmp_path: Path) -> None:
    town = Town(tmp_path, 2, 3)
    await until(lambda: len(town.link.prepared) == 5, 60)
    assert town.states()["stopped"] == 0  # none before it was looked at
    await town.is_kept(2, 3)
    assert all(TAG_PREPARED in w.tags for w in town.spares())
    await asyncio.sleep(86400)
    assert town.states() == {"running": 2, "stopped": 3}
    assert town.cloud.count()["RunInstances"] == 1
    assert town.cloud.count()["StopInstances"] == 1
    assert town.cloud.count()["TerminateInstances"] == 0
    assert len(town.link.prepared) == 5


@in_virtual_time
async def test_first_logins_take_spares_and_the_pool_is_topped_up(tmp_path: Path) -> None:
    town = Town(tmp_path, 2, 2)
    await town.is_kept(2, 2)
    before = clock()
    workers = await asyncio.gather(*(town.hub.log_in(f"user{n}") for n in range(2)))
    assert clock() - before < 1.5  # they ran already
    before = clock()
    workers += await asyncio.gather(*(town.hub.log_in(f"user{n}") for n in range(2, 4)))
    assert clock() - before < town.cloud.boot_seconds + 1.5  # a start, not a first boot
    assert len({w.instance_id for w in workers}) == 4
    await town.is_kept(2, 2)
    assert not town.cloud.sins


@in_virtual_time
async def test_a_new_hub_keeps_the_pool_of_the_one_before(tmp_path: Path) -> None:
    town = Town(tmp_path, 1, 2)
    await town.is_kept(1, 2)
    looked_at = len(town.link.prepared)
    town.kill()
    await asyncio.sleep(3600)
    assert town.states() == {"running": 1, "stopped": 2}
    assert len(town.link.prepared) == looked_at
    assert town.cloud.count()["RunInstances"] == 1


@in_virtual_time
async def test_a_hub_killed_while_spares_boot_looks_at_them_again(tmp_path: Path) -> None:
    town = Town(tmp_path, 0, 3)
    await asyncio.sleep(15)
    town.kill()
    await town.is_kept(0, 3)
    assert town.cloud.count()["RunInstances"] == 1


@in_virtual_time
async def test_a_spare_that_never_comes_up_is_replaced_and_goes(tmp_path: Path) -> None:
    town = Town(tmp_path, 0, 1)
    town.link.failures = [WorkerUnreachable("no")] * 1000
    await asyncio.sleep(PREPARE_SECONDS + 20)
    town.link.failures = []
    await town.is_kept(0, 1)
    await asyncio.sleep(1200)
    assert town.states() == {"stopped": 1}
    assert town.cloud.count()["RunInstances"] == 2
    assert town.cloud.count()["TerminateInstances"] == 1


@in_virtual_time
async def test_a_broken_image_ends_the_launches_for_the_pool_for_an_hour_and_no_users(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    town = Town(tmp_path, 0, 1)
    town.link.failures = [WorkerUnreachable("no")] * 10**6
    began = clock()
    await asyncio.sleep(3 * PREPARE_SECONDS + 200)
    assert town.cloud.count()["RunInstances"] == MAX_UNFIT
    await asyncio.sleep(2000)
    assert town.cloud.count()["RunInstances"] == MAX_UNFIT
    errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    said = [text for text in errors if "No spare machines" in text]
    assert len(said) == 1
    town.link.failures = []
    await asyncio.sleep(began + 3 * PREPARE_SECONDS + IMAGE_HOLD_SECONDS + 300 - clock())
    assert town.states() == {"stopped": 1}


@in_virtual_time
async def test_a_users_machine_is_launched_from_a_broken_image_and_ends_the_hold_if_it_serves(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path, 0, 1)
    town.link.failures = [WorkerUnreachable("no")] * 10**6
    await asyncio.sleep(3 * PREPARE_SECONDS + 400)
    assert town.states() == {}
    town.link.failures = []
    await town.hub.log_in("ann")
    await town.is_kept(0, 1)
    assert town.cloud.count()["RunInstances"] == MAX_UNFIT + 2


@in_virtual_time
async def test_a_spare_that_is_claimed_while_it_is_looked_at_serves_its_owner(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path, 0, 1)
    await asyncio.sleep(10)  # it runs, and its first boot goes on
    worker = await town.hub.log_in("ann")
    await asyncio.sleep(600)
    assert town.cloud.state(worker.instance_id) is RUNNING
    assert worker.instance_id not in town.link.prepared
    assert town.states() == {"stopped": 1}


@in_virtual_time
async def test_who_waits_is_launched_for_first(tmp_path: Path) -> None:
    town = Town(tmp_path, 50, 50, capacity={("t3.medium", "subnet-a"): 10})
    town.cloud.capacity[("t3.medium", "subnet-b")] = 0
    workers = [asyncio.ensure_future(town.hub.log_in(f"user{n}")) for n in range(10)]
    await asyncio.wait_for(asyncio.gather(*workers), 60)


@in_virtual_time
async def test_a_smaller_pool_is_come_to_by_the_reaper(tmp_path: Path) -> None:
    town = Town(tmp_path, 2, 2)
    await town.is_kept(2, 2)
    town.hub.fleet.policy = pool(1, 0)
    await town.is_kept(1, 0)
    assert not town.cloud.sins


@in_virtual_time
async def test_a_pool_without_room_refuses_nobody_and_is_filled_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    town = Town(tmp_path, 1, 1)
    await town.is_kept(1, 1)
    no_room = CapacityError("no", action="RunInstances")
    town.cloud.fail("RunInstances", no_room, times=4)
    await town.hub.log_in("ann")
    await town.hub.log_in("bob")
    await town.is_kept(1, 1)


@in_virtual_time
async def test_resting_spares_are_called_up_before_a_class_and_rest_again(tmp_path: Path) -> None:
    town = Town(tmp_path, 0, 3)
    await town.is_kept(0, 3)
    town.hub.fleet.prepare_ahead([], (Crowd(4, clock()),))
    await town.is_kept(4, 0)
    assert town.cloud.count()["StartInstances"] == 1
    town.hub.fleet.prepare_ahead([], ())
    await town.is_kept(0, 3)


@in_virtual_time
async def test_a_classes_own_machines_start_before_it_begins_and_stop_when_nobody_came(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path, 0, 0)
    workers = await asyncio.gather(*(town.hub.log_in(f"user{n}") for n in range(3)))
    for n in range(3):
        town.hub.fleet.release(demand(f"user{n}").owner)
    await until(lambda: all(town.cloud.state(w.instance_id) is STOPPED for w in workers), 60)
    members = [demand(f"user{n}").owner for n in range(3)]
    town.hub.fleet.prepare_ahead(members, ())
    await until(lambda: all(town.cloud.state(w.instance_id) is RUNNING for w in workers), 60)
    assert town.cloud.count()["StartInstances"] == 1
    await town.hub.log_in("user0", is_known=True)
    await asyncio.sleep(1800)  # none is taken for unwanted meanwhile
    assert {town.cloud.state(w.instance_id) for w in workers} == {RUNNING}
    town.hub.fleet.prepare_ahead([], ())
    await asyncio.sleep(400)
    assert [town.cloud.state(w.instance_id) for w in workers] == [RUNNING, STOPPED, STOPPED]
