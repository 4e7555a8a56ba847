"""Which actions wait until EC2's limits allow a call, and that those who come meanwhile join it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from core.fakes import FakeCloud
from core.kit import POLICY, SETTINGS, demand
from core.virtual import clock, in_virtual_time
from ec2spawner import pacing
from ec2spawner.actions import Action, Claim, Launch, Start, Stop, Tag
from ec2spawner.fleet import Fleet
from ec2spawner.journal import Journal
from ec2spawner.model import Owner
from ec2spawner.placement import Offering
from ec2spawner.throttle import Throttle, Turn

PLACE = Offering("t3.medium", "subnet-a", "a")


def launch(count: int) -> Launch:
    return Launch(PLACE, "default", 10, count, (), "wanted")


CLAIM = Claim(Owner("ann"), "i-1", "vol-1", "first login")
START, STOP = Start(("i-1",), "wanted"), Stop(("i-2",), "unwanted")
TAG = Tag(("vol-1",), (("key", "value"),), "mounted")


def few(free: int, wait_seconds: float = 0.5) -> Callable[[str, float], Turn]:
    return lambda action, left_share: Turn(free, wait_seconds)


def test_no_more_of_a_kind_is_sent_than_is_free_and_kinds_do_not_hold_up_each_other() -> None:
    actions: list[Action] = [launch(1), launch(2), START, launch(3), STOP]
    sent, wait = pacing.due(actions, few(1))
    assert sent == [launch(1), START, STOP]
    assert wait == 0.5


def test_what_takes_one_thing_alone_joins_nothing_and_does_not_wait_here() -> None:
    assert pacing.due([CLAIM, START], few(0, 3.0)) == ([CLAIM], 3.0)


def test_nothing_left_out_is_nothing_to_come_back_for() -> None:
    assert pacing.due([CLAIM, launch(9)], pacing.no_limit) == ([CLAIM, launch(9)], None)


@pytest.mark.parametrize(("claims", "is_sent"), [(49, True), (50, False), (51, False)])
def test_tags_that_nobody_waits_for_leave_half_of_the_bucket_to_claims(
    claims: int, is_sent: bool
) -> None:
    throttle = Throttle(0.0)
    for _ in range(claims):
        throttle.reserve("CreateTags", 0, 0.0)
    sent, wait = pacing.due([TAG], lambda action, left: throttle.turn(action, left, 0.0))
    assert sent == ([TAG] if is_sent else [])
    assert wait == (None if is_sent else pytest.approx((claims - 49) / 10))


@pytest.mark.parametrize(
    ("action", "call", "used", "is_sent"),
    [
        (launch(5), "RunInstances", 1, True),
        (launch(5), "RunInstances", 2, False),
        (replace(launch(5), for_owners=("ann",)), "RunInstances", 4, True),
        (replace(START, is_ahead=True), "StartInstances", 2, False),
        (START, "StartInstances", 4, True),
    ],
)
def test_what_is_done_ahead_leaves_half_of_the_bucket_to_who_waits(
    action: Action, call: str, used: int, is_sent: bool
) -> None:
    throttle = Throttle(0.0)
    for _ in range(used):
        throttle.reserve(call, 0, 0.0)
    sent, _ = pacing.due([action], lambda name, left: throttle.turn(name, left, 0.0))
    assert sent == ([action] if is_sent else [])


def test_a_turn_comes_when_it_was_said_to() -> None:
    throttle = Throttle(0.0)
    for _ in range(5):
        throttle.reserve("RunInstances", 0, 0.0)
    assert throttle.turn("RunInstances", 0.0, 0.0) == Turn(0, 0.5)
    assert throttle.turn("RunInstances", 0.0, 0.5).free == 1
    assert throttle.reserve("RunInstances", 0, 0.5) == 0.0


def test_slack_keeps_as_many_calls_back_as_refill_in_it() -> None:
    throttle = Throttle(0.0, slack_seconds=1.0)
    assert throttle.turn("RunInstances", 0.0, 0.0).free == 3
    assert throttle.turn("CreateTags", 0.0, 99.0).free == 90
    assert throttle.turn("DescribeInstances", 0.0, 0.0).free == 80


@in_virtual_time
async def test_a_class_that_comes_one_by_one_is_launched_together_within_ec2s_limits(
    tmp_path: Path,
) -> None:
    cloud, throttle = FakeCloud(boot_seconds=5.0), Throttle(0.0)

    def turn(action: str, left_share: float) -> Turn:
        return throttle.turn(action, left_share, clock())

    whole_launch = cloud.launch

    async def launch(*arguments: object) -> object:
        wait = throttle.reserve("RunInstances", 1, clock())
        assert wait == 0.0, "it was sent before its turn"
        return await whole_launch(*arguments)  # type: ignore[arg-type]

    cloud.launch = launch  # type: ignore[assignment, method-assign]
    journal = Journal(tmp_path / "journal.json")
    fleet = Fleet(cloud, POLICY, SETTINGS, journal, clock=clock, turn=turn)
    fleet.start()

    async def log_in(number: int) -> float:
        await asyncio.sleep(number / 10)
        begun = clock()
        await fleet.provided(fleet.want(demand(f"user{number}")))
        return clock() - begun

    waited = await asyncio.gather(*(log_in(number) for number in range(60)))
    assert max(waited) < 4.0
    assert len(cloud.instances) == 60
    assert cloud.count()["RunInstances"] <= 5 + 2 * 6 + 2
    await fleet.close()
