"""The fleet over a whole cluster, in virtual time: logins, logouts, classes, lost replies."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from core.fakes import PENDING, RUNNING, STOPPED, STOPPING, FakeCloud
from core.kit import POLICY, Hub, demand, until
from core.virtual import clock, in_virtual_time
from ec2spawner.errors import CapacityError, EC2SpawnerError, NotFound, Unreachable
from ec2spawner.model import (
    TAG_CLAIM,
    TAG_CLUSTER,
    TAG_DELETED,
    TAG_GENERATION,
    TAG_OWNER,
    TAG_USER,
    DeletedMark,
    Owner,
    Worker,
)
from ec2spawner.placement import Market, Profile

ANN = Owner("ann")
READS = {"DescribeInstances", "DescribeVolumes", "DescribeSnapshots", "DescribeTags"}


def writes(cloud: FakeCloud, since: float = 0.0) -> dict[str, int]:
    return {name: n for name, n in cloud.count(since).items() if name not in READS}


@in_virtual_time
async def test_first_login_launches_one_worker_and_claims_it_with_its_home(tmp_path: Path) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    worker = await hub.log_in("ann")
    assert writes(cloud) == {"RunInstances": 1, "CreateTags": 1}
    home = worker.home_volume_id or ""
    for resource in (worker.instance_id, home):
        tags = cloud.tags(resource)
        assert tags[TAG_OWNER] == ANN.key
        assert tags[TAG_USER] == "ann"
        assert tags[TAG_CLUSTER] == cloud.cluster
        assert tags["Owner"] == "school" if resource == worker.instance_id else True
    assert cloud.tags(home)[TAG_CLAIM] == cloud.tags(worker.instance_id)[TAG_CLAIM]
    assert worker.claim == cloud.tags(home)[TAG_CLAIM]


@in_virtual_time
async def test_a_first_login_costs_no_more_time_than_the_boot_and_a_moment(tmp_path: Path) -> None:
    cloud = FakeCloud(boot_seconds=6.0, mapping_seconds=1.0)
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(12.3)  # in the middle between two full listings
    begun = clock()
    ticket = hub.fleet.want(demand("ann"))
    await hub.fleet.provided(ticket)
    assert clock() - begun < 4.0, "claimed well before it has booted"


@in_virtual_time
async def test_home_is_marked_mounted_for_the_first_time_once(tmp_path: Path) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    worker = await hub.log_in("ann")
    await asyncio.sleep(200)
    assert cloud.tags(worker.home_volume_id or "")[TAG_GENERATION] == "1"
    assert writes(cloud) == {"RunInstances": 1, "CreateTags": 2}


@in_virtual_time
async def test_start_of_a_stopped_worker_is_one_call(tmp_path: Path) -> None:
    cloud = FakeCloud()
    i = cloud.put_instance(STOPPED, {TAG_OWNER: ANN.key, TAG_GENERATION: "1", TAG_CLAIM: "c"})
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(1)
    begun = clock()
    worker = await hub.fleet.provided(hub.fleet.want(demand("ann")))
    assert worker.instance_id == i
    assert clock() - begun < 0.5, "the address is known, so nobody waits for the boot"
    await until(lambda: hub.fleet.view().workers[i].state is RUNNING, 8)
    assert writes(cloud) == {"StartInstances": 1}


@in_virtual_time
async def test_login_on_a_running_worker_takes_no_call(tmp_path: Path) -> None:
    cloud = FakeCloud()
    cloud.put_instance(RUNNING, {TAG_OWNER: ANN.key, TAG_GENERATION: "1", TAG_CLAIM: "c"})
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(1)
    before = len(cloud.calls)
    await hub.fleet.provided(hub.fleet.want(demand("ann")))
    assert len(cloud.calls) == before


@in_virtual_time
async def test_login_while_stopping_waits_for_stopped_and_starts(tmp_path: Path) -> None:
    cloud = FakeCloud(stop_seconds=20)
    hub = Hub(cloud, tmp_path)
    worker = await hub.log_in("ann")
    hub.fleet.release(ANN)
    await until(lambda: cloud.state(worker.instance_id) is STOPPING)
    again = await hub.log_in("ann")
    assert again.instance_id == worker.instance_id
    assert writes(cloud)["StartInstances"] == 1
    assert writes(cloud)["RunInstances"] == 1


@in_virtual_time
async def test_released_worker_is_stopped_at_once_and_stays_its_owners(tmp_path: Path) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    worker = await hub.log_in("ann")
    hub.fleet.release(ANN)
    assert await until(lambda: cloud.state(worker.instance_id) is STOPPING) < 2
    await asyncio.sleep(3600)
    assert cloud.state(worker.instance_id) is STOPPED
    assert len(cloud.owned_by(ANN.key)) == 1
    assert writes(cloud)["StopInstances"] == 1


@in_virtual_time
async def test_wanted_again_before_the_stop_was_sent_is_not_stopped(tmp_path: Path) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    worker = await hub.log_in("ann")
    hub.fleet.release(ANN)
    hub.fleet.tick()  # the stop is planned
    hub.fleet.want(demand("ann"))  # and not sent yet
    await asyncio.sleep(60)
    assert "StopInstances" not in cloud.count()
    assert cloud.state(worker.instance_id) is RUNNING


@in_virtual_time
async def test_released_while_booting_is_stopped_when_it_runs(tmp_path: Path) -> None:
    cloud = FakeCloud(boot_seconds=30)
    hub = Hub(cloud, tmp_path)
    worker = await hub.fleet.provided(hub.fleet.want(demand("ann")))
    hub.fleet.release(ANN)
    assert cloud.state(worker.instance_id) is PENDING
    await until(lambda: cloud.state(worker.instance_id) is STOPPED, 60)


@in_virtual_time
async def test_fifty_first_logins_at_once_are_one_launch_and_one_claim_each(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(1)
    workers = await asyncio.gather(*(hub.log_in(f"user{n}") for n in range(50)))
    assert len({w.instance_id for w in workers}) == 50
    assert writes(cloud) == {"RunInstances": 1, "CreateTags": 50}
    assert not cloud.sins


@in_virtual_time
async def test_two_hundred_clicks_are_two_launches_of_a_hundred(tmp_path: Path) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(1)
    await asyncio.gather(*(hub.log_in(f"user{n}") for n in range(200)))
    assert [r.count for r in cloud.made("RunInstances")] == [100, 100]
    assert len(cloud.instances) == 200


@in_virtual_time
async def test_fifty_stopped_workers_are_one_start(tmp_path: Path) -> None:
    cloud = FakeCloud()
    for n in range(50):
        cloud.put_instance(
            STOPPED, {TAG_OWNER: Owner(f"user{n}").key, TAG_GENERATION: "1", TAG_CLAIM: f"c{n}"}
        )
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(1)
    await asyncio.gather(*(hub.log_in(f"user{n}") for n in range(50)))
    assert writes(cloud) == {"StartInstances": 1}
    assert not cloud.sins


@in_virtual_time
async def test_one_bad_worker_holds_up_nobody_else(tmp_path: Path) -> None:
    cloud = FakeCloud()
    ids = [
        cloud.put_instance(
            STOPPED, {TAG_OWNER: Owner(f"user{n}").key, TAG_GENERATION: "1", TAG_CLAIM: f"c{n}"}
        )
        for n in range(50)
    ]
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(1)
    cloud.terminate_behind_our_back(ids[17])  # after the listing that the plan goes by
    workers = await asyncio.wait_for(
        asyncio.gather(*(hub.log_in(f"user{n}") for n in range(50))), 60
    )
    assert workers[17].instance_id != ids[17]
    assert workers[17].home_volume_id in cloud.volumes
    # all, then the halves around the bad one; none of them is sent twice
    assert cloud.count()["StartInstances"] == 1 + 2 * 5
    assert not cloud.sins


@in_virtual_time
async def test_a_start_that_finds_the_worker_terminated_looks_again_at_once(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    i = cloud.put_instance(STOPPED, {TAG_OWNER: ANN.key, TAG_GENERATION: "1", TAG_CLAIM: "c"})
    home = cloud.instances[i].volumes.at(clock())["/dev/sdf"]
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(2)
    cloud.terminate_behind_our_back(i)
    begun = clock()
    worker = await hub.log_in("ann")
    assert worker.instance_id != i
    assert worker.home_volume_id == home
    assert clock() - begun < 25, "gone after 3 s, booted in 5 s; the next full listing is 28 s away"
    assert not cloud.sins


@in_virtual_time
async def test_worker_terminated_in_the_console_is_replaced_with_the_same_home(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    first = await hub.log_in("ann")
    cloud.terminate_behind_our_back(first.instance_id)
    await until(lambda: hub.fleet.is_gone(ANN, first.instance_id), 60)
    hub.fleet.release(ANN)
    second = await hub.log_in("ann")
    assert second.instance_id != first.instance_id
    assert second.home_volume_id == first.home_volume_id
    assert not cloud.sins


@in_virtual_time
async def test_home_in_another_zone_gets_its_worker_there(tmp_path: Path) -> None:
    cloud = FakeCloud()
    home = cloud.put_volume({TAG_OWNER: ANN.key, TAG_GENERATION: "1"}, zone="b")
    worker = await Hub(cloud, tmp_path).log_in("ann")
    assert worker.zone == "b"
    assert worker.home_volume_id == home


@in_virtual_time
async def test_no_capacity_anywhere_is_told_in_a_students_words(tmp_path: Path) -> None:
    cloud = FakeCloud()
    cloud.capacity = {("t3.medium", "subnet-a"): 0, ("t3.medium", "subnet-b"): 0}
    hub = Hub(cloud, tmp_path)
    with pytest.raises(EC2SpawnerError) as caught:
        await asyncio.wait_for(hub.log_in("ann"), 20)
    assert [r.subnet_id for r in cloud.made("RunInstances")] == ["subnet-a", "subnet-b"]
    for internal in ("RunInstances", "AWS", "subnet", "Insufficient"):
        assert internal not in caught.value.for_user()
    assert "RunInstances" in caught.value.for_operator()


@in_virtual_time
async def test_launch_that_gives_fewer_than_asked_goes_on_in_the_next_subnet(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    cloud.capacity = {("t3.medium", "subnet-a"): 7}
    hub = Hub(cloud, tmp_path)
    workers = await asyncio.gather(*(hub.log_in(f"user{n}") for n in range(20)))
    assert sorted(w.zone for w in workers) == ["a"] * 7 + ["b"] * 13
    assert len(cloud.instances) == 20


@in_virtual_time
async def test_start_without_capacity_is_refused_and_not_asked_for_again_and_again(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud()
    i = cloud.put_instance(STOPPED, {TAG_OWNER: ANN.key, TAG_GENERATION: "1", TAG_CLAIM: "c"})
    cloud.cannot_start = {i}
    hub = Hub(cloud, tmp_path)
    with pytest.raises(EC2SpawnerError):
        await asyncio.wait_for(hub.log_in("ann"), 20)
    with pytest.raises(EC2SpawnerError):  # a second click is answered from memory
        await asyncio.wait_for(hub.log_in("ann"), 20)
    hub.fleet.release(ANN)
    await asyncio.sleep(181)
    assert cloud.count()["StartInstances"] == 1
    cloud.cannot_start = set()
    await asyncio.wait_for(hub.log_in("ann"), 40)


CHOICE = replace(
    POLICY,
    profiles=MappingProxyType(
        {
            "default": Profile("default", ("t3.medium", "t3.large"), 10),
            "cheap": Profile("cheap", ("t3.medium",), 10, (Market.SPOT, Market.ON_DEMAND)),
        }
    ),
)


def put_anns(cloud: FakeCloud, **more: Any) -> str:
    tags = {TAG_OWNER: ANN.key, TAG_GENERATION: "1", TAG_CLAIM: "c"}
    return cloud.put_instance(STOPPED, tags, **more)


@in_virtual_time
async def test_a_start_without_capacity_goes_on_as_another_type(tmp_path: Path) -> None:
    cloud = FakeCloud(no_room_to_start={("t3.medium", "a")})
    i = put_anns(cloud)
    hub = Hub(cloud, tmp_path, CHOICE)
    worker = await asyncio.wait_for(hub.log_in("ann"), 20)
    assert (worker.instance_id, worker.instance_type) == (i, "t3.large")
    assert cloud.made("ModifyInstanceAttribute") == [(i, "t3.large")]
    assert cloud.count()["StartInstances"] == 2
    assert cloud.count()["RunInstances"] == 0


@pytest.mark.parametrize("after", [False, True], ids=["no effect", "effect"])
@in_virtual_time
async def test_a_lost_reply_to_a_change_of_type_changes_nothing_for_its_user(
    tmp_path: Path, after: bool
) -> None:
    cloud = FakeCloud(no_room_to_start={("t3.medium", "a")})
    i = put_anns(cloud)
    hub = Hub(cloud, tmp_path, CHOICE)
    cloud.fail("ModifyInstanceAttribute", after=after)
    worker = await asyncio.wait_for(hub.log_in("ann"), 60)
    assert (worker.instance_id, worker.instance_type) == (i, "t3.large")


@in_virtual_time
async def test_a_type_of_another_architecture_keeps_nobody_out(tmp_path: Path) -> None:
    cloud = FakeCloud(foreign_types={"t3.medium", "t3.large"})
    i = put_anns(cloud, instance_type="t4g.medium")
    hub = Hub(cloud, tmp_path, CHOICE)
    worker = await asyncio.wait_for(hub.log_in("ann"), 20)
    assert (worker.instance_id, worker.instance_type) == (i, "t4g.medium")


@in_virtual_time
async def test_of_a_hundred_the_forty_without_room_try_the_next_rung_at_once(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud(capacity={("t3.medium", "subnet-a"): 60})
    hub = Hub(cloud, tmp_path, CHOICE)
    workers = await asyncio.gather(*(hub.log_in(f"user{n}") for n in range(100)))
    assert Counter(w.subnet_id for w in workers) == {"subnet-a": 60, "subnet-b": 40}
    assert [r.count for r in cloud.made("RunInstances")] == [100, 40]


@in_virtual_time
async def test_spot_machines_are_asked_for_first_and_then_others(tmp_path: Path) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path, CHOICE)

    async def log_in(user: str) -> Worker:
        ticket = hub.fleet.want(replace(demand(user), profile="cheap"))
        return await hub.fleet.provided(ticket)

    assert (await log_in("ann")).is_spot
    cloud.fail("RunInstances", CapacityError("no spot", action="RunInstances"), times=2)
    assert not (await log_in("bob")).is_spot  # after both zones
    assert [r.market for r in cloud.made("RunInstances")] == ["spot"] * 3 + ["on-demand"]


# ---- lost replies


@pytest.mark.parametrize("after", [False, True], ids=["no effect", "effect"])
@pytest.mark.parametrize("action", ["RunInstances", "CreateTags"])
@pytest.mark.parametrize("then_unreachable", [0, 3])
@in_virtual_time
async def test_lost_reply_in_a_first_login_makes_nothing_double(
    tmp_path: Path, action: str, after: bool, then_unreachable: int
) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    cloud.fail(action, after=after)
    if then_unreachable:
        cloud.fail(action, Unreachable("gone", action=action), times=then_unreachable)
    workers = await asyncio.wait_for(
        asyncio.gather(*(hub.log_in(f"user{n}") for n in range(5))), 120
    )
    assert len({w.instance_id for w in workers}) == 5
    assert len(cloud.instances) == 5
    await asyncio.sleep(1000)
    for worker, n in zip(workers, range(5), strict=True):
        assert cloud.tags(worker.instance_id)[TAG_OWNER] == Owner(f"user{n}").key
        assert cloud.tags(worker.instance_id)[TAG_CLAIM] == worker.claim
    assert not cloud.sins


@pytest.mark.parametrize("after", [False, True], ids=["no effect", "effect"])
@in_virtual_time
async def test_lost_reply_of_a_start_is_healed(tmp_path: Path, after: bool) -> None:
    cloud = FakeCloud()
    i = cloud.put_instance(STOPPED, {TAG_OWNER: ANN.key, TAG_GENERATION: "1", TAG_CLAIM: "c"})
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(1)
    cloud.fail("StartInstances", after=after)
    await asyncio.wait_for(hub.log_in("ann"), 20)
    assert cloud.state(i) is RUNNING
    assert cloud.count()["StartInstances"] <= 2


@pytest.mark.parametrize("after", [False, True], ids=["no effect", "effect"])
@in_virtual_time
async def test_lost_reply_of_a_stop_is_healed(tmp_path: Path, after: bool) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    worker = await hub.log_in("ann")
    cloud.fail("StopInstances", after=after)
    hub.fleet.release(ANN)
    await until(lambda: cloud.state(worker.instance_id) is STOPPED, 60)
    assert cloud.count()["StopInstances"] <= 2


@in_virtual_time
async def test_listings_that_lag_make_nothing_double(tmp_path: Path) -> None:
    cloud = FakeCloud(lag_seconds=25)
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(40)
    workers = await asyncio.gather(*(hub.log_in(f"user{n}") for n in range(10)))
    await asyncio.sleep(100)
    hub.fleet.release(Owner("user0"))
    await asyncio.sleep(100)
    again = await hub.log_in("user0")
    assert again.instance_id == workers[0].instance_id
    await asyncio.sleep(1000)
    assert len(cloud.instances) == 10
    assert not cloud.sins


# ---- what is wrong for a long time


@in_virtual_time
async def test_aws_away_for_ten_minutes_changes_nothing_for_who_works(tmp_path: Path) -> None:
    cloud = FakeCloud()
    spare = cloud.put_instance(RUNNING)
    hub = Hub(cloud, tmp_path)
    worker = await hub.log_in("ann")
    other = cloud.put_instance(STOPPED)
    await asyncio.sleep(30)
    cloud.away = True
    before = {i: cloud.state(i) for i in cloud.instances}
    writes_before = writes(cloud)
    for _ in range(60):
        await asyncio.sleep(10)
        assert not hub.fleet.is_gone(ANN, worker.instance_id)
    assert hub.fleet.problem is not None
    assert hub.fleet.sight(ANN).stage == "aws-away"
    assert {i: cloud.state(i) for i in cloud.instances} == before
    assert writes(cloud) == writes_before
    cloud.away = False
    await until(lambda: hub.fleet.problem is None, 60)
    assert cloud.state(worker.instance_id) is RUNNING
    assert spare in cloud.instances
    assert other in cloud.instances


@in_virtual_time
async def test_an_unknown_state_or_a_parsing_error_does_not_end_the_watcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    worker = await hub.log_in("ann")
    listing = cloud.list_workers

    async def broken(ids: object = None) -> list[object]:
        raise ValueError("'rebooting' is not a valid InstanceState")

    monkeypatch.setattr(cloud, "list_workers", broken)
    await asyncio.sleep(600)
    assert hub.fleet.problem is not None
    assert not hub.fleet.is_gone(ANN, worker.instance_id)
    monkeypatch.setattr(cloud, "list_workers", listing)
    await until(lambda: hub.fleet.problem is None, 60)


@in_virtual_time
async def test_steady_state_costs_the_full_listings_only(tmp_path: Path) -> None:
    cloud = FakeCloud()
    hub = Hub(cloud, tmp_path)
    await asyncio.gather(*(hub.log_in(f"user{n}") for n in range(50)))
    await asyncio.sleep(300)
    since = clock()
    await asyncio.sleep(600)
    calls = cloud.count(since)
    assert calls["DescribeInstances"] <= 21
    assert calls["DescribeVolumes"] <= 21
    assert calls["DescribeSnapshots"] <= 1
    assert set(calls) <= {"DescribeInstances", "DescribeVolumes", "DescribeSnapshots"}


@pytest.mark.parametrize(
    "action", ["RunInstances", "CreateTags", "StartInstances", "StopInstances", "DescribeTags"]
)
@in_virtual_time
async def test_whatever_fails_for_ever_is_tried_at_a_measured_pace(
    tmp_path: Path, action: str
) -> None:
    cloud = FakeCloud()
    # one each that is to be launched, started, stopped, half claimed, double, and removed
    cloud.put_instance(STOPPED, {TAG_OWNER: Owner("to-start").key, TAG_GENERATION: "1"})
    cloud.put_instance(RUNNING, {TAG_OWNER: Owner("double").key, TAG_GENERATION: "1"})
    cloud.put_instance(RUNNING, {TAG_OWNER: Owner("double").key, TAG_GENERATION: "2"})
    half = cloud.put_instance(RUNNING, {TAG_OWNER: Owner("half").key})
    home = cloud.instances[half].volumes.at(clock())["/dev/sdf"]
    kept = {k: v for k, v in cloud.tags(home).items() if k != TAG_OWNER}
    cloud.volumes[home].tags.set(clock(), kept)
    cloud.put_instance(RUNNING)
    cloud.put_instance(STOPPED)
    error = CapacityError("no", action=action) if action == "StartInstances" else None
    cloud.fail(action, error or Unreachable("no", action=action), times=10_000)
    hub = Hub(cloud, tmp_path)
    for user in ("new", "to-start", "double", "half"):
        hub.fleet.want(demand(user))
    await asyncio.sleep(900)
    assert cloud.count()[action] <= 900 / 2 * 5
    assert not cloud.sins


# ---- while a call is under way


@in_virtual_time
async def test_a_spare_that_is_being_given_to_one_is_not_given_to_another_meanwhile(
    tmp_path: Path,
) -> None:
    cloud = FakeCloud(latency_seconds=1.0)
    spare = cloud.put_instance(RUNNING)
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(3)
    hub.fleet.want(demand("ann"))
    await asyncio.sleep(0.5)  # its tags are being asked for
    hub.fleet.release(ANN)
    bob = await hub.log_in("bob")
    await asyncio.sleep(30)
    assert bob.instance_id != spare
    assert cloud.tags(spare)[TAG_OWNER] == ANN.key
    assert not cloud.sins


@in_virtual_time
async def test_many_given_up_homes_are_each_saved_once(tmp_path: Path) -> None:
    cloud = FakeCloud(latency_seconds=1.0)
    mark = DeletedMark(clock() - 9e5, "row").to_tag()
    for n in range(8):
        cloud.put_volume({TAG_OWNER: Owner(f"user{n}").key, TAG_DELETED: mark})
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(0.7)
    await asyncio.gather(*(hub.log_in(f"new{n}") for n in range(4)))
    await asyncio.sleep(300)
    assert len(cloud.snapshots) == 8
    assert not cloud.sins


@in_virtual_time
async def test_a_spare_on_its_way_out_is_not_given_to_who_comes_now(tmp_path: Path) -> None:
    cloud = FakeCloud(latency_seconds=1.0)
    hub = Hub(cloud, tmp_path)
    await asyncio.sleep(2)
    hub.fleet.want(demand("ann"))
    await until(lambda: cloud.instances)
    hub.fleet.release(ANN)  # before it could be claimed: it is a spare that this hub launched
    (spare,) = cloud.instances
    await until(lambda: cloud.made("DescribeTags"), 900)  # the last look before it is ended
    assert cloud.state(spare) is STOPPED
    bob = await hub.log_in("bob")
    assert bob.instance_id != spare
    assert not cloud.sins


@pytest.mark.parametrize(
    "code", ["InvalidAMIID.NotFound", "InvalidSubnetID.NotFound", "InvalidGroup.NotFound"]
)
@in_virtual_time
async def test_a_launch_that_names_what_is_not_there_is_told_at_once(
    tmp_path: Path, code: str
) -> None:
    cloud = FakeCloud()
    error = NotFound(f"AWS did not carry out RunInstances ({code}).", aws_code=code)
    cloud.fail("RunInstances", error, times=1000)
    hub = Hub(cloud, tmp_path)
    with pytest.raises(EC2SpawnerError) as caught:
        await asyncio.wait_for(hub.log_in("ann"), 10)
    assert code in caught.value.for_operator()
    assert code not in caught.value.for_user()
    await asyncio.sleep(90)
    assert cloud.count()["RunInstances"] <= 8


@in_virtual_time
async def test_a_defect_in_one_action_stops_no_other_and_is_not_repeated_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = FakeCloud()
    cloud.put_instance(STOPPED, {TAG_OWNER: ANN.key, TAG_GENERATION: "1", TAG_CLAIM: "c"})
    tries = 0

    async def broken(ids: object) -> None:
        nonlocal tries
        tries += 1
        raise KeyError("Instances")

    monkeypatch.setattr(cloud, "start", broken)
    hub = Hub(cloud, tmp_path)
    with pytest.raises(EC2SpawnerError):
        await asyncio.wait_for(hub.log_in("ann"), 10)
    await hub.log_in("bob")
    await asyncio.sleep(90)
    assert tries <= 8
    assert "Traceback" in caplog.text


@in_virtual_time
async def test_a_hub_that_is_closed_ends_all_its_tasks_whatever_is_under_way(
    tmp_path: Path,
) -> None:
    for tries in range(25):
        cloud = FakeCloud()
        cloud.put_instance(STOPPED, {TAG_OWNER: ANN.key, TAG_GENERATION: "1", TAG_CLAIM: "c"})
        hub = Hub(cloud, tmp_path)
        await asyncio.sleep(tries / 11)
        hub.fleet.want(demand("ann"))
        hub.fleet.want(demand("bob"))
        await asyncio.sleep(tries / 23)
        hub.fleet.release(ANN)
        await asyncio.wait_for(hub.fleet.close(), 5)
        assert not hub.fleet._tasks.running
