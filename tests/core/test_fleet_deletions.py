"""Deleting and renaming: what was promised comes true, whatever AWS and the hub do meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from core.fakes import RUNNING, STOPPED, STOPPING, TERMINATED, FakeCloud
from core.kit import POLICY, Hub, demand, until
from core.virtual import clock, in_virtual_time
from ec2spawner.actions import DeleteVolume, Terminate
from ec2spawner.errors import Denied
from ec2spawner.execution import REPEAT_SECONDS
from ec2spawner.model import (
    HOME_DEVICE,
    TAG_CLAIM,
    TAG_DELETED,
    TAG_GENERATION,
    TAG_OWNER,
    TAG_USER,
    DeletedMark,
    Owner,
    SnapshotState,
    Worker,
)

ANN, BOB, CEM = Owner("ann"), Owner("bob"), Owner("cem")
SHORT = replace(POLICY, delete_grace_seconds=3600, snapshot_expire_seconds=7200)


def row(owner: Owner, number: int = 1) -> str:
    return f"row{number}{owner.user}"


# ---- deleting


@in_virtual_time
async def test_a_deletion_stops_ends_saves_and_removes_in_this_order(tmp_path: Path) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path, SHORT)
    worker = await hub.log_in("ann", incarnation=row(ANN))
    home = worker.home_volume_id or ""
    await hub.fleet.delete(ANN, row(ANN))
    assert DeletedMark.from_tag(cloud.tags(home)[TAG_DELETED]).incarnation == row(ANN)
    await until(lambda: cloud.state(worker.instance_id) is TERMINATED, 120)
    assert cloud.count()["StopInstances"] == 1
    assert cloud.count()["TerminateInstances"] == 1
    await asyncio.sleep(3300)
    assert not cloud.snapshots
    await until(lambda: cloud.volumes[home].gone_at <= clock(), 600)
    (saved,) = cloud.snapshots.values()
    assert saved.seen(clock()).state is SnapshotState.COMPLETED
    assert saved.tags[TAG_OWNER] == ANN.key
    await asyncio.sleep(7200)
    assert saved.gone_at < clock(), "a snapshot expires too"
    assert not cloud.sins


@in_virtual_time
async def test_deleting_a_stopped_worker_is_not_an_error_for_the_operator(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = FakeCloud()
    i = cloud.put_instance(STOPPED, {TAG_OWNER: ANN.key, TAG_GENERATION: "1"})
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(2)
    await hub.fleet.delete(ANN, row(ANN))
    await until(lambda: cloud.state(i) is TERMINATED, 60)
    assert cloud.count()["TerminateInstances"] == 1
    assert cloud.count()["DescribeTags"] == 1
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@in_virtual_time
async def test_a_home_that_no_listing_shows_yet_is_given_up_with_its_worker(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    hidden = cloud.list_volumes

    async def without_new_ones(ids: object = None) -> list[object]:
        return [v for v in await hidden(None) if v.created_at < clock() - 40]  # type: ignore[misc]

    cloud.list_volumes = without_new_ones  # type: ignore[method-assign]
    worker = await hub.log_in("ann", incarnation=row(ANN))
    await hub.fleet.delete(ANN, row(ANN))
    await asyncio.sleep(120)
    assert TAG_DELETED in cloud.tags(worker.home_volume_id or "")
    again = await hub.log_in("ann", incarnation=row(ANN, 2))
    assert again.home_volume_id != worker.home_volume_id


@in_virtual_time
async def test_a_new_user_of_a_deleted_name_gets_an_empty_home_at_once(tmp_path: Path) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    old = await hub.log_in("ann", incarnation=row(ANN))
    await hub.fleet.delete(ANN, row(ANN))
    new = await hub.log_in("ann", incarnation=row(ANN, 2))
    assert new.instance_id != old.instance_id
    assert new.home_volume_id != old.home_volume_id
    assert not cloud.sins


@in_virtual_time
async def test_a_deletion_that_the_hub_did_not_finish_is_taken_back_by_a_login(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    old = await hub.log_in("ann", incarnation=row(ANN))
    await hub.fleet.delete(ANN, row(ANN))
    await asyncio.sleep(200)
    hub = hub.kill()
    again = await asyncio.wait_for(hub.log_in("ann", incarnation=row(ANN)), 60)
    assert again.home_volume_id == old.home_volume_id
    assert TAG_DELETED not in cloud.tags(old.home_volume_id or "")
    assert not cloud.sins


@in_virtual_time
async def test_a_machine_that_is_being_ended_is_not_taken_back_with_its_home(
    tmp_path: Path,
) -> None:
    """Its tags are read, its end is not sent yet: what is taken off them now comes too late."""
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    old = await hub.log_in("ann", incarnation=row(ANN))
    back: list[asyncio.Future[object]] = []

    def come_back(action: str) -> None:
        if action == "DescribeTags" and not back:
            cloud.latency_seconds = 2.0
            back.append(asyncio.ensure_future(hub.log_in("ann", incarnation=row(ANN))))

    cloud.on_call = come_back
    await hub.fleet.delete(ANN, row(ANN))
    await until(lambda: bool(back), 60)
    again = await asyncio.wait_for(back[0], 120)
    assert isinstance(again, Worker)
    assert again.home_volume_id == old.home_volume_id
    assert again.instance_id != old.instance_id
    assert not cloud.sins


@in_virtual_time
async def test_nothing_is_ended_that_the_hub_itself_has_given_back(tmp_path: Path) -> None:
    """The listing of tags is old: it still shows the mark that was taken off."""
    cloud = FakeCloud()
    i = cloud.put_instance(STOPPED, {TAG_OWNER: ANN.key, TAG_GENERATION: "1"})
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(2)
    mark = DeletedMark(clock() - 60, row(ANN)).to_tag()

    async def of_before(ids: Sequence[str]) -> dict[str, dict[str, str]]:
        return {i: {**cloud.tags(i), TAG_DELETED: mark} for i in ids}

    cloud.tags_of = of_before  # type: ignore[method-assign]
    await hub.fleet._executor.execute(Terminate((i,), "given up"))
    assert cloud.state(i) is STOPPED
    assert not cloud.sins


@pytest.mark.parametrize("after", [False, True], ids=["lost before", "lost after"])
@in_virtual_time
async def test_nobody_is_served_before_it_is_known_that_their_deletion_is_taken_back(
    tmp_path: Path, after: bool
) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    old = await hub.log_in("ann", incarnation=row(ANN))
    hub.fleet.release(ANN)
    await until(lambda: cloud.state(old.instance_id) is STOPPED, 60)
    cloud.fail("TerminateInstances", Denied("no", action="TerminateInstances"), times=100)
    await hub.fleet.delete(ANN, row(ANN))
    await asyncio.sleep(200)
    cloud.fail("DeleteTags", times=3, after=after)
    hub = hub.kill()
    begun = clock()
    again = await asyncio.wait_for(hub.log_in("ann", incarnation=row(ANN)), 120)
    assert clock() - begun > 3 * REPEAT_SECONDS, "nothing goes on on a maybe"
    assert cloud.count()["DeleteTags"] == 4
    assert again.home_volume_id == old.home_volume_id
    started = [at for at, action, _ in cloud.calls if action == "StartInstances" and at > begun]
    assert started[0] > [at for at, action, _ in cloud.calls if action == "DeleteTags"][-1]
    assert not cloud.sins


@in_virtual_time
async def test_an_undelete_that_aws_denies_is_told_and_not_hammered(tmp_path: Path) -> None:
    cloud = FakeCloud()
    cloud.put_volume({TAG_OWNER: ANN.key, TAG_DELETED: DeletedMark(clock(), row(ANN)).to_tag()})
    cloud.fail("DeleteTags", Denied("no", action="DeleteTags"), times=1000)
    hub = Hub(cloud, tmp_path)
    with pytest.raises(Denied):
        await asyncio.wait_for(hub.log_in("ann", incarnation=row(ANN)), 60)
    await asyncio.sleep(150)
    assert cloud.count()["DeleteTags"] <= 12
    assert "RunInstances" not in cloud.count(), "no empty home instead"


@in_virtual_time
async def test_a_deletion_that_aws_denies_to_mark_removes_nothing_and_is_retried(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    i = cloud.put_instance(RUNNING, {TAG_OWNER: ANN.key, TAG_GENERATION: "1"})
    hub = Hub(cloud, tmp_path, SHORT)
    hub.fleet.want(demand("ann", incarnation=row(ANN)))
    await asyncio.sleep(2)
    cloud.fail("CreateTags", Denied("no", action="CreateTags"), times=100)
    begun = clock()
    await hub.fleet.delete(ANN, row(ANN))
    assert clock() - begun < 6, "the hub's page waits for 5 s at most"
    await asyncio.sleep(900)
    assert cloud.state(i) is STOPPED, "it does not go on costing money"
    assert "TerminateInstances" not in cloud.count()
    assert cloud.count()["DescribeTags"] == 0
    assert cloud.count()["CreateTags"] <= 62
    cloud.faults.clear()
    await until(lambda: cloud.state(i) is TERMINATED, 60)
    assert not cloud.sins


@in_virtual_time
async def test_promises_survive_a_new_hub_with_aws_away(tmp_path: Path) -> None:
    cloud = FakeCloud()
    i = cloud.put_instance(STOPPED, {TAG_OWNER: ANN.key, TAG_GENERATION: "1"})
    home = cloud.instances[i].volumes.at(clock())["/dev/sdf"]
    cloud.away = True
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(5)
    await hub.fleet.delete(ANN, row(ANN))
    for _ in range(3):
        await asyncio.sleep(100)
        hub = hub.kill()
    again = asyncio.ensure_future(hub.log_in("ann", incarnation=row(ANN, 2)))
    await asyncio.sleep(20)
    cloud.away = False
    worker = await asyncio.wait_for(again, 90)
    assert worker.home_volume_id != home
    assert TAG_DELETED in cloud.tags(home)
    assert TAG_DELETED in cloud.tags(i)
    assert not cloud.sins


@in_virtual_time
async def test_who_asks_right_after_the_first_listing_is_not_given_a_deleted_users_machine(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    i = cloud.put_instance(RUNNING, {TAG_OWNER: ANN.key, TAG_GENERATION: "1"})
    hub = Hub(cloud, tmp_path)
    await hub.fleet.delete(ANN, row(ANN))  # nothing is listed yet
    ticket = hub.fleet.want(demand("ann", incarnation=row(ANN, 2)))
    await until(lambda: hub.fleet.inventory.listing.is_known, step_seconds=0.001)
    worker = await hub.fleet.provided(ticket)
    assert worker.instance_id != i


@in_virtual_time
async def test_deleting_one_server_leaves_the_users_other_one(tmp_path: Path) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path, SHORT)
    await hub.log_in("ann")
    lab = await hub.log_in("ann", "lab")
    await hub.fleet.delete(ANN, row(ANN))
    await asyncio.sleep(8000)
    assert cloud.state(lab.instance_id) is RUNNING
    assert cloud.homes_of(Owner("ann", "lab").key)
    assert not cloud.homes_of(ANN.key)
    assert not cloud.sins


# ---- renaming


@pytest.mark.parametrize("state", [RUNNING, STOPPED])
@in_virtual_time
async def test_a_renamed_user_keeps_worker_and_home(tmp_path: Path, state: object) -> None:
    cloud = FakeCloud(may_rename=True)
    hub = Hub(cloud, tmp_path)
    old = await hub.log_in("ann")
    if state is STOPPED:
        hub.fleet.release(ANN)
        await asyncio.sleep(60)
    hub.fleet.rename(ANN, BOB)
    new = await hub.log_in("bob")
    assert (new.instance_id, new.home_volume_id) == (old.instance_id, old.home_volume_id)
    assert new.claim == old.claim, "the worker's own record still holds"
    await asyncio.sleep(100)
    for i in (new.instance_id, new.home_volume_id or ""):
        assert cloud.tags(i)[TAG_OWNER] == BOB.key
        assert cloud.tags(i)[TAG_USER] == "bob"
    assert cloud.state(new.instance_id) is RUNNING
    assert not hub.fleet.journal.promises


@in_virtual_time
async def test_a_new_user_of_an_old_name_does_not_get_the_renamed_ones_machine(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud(may_rename=True)
    hub = Hub(cloud, tmp_path)
    old = await hub.log_in("ann")
    hub.fleet.rename(ANN, BOB)
    new = await hub.log_in("ann", incarnation=row(ANN, 2))
    assert new.instance_id != old.instance_id
    assert new.home_volume_id != old.home_volume_id
    assert cloud.tags(old.instance_id)[TAG_OWNER] == BOB.key


@pytest.mark.parametrize("away", [False, True], ids=["", "AWS away"])
@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
@in_virtual_time
async def test_renames_in_a_row_end_at_the_last_name(
    tmp_path: Path, away: bool, killed: bool
) -> None:
    cloud = FakeCloud(may_rename=True)
    i = cloud.put_instance(STOPPED, {TAG_OWNER: ANN.key, TAG_GENERATION: "1"})
    cloud.away = away
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(3)
    hub.fleet.rename(ANN, BOB)
    hub.fleet.rename(BOB, CEM)
    hub.fleet.rename(ANN, BOB)  # a new ann, who never had a machine, is bob now
    if killed:
        hub = hub.kill()
    await asyncio.sleep(3)
    cloud.away = False
    await until(lambda: cloud.tags(i)[TAG_OWNER] == CEM.key, 90)
    await asyncio.sleep(100)
    assert cloud.tags(i)[TAG_OWNER] == CEM.key
    writes = [tags[TAG_OWNER] for _, tags in cloud.made("CreateTags") if TAG_OWNER in tags]
    assert writes.count(CEM.key) == 1
    await until(lambda: not hub.fleet.journal.promises, 120)
    cem = await hub.log_in("cem")
    assert cem.instance_id == i
    bob = await hub.log_in("bob")
    assert bob.instance_id != i


@in_virtual_time
async def test_renamed_between_logout_and_stop_is_stopped_all_the_same(tmp_path: Path) -> None:
    cloud = FakeCloud(may_rename=True)
    hub = Hub(cloud, tmp_path)
    worker = await hub.log_in("ann")
    hub.fleet.release(ANN)
    hub.fleet.rename(ANN, BOB)
    assert await until(lambda: cloud.state(worker.instance_id) is STOPPING, 60) < 10


@in_virtual_time
async def test_renamed_and_deleted_at_once_is_marked_at_once(tmp_path: Path) -> None:
    cloud = FakeCloud(may_rename=True)
    hub = Hub(cloud, tmp_path)
    worker = await hub.log_in("ann")
    hub.fleet.rename(ANN, BOB)
    begun = clock()
    await hub.fleet.delete(BOB, row(BOB))
    assert clock() - begun < 2
    tags = cloud.tags(worker.home_volume_id or "")
    assert tags[TAG_OWNER] == BOB.key
    assert TAG_DELETED in tags


@in_virtual_time
async def test_a_rename_while_someone_waits_ends_the_wait_with_the_machine(tmp_path: Path) -> None:
    cloud = FakeCloud(may_rename=True)
    hub = Hub(cloud, tmp_path)
    ticket = hub.fleet.want(demand("ann"))
    await asyncio.sleep(0.7)
    hub.fleet.rename(ANN, BOB)
    worker = await asyncio.wait_for(hub.fleet.provided(ticket), 60)
    await asyncio.sleep(200)
    assert cloud.tags(worker.instance_id)[TAG_OWNER] == BOB.key
    assert len(cloud.alive()) == 1


@pytest.mark.parametrize("is_deleted", [False, True], ids=["renamed", "deleted"])
@in_virtual_time
async def test_a_machine_whose_mark_never_came_to_stand_goes_with_its_home(
    tmp_path: Path, is_deleted: bool
) -> None:
    """Nobody has it in the name of nobody, with the files of somebody else on it."""
    cloud = FakeCloud(may_rename=True)
    i = cloud.put_instance(STOPPED, {TAG_OWNER: ANN.key, TAG_GENERATION: "1"})
    home = cloud.instances[i].volumes.at(clock())[HOME_DEVICE]
    cloud.instances[i].is_spot = True
    cloud.instances[i].interrupted.set(clock(), True)
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(2)
    cloud.fail("CreateTags", times=1000)
    hub.fleet.want(demand("ann", incarnation=row(ANN)))
    await until(lambda: cloud.count()["CreateTags"] > 0, 10)
    if is_deleted:
        hub.fleet.give_up(ANN, row(ANN))
    else:
        hub.fleet.rename(ANN, BOB)
    await asyncio.sleep(1)
    cloud.faults.clear()
    hub = hub.kill()
    if is_deleted:
        await until(lambda: cloud.state(i) is TERMINATED, 120)
        assert TAG_DELETED in cloud.tags(home)
    else:
        bob = await asyncio.wait_for(hub.log_in("bob"), 120)
        assert bob.home_volume_id == home
    assert not cloud.sins


# ---- snapshots


@pytest.mark.parametrize("lost", [None, False, True], ids=["", "lost before", "lost after"])
@in_virtual_time
async def test_a_slow_snapshot_is_made_once_and_waited_for(
    tmp_path: Path, lost: bool | None
) -> None:
    cloud = FakeCloud(snapshot_seconds=4000.0)
    mark = DeletedMark(clock() - 9e5, row(ANN)).to_tag()
    home = cloud.put_volume({TAG_OWNER: ANN.key, TAG_DELETED: mark})
    if lost is not None:
        cloud.fail("CreateSnapshot", after=lost)
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(3900)
    assert len(cloud.snapshots) == 1
    assert cloud.volumes[home].gone_at > clock()
    assert cloud.count()["DescribeSnapshots"] <= 140
    await asyncio.sleep(200)
    assert cloud.volumes[home].gone_at <= clock()
    assert len(cloud.snapshots) == 1
    assert not cloud.sins
    assert hub.fleet.problem is None


@in_virtual_time
async def test_a_home_that_was_given_up_anew_since_is_saved_anew(tmp_path: Path) -> None:
    """The plan knows of the first time only; by then there were fewer files."""
    cloud = FakeCloud(snapshot_seconds=1.0)
    first, second = (DeletedMark(clock() - age, row(ANN)).to_tag() for age in (9e5, 8e5))
    home = cloud.put_volume({TAG_OWNER: ANN.key, TAG_DELETED: first})
    saved = await cloud.snapshot(home, {**cloud.tags(home), "ec2spawner:expires": "9999999999"})
    await asyncio.sleep(5)
    cloud.volumes[home].tags.set(clock(), {**cloud.tags(home), TAG_DELETED: second})
    hub = Hub(cloud, tmp_path)
    await hub.fleet._executor.execute(DeleteVolume(home, saved.snapshot_id, "saved"))
    assert cloud.volumes[home].gone_at > clock()
    await until(lambda: cloud.volumes[home].gone_at <= clock(), 300)
    assert [s.tags[TAG_DELETED] for s in cloud.snapshots.values()] == [first, second]


@in_virtual_time
async def test_a_home_whose_tags_say_otherwise_is_not_touched(tmp_path: Path) -> None:
    """The listing is old: the mark was taken off meanwhile, in the console."""
    cloud = FakeCloud(lag_seconds=1000.0, snapshot_seconds=10.0)
    begun = clock() - 2000
    mark = DeletedMark(clock() - 9e5, row(ANN)).to_tag()
    home = cloud.put_volume({TAG_OWNER: ANN.key, TAG_DELETED: mark}, created_at=begun)
    i = cloud.put_instance(
        STOPPED, {TAG_OWNER: ANN.key, TAG_DELETED: mark}, home=None, launched_at=begun
    )
    for resource in (cloud.volumes[home], cloud.instances[i]):
        kept = {k: v for k, v in resource.tags.at(clock()).items() if k != TAG_DELETED}
        resource.tags.set(clock(), kept)
    Hub(cloud, tmp_path)
    await asyncio.sleep(300)
    assert cloud.count()["DescribeTags"] > 0
    assert not {"CreateSnapshot", "DeleteVolume", "TerminateInstances"} & set(cloud.count())
    assert cloud.count()["DescribeTags"] <= 300


@in_virtual_time
async def test_a_spare_that_stale_listings_show_without_its_owner_is_not_given_away(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud(lag_seconds=60.0)
    i = cloud.put_instance(RUNNING, launched_at=clock() - 100)
    home = cloud.instances[i].volumes.at(clock())["/dev/sdf"]
    for resource in (cloud.instances[i], cloud.volumes[home]):
        tags = {**resource.tags.at(clock()), TAG_OWNER: BOB.key, TAG_GENERATION: "1"}
        resource.tags.set(clock(), {**tags, TAG_CLAIM: "bobs"})
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(1)
    ann, bob = await asyncio.wait_for(asyncio.gather(hub.log_in("ann"), hub.log_in("bob")), 240)
    assert bob.instance_id == i
    assert bob.claim == cloud.tags(i)[TAG_CLAIM] == "bobs", "its own record still holds"
    assert ann.instance_id != i
    assert not cloud.sins


@in_virtual_time
async def test_a_claim_that_stands_is_kept_when_stale_listings_hide_it(tmp_path: Path) -> None:
    """Another claim would not be the one that the worker's own record names."""
    cloud = FakeCloud(lag_seconds=60.0)
    i = cloud.put_instance(RUNNING, launched_at=clock() - 100)
    home = cloud.instances[i].volumes.at(clock())["/dev/sdf"]
    for resource in (cloud.instances[i], cloud.volumes[home]):
        tags = {**resource.tags.at(clock()), TAG_OWNER: BOB.key, TAG_CLAIM: "bobs"}
        resource.tags.set(clock(), tags)
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(1)
    bob = await asyncio.wait_for(hub.log_in("bob"), 20)
    assert (bob.instance_id, bob.claim) == (i, "bobs")
    assert cloud.tags(i)[TAG_CLAIM] == cloud.tags(home)[TAG_CLAIM] == "bobs"


@in_virtual_time
async def test_a_promise_of_unknown_things_never_comes_to_mean_a_new_users(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud(away=True, mapping_seconds=0.0)
    hub = Hub(cloud, tmp_path, SHORT)
    await asyncio.sleep(5)
    await hub.fleet.delete(ANN, row(ANN))  # who had nothing, which nobody can know now
    coming = asyncio.ensure_future(hub.log_in("ann", incarnation=row(ANN, 2)))
    await asyncio.sleep(1)
    cloud.away = False
    new = await asyncio.wait_for(coming, 120)
    await asyncio.sleep(5000)
    assert not [tags for _, tags in cloud.made("CreateTags") if TAG_DELETED in tags]
    assert list(cloud.instances) == [new.instance_id]
    assert cloud.state(new.instance_id) is RUNNING
    assert not hub.fleet.journal.promises


@in_virtual_time
async def test_a_snapshot_whose_time_is_over_is_deleted_once(tmp_path: Path) -> None:
    cloud = FakeCloud()
    home = cloud.put_volume()
    await cloud.snapshot(home, {**cloud.tags(home), "ec2spawner:expires": "7"})
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(2000)
    assert cloud.count()["DeleteSnapshot"] == 1
    assert hub.fleet.problem is None


@in_virtual_time
async def test_who_comes_after_a_namesake_without_a_machine_waits_a_moment_only(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(5)
    await hub.fleet.delete(ANN, row(ANN))  # who had nothing, as far as a young hub can know
    begun = clock()
    await hub.log_in("ann", incarnation=row(ANN, 2))
    assert clock() - begun < 12, "it boots for 5 s"


@pytest.mark.parametrize("trouble", ["", "AWS away"])
@in_virtual_time
async def test_a_deletion_of_nothing_never_comes_to_mean_who_gets_the_name(
    tmp_path: Path, trouble: str
) -> None:
    cloud = FakeCloud(may_rename=True)
    tags = {TAG_OWNER: BOB.key, TAG_GENERATION: "1", TAG_CLAIM: "c"}
    i = cloud.put_instance(STOPPED, tags)
    home = cloud.instances[i].volumes.at(clock())[HOME_DEVICE]
    cloud.away = bool(trouble)
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(5)
    await hub.fleet.delete(ANN, "row of ann, who had nothing")
    await asyncio.sleep(10)
    hub.fleet.rename(BOB, ANN)
    cloud.away = False
    new_bob = asyncio.ensure_future(hub.log_in("bob"))  # the name is free again
    await asyncio.sleep(120)
    for resource in (i, home):
        assert cloud.tags(resource)[TAG_OWNER] == ANN.key
        assert TAG_DELETED not in cloud.tags(resource)
    assert (await hub.log_in("ann", incarnation="row of bob", is_known=True)).instance_id == i
    assert (await new_bob).instance_id != i
    assert not hub.fleet.journal.promises
    assert not cloud.sins
