"""Whoever waits is woken when the own wait is over, and by nothing else."""

from __future__ import annotations

import asyncio

from core.virtual import clock, in_virtual_time
from ec2spawner.waiting import Waits


@in_virtual_time
async def test_only_those_whose_wait_is_over_are_woken() -> None:
    waits, open_doors, woken = Waits(), set[str](), list[str]()

    async def wait(door: str) -> None:
        await waits.until(lambda: door in open_doors)
        woken.append(door)

    tasks = [asyncio.ensure_future(wait(door)) for door in "abc"]
    await asyncio.sleep(1)
    open_doors.add("b")
    await asyncio.sleep(1)
    assert woken == [], "nobody has looked"
    waits.look()
    await asyncio.sleep(1)
    assert woken == ["b"]
    open_doors.update("ac")
    waits.look()
    waits.look()
    await asyncio.gather(*tasks)
    assert sorted(woken) == ["a", "b", "c"]


@in_virtual_time
async def test_a_wait_ends_with_its_time_and_is_asked_no_more() -> None:
    waits, asked = Waits(), list[float]()

    def is_over() -> bool:
        asked.append(clock())
        return False

    begun = clock()
    await waits.until(is_over, 3.0)
    assert 3.0 <= clock() - begun < 3.1
    waits.look()
    assert asked == []


@in_virtual_time
async def test_a_cancelled_wait_is_asked_no_more() -> None:
    waits, asked = Waits(), list[int]()
    task = asyncio.ensure_future(waits.until(lambda: bool(asked.append(1))))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.sleep(1)
    waits.look()
    assert asked == []
