"""What one stale listing, one half-done rename or one dying machine must not bring about."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from core.fakes import STOPPED, FakeCloud, Timeline
from core.kit import POLICY, Hub, demand, until
from core.virtual import clock, in_virtual_time
from ec2spawner import journal
from ec2spawner.errors import LaunchFailed, NameTaken, QuotaError, Rejected
from ec2spawner.model import (
    HOME_DEVICE,
    TAG_CLAIM,
    TAG_DELETED,
    TAG_GENERATION,
    TAG_OWNER,
    TAG_USER,
    InstanceState,
    Owner,
    Volume,
    Worker,
)

ANN, ANNA, BOB = Owner("ann"), Owner("anna"), Owner("bob")
OWNED = (TAG_OWNER, TAG_CLAIM, TAG_USER, TAG_GENERATION)


class StaleCloud(FakeCloud):
    """Its listings can lack the owners' tags (``is_old``), or some ids (``hidden``)."""

    is_old = False
    hidden: tuple[str, ...] = ()

    async def list_workers(self, ids: Sequence[str] | None = None) -> list[Worker]:
        found = [w for w in await super().list_workers(ids) if w.instance_id not in self.hidden]
        return [replace(w, tags=_bare(w)) for w in found] if self.is_old else found

    async def list_volumes(self, ids: Sequence[str] | None = None) -> list[Volume]:
        found = [v for v in await super().list_volumes(ids) if v.volume_id not in self.hidden]
        return [replace(v, tags=_bare(v)) for v in found] if self.is_old else found


def _bare(resource: Worker | Volume) -> MappingProxyType[str, str]:
    return MappingProxyType({k: v for k, v in resource.tags.items() if k not in OWNED})


def put_stopped(cloud: FakeCloud, owner: Owner) -> str:
    tags = {TAG_OWNER: owner.key, TAG_GENERATION: "1", TAG_CLAIM: "c"}
    return cloud.put_instance(InstanceState.STOPPED, tags)


@in_virtual_time
async def test_a_worker_launched_long_ago_is_not_claimed_on_a_listing_without_its_owner(
    tmp_path: Path,
) -> None:
    cloud = StaleCloud()
    hub = Hub(cloud, tmp_path)
    anns = await hub.log_in("ann")
    await asyncio.sleep(100)
    hub.fleet.release(ANN)
    await asyncio.sleep(100)
    cloud.is_old = True
    hub.fleet.inventory.hurry(full=True)
    await asyncio.sleep(1)
    hub.fleet.want(demand("bob"))
    await asyncio.sleep(3)
    cloud.is_old = False
    await asyncio.sleep(60)
    assert cloud.tags(anns.instance_id)[TAG_OWNER] == ANN.key
    assert cloud.tags(anns.home_volume_id)[TAG_OWNER] == ANN.key
    assert not cloud.sins


@in_virtual_time
async def test_machines_that_stopped_while_the_hub_was_down_stay_so_until_their_users_come(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    for number in range(5):
        put_stopped(cloud, Owner(f"u{number}"))
    hub = Hub(cloud, tmp_path)
    for number in range(5):
        hub.fleet.want(demand(f"u{number}", is_waiting=False))
    await asyncio.sleep(100)
    assert cloud.count()["StartInstances"] == 0
    await hub.log_in("u3")
    assert [w.owner for w in cloud.alive() if w.state is InstanceState.RUNNING] == [Owner("u3").key]


@in_virtual_time
async def test_machines_ended_behind_the_hub_are_not_launched_again_for_nobody(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    workers = await asyncio.gather(*(hub.log_in(f"u{n}") for n in range(5)))
    await asyncio.sleep(100)
    begun = clock()
    for worker in workers:
        cloud.terminate_behind_our_back(worker.instance_id)
    await asyncio.sleep(200)
    assert cloud.count(begun)["RunInstances"] == 0


@in_virtual_time
async def test_a_running_worker_without_anybody_waiting_is_left_running(tmp_path: Path) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    worker = await hub.log_in("ann")
    hub = hub.kill()
    hub.fleet.want(demand("ann", is_waiting=False))
    await asyncio.sleep(1000)
    assert cloud.state(worker.instance_id) is InstanceState.RUNNING


class DyingCloud(FakeCloud):
    """Every instance ends right after its launch, as EC2 does it when a disk cannot be made."""

    def _new(self, request: Any) -> str:
        instance_id = super()._new(request)
        self._end(self.instances[instance_id], clock() + 2, 1.0)
        state = Timeline(clock(), InstanceState.PENDING)
        state.then(clock() + 2, InstanceState.SHUTTING_DOWN)
        state.then(clock() + 3, InstanceState.TERMINATED)
        self.instances[instance_id].state = state
        return instance_id


@in_virtual_time
async def test_launches_that_end_by_themselves_are_not_repeated_for_ever(tmp_path: Path) -> None:
    cloud = DyingCloud()
    hub = Hub(cloud, tmp_path)
    tickets = [hub.fleet.want(demand(f"u{n}")) for n in range(20)]
    await asyncio.sleep(170)
    assert cloud.count()["RunInstances"] <= 4  # two subnets, and what a click before may add
    assert all(isinstance(t.refusal, Rejected) for t in tickets)


class OffSwitchCloud(FakeCloud):
    """Whatever is started switches itself off."""

    def _start(self, ids: Sequence[str]) -> None:
        super()._start(ids)
        for instance_id in ids:
            state = Timeline(clock(), InstanceState.PENDING)
            state.then(clock() + 5, InstanceState.STOPPING)
            state.then(clock() + 6, InstanceState.STOPPED)
            self.instances[instance_id].state = state


@in_virtual_time
async def test_a_machine_that_switches_itself_off_is_not_started_for_ever(tmp_path: Path) -> None:
    cloud = OffSwitchCloud()
    put_stopped(cloud, ANN)
    hub = Hub(cloud, tmp_path)
    ticket = hub.fleet.want(demand("ann"))
    await until(lambda: ticket.refusal, 60)
    assert isinstance(ticket.refusal, Rejected)
    assert cloud.count()["StartInstances"] == 2


@in_virtual_time
async def test_a_class_without_capacity_is_told_at_once_with_few_calls(tmp_path: Path) -> None:
    cloud = FakeCloud(cannot_start=set())
    ids = [put_stopped(cloud, Owner(f"u{n}")) for n in range(100)]
    cloud.cannot_start = set(ids)
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(1)
    tickets = [hub.fleet.want(demand(f"u{n}")) for n in range(100)]
    await asyncio.sleep(20)
    assert all(t.refusal for t in tickets)
    assert cloud.count()["StartInstances"] <= 15


@in_virtual_time
async def test_a_quota_for_some_of_a_class_lets_these_start(tmp_path: Path) -> None:
    cloud = FakeCloud()
    for number in range(100):
        put_stopped(cloud, Owner(f"u{number}"))
    start = cloud._start

    def within_quota(ids: Sequence[str]) -> None:
        if sum(w.state is not InstanceState.STOPPED for w in cloud.alive()) + len(ids) > 60:
            raise QuotaError("no", action="StartInstances", aws_code="VcpuLimitExceeded")
        start(ids)

    cloud._start = within_quota  # type: ignore[method-assign]
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(1)
    tickets = [hub.fleet.want(demand(f"u{n}")) for n in range(100)]
    await asyncio.sleep(40)
    running = sum(w.state is InstanceState.RUNNING for w in cloud.alive())
    assert running >= 50
    assert sum(t.refusal is not None for t in tickets) == 100 - running


@in_virtual_time
async def test_a_home_that_one_listing_lacks_is_not_replaced_by_a_blank_one(
    tmp_path: Path,
) -> None:
    cloud = StaleCloud()
    hub = Hub(cloud, tmp_path)
    before = await hub.log_in("ann")
    await asyncio.sleep(100)
    hub.fleet.release(ANN)
    await asyncio.sleep(60)
    cloud.terminate_behind_our_back(before.instance_id)
    await asyncio.sleep(60)
    cloud.hidden = (before.home_volume_id or "",)
    hub.fleet.inventory.hurry(full=True)
    await asyncio.sleep(1)
    coming = asyncio.ensure_future(hub.log_in("ann", is_known=True))
    await asyncio.sleep(1)
    cloud.hidden = ()
    after = await coming
    assert after.home_volume_id == before.home_volume_id


@in_virtual_time
async def test_who_really_has_no_home_waits_a_moment_only(tmp_path: Path) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(1)
    begun = clock()
    hub.fleet.want(demand("ann", is_known=True))
    await until(lambda: cloud.count()["RunInstances"], 10)
    assert clock() - begun < 5


# ---- renames: they hold only once the hub's database has taken them


async def _with_home(cloud: FakeCloud, folder: Path) -> tuple[Hub, Worker]:
    hub = Hub(cloud, folder)
    worker = await hub.log_in("ann")
    await asyncio.sleep(100)
    hub.fleet.release(ANN)
    await asyncio.sleep(60)
    return hub, worker


@in_virtual_time
async def test_a_rename_that_was_not_taken_leaves_the_files_with_the_old_name(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud(may_rename=True)
    hub, worker = await _with_home(cloud, tmp_path)
    assert hub.fleet.promises.propose_rename("row 7", ANN, ANNA)
    hub = hub.kill()  # before the hub's database had it
    await asyncio.sleep(100)
    assert cloud.tags(worker.home_volume_id)[TAG_OWNER] == ANN.key
    hub.fleet.promises.settle_renames("row 7", "ann")
    again = await hub.log_in("ann")
    assert again.home_volume_id == worker.home_volume_id
    other = await hub.log_in("anna", incarnation="otherrow")
    assert other.home_volume_id != worker.home_volume_id
    assert not hub.fleet.journal.promises


@pytest.mark.parametrize(("row", "name"), [("row 7", "anna"), ("row 8", "ann")])
@in_virtual_time
async def test_a_rename_that_was_taken_is_carried_out_after_a_kill(
    tmp_path: Path, row: str, name: str
) -> None:
    cloud = FakeCloud(may_rename=True)
    hub, worker = await _with_home(cloud, tmp_path)
    assert hub.fleet.promises.propose_rename("row 7", ANN, ANNA)
    hub = hub.kill()  # after the hub's database had it
    hub.fleet.promises.settle_renames(row, name)
    await until(lambda: cloud.tags(worker.home_volume_id)[TAG_OWNER] == ANNA.key, 60)


@in_virtual_time
async def test_a_rename_that_cannot_be_put_down_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = FakeCloud(may_rename=True)
    hub, worker = await _with_home(cloud, tmp_path)

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_write", full)
        with pytest.raises(OSError, match="No space"):
            hub.fleet.rename(ANN, ANNA)
    await asyncio.sleep(100)
    assert cloud.tags(worker.home_volume_id)[TAG_OWNER] == ANN.key


@in_virtual_time
async def test_who_came_just_before_a_long_outage_keeps_the_files_by_a_name_given_in_it(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    cloud.put_instance()
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(100)
    worker = await hub.log_in("ann")
    cloud.away = True
    await asyncio.sleep(600)  # far longer than a call's effect is believed where listings come
    hub.fleet.rename(Owner("ann"), Owner("anna"))
    cloud.away = False
    again = await hub.log_in("anna", is_known=True)
    assert again.instance_id == worker.instance_id
    assert again.home_volume_id == worker.home_volume_id


@in_virtual_time
async def test_who_came_just_before_a_long_outage_and_is_deleted_in_it_is_given_up(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    cloud.put_instance()
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(100)
    worker = await hub.log_in("ann")
    cloud.away = True
    await asyncio.sleep(600)
    await hub.fleet.delete(Owner("ann"), "rowann")
    cloud.away = False
    again = await hub.log_in("ann", incarnation="another")
    assert again.home_volume_id != worker.home_volume_id, "somebody else's files"


@in_virtual_time
async def test_a_name_under_which_there_are_files_is_not_taken_over(tmp_path: Path) -> None:
    cloud = FakeCloud(may_rename=True)
    hub, _ = await _with_home(cloud, tmp_path)
    put_stopped(cloud, BOB)
    hub.fleet.inventory.hurry(full=True)
    await asyncio.sleep(1)
    with pytest.raises(NameTaken):
        hub.fleet.rename(ANN, BOB)
    assert not hub.fleet.journal.promises


# ---- the poller


@in_virtual_time
async def test_a_worker_stuck_in_stopping_is_not_listed_every_second_for_ever(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    cloud.put_instance(InstanceState.STOPPING, {TAG_OWNER: ANN.key, TAG_CLAIM: "c"})
    Hub(cloud, tmp_path)
    await asyncio.sleep(400)
    begun = clock()
    await asyncio.sleep(600)
    assert cloud.count(begun)["DescribeInstances"] <= 21


@in_virtual_time
async def test_a_host_key_outlives_a_listing_that_lacks_its_worker(tmp_path: Path) -> None:
    cloud = StaleCloud()
    hub = Hub(cloud, tmp_path)
    worker = await hub.log_in("ann")
    hub.fleet.journal.pin(worker.instance_id, "key")
    cloud.hidden = (worker.instance_id,)
    hub.fleet.inventory.hurry(full=True)
    await asyncio.sleep(1)
    cloud.hidden = ()
    await asyncio.sleep(60)
    assert hub.fleet.journal.pinned(worker.instance_id) == "key"


@in_virtual_time
async def test_a_double_is_stopped_while_its_owner_works_and_goes_in_the_end(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    tags = {TAG_OWNER: ANN.key, TAG_CLAIM: "c"}
    mine = cloud.put_instance(InstanceState.RUNNING, {**tags, TAG_GENERATION: "1"})
    double = cloud.put_instance(InstanceState.PENDING, tags)
    cloud.instances[double].state.then(clock() + 15, InstanceState.RUNNING)
    hub = Hub(cloud, tmp_path, replace(POLICY, delete_grace_seconds=3600))
    worker = await hub.log_in("ann", is_known=True)
    assert worker.instance_id == mine
    await until(lambda: cloud.state(double) is STOPPED, 600)
    blank = cloud.instances[double].volumes.at(clock())[HOME_DEVICE]
    await until(lambda: cloud.state(double) is InstanceState.TERMINATED, 600)
    await until(lambda: not cloud._exists(blank), 2 * 3600, step_seconds=10)
    assert cloud.state(mine) is InstanceState.RUNNING
    assert cloud.count()["CreateSnapshot"] == 1
    assert not cloud.sins


@in_virtual_time
async def test_a_double_with_files_of_its_owner_is_stopped_and_stays(tmp_path: Path) -> None:
    cloud = FakeCloud()
    tags = {TAG_OWNER: ANN.key, TAG_CLAIM: "c", TAG_GENERATION: "1"}
    mine, double = (cloud.put_instance(InstanceState.RUNNING, tags) for _ in range(2))
    hub = Hub(cloud, tmp_path)
    worker = await hub.log_in("ann", is_known=True)
    assert worker.instance_id == mine
    await until(lambda: cloud.state(double) is STOPPED, 600)
    await asyncio.sleep(86400)
    assert cloud.state(double) is STOPPED
    assert TAG_DELETED not in cloud.tags(double)


@in_virtual_time
async def test_a_running_worker_is_not_stopped_for_another_that_looks_older(
    tmp_path: Path,
) -> None:
    """Who is served is known from the hub itself: no listing can make a working one a double."""
    cloud = FakeCloud()
    tags = {TAG_OWNER: ANN.key, TAG_CLAIM: "c", TAG_GENERATION: "1"}
    mine = cloud.put_instance(InstanceState.RUNNING, tags)
    hub = Hub(cloud, tmp_path)
    await hub.log_in("ann", is_known=True)
    older = cloud.put_instance(InstanceState.RUNNING, {**tags, TAG_GENERATION: "2"})
    await asyncio.sleep(3600)
    assert cloud.state(mine) is InstanceState.RUNNING
    assert cloud.state(older) is STOPPED


@pytest.mark.parametrize("what", ["deleted", "renamed"])
@in_virtual_time
async def test_a_worker_that_one_listing_lacks_goes_with_its_home(
    tmp_path: Path, what: str
) -> None:
    cloud = StaleCloud(may_rename=True)
    i = put_stopped(cloud, ANN)
    home = cloud.instances[i].volumes.at(clock())[HOME_DEVICE]
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(200)
    cloud.hidden = (i,)
    await asyncio.sleep(31)
    if what == "deleted":
        await hub.fleet.delete(ANN, "row1")
    else:
        hub.fleet.rename(ANN, Owner("anna"))
    cloud.hidden = ()
    await asyncio.sleep(120)
    for resource in (i, home):
        if what == "deleted":
            assert TAG_DELETED in cloud.tags(resource)
        else:
            assert cloud.tags(resource)[TAG_OWNER] == Owner("anna").key
    assert not hub.fleet.journal.promises


@in_virtual_time
async def test_a_worker_that_holds_a_given_up_home_is_told_to_its_owner(tmp_path: Path) -> None:
    cloud = FakeCloud()
    i = put_stopped(cloud, ANN)
    home = cloud.instances[i].volumes.at(clock())[HOME_DEVICE]
    cloud.volumes[home].tags.set(clock(), {**cloud.tags(home), TAG_DELETED: "1000 row0"})
    hub = Hub(cloud, tmp_path)
    with pytest.raises(LaunchFailed, match=home):
        await asyncio.wait_for(hub.log_in("ann"), 60)
    assert cloud.state(i) is STOPPED
