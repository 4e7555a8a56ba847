"""The whole front through boto3: errors, faults, outage, counts, and the control endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from ec2spawner.localcloud.clock import ManualClock
from ec2spawner.localcloud.inprocess import InProcessCloud
from localcloud.support import AMI, HOME, tags


def control(
    whole: InProcessCloud, method: str, path: str, document: Any = None, status: int = 200
) -> Any:
    """A request to the control endpoint."""
    body = b"" if document is None else json.dumps(document).encode()
    reply = whole.request(method, f"http://127.0.0.1:1/_localcloud/{path}", {}, body)
    assert reply.status == status, reply.body
    return json.loads(reply.body)


@pytest.fixture
def ec2(whole: InProcessCloud) -> Any:
    return whole.client("ec2")


@pytest.fixture
def subnet(ec2: Any) -> str:
    return _subnet_of(ec2)


def _subnet_of(ec2: Any) -> str:
    vpc = ec2.create_vpc(CidrBlock="127.77.0.0/16")["Vpc"]["VpcId"]
    made = ec2.create_subnet(VpcId=vpc, CidrBlock="127.77.1.0/24", AvailabilityZone="us-east-1a")
    return str(made["Subnet"]["SubnetId"])


def launch(ec2: Any, subnet: str, **more: Any) -> Any:
    """RunInstances of one."""
    usual = {"ImageId": AMI, "InstanceType": "t3.medium", "MinCount": 1, "MaxCount": 1}
    return ec2.run_instances(**{**usual, "SubnetId": subnet, **more})["Instances"][0]


def refused(code: str, call: Any, **params: Any) -> ClientError:
    """Call, and expect boto3's error of this code."""
    with pytest.raises(ClientError) as caught:
        call(**params)
    assert caught.value.response["Error"]["Code"] == code
    return caught.value


def test_a_whole_life_through_boto3(whole: InProcessCloud, ec2: Any, subnet: str) -> None:
    launched = launch(
        ec2,
        subnet,
        BlockDeviceMappings=[HOME],
        TagSpecifications=[tags(owner="Zoë <&> 'Müller'")],
    )
    assert launched["State"] == {"Code": 0, "Name": "pending"}
    assert launched["PrivateIpAddress"].startswith("127.77.1.")
    whole.clock.advance(5)
    ids = [launched["InstanceId"]]
    (shown,) = ec2.describe_instances(InstanceIds=ids)["Reservations"][0]["Instances"]
    assert shown["State"]["Name"] == "running"
    assert shown["Tags"] == [{"Key": "owner", "Value": "Zoë <&> 'Müller'"}]
    assert shown["LaunchTime"].timestamp() == whole.clock.now - 5
    ec2.stop_instances(InstanceIds=ids)
    whole.clock.advance(20)
    ec2.start_instances(InstanceIds=ids)
    ec2.terminate_instances(InstanceIds=ids)
    whole.clock.advance(5)
    (home,) = ec2.describe_volumes()["Volumes"]
    assert (home["State"], home["Size"]) == ("available", 10)


def test_errors_have_codes_and_words(ec2: Any, subnet: str) -> None:
    error = refused("InvalidInstanceID.NotFound", ec2.stop_instances, InstanceIds=["i-" + "0" * 17])
    assert "does not exist" in error.response["Error"]["Message"]
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    refused("InvalidAMIID.NotFound", launch, ec2=ec2, subnet=subnet, ImageId="ami-" + "0" * 17)


def test_throttling_is_a_503() -> None:
    with InProcessCloud(throttle=True) as other:
        ec2 = other.client("ec2")
        for _ in range(50):
            ec2.describe_instances()
        error = refused("RequestLimitExceeded", ec2.describe_instances)
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 503


def test_a_lost_reply_leaves_the_effect(whole: InProcessCloud, ec2: Any, subnet: str) -> None:
    control(whole, "POST", "faults", {"action": "RunInstances", "fault": "lose-reply"})
    with pytest.raises(ConnectionClosedError):
        launch(ec2, subnet, ClientToken="t")
    again = launch(ec2, subnet, ClientToken="t")
    (reservation,) = ec2.describe_instances()["Reservations"]
    assert [i["InstanceId"] for i in reservation["Instances"]] == [again["InstanceId"]]
    calls = control(whole, "GET", "calls")["calls"]
    assert calls["RunInstances"] == {"ok": 1, "reply-lost": 1}


def test_lost_replies_of_volumes_and_snapshots_leave_their_effect(
    whole: InProcessCloud, ec2: Any
) -> None:
    control(whole, "POST", "faults", {"action": "Create*", "fault": "lose-reply", "count": 2})
    params = {"AvailabilityZone": "us-east-1a", "Size": 1, "ClientToken": "t"}
    with pytest.raises(ConnectionClosedError):
        ec2.create_volume(**params)
    (volume,) = ec2.describe_volumes()["Volumes"]
    whole.clock.advance(5)
    with pytest.raises(ConnectionClosedError):
        ec2.create_snapshot(
            VolumeId=volume["VolumeId"], TagSpecifications=[tags("snapshot", request="r")]
        )
    found = ec2.describe_snapshots(Filters=[{"Name": "tag:request", "Values": ["r"]}])["Snapshots"]
    assert [s["VolumeId"] for s in found] == [volume["VolumeId"]]
    assert ec2.create_volume(**params)["VolumeId"] == volume["VolumeId"]


def test_a_call_lost_before_it_arrives_has_no_effect(
    whole: InProcessCloud, ec2: Any, subnet: str
) -> None:
    fault = {"action": "RunInstances", "fault": "lose-reply", "when": "before"}
    control(whole, "POST", "faults", fault)
    with pytest.raises(ConnectionClosedError):
        launch(ec2, subnet)
    assert ec2.describe_instances()["Reservations"] == []


def test_an_error_hits_as_often_as_told(whole: InProcessCloud, ec2: Any) -> None:
    fault = {"action": "Describe*", "fault": "error", "code": "Odd", "status": 500, "count": 2}
    control(whole, "POST", "faults", {**fault, "skip": 1})
    ec2.describe_instances()
    for _ in range(2):
        error = refused("Odd", ec2.describe_instances)
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    ec2.describe_instances()
    assert control(whole, "GET", "faults")["faults"] == []


def test_a_fault_can_be_for_calls_that_hold_a_text(
    whole: InProcessCloud, ec2: Any, subnet: str
) -> None:
    one, two = (launch(ec2, subnet)["InstanceId"] for _ in range(2))
    whole.clock.advance(5)
    fault = {"action": "StopInstances", "fault": "error", "match": two, "count": None}
    control(whole, "POST", "faults", fault)
    ec2.stop_instances(InstanceIds=[one])
    refused("InternalError", ec2.stop_instances, InstanceIds=[two])


def test_a_fault_can_throttle_delay_and_never_answer(whole: InProcessCloud, ec2: Any) -> None:
    control(whole, "POST", "faults", {"action": "DescribeVolumes", "fault": "throttle"})
    refused("RequestLimitExceeded", ec2.describe_volumes)
    before = whole.clock.now
    fault = {"action": "DescribeVolumes", "fault": "delay", "seconds": 7}
    control(whole, "POST", "faults", fault)
    ec2.describe_volumes()
    assert whole.clock.now == before + 7
    control(whole, "POST", "faults", {"action": "DescribeVolumes", "fault": "never-answer"})
    with pytest.raises(ReadTimeoutError):
        ec2.describe_volumes()


@pytest.mark.parametrize("service", ["ssm", "s3", "cloudformation", "sts"])
def test_faults_speak_every_services_language(whole: InProcessCloud, service: str) -> None:
    control(whole, "POST", "faults", {"service": service, "fault": "error", "code": "Odd"})
    client = whole.client(service)
    calls = {
        "ssm": ("get_parameter", {"Name": "/x"}),
        "s3": ("put_object", {"Bucket": "b", "Key": "k", "Body": b"x"}),
        "cloudformation": ("describe_stacks", {}),
        "sts": ("get_caller_identity", {}),
    }
    name, params = calls[service]
    refused("Odd", getattr(client, name), **params)


def test_an_outage_hits_everything_until_it_ends(whole: InProcessCloud, ec2: Any) -> None:
    control(whole, "POST", "outage", {"on": True})
    for call in (ec2.describe_instances, whole.client("sts").get_caller_identity):
        with pytest.raises(ConnectionClosedError):
            call()
    control(whole, "POST", "outage", {"on": True, "kind": "error"})
    refused("Unavailable", ec2.describe_instances)
    control(whole, "POST", "outage", {"on": False})
    ec2.describe_instances()


def test_a_rule_can_be_taken_back(whole: InProcessCloud, ec2: Any) -> None:
    fault = {"action": "*", "fault": "error", "count": None}
    made = control(whole, "POST", "faults", fault)
    refused("InternalError", ec2.describe_instances)
    control(whole, "DELETE", f"faults/{made['id']}")
    ec2.describe_instances()


def test_calls_are_counted_by_action_and_outcome(whole: InProcessCloud, ec2: Any) -> None:
    ec2.describe_instances()
    refused("InvalidVolume.NotFound", ec2.delete_volume, VolumeId="vol-" + "0" * 17)
    refused("ParameterNotFound", whole.client("ssm").get_parameter, Name="/nothing")
    assert control(whole, "GET", "calls")["calls"] == {
        "DeleteVolume": {"InvalidVolume.NotFound": 1},
        "DescribeInstances": {"ok": 1},
        "ssm:GetParameter": {"ParameterNotFound": 1},
    }
    control(whole, "POST", "calls/reset", {})
    assert control(whole, "GET", "calls")["calls"] == {}


def test_state_names_owners(whole: InProcessCloud, ec2: Any, subnet: str) -> None:
    owner = {"ec2spawner:owner": "ada-123"}
    specifications = [tags(kind, **owner) for kind in ("instance", "volume")]
    one = launch(ec2, subnet, TagSpecifications=specifications, BlockDeviceMappings=[HOME])
    state = control(whole, "GET", "state")
    assert state["owners"]["ada-123"]["instances"] == [one["InstanceId"]]
    assert len(state["owners"]["ada-123"]["volumes"]) == 2
    assert state["instances"][0]["state"] == "pending"


def test_timings_and_capacity_can_be_set(whole: InProcessCloud, ec2: Any, subnet: str) -> None:
    control(whole, "POST", "timings", {"pending_seconds": 100})
    control(whole, "POST", "capacity", {"rules": [{"max_running": 1}]})
    one = launch(ec2, subnet)
    whole.clock.advance(99)
    shown = ec2.describe_instances(InstanceIds=[one["InstanceId"]])["Reservations"][0]
    assert shown["Instances"][0]["State"]["Name"] == "pending"
    refused("InsufficientInstanceCapacity", launch, ec2=ec2, subnet=subnet)


def test_instances_can_be_made_ill_stuck_and_well(
    whole: InProcessCloud, ec2: Any, subnet: str
) -> None:
    one = launch(ec2, subnet)["InstanceId"]
    assert "not running" in control(whole, "POST", f"workers/{one}/panic", {}, 400)["error"]
    whole.clock.advance(100)
    control(whole, "POST", f"workers/{one}/panic", {})
    whole.clock.advance(60)
    filters = [{"Name": "instance-status.status", "Values": ["impaired"]}]
    (status,) = ec2.describe_instance_status(Filters=filters)["InstanceStatuses"]
    (detail,) = status["InstanceStatus"]["Details"]
    assert detail["ImpairedSince"].timestamp() == whole.clock.now
    assert "Kernel panic" in ec2.get_console_output(InstanceId=one, Latest=True)["Output"]
    control(whole, "POST", f"workers/{one}/stick", {})
    ec2.stop_instances(InstanceIds=[one])
    whole.clock.advance(1000)
    control(whole, "POST", f"workers/{one}/heal", {})
    (shown,) = ec2.describe_instances(InstanceIds=[one])["Reservations"][0]["Instances"]
    assert shown["State"]["Name"] == "stopped"


def test_quotas_are_those_of_the_capacity_file(whole: InProcessCloud) -> None:
    control(whole, "POST", "capacity", {"vcpu_quota": {"on-demand": {"standard": 5}, "spot": 7}})
    quotas = whole.client("service-quotas")

    def value(code: str) -> float:
        quota = quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]
        assert quota["QuotaCode"] == code
        return float(quota["Value"])

    assert (value("L-1216C47A"), value("L-34B43A08"), value("L-3819A6DF")) == (5.0, 7.0, 7.0)
    assert value("L-DB2E81BA") == 1_000_000
    pages = quotas.get_paginator("list_service_quotas").paginate(
        ServiceCode="ec2", PaginationConfig={"PageSize": 5}
    )
    names = {q["QuotaCode"]: q["QuotaName"] for page in pages for q in page["Quotas"]}
    assert names["L-DB2E81BA"] == "Running On-Demand G and VT instances"
    assert len(names) >= 18
    refused("NoSuchResourceException", quotas.get_service_quota, ServiceCode="ec2", QuotaCode="L-0")
    assert quotas.get_service_quota(ServiceCode="vpc", QuotaCode="L-F678F1CE")["Quota"]
    assert control(whole, "GET", "calls")["calls"]["servicequotas:GetServiceQuota"] == {
        "ok": 5,
        "NoSuchResourceException": 1,
    }


def test_stacks_get_as_many_elastic_addresses_as_the_capacity_file_says(
    whole: InProcessCloud,
) -> None:
    stacks, quotas = whole.client("cloudformation"), whole.client("service-quotas")
    template = json.dumps({"Resources": {"Address": {"Type": "AWS::EC2::EIP"}}})
    control(whole, "POST", "capacity", {"address_quota": 1})
    quota = quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-0263D0A3")["Quota"]
    assert quota["Value"] == 1.0
    ids = []
    for name in ("one", "two"):
        names = {"StackName": name, "ChangeSetName": "new"}
        made = stacks.create_change_set(**names, ChangeSetType="CREATE", TemplateBody=template)
        stacks.execute_change_set(**names)
        ids.append(made["StackId"])
    one, two = (stacks.describe_stacks(StackName=i)["Stacks"][0] for i in ids)
    assert (one["StackStatus"], two["StackStatus"]) == ("CREATE_COMPLETE", "DELETE_COMPLETE")
    events = stacks.describe_stack_events(StackName=ids[1])["StackEvents"]
    assert any("AddressLimitExceeded" in e.get("ResourceStatusReason", "") for e in events)
    assert len(whole.client("ec2").describe_addresses()["Addresses"]) == 1


def test_a_spot_instance_is_taken_back_and_its_request_outlives_the_cloud(
    tmp_path: Path,
) -> None:
    options = {"SpotInstanceType": "persistent", "InstanceInterruptionBehavior": "stop"}
    market = {"MarketType": "spot", "SpotOptions": options}
    with InProcessCloud(state_dir=tmp_path) as first:
        ec2 = first.client("ec2")
        template = ec2.create_launch_template(
            LaunchTemplateName="t", LaunchTemplateData={"InstanceMarketOptions": market}
        )["LaunchTemplate"]["LaunchTemplateId"]
        one = launch(
            ec2,
            _subnet_of(ec2),
            LaunchTemplate={"LaunchTemplateId": template},
            TagSpecifications=[tags("spot-instances-request", a="b")],
        )
        first.clock.advance(5)
        path = f"workers/{one['InstanceId']}/interrupt"
        assert "seconds must be" in control(first, "POST", path, {"seconds": "x"}, 400)["error"]
        control(first, "POST", path, {"seconds": 10})
        now = first.clock.now
    with InProcessCloud(state_dir=tmp_path, clock=ManualClock(now)) as second:
        ec2 = second.client("ec2")
        ids = [one["InstanceId"]]
        assert one["InstanceLifecycle"] == "spot"
        (request,) = ec2.describe_spot_instance_requests()["SpotInstanceRequests"]
        assert request["SpotInstanceRequestId"] == one["SpotInstanceRequestId"]
        assert request["Status"]["Code"] == "marked-for-stop"
        assert request["Tags"] == [{"Key": "a", "Value": "b"}]
        second.clock.advance(10)
        (shown,) = ec2.describe_instances(InstanceIds=ids)["Reservations"][0]["Instances"]
        assert shown["StateReason"]["Code"] == "Server.SpotInstanceShutdown"
        second.clock.advance(20)
        refused("IncorrectSpotRequestState", ec2.start_instances, InstanceIds=ids)
        rows = control(second, "GET", "state")["spot_requests"]
        assert [(r["state"], r["instance_id"]) for r in rows] == [("disabled", *ids)]
        sirs = [request["SpotInstanceRequestId"]]
        ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=sirs)
        second.clock.advance(20)
        (shown,) = ec2.describe_instances(InstanceIds=ids)["Reservations"][0]["Instances"]
        assert shown["State"]["Name"] == "terminated"


@pytest.mark.parametrize(
    ("method", "path", "document", "status", "word"),
    [
        ("POST", "faults", {"fault": "burn"}, 400, "fault must be one of"),
        ("POST", "faults", {"fault": "error", "colour": 1}, 400, "unknown key 'colour'"),
        ("POST", "faults", {"fault": "error", "status": 42}, 400, "status must be"),
        ("POST", "faults", {"fault": "error", "when": "never"}, 400, "when must be"),
        ("POST", "faults", {"fault": "error", "count": 0}, 400, "count must be"),
        ("POST", "faults", [1], 400, "JSON object"),
        ("DELETE", "faults/7", None, 404, "no fault 7"),
        ("POST", "outage", {"on": "yes"}, 400, "outage takes"),
        ("POST", "outage", {"on": True, "kind": "x"}, 400, "kind must be"),
        ("POST", "timings", {"boot": 1}, 400, "unknown timing"),
        ("POST", "timings", {"pending_seconds": -1}, 400, "pending_seconds must be"),
        ("POST", "capacity", {"rules": 1}, 400, "rules must be"),
        ("POST", "workers/i-1/kill-server", {}, 404, "no instance i-1"),
        ("POST", "workers/i-1/dance", {}, 400, "unknown action"),
        ("POST", "workers/hang-boots", {"count": "x"}, 400, "count must be"),
        ("GET", "nowhere", None, 404, "there is no nowhere"),
        ("PUT", "faults", None, 404, "PUT is not answered at faults"),
    ],
)
def test_bad_requests_get_words(
    whole: InProcessCloud, method: str, path: str, document: Any, status: int, word: str
) -> None:
    assert word in control(whole, method, path, document, status)["error"]


def test_a_body_that_is_no_json_gets_words(whole: InProcessCloud) -> None:
    reply = whole.request("POST", "http://127.0.0.1:1/_localcloud/faults", {}, b"{")
    assert reply.status == 400
    assert b"not JSON" in reply.body


def test_every_documented_path_is_answered(whole: InProcessCloud) -> None:
    paths = control(whole, "GET", "")["paths"]
    for path in (p.partition(" ")[2] for p in paths if p.startswith("GET ")):
        control(whole, "GET", path)
