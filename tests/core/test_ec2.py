"""The requests that are sent to EC2, and what is made of its replies."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from core.botos import READ_TIMEOUT, FakeBoto, answered, gateway
from core.virtual import in_virtual_time
from ec2spawner.ec2 import EC2, LaunchRequest
from ec2spawner.errors import NotFound, OutcomeUnknown, WrongState
from ec2spawner.model import InstanceState, VolumeState

MOMENT = datetime(2026, 1, 2, tzinfo=timezone.utc)
REQUEST = LaunchRequest(
    "lt-1", "t3.medium", "subnet-a", 3, "default", 10, {"Owner": "school"}, "/dev/sda1", 12
)


def ec2(*script: Any) -> tuple[EC2, FakeBoto]:
    session = FakeBoto(*script)
    return EC2(gateway(session), "class"), session


def instance(number: int) -> dict[str, Any]:
    return {
        "InstanceId": f"i-{number}",
        "State": {"Name": "pending"},
        "PrivateIpAddress": f"10.0.0.{number}",
        "Placement": {"AvailabilityZone": "a"},
        "LaunchTime": MOMENT,
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/sdf", "Ebs": {"VolumeId": "vol-1", "Status": "attached"}}
        ],
        "Tags": [{"Key": "ec2spawner:owner", "Value": "ann"}],
    }


@in_virtual_time
async def test_a_launch_is_one_idempotent_call_with_tags_on_all_it_makes() -> None:
    cloud, session = ec2({"Instances": [instance(1), instance(2)]})
    made = await cloud.launch(REQUEST, "token")
    assert [w.instance_id for w in made] == ["i-1", "i-2"]
    ((_, operation, sent),) = session.requests
    assert operation == "run_instances"
    assert (sent["MinCount"], sent["MaxCount"], sent["ClientToken"]) == (1, 3, "token")
    assert (sent["InstanceType"], sent["SubnetId"]) == ("t3.medium", "subnet-a")
    assert sent["LaunchTemplate"]["LaunchTemplateId"] == "lt-1"
    tagged = {t["ResourceType"]: t["Tags"] for t in sent["TagSpecifications"]}
    assert set(tagged) == {"instance", "volume", "network-interface"}
    for tags in tagged.values():
        assert {t["Key"]: t["Value"] for t in tags} == {
            "ec2spawner:cluster": "class",
            "ec2spawner:role": "worker",
            "ec2spawner:profile": "default",
            "Owner": "school",
        }
    disks = {d["DeviceName"]: d["Ebs"] for d in sent["BlockDeviceMappings"]}
    home = disks["/dev/sdf"]
    assert (home["VolumeSize"], home["Encrypted"], home["DeleteOnTermination"]) == (10, True, False)
    assert not {"UserData", "KeyName", "IamInstanceProfile"} & set(sent)


@in_virtual_time
async def test_a_launch_for_a_home_brings_none() -> None:
    cloud, session = ec2({"Instances": []})
    await cloud.launch(LaunchRequest("lt-1", "t", "s", 1, "default", 0, {}), "token")
    devices = [d["DeviceName"] for d in session.requests[0][2].get("BlockDeviceMappings", ())]
    assert "/dev/sdf" not in devices


@in_virtual_time
async def test_cost_tags_cannot_take_a_worker_out_of_its_cluster() -> None:
    cloud, session = ec2({"Instances": []})
    evil = {"ec2spawner:cluster": "other", "ec2spawner:role": "manager"}
    await cloud.launch(LaunchRequest("lt-1", "t", "s", 1, "default", 0, evil), "token")
    (tags, *_) = [t["Tags"] for t in session.requests[0][2]["TagSpecifications"]]
    assert {"Key": "ec2spawner:cluster", "Value": "class"} in tags
    assert {"Key": "ec2spawner:role", "Value": "worker"} in tags


@in_virtual_time
async def test_an_unanswered_launch_goes_out_again_with_the_same_token() -> None:
    cloud, session = ec2(READ_TIMEOUT, {"Instances": [instance(1)]})
    await cloud.launch(REQUEST, "token")
    assert [p["ClientToken"] for _, _, p in session.requests] == ["token", "token"]


@pytest.mark.parametrize(
    ("method", "key"),
    [
        ("list_workers", "Reservations"),
        ("list_volumes", "Volumes"),
        ("list_snapshots", "Snapshots"),
    ],
)
@in_virtual_time
async def test_only_this_clusters_workers_are_listed(method: str, key: str) -> None:
    cloud, session = ec2({key: []})
    assert await getattr(cloud, method)() == []
    filters = {f["Name"]: f["Values"] for f in session.requests[0][2]["Filters"]}
    assert filters == {"tag:ec2spawner:cluster": ["class"], "tag:ec2spawner:role": ["worker"]}


@in_virtual_time
async def test_many_ids_are_asked_for_by_filters_of_two_hundred() -> None:
    cloud, session = ec2({"Reservations": []})
    ids = [f"i-{n}" for n in range(450)]
    await cloud.list_workers(ids)
    asked = [
        {f["Name"]: f["Values"] for f in p["Filters"]}["instance-id"]
        for _, _, p in session.requests
    ]
    assert [len(chunk) for chunk in asked] == [200, 200, 50]
    assert [i for chunk in asked for i in chunk] == ids
    assert all("InstanceIds" not in p for _, _, p in session.requests), "one bad id fails those"
    assert await cloud.list_workers([]) == []
    assert len(session.requests) == 3


@in_virtual_time
async def test_a_worker_is_read_from_every_page() -> None:
    pages = [
        {"Reservations": [{"Instances": [instance(1)]}], "NextToken": "t"},
        {"Reservations": [{"Instances": [instance(2)]}, {"Instances": [instance(3)]}]},
    ]
    cloud, _ = ec2(*pages)
    found = await cloud.list_workers()
    assert [w.instance_id for w in found] == ["i-1", "i-2", "i-3"]
    assert found[0].state is InstanceState.PENDING
    assert found[0].owner == "ann"
    assert found[0].home_volume_id == "vol-1"
    assert found[0].launched_at == MOMENT.timestamp()


@in_virtual_time
async def test_tags_of_what_is_gone_are_none() -> None:
    cloud, _ = ec2({"Tags": [{"ResourceId": "i-1", "Key": "k", "Value": "v"}]})
    assert await cloud.tags_of(["i-1", "vol-1"]) == {"i-1": {"k": "v"}, "vol-1": {}}


@pytest.mark.parametrize("method", ["delete_volume", "delete_snapshot"])
@in_virtual_time
async def test_deleting_what_is_gone_is_success(method: str) -> None:
    cloud, session = ec2(READ_TIMEOUT, answered("InvalidX.NotFound"))
    await getattr(cloud, method)("x-1")
    assert len(session.requests) == 2


@pytest.mark.parametrize(("holder", "is_fine"), [("i-1", True), ("i-2", False), (None, False)])
@in_virtual_time
async def test_attached_where_it_should_be_is_success(holder: str | None, is_fine: bool) -> None:
    attachments = [{"InstanceId": holder, "State": "attached"}] if holder else []
    volume = {"VolumeId": "vol-1", "State": "in-use", "Attachments": attachments}
    cloud, _ = ec2(answered("VolumeInUse"), {"Volumes": [volume]})
    if is_fine:
        await cloud.attach("vol-1", "i-1")
    else:
        with pytest.raises(WrongState):
            await cloud.attach("vol-1", "i-1")


@pytest.mark.parametrize("verb", ["start", "stop", "terminate"])
@in_virtual_time
async def test_state_changes_are_one_call_for_all(verb: str) -> None:
    cloud, session = ec2({})
    await getattr(cloud, verb)(["i-1", "i-2"])
    assert [(o, p) for _, o, p in session.requests] == [
        (f"{verb}_instances", {"InstanceIds": ["i-1", "i-2"]})
    ]


@in_virtual_time
async def test_tags_are_set_and_removed_on_all_at_once() -> None:
    cloud, session = ec2({})
    await cloud.tag(["i-1", "vol-1"], {"a": "1"})
    await cloud.untag(["i-1"], ["a"])
    assert [(o, p) for _, o, p in session.requests] == [
        ("create_tags", {"Resources": ["i-1", "vol-1"], "Tags": [{"Key": "a", "Value": "1"}]}),
        ("delete_tags", {"Resources": ["i-1"], "Tags": [{"Key": "a"}]}),
    ]


def made_snapshot(params: dict[str, Any]) -> dict[str, Any]:
    return {
        "SnapshotId": "snap-1",
        "State": "pending",
        "VolumeId": params["VolumeId"],
        "StartTime": MOMENT,
        "Tags": params["TagSpecifications"][0]["Tags"],
    }


@in_virtual_time
async def test_a_snapshot_is_made_once_and_looked_up_when_its_reply_is_lost() -> None:
    session = FakeBoto(READ_TIMEOUT)
    made: list[dict[str, Any]] = []

    def listed(params: dict[str, Any]) -> dict[str, Any]:
        older = {"SnapshotId": "snap-0", "State": "completed", "VolumeId": "vol-1", "Tags": []}
        request = next(p for _, o, p in session.requests if o == "create_snapshot")
        made.append(made_snapshot(request))
        return {"Snapshots": [older, *made]}

    session.script = [READ_TIMEOUT, listed]
    cloud = EC2(gateway(session), "class")
    assert (await cloud.snapshot("vol-1", {"a": "1"})).snapshot_id == "snap-1"
    assert [o for _, o, _ in session.requests] == ["create_snapshot", "describe_snapshots"]


@in_virtual_time
async def test_a_snapshot_that_cannot_be_found_is_not_said_to_be_made() -> None:
    older = {"SnapshotId": "snap-0", "State": "completed", "VolumeId": "vol-1", "Tags": []}
    cloud, session = ec2(READ_TIMEOUT, {"Snapshots": [older]})
    with pytest.raises(OutcomeUnknown):
        await cloud.snapshot("vol-1", {})
    assert len(session.requests) == 2


@in_virtual_time
async def test_a_volume_is_read_with_its_holder() -> None:
    volume = {
        "VolumeId": "vol-1",
        "State": "in-use",
        "Size": 10,
        "AvailabilityZone": "a",
        "CreateTime": MOMENT,
        "Attachments": [
            {"InstanceId": "i-0", "State": "detached", "Device": "/dev/sdf"},
            {"InstanceId": "i-1", "State": "attaching", "Device": "/dev/sdf"},
        ],
    }
    cloud, _ = ec2({"Volumes": [volume]})
    (found,) = await cloud.list_volumes()
    assert (found.state, found.attached_to, found.device) == (VolumeState.IN_USE, "i-1", "/dev/sdf")
    assert found.is_home
    assert found.owner is None


@in_virtual_time
async def test_a_key_that_is_not_there_is_not_found() -> None:
    cloud, session = ec2(answered("ParameterNotFound"))
    with pytest.raises(NotFound):
        await cloud.secret("/class/key")
    assert session.requests[0][2]["WithDecryption"] is True
