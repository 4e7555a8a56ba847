"""A hub's waits, while the computer's clock is set."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from core.fakes import RUNNING, FakeCloud
from core.kit import POLICY, SETTINGS, demand
from core.virtual import clock, run
from ec2spawner.fleet import Fleet
from ec2spawner.journal import Journal
from ec2spawner.model import TAG_OWNER, Owner
from ec2spawner.steady import CATCH_UP_SHARE, SteadyClock

HOUR = 3600.0


class Time:
    """A computer's two clocks."""

    def __init__(self) -> None:
        self.wall = 1_000_000.0
        self.passed = 0.0
        self.steady = SteadyClock(lambda: self.wall, lambda: self.passed)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.passed += seconds


def test_it_shows_the_computers_time() -> None:
    time = Time()
    for _ in range(100):
        time.passes(7.3)
        assert time.steady() == pytest.approx(time.wall)


@pytest.mark.parametrize("jump", [-HOUR, HOUR, -1.0, 1.0])
def test_a_jump_is_made_up_for_bit_by_bit(jump: float) -> None:
    time = Time()
    time.wall += jump
    before = time.steady()
    assert before == 1_000_000.0
    for _ in range(10):
        time.passes(30)
        now = time.steady()
        assert abs(now - before - 30) <= 30 * CATCH_UP_SHARE + 1e-6
        before = now
    time.passes(11 * HOUR)
    assert time.steady() == pytest.approx(time.wall)


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_nobody_waits_for_a_clock_that_was_set(tmp_path: Path, jump: float) -> None:
    async def scenario() -> None:
        cloud = FakeCloud()
        ahead = 0.0
        loop = asyncio.get_running_loop()
        fleet = Fleet(
            cloud,
            POLICY,
            SETTINGS,
            Journal(tmp_path / "journal.json"),
            clock=SteadyClock(lambda: clock() + ahead, loop.time),
        )
        fleet.start()
        ann = Owner("ann")
        other = cloud.put_instance(RUNNING, {TAG_OWNER: Owner("bob").key})
        await asyncio.sleep(60)
        ahead = jump
        await asyncio.wait_for(fleet.provided(fleet.want(demand("ann"))), 20)
        await asyncio.sleep(POLICY.reaper_grace_seconds / 2)
        assert cloud.state(other) is RUNNING, "its grace time is not over"
        await asyncio.sleep(POLICY.reaper_grace_seconds)
        assert cloud.state(other) is not RUNNING
        fleet.release(ann)
        await fleet.close()

    run(scenario())
