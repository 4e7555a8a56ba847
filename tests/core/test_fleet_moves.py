"""Homes that move to another zone, in virtual time: with all files, whatever dies or gets lost.

Ann has a stopped machine in zone a, where there is no room; her home has files.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from core.fakes import RUNNING, STOPPED, FakeCloud
from core.kit import POLICY, Hub, demand, until
from core.virtual import clock, in_virtual_time
from ec2spawner.errors import (
    CapacityError,
    Denied,
    EC2SpawnerError,
    OutcomeUnknown,
    Throttled,
)
from ec2spawner.model import (
    HOME_DEVICE,
    TAG_CLAIM,
    TAG_DELETED,
    TAG_GENERATION,
    TAG_MOVED_FROM,
    TAG_MOVED_TO,
    TAG_MOVING,
    TAG_OWNER,
    TAG_REPLACED,
    Owner,
    Volume,
    Worker,
)
from ec2spawner.placement import Profile

ANN = Owner("ann")
OWNED = {TAG_OWNER: ANN.key, TAG_GENERATION: "3", TAG_CLAIM: "c"}
MOVES = replace(POLICY, allow_zone_move=True, delete_grace_seconds=3600.0)
STEPS = (
    "StartInstances",
    "CreateTags",
    "DetachVolume",
    "RunInstances",
    "CreateSnapshot",
    "CreateVolume",
    "AttachVolume",
)


class Town:
    """A hub on a fake cloud, in which zone a has no room."""

    def __init__(self, folder: Path, policy: Any = MOVES, **options: Any) -> None:
        self.cloud = FakeCloud(**options)
        self.first = self.cloud.put_instance(STOPPED, OWNED, launched_at=clock() - 9000)
        self.home = self.cloud.instances[self.first].volumes.at(clock())[HOME_DEVICE]
        self.cloud.volumes[self.home].files = "thesis"
        self.room("a", is_there=False)
        self.hub = Hub(self.cloud, folder, policy)

    def room(self, zone: str, *, is_there: bool) -> None:
        place = ("t3.medium", zone)
        (self.cloud.no_room_to_start.discard if is_there else self.cloud.no_room_to_start.add)(
            place
        )
        self.cloud.capacity[("t3.medium", f"subnet-{zone}")] = 1000 if is_there else 0

    def begin(self, user: str = "ann") -> asyncio.Task[Worker]:
        return asyncio.ensure_future(self.hub.log_in(user, is_known=True))

    async def start(self, seconds: float = 600.0, user: str = "ann") -> Worker:
        """A login; whoever is refused clicks again."""
        begun = clock()
        while True:
            try:
                return await asyncio.wait_for(self.begin(user), seconds)
            except EC2SpawnerError:
                assert clock() - begun < seconds
                self.hub.fleet.release(Owner(user))
                await asyncio.sleep(5)

    def tags(self, volume_id: str = "") -> Any:
        return self.cloud.tags(volume_id or self.home)

    def copies(self) -> list[Volume]:
        seen = (v.seen(clock()) for v in self.cloud.volumes.values() if v.gone_at > clock())
        return [v for v in seen if v.origin]

    def check_moved(self, worker: Worker, files: str = "thesis", owner: Owner = ANN) -> None:
        """Ann is in zone b with her files, which are nowhere else."""
        home = worker.home_volume_id or ""
        assert (worker.zone, home != self.home) == ("b", True)
        assert self.cloud.volumes[home].files == files
        current = [v for v in self.cloud.homes_of(owner.key) if not v.is_retired]
        assert [v.volume_id for v in current] == [home]
        assert [w.instance_id for w in self.cloud.owned_by(owner.key)] == [worker.instance_id]
        assert self.tags()[TAG_MOVED_TO] == home
        assert TAG_REPLACED in self.tags()
        assert not self.cloud.sins

    def check_nothing_double(self) -> None:
        assert len(self.cloud.snapshots) == 1
        assert len(self.copies()) == 1


@in_virtual_time
async def test_who_meets_no_room_is_served_in_another_zone_with_all_files(tmp_path: Path) -> None:
    town = Town(tmp_path)
    worker = await town.start()
    town.check_moved(worker)
    town.check_nothing_double()
    home = worker.home_volume_id or ""
    await until(lambda: TAG_GENERATION in town.tags(home))
    assert town.tags(home)[TAG_GENERATION] == "4"
    assert town.cloud.state(town.first) is STOPPED
    assert town.cloud.count()["RunInstances"] == 2  # one in zone a, which there is no room for
    assert town.tags(home)["Owner"] == "school"


@in_virtual_time
async def test_what_was_moved_from_goes_after_its_grace_with_a_snapshot_of_its_own(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path)
    worker = await town.start()
    await asyncio.sleep(3000)
    assert town.cloud.volumes[town.home].gone_at == float("inf")
    await asyncio.sleep(2000)
    assert town.cloud.volumes[town.home].gone_at < clock()
    assert not [w for w in town.cloud.alive() if w.instance_id == town.first]
    assert len(town.cloud.snapshots) == 2
    assert town.cloud.state(worker.instance_id) is RUNNING
    town.hub.fleet.release(ANN)
    await asyncio.sleep(60)
    again = await town.start()
    assert (again.instance_id, again.home_volume_id) == (
        worker.instance_id,
        worker.home_volume_id,
    )
    assert not town.cloud.sins


@in_virtual_time
async def test_the_user_reads_how_far_it_is(tmp_path: Path) -> None:
    town = Town(tmp_path)
    login = town.begin()
    seen: list[Any] = []
    while not login.done():
        sight = town.hub.fleet.sight(ANN)
        if not seen or seen[-1] != (sight.stage, sight.percent):
            seen.append((sight.stage, sight.percent))
        await asyncio.sleep(0.2)
    stages = list(dict.fromkeys(stage for stage, _ in seen))
    assert [s for s in stages if s in ("exchanged", "copying", "copied", "running")] == [
        "exchanged",
        "copying",
        "copied",
        "running",  # it has booted while the copy was made
    ]
    assert ("copying", 40) in seen


@in_virtual_time
async def test_it_moves_when_the_machine_is_gone_and_only_the_home_is_there(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path)
    town.cloud.terminate_behind_our_back(town.first)
    town.check_moved(await town.start())


@in_virtual_time
async def test_a_move_takes_little_longer_than_the_snapshot(tmp_path: Path) -> None:
    town = Town(tmp_path, snapshot_seconds=100.0)
    begun = clock()
    await town.start()
    assert clock() - begun < 100 + 30


# ---- where nothing moves


@in_virtual_time
async def test_without_the_permission_nothing_moves(tmp_path: Path) -> None:
    town = Town(tmp_path, POLICY)
    with pytest.raises(CapacityError):
        await town.begin()
    await asyncio.sleep(60)
    assert TAG_REPLACED not in town.cloud.tags(town.first)
    assert not town.cloud.count()["CreateSnapshot"]


@in_virtual_time
async def test_a_quota_moves_nothing(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.room("a", is_there=True)
    town.cloud.quota_instances = 0
    town.cloud.terminate_behind_our_back(town.first)
    with pytest.raises(EC2SpawnerError):
        await town.begin()
    assert not town.cloud.count()["CreateSnapshot"]
    assert TAG_MOVING not in town.tags()


@in_virtual_time
async def test_nothing_moves_where_no_other_zone_has_room(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.hub.policy = MOVES
    only_a = replace(MOVES, subnets=MOVES.subnets[:1])
    town.hub.fleet.policy = only_a
    with pytest.raises(CapacityError):
        await town.begin()
    assert TAG_REPLACED not in town.cloud.tags(town.first)


@in_virtual_time
async def test_another_type_that_has_room_is_better_than_a_move(tmp_path: Path) -> None:
    profile = Profile("default", ("t3.medium", "t3.large"), 10)
    policy = replace(MOVES, profiles=MappingProxyType({"default": profile}))
    town = Town(tmp_path, policy)
    worker = await town.start()
    assert (worker.instance_id, worker.home_volume_id) == (town.first, town.home)
    assert not town.cloud.count()["CreateSnapshot"]


# ---- a hub that dies


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("nth", range(16))
@in_virtual_time
async def test_a_hub_that_dies_at_any_call_of_a_move_is_followed_by_one_that_goes_on(
    tmp_path: Path, nth: int, is_after: bool
) -> None:
    town = Town(tmp_path)
    changes: list[str] = []
    died = asyncio.Event()

    def on_call(action: str) -> None:
        if not action.startswith("Describe"):
            changes.append(action)
            if len(changes) == nth + 1:
                died.set()

    town.cloud.on_call = on_call
    login = town.begin()
    waiting = asyncio.ensure_future(died.wait())
    await asyncio.wait({login, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not died.is_set():
        waiting.cancel()
        town.check_moved(login.result())
        return
    await asyncio.sleep(0.15 if is_after else 0.05)  # half of the call's time, or nearly all
    login.cancel()
    with contextlib.suppress(asyncio.CancelledError, EC2SpawnerError):
        await login
    town.hub = town.hub.kill()
    worker = await town.start()
    town.check_moved(worker)
    town.check_nothing_double()


@in_virtual_time
async def test_a_dead_hubs_move_goes_on_when_its_user_comes_back_days_later(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path)
    login = town.begin()
    await until(lambda: town.cloud.count()["CreateVolume"])
    await asyncio.sleep(1)
    login.cancel()
    town.hub.fleet.release(ANN)
    town.hub = town.hub.kill()
    await asyncio.sleep(2 * 86400)
    assert not [c for c in town.copies() if c.owner]
    town.check_moved(await town.start())


# ---- replies that are lost


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("action", STEPS)
@in_virtual_time
async def test_a_lost_reply_makes_nothing_double(
    tmp_path: Path, action: str, is_done: bool
) -> None:
    town = Town(tmp_path)
    town.cloud.fail(action, OutcomeUnknown("lost"), times=2, after=is_done)
    town.check_moved(await town.start(900.0))
    assert len(town.copies()) == 1
    assert len([w for w in town.cloud.alive() if w.zone == "b"]) == 1


@pytest.mark.parametrize("action", ["CreateSnapshot", "CreateVolume"])
@in_virtual_time
async def test_who_may_not_be_moved_is_told_why(tmp_path: Path, action: str) -> None:
    town = Town(tmp_path)
    town.cloud.fail(action, Denied("no"), times=99)
    with pytest.raises(Denied):
        await town.begin()
    town.cloud.faults.clear()
    town.check_moved(await town.start())


@pytest.mark.parametrize("lag", [0.5, 3.0, 8.0])
@pytest.mark.parametrize("nth", [3, 5, 7, 8, 9, 10, 11, 12])
@in_virtual_time
async def test_old_listings_after_a_hubs_death_lose_nothing(
    tmp_path: Path, nth: int, lag: float
) -> None:
    town = Town(tmp_path, lag_seconds=lag)
    login = town.begin()

    def is_time() -> bool:
        calls = sum(n for a, n in town.cloud.count().items() if not a.startswith("Describe"))
        return login.done() or calls >= nth

    await until(is_time)
    if not login.done():
        login.cancel()
        with contextlib.suppress(asyncio.CancelledError, EC2SpawnerError):
            await login
        town.hub = town.hub.kill()
    town.check_moved(await town.start(900.0))


@in_virtual_time
async def test_a_home_of_which_an_old_listing_does_not_show_that_it_moves_is_not_attached(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path)
    town.room("a", is_there=True)
    town.cloud.terminate_behind_our_back(town.first)
    town.cloud.put_instance(RUNNING, home=None)
    login = town.begin()
    await until(lambda: town.cloud.count()["CreateTags"])  # the claim
    town.cloud.volumes[town.home].tags.set(clock(), {**town.tags(), TAG_MOVING: "7.000"})
    await asyncio.sleep(1.5)
    assert not town.cloud.count()["AttachVolume"]
    assert (await login).home_volume_id == town.home  # called off, for there is a machine
    assert not town.cloud.sins


@in_virtual_time
async def test_nobody_is_served_on_a_home_that_is_marked_until_the_mark_is_gone(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path)
    town.room("a", is_there=True)
    town.cloud.volumes[town.home].tags.set(clock(), {**town.tags(), TAG_MOVING: "7.000"})
    town.cloud.fail("DeleteTags", Throttled("slow"), times=5)  # longer than a boot takes
    worker = await town.start()
    assert worker.home_volume_id == town.home
    assert TAG_MOVING not in town.tags()


# ---- called off


@in_virtual_time
async def test_it_is_called_off_when_the_other_zone_is_full_too_and_there_is_room_at_home(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path, snapshot_seconds=400.0)
    login = town.begin()
    await until(lambda: town.cloud.count()["CreateSnapshot"])
    await asyncio.sleep(1)
    town.room("a", is_there=True)
    town.room("b", is_there=False)
    login.cancel()
    worker = await town.start(1200.0)
    assert worker.home_volume_id == town.home
    assert TAG_MOVING not in town.tags()
    assert not [s for s in town.cloud.snapshots.values() if s.gone_at > clock()]
    assert not town.cloud.sins
    await asyncio.sleep(2000)
    assert not town.copies()


@in_virtual_time
async def test_it_is_called_off_for_a_machine_that_is_free_where_the_home_is(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path, snapshot_seconds=400.0)
    login = town.begin()
    await until(lambda: town.cloud.count()["CreateSnapshot"])
    await asyncio.sleep(2)
    spare = town.cloud.put_instance(RUNNING, home=None)
    worker = await login
    assert (worker.instance_id, worker.home_volume_id) == (spare, town.home)
    assert TAG_MOVING not in town.tags()
    assert not town.cloud.sins


@in_virtual_time
async def test_files_that_came_after_a_move_was_called_off_are_in_the_next_one(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path, snapshot_seconds=60.0)
    login = town.begin()
    await until(lambda: TAG_MOVING in town.tags() and town.cloud.snapshots)
    await asyncio.sleep(1)
    spare = town.cloud.put_instance(RUNNING, home=None)
    assert (await login).home_volume_id == town.home
    town.cloud.volumes[town.home].files = "thesis, chapter 2"
    town.hub.fleet.release(ANN)
    await until(lambda: town.cloud.state(spare) is STOPPED)
    town.check_moved(await town.start(), "thesis, chapter 2")


@in_virtual_time
async def test_a_copy_is_made_in_a_third_zone_when_the_second_has_no_machine_any_more(
    tmp_path: Path,
) -> None:
    from ec2spawner.placement import Subnet

    policy = replace(MOVES, subnets=(*MOVES.subnets, Subnet("subnet-c", "c")))
    town = Town(tmp_path, policy)
    login = town.begin()
    await until(lambda: town.cloud.count()["CreateSnapshot"])
    await asyncio.sleep(1)
    town.room("b", is_there=False)
    worker = await login
    assert worker.zone == "c"
    assert town.cloud.count()["CreateSnapshot"] == 1
    assert not town.cloud.sins
    await asyncio.sleep(2000)
    assert [c.volume_id for c in town.copies()] == [worker.home_volume_id]


@in_virtual_time
async def test_a_home_can_move_on_from_where_it_has_moved_to(tmp_path: Path) -> None:
    town = Town(tmp_path)
    first = await town.start()
    town.cloud.volumes[first.home_volume_id or ""].files = "newer"
    await until(lambda: TAG_GENERATION in town.tags(first.home_volume_id or ""))
    town.hub.fleet.release(ANN)
    await until(lambda: town.cloud.state(first.instance_id) is STOPPED)
    await asyncio.sleep(200)
    town.room("a", is_there=True)
    town.room("b", is_there=False)
    second = await town.start()
    home = second.home_volume_id or ""
    assert (second.zone, town.cloud.volumes[home].files) == ("a", "newer")
    await until(lambda: TAG_GENERATION in town.tags(home))
    assert town.tags(home)[TAG_GENERATION] == "5"
    assert not town.cloud.sins


# ---- owners that change meanwhile


@pytest.mark.parametrize("step", ["CreateSnapshot", "CreateVolume", "AttachVolume"])
@in_virtual_time
async def test_who_is_deleted_during_a_move_is_never_seen_again(tmp_path: Path, step: str) -> None:
    town = Town(tmp_path)
    login = town.begin()
    await until(lambda: town.cloud.count()[step])
    login.cancel()
    await town.hub.fleet.delete(ANN, demand("ann").incarnation)
    newcomer = asyncio.ensure_future(town.hub.log_in("ann", incarnation="another"))
    worker = await newcomer
    assert not town.cloud.volumes[worker.home_volume_id or ""].files
    await asyncio.sleep(9000)
    there = [v for v in town.cloud.volumes.values() if v.gone_at > clock()]
    assert [v.files for v in there] == [""]
    assert not town.cloud.sins


@pytest.mark.parametrize("step", ["CreateSnapshot", "CreateVolume", "AttachVolume"])
@in_virtual_time
async def test_who_is_renamed_during_a_move_has_all_files_under_the_new_name(
    tmp_path: Path, step: str
) -> None:
    town = Town(tmp_path, may_rename=True)
    login = town.begin()
    await until(lambda: town.cloud.count()[step])
    bea = Owner("bea")
    town.hub.fleet.rename(ANN, bea)
    worker = await login
    await asyncio.sleep(200)
    town.check_moved(worker, owner=bea)
    assert not [v for v in town.cloud.homes_of(ANN.key) if not v.is_retired]


@in_virtual_time
async def test_who_is_renamed_while_the_machine_is_being_retired_keeps_it_if_it_never_is(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path, may_rename=True)
    login = town.begin()
    await until(lambda: town.cloud.count()["CreateTags"], step_seconds=0.01)
    bea = Owner("bea")
    town.hub.fleet.rename(ANN, bea)
    login.cancel()
    town.hub = town.hub.kill()  # the mark was on its way
    await asyncio.sleep(5)
    assert TAG_REPLACED not in town.tags(town.first)
    assert town.tags(town.first)[TAG_OWNER] == town.tags()[TAG_OWNER] == bea.key
    town.check_moved(await town.start(user="bea"), owner=bea)


@pytest.mark.parametrize("is_rename", [True, False])
@in_virtual_time
async def test_what_is_promised_at_the_end_of_a_move_holds_for_both_volumes(
    tmp_path: Path, is_rename: bool
) -> None:
    town = Town(tmp_path, may_rename=True)
    login = town.begin()
    await until(lambda: any(c.owner for c in town.copies()), step_seconds=0.01)
    assert TAG_REPLACED not in town.tags()  # which is on its way
    bea = Owner("bea")
    if is_rename:
        town.hub.fleet.rename(ANN, bea)
    else:
        town.hub.fleet.give_up(ANN, demand("ann").incarnation)
    login.cancel()
    town.hub = town.hub.kill()
    if is_rename:
        town.check_moved(await town.start(user="bea"), owner=bea)
    else:
        worker = await town.hub.log_in("ann", incarnation="another")
        assert not town.cloud.volumes[worker.home_volume_id or ""].files
        await asyncio.sleep(9000)
        there = [v for v in town.cloud.volumes.values() if v.gone_at > clock()]
        assert [v.files for v in there] == [""]


@in_virtual_time
async def test_a_copy_that_a_late_call_has_given_to_its_owner_is_given_up(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.room("a", is_there=True)
    worker = await town.start()
    tags = {**OWNED, TAG_MOVED_FROM: f"{town.home} 3 99.5"}
    del tags[TAG_GENERATION]
    copy = town.cloud.put_volume(tags, zone="b")
    await asyncio.sleep(120)
    assert TAG_REPLACED in town.tags(copy)
    assert (await town.start()).home_volume_id == worker.home_volume_id == town.home
    await asyncio.sleep(6000)
    assert town.cloud.volumes[copy].gone_at < clock()
    assert TAG_DELETED not in town.tags()
    assert not town.cloud.sins
