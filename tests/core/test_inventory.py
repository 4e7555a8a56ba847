"""The poller: what is listed when, and what a listing that fails or lacks something means."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from core.fakes import PENDING, RUNNING, STOPPED, FakeCloud
from core.virtual import clock, in_virtual_time, until
from ec2spawner.errors import Denied, Unreachable
from ec2spawner.inventory import (
    FULL_SECONDS,
    HOT_IDS,
    LOOK_APART_SECONDS,
    MAX_BACKOFF_SECONDS,
    Inventory,
    wait_for_event,
)
from ec2spawner.model import TAG_EXPIRES


class Watch:
    """An inventory on a fake cloud, its changes counted."""

    def __init__(self, **options: Any) -> None:
        self.cloud = FakeCloud(**options)
        self.watched: set[str] = set()
        self.changes = 0
        self.inventory = Inventory(
            self.cloud, clock=clock, on_change=self.changed, watched=lambda: self.watched
        )
        self.task = asyncio.ensure_future(self.inventory.run())

    def changed(self) -> None:
        self.changes += 1

    def listed(self, ids: Sequence[str] | None = None) -> list[float]:
        """When instances were listed: all, or these."""
        return [at for at, name, what in self.cloud.calls if (name, what) == (DESCRIBE, ids)]


DESCRIBE = "DescribeInstances"


@in_virtual_time
async def test_a_quiet_cluster_is_listed_every_half_minute() -> None:
    watch = Watch()
    watch.cloud.put_instance(RUNNING)
    await asyncio.sleep(301)
    looks = watch.listed()
    gaps = [b - a for a, b in itertools.pairwise(looks)]
    assert len(looks) == 11
    assert gaps == pytest.approx([FULL_SECONDS] * 10, abs=0.01)
    assert watch.cloud.count()["DescribeVolumes"] == 11
    assert watch.cloud.count()["DescribeSnapshots"] == 1
    assert watch.changes == 11


@in_virtual_time
async def test_what_is_in_transition_is_looked_at_every_second_and_nothing_else() -> None:
    watch = Watch()
    watch.cloud.put_instance(RUNNING)
    booting = watch.cloud.put_instance(PENDING)
    await asyncio.sleep(10.5)
    assert len(watch.listed([booting])) == 10
    assert len(watch.listed()) == 1
    watch.cloud.instances[booting].state.set(clock(), RUNNING)
    await asyncio.sleep(15)
    assert len(watch.listed([booting])) == 11, "once it runs, no more"
    assert watch.inventory.listing.workers[booting].state is RUNNING


@in_virtual_time
async def test_what_is_watched_is_looked_at_every_second_from_then_on() -> None:
    watch = Watch()
    i = watch.cloud.put_instance(RUNNING)
    await asyncio.sleep(5)
    watch.watched = {i}
    watch.inventory.nudge()
    await asyncio.sleep(4.05)
    assert len(watch.listed([i])) in (4, 5)
    watch.watched = set()
    await asyncio.sleep(15)
    assert len(watch.listed([i])) <= 6


@in_virtual_time
async def test_however_many_are_in_a_hurry_two_looks_stay_a_moment_apart() -> None:
    watch = Watch(latency_seconds=0.01)
    i = watch.cloud.put_instance(RUNNING)
    watch.watched = {i}
    await asyncio.sleep(1)
    begun = clock()
    while clock() < begun + 5:
        watch.inventory.hurry(full=True)
        await asyncio.sleep(0.01)
    looks = [at for at in watch.listed() if at >= begun]
    assert len(looks) <= 5 / LOOK_APART_SECONDS + 1


@in_virtual_time
async def test_a_hurry_for_everything_lists_everything() -> None:
    watch = Watch()
    await asyncio.sleep(5)
    watch.inventory.hurry(full=True)
    await asyncio.sleep(1)
    assert len(watch.listed()) == 2
    await asyncio.sleep(20)
    assert len(watch.listed()) == 2, "once"


@in_virtual_time
async def test_a_full_listing_is_dated_by_its_beginning() -> None:
    watch = Watch(latency_seconds=3.0)
    await asyncio.sleep(4)
    assert watch.inventory.listing.full_at == pytest.approx(watch.listed()[0], abs=0.01)
    assert watch.inventory.age() == pytest.approx(4, abs=0.1)


# ---- absence


@in_virtual_time
async def test_absence_in_a_partial_look_is_believed_only_after_a_full_one() -> None:
    watch = Watch()
    i = watch.cloud.put_instance(PENDING)
    await asyncio.sleep(2)
    whole = watch.cloud.list_workers

    async def none_of(ids: Sequence[str] | None = None) -> list[Any]:
        found = await whole(ids)
        return found if ids is None else []

    watch.cloud.list_workers = none_of  # type: ignore[method-assign]
    seen: list[bool] = []
    for _ in range(30):
        await asyncio.sleep(0.1)
        seen.append(i in watch.inventory.listing.workers)
    assert all(seen)
    assert len(watch.listed()) >= 2, "a full listing was made at once"


@in_virtual_time
async def test_what_a_full_listing_lacks_is_gone() -> None:
    watch = Watch()
    i = watch.cloud.put_instance(STOPPED)
    home = watch.cloud.instances[i].volumes.at(clock())["/dev/sdf"]
    await asyncio.sleep(2)
    del watch.cloud.instances[i]
    watch.cloud.volumes[home].gone_at = clock()
    await asyncio.sleep(31)
    assert not watch.inventory.listing.workers
    assert not watch.inventory.listing.volumes


# ---- snapshots


@in_virtual_time
async def test_snapshots_are_listed_with_everything_while_one_is_being_made() -> None:
    watch = Watch(snapshot_seconds=100.0)
    home = watch.cloud.put_volume()
    await asyncio.sleep(2)
    made = await watch.cloud.snapshot(home, {**watch.cloud.tags(home), TAG_EXPIRES: "9"})
    watch.watched = {made.snapshot_id}
    await asyncio.sleep(35)
    assert made.snapshot_id in watch.inventory.listing.snapshots
    watch.watched = set()
    await asyncio.sleep(200)
    count = watch.cloud.count()
    assert count["DescribeSnapshots"] <= 7
    assert count[DESCRIBE] <= 9, "a snapshot takes its time: nobody polls for it"
    await asyncio.sleep(300)
    assert watch.cloud.count()["DescribeSnapshots"] == count["DescribeSnapshots"]


# ---- failures


@in_virtual_time
async def test_while_aws_is_away_the_listing_grows_old_and_says_why() -> None:
    watch = Watch()
    i = watch.cloud.put_instance(RUNNING)
    await asyncio.sleep(1)
    watch.cloud.away = True
    await asyncio.sleep(600)
    assert isinstance(watch.inventory.problem, Unreachable)
    assert watch.inventory.age() > 590
    assert i in watch.inventory.listing.workers
    tries = [at for at in watch.listed() if at > clock() - 300]
    assert 8 <= len(tries) <= 300 / (MAX_BACKOFF_SECONDS / 2) + 1
    watch.cloud.away = False
    await until(lambda: watch.inventory.problem is None, MAX_BACKOFF_SECONDS + 2)
    assert watch.inventory.age() < 1


@in_virtual_time
async def test_a_problem_is_logged_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch()
    await asyncio.sleep(1)
    watch.cloud.away = True
    await asyncio.sleep(300)
    watch.cloud.away = False
    await asyncio.sleep(60)
    assert [r.levelname for r in caplog.records] == ["ERROR", "WARNING"]


@in_virtual_time
async def test_a_full_listing_that_was_due_and_failed_is_made_up_for() -> None:
    watch = Watch()
    i = watch.cloud.put_instance(PENDING)
    await asyncio.sleep(1.5)
    watch.cloud.fail("DescribeVolumes", Denied("no", action="DescribeVolumes"))
    watch.inventory.hurry(full=True)
    await asyncio.sleep(3)
    assert watch.inventory.problem is None
    assert watch.inventory.listing.full_at > watch.listed()[0]
    assert i in watch.inventory.listing.workers


@in_virtual_time
async def test_one_half_of_a_listing_is_no_listing() -> None:
    watch = Watch()
    watch.cloud.put_instance(RUNNING)
    watch.cloud.fail("DescribeVolumes", Denied("no", action="DescribeVolumes"), times=3)
    await asyncio.sleep(1)
    assert not watch.inventory.listing.is_known
    await asyncio.sleep(30)
    assert watch.inventory.listing.is_known


@in_virtual_time
async def test_a_cancelled_poller_ends_even_when_it_is_woken_in_the_same_moment() -> None:
    for tries in range(20):
        watch = Watch()
        await asyncio.sleep(1 + tries / 7)
        watch.inventory.nudge()
        watch.task.cancel()
        watch.inventory.hurry()
        await asyncio.wait({watch.task}, timeout=1)
        assert watch.task.cancelled()


@in_virtual_time
async def test_waiting_for_an_event_ends_with_it_or_with_the_time() -> None:
    event = asyncio.Event()
    begun = clock()
    assert await wait_for_event(event, 2.0) is False
    assert clock() - begun == pytest.approx(2.0, abs=0.01)
    asyncio.get_running_loop().call_later(3, event.set)
    assert await wait_for_event(event, None) is True
    assert clock() - begun == pytest.approx(5.0, abs=0.01)


@in_virtual_time
async def test_of_a_class_that_boots_each_look_shows_some_and_all_have_their_turn() -> None:
    watch = Watch()
    booting = {watch.cloud.put_instance(PENDING) for _ in range(3 * HOT_IDS)}
    await asyncio.sleep(3.5)
    calls = [what for _, name, what in watch.cloud.calls if name == DESCRIBE and what]
    looks = [set(ids) for ids in calls]
    assert [len(look) for look in looks] == [HOT_IDS] * 3
    assert set.union(*looks) == booting


@in_virtual_time
async def test_what_is_new_in_a_crowd_is_looked_at_before_the_others_come_again() -> None:
    watch = Watch()
    for _ in range(2 * HOT_IDS):
        watch.cloud.put_instance(PENDING)
    await asyncio.sleep(2.5)
    watch.watched = {"i-new"}
    await asyncio.sleep(1)
    last = [what for _, name, what in watch.cloud.calls if name == DESCRIBE and what][-1]
    assert "i-new" in last
