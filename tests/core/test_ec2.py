"""The requests that are sent to EC2, and what is made of its replies."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from typing import Any

import pytest

from core.botos import READ_TIMEOUT, FakeBoto, answered, gateway
from core.virtual import in_virtual_time
from ec2spawner.ec2 import EC2, LaunchRequest
from ec2spawner.errors import Denied, NotFound, OutcomeUnknown, WrongState
from ec2spawner.model import InstanceState, VolumeState
from ec2spawner.quotas import quota_code

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


@pytest.mark.parametrize("market", ["on-demand", "spot"])
@pytest.mark.parametrize(
    ("instance_type", "option"),
    [
        ("t2.small", {"CpuCredits": "standard"}),
        ("t3.medium", {"CpuCredits": "standard"}),
        ("t3a.large", {"CpuCredits": "standard"}),
        ("t4g.xlarge", {"CpuCredits": "standard"}),
        ("m7i.large", None),
        ("g5.xlarge", None),
        ("trn1.2xlarge", None),
    ],
)
@in_virtual_time
async def test_only_a_type_with_cpu_credits_is_told_not_to_borrow_any(
    instance_type: str, option: dict[str, str] | None, market: str
) -> None:
    cloud, session = ec2({"Instances": []})
    request = dataclasses.replace(REQUEST, instance_type=instance_type, market=market)
    await cloud.launch(request, "token")
    assert session.requests[0][2].get("CreditSpecification") == option


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


async def test_no_tag_named_is_no_call_that_would_remove_all() -> None:
    cloud, session = ec2({})
    with pytest.raises(ValueError, match="no tag is named"):
        await cloud.untag(["i-1"], [])
    assert session.requests == []


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


@in_virtual_time
async def test_an_on_demand_launch_says_nothing_of_markets() -> None:
    cloud, session = ec2({"Instances": []})
    await cloud.launch(REQUEST, "token")
    assert "InstanceMarketOptions" not in session.requests[0][2]


@in_virtual_time
async def test_a_spot_launch_can_be_stopped_and_tags_its_requests() -> None:
    raw = {**instance(1), "InstanceLifecycle": "spot", "SpotInstanceRequestId": "sir-1"}
    cloud, session = ec2({"Instances": [raw]})
    (made,) = await cloud.launch(dataclasses.replace(REQUEST, market="spot"), "token")
    assert (made.is_spot, made.spot_request_id, made.is_interrupted) == (True, "sir-1", False)
    sent = session.requests[0][2]
    assert sent["InstanceMarketOptions"] == {
        "MarketType": "spot",
        "SpotOptions": {"SpotInstanceType": "persistent", "InstanceInterruptionBehavior": "stop"},
    }
    tagged = {t["ResourceType"]: t["Tags"] for t in sent["TagSpecifications"]}
    assert tagged["spot-instances-request"] == tagged["instance"]


@in_virtual_time
async def test_a_spot_instances_request_is_cancelled_before_it_ends() -> None:
    cloud, session = ec2({})
    await cloud.terminate(["i-1", "i-2"], ["sir-1", ""])
    assert [(o, p) for _, o, p in session.requests] == [
        ("cancel_spot_instance_requests", {"SpotInstanceRequestIds": ["sir-1"]}),
        ("terminate_instances", {"InstanceIds": ["i-1", "i-2"]}),
    ]


@in_virtual_time
async def test_nothing_ends_while_its_request_may_still_stand() -> None:
    cloud, session = ec2(answered("UnauthorizedOperation"))
    with pytest.raises(Denied):
        await cloud.terminate(["i-1"], ["sir-1"])
    assert [o for _, o, _ in session.requests] == ["cancel_spot_instance_requests"]


@in_virtual_time
async def test_one_spot_request_that_is_gone_spoils_no_others() -> None:
    gone = answered("InvalidSpotInstanceRequestID.NotFound")
    cloud, session = ec2(gone, {}, gone, {})
    await cloud.cancel_spot(["sir-1", "sir-2", "sir-3"])
    assert [p["SpotInstanceRequestIds"] for _, _, p in session.requests] == [
        ["sir-1", "sir-2", "sir-3"],
        ["sir-1"],
        ["sir-2"],
        ["sir-3"],
    ]


@in_virtual_time
async def test_spot_requests_that_can_launch_are_listed() -> None:
    raw = {
        "SpotInstanceRequestId": "sir-1",
        "State": "open",
        "Status": {"Code": "pending-evaluation"},
        "Tags": [{"Key": "ec2spawner:role", "Value": "worker"}],
    }
    cloud, session = ec2({"SpotInstanceRequests": [raw]})
    (found,) = await cloud.list_spot_requests()
    assert (found.request_id, found.state, found.status) == ("sir-1", "open", "pending-evaluation")
    assert (found.instance_id, found.role) == (None, "worker")
    filters = {f["Name"]: f["Values"] for f in session.requests[0][2]["Filters"]}
    assert filters["tag:ec2spawner:cluster"] == ["class"]


@in_virtual_time
async def test_a_type_is_changed_by_a_call_that_may_be_repeated() -> None:
    cloud, session = ec2(READ_TIMEOUT, {})
    await cloud.set_type("i-1", "t3.large")
    assert [(o, p) for _, o, p in session.requests] == [
        ("modify_instance_attribute", {"InstanceId": "i-1", "InstanceType": {"Value": "t3.large"}})
    ] * 2


@in_virtual_time
async def test_an_unanswered_volume_is_asked_for_again_with_its_token() -> None:
    made = {"VolumeId": "vol-2", "State": "creating", "AvailabilityZone": "b", "Size": 20}
    cloud, session = ec2(READ_TIMEOUT, made)
    volume = await cloud.create_volume("snap-1", "b", 20, {"a": "1"}, "token")
    assert (volume.volume_id, volume.state, volume.zone) == ("vol-2", VolumeState.CREATING, "b")
    first, again = (p for _, _, p in session.requests)
    assert first == again
    assert (first["SnapshotId"], first["AvailabilityZone"], first["Size"]) == ("snap-1", "b", 20)
    assert (first["ClientToken"], first["Encrypted"]) == ("token", True)
    assert first["TagSpecifications"] == [
        {"ResourceType": "volume", "Tags": [{"Key": "a", "Value": "1"}]}
    ]


@pytest.mark.parametrize("code", ["IncorrectState", "InvalidAttachment.NotFound"])
@pytest.mark.parametrize(("holder", "is_fine"), [("i-1", False), ("i-2", True), (None, True)])
@in_virtual_time
async def test_detached_already_is_success(code: str, holder: str | None, is_fine: bool) -> None:
    attachments = [{"InstanceId": holder, "State": "attached"}] if holder else []
    volume = {"VolumeId": "vol-1", "State": "in-use", "Attachments": attachments}
    cloud, _ = ec2(answered(code), {"Volumes": [volume]})
    if is_fine:
        await cloud.detach("vol-1", "i-1")
    else:
        with pytest.raises((WrongState, NotFound)):
            await cloud.detach("vol-1", "i-1")


@in_virtual_time
async def test_a_volume_that_is_nowhere_is_not_detached() -> None:
    cloud, _ = ec2(answered("InvalidVolume.NotFound"), {"Volumes": []})
    with pytest.raises(NotFound):
        await cloud.detach("vol-1", "i-1")


def status(instance_id: str, **checks: datetime | None) -> dict[str, Any]:
    return {
        "InstanceId": instance_id,
        **{
            check: {
                "Status": "impaired",
                "Details": [{"Name": "reachability", "Status": "failed", "ImpairedSince": since}],
            }
            for check, since in checks.items()
        },
    }


@in_virtual_time
async def test_each_failing_check_is_asked_for_and_the_earliest_tells_since_when() -> None:
    later = MOMENT.replace(hour=1)
    both = status("i-1", InstanceStatus=later, SystemStatus=MOMENT)
    cloud, session = ec2(
        {"InstanceStatuses": [both]},
        {"InstanceStatuses": [both]},
        {"InstanceStatuses": [status("i-2", AttachedEbsStatus=None)]},
    )
    assert await cloud.statuses() == {"i-1": MOMENT.timestamp(), "i-2": None}
    assert [p["Filters"] for _, _, p in session.requests] == [
        [{"Name": f"{check}.status", "Values": ["impaired"]}]
        for check in ("instance-status", "system-status", "attached-ebs-status")
    ]


@in_virtual_time
async def test_a_console_is_bounded_and_plain() -> None:
    cloud, session = ec2({"Output": "x" * 100_000 + "\x1b[31mKernel panic\x00\n"})
    text = await cloud.console("i-1")
    assert len(text) <= 16_384
    assert text.endswith("[31mKernel panic\n")
    assert session.requests[0][2] == {"InstanceId": "i-1", "Latest": True}


@in_virtual_time
async def test_a_type_without_latest_output_shows_what_there_is() -> None:
    cloud, session = ec2(answered("UnsupportedOperation"), {})
    assert await cloud.console("i-1") == ""
    assert "Latest" not in session.requests[1][2]


@in_virtual_time
async def test_vcpus_and_quotas_are_read() -> None:
    raw = {"InstanceType": "t3.medium", "VCpuInfo": {"DefaultVCpus": 2}}
    cloud, session = ec2({"InstanceTypes": [raw]}, {"Quota": {"Value": 5.0}})
    assert await cloud.vcpus(["t3.medium", "nope.large", "t3.medium"]) == {"t3.medium": 2}
    assert await cloud.quota("L-1216C47A") == 5.0
    assert session.requests[0][2]["Filters"][0]["Values"] == ["nope.large", "t3.medium"]
    assert session.requests[1][2] == {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"}
    assert [s for s, _ in session.clients] == ["ec2", "service-quotas"]


@in_virtual_time
async def test_a_quota_that_is_none_is_not_found() -> None:
    cloud, _ = ec2(answered("NoSuchResourceException"))
    with pytest.raises(NotFound):
        await cloud.quota("L-0")


@in_virtual_time
async def test_an_interrupted_worker_is_told_from_one_that_was_stopped() -> None:
    reasons = {"i-1": "Server.SpotInstanceShutdown", "i-2": "Client.UserInitiatedShutdown"}
    raws = [
        {
            "InstanceId": i,
            "State": {"Name": "stopped"},
            "InstanceLifecycle": "spot",
            "StateReason": {"Code": code},
        }
        for i, code in reasons.items()
    ]
    cloud, _ = ec2({"Reservations": [{"Instances": raws}]})
    assert [w.is_interrupted for w in await cloud.list_workers()] == [True, False]


@pytest.mark.parametrize(
    ("instance_type", "market", "code"),
    [
        ("t3.medium", "on-demand", "L-1216C47A"),
        ("m7g.large", "spot", "L-34B43A08"),
        ("im4gn.large", "on-demand", "L-1216C47A"),
        ("g5.xlarge", "on-demand", "L-DB2E81BA"),
        ("gr6.4xlarge", "spot", "L-3819A6DF"),
        ("p4d.24xlarge", "spot", "L-7212CCBC"),
        ("p5.48xlarge", "spot", "L-C4BD4855"),
        ("x2gd.medium", "on-demand", "L-7295265B"),
        ("hpc7g.4xlarge", "spot", ""),
        ("u-6tb1.metal", "on-demand", "L-43DA4232"),
        ("inf2.xlarge", "on-demand", "L-1945791B"),
    ],
)
def test_each_type_counts_for_a_quota(instance_type: str, market: str, code: str) -> None:
    assert quota_code(instance_type, market) == code
