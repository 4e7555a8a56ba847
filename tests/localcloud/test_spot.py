"""Spot requests: launched, stopped, started, interrupted, ended, cancelled, and fulfilled again."""

from __future__ import annotations

from typing import Any

import pytest

from ec2spawner.localcloud.ec2 import spot
from localcloud.support import AMI, HOME, SUBNET_A, Cloud, tags

OPTIONS = {"SpotInstanceType": "persistent", "InstanceInterruptionBehavior": "stop"}
PERSISTENT = {"MarketType": "spot", "SpotOptions": OPTIONS}
ONE_TIME = {"MarketType": "spot"}
NO_SPOT = {"rules": [{"market": "spot", "max_running": 0}]}


def request_of(cloud: Cloud, instance_id: str) -> dict[str, Any]:
    """The request of an instance as EC2 shows it."""
    request_id = cloud.show(instance_id)["SpotInstanceRequestId"]
    return shown(cloud, request_id)


def shown(cloud: Cloud, request_id: str) -> dict[str, Any]:
    found = cloud.call("DescribeSpotInstanceRequests", SpotInstanceRequestIds=[request_id])
    (view,) = found["SpotInstanceRequests"]
    return dict(view)


def is_now(view: dict[str, Any]) -> tuple[str, str]:
    return view["State"], view["Status"]["Code"]


def cancel(cloud: Cloud, request_id: str) -> str:
    reply = cloud.call("CancelSpotInstanceRequests", SpotInstanceRequestIds=[request_id])
    (cancelled,) = reply["CancelledSpotInstanceRequests"]
    return str(cancelled["State"])


def interrupt(cloud: Cloud, instance_id: str, seconds: float = 120) -> None:
    cloud.ec2.settle()
    spot.interrupt(cloud.ec2, cloud.ec2.instances[instance_id], seconds)


def test_each_spot_instance_has_a_request_with_tags_of_its_own(cloud: Cloud) -> None:
    specifications = [tags(a="instance"), tags("spot-instances-request", a="request")]
    ids = cloud.running(2, InstanceMarketOptions=PERSISTENT, TagSpecifications=specifications)
    requests = [request_of(cloud, i) for i in ids]
    assert len({r["SpotInstanceRequestId"] for r in requests}) == 2
    for instance_id, request in zip(ids, requests, strict=True):
        assert cloud.show(instance_id)["InstanceLifecycle"] == "spot"
        assert is_now(request) == ("active", "fulfilled")
        assert (request["InstanceId"], request["Type"]) == (instance_id, "persistent")
        assert request["InstanceInterruptionBehavior"] == "stop"
        assert request["Tags"] == [{"Key": "a", "Value": "request"}]
        assert cloud.show(instance_id)["Tags"] == [{"Key": "a", "Value": "instance"}]


@pytest.mark.parametrize(
    ("kind", "behavior", "code"),
    [
        ("persistent", None, "InvalidParameterCombination"),
        ("persistent", "terminate", "InvalidParameterCombination"),
        ("one-time", "stop", "InvalidParameterCombination"),
        ("sometimes", "stop", "InvalidParameterValue"),
        ("persistent", "freeze", "InvalidParameterValue"),
    ],
)
def test_what_does_not_go_together_is_refused(
    cloud: Cloud, kind: str, behavior: str | None, code: str
) -> None:
    options = {"SpotInstanceType": kind, "InstanceInterruptionBehavior": behavior}
    cloud.refused(
        code,
        "RunInstances",
        ImageId=AMI,
        InstanceType="t3.medium",
        SubnetId=SUBNET_A,
        MinCount=1,
        MaxCount=1,
        InstanceMarketOptions={"MarketType": "spot", "SpotOptions": options},
    )


def test_the_template_may_ask_for_the_spot_market(cloud: Cloud) -> None:
    cloud.surroundings.templates["lt-1"] = [{"InstanceMarketOptions": PERSISTENT}]
    (one,) = cloud.running(LaunchTemplate={"LaunchTemplateId": "lt-1"})
    assert request_of(cloud, one)["Type"] == "persistent"


def test_requests_are_found_by_filters_and_tags_may_change(cloud: Cloud) -> None:
    one, two = cloud.running(2, InstanceMarketOptions=PERSISTENT)
    first, second = (cloud.show(i)["SpotInstanceRequestId"] for i in (one, two))
    cloud.call("CreateTags", Resources=[first], Tags=[{"Key": "a", "Value": "b"}])
    cloud.call("StopInstances", InstanceIds=[two])

    def found(name: str, value: str) -> list[str]:
        filters = [{"Name": name, "Values": [value]}]
        reply = cloud.call("DescribeSpotInstanceRequests", Filters=filters)
        return [r["SpotInstanceRequestId"] for r in reply["SpotInstanceRequests"]]

    assert found("tag:a", "b") == [first]
    assert found("state", "disabled") == [second]
    assert found("status-code", "instance-stopped-*") == [second]
    assert found("instance-id", one) == [first]
    kinds = {t["ResourceType"] for t in cloud.call("DescribeTags")["Tags"]}
    assert kinds == {"spot-instances-request"}
    cloud.refused(
        "InvalidSpotInstanceRequestID.NotFound",
        "CancelSpotInstanceRequests",
        SpotInstanceRequestIds=[first, "sir-0"],
    )
    assert found("state", "active") == [first]


def test_a_stop_disables_the_request_and_a_start_enables_it(cloud: Cloud) -> None:
    (one,) = cloud.stopped(InstanceMarketOptions=PERSISTENT)
    assert is_now(request_of(cloud, one)) == ("disabled", "instance-stopped-by-user")
    cloud.clock.advance(86_400)
    assert cloud.state(one) == "stopped"
    cloud.call("StartInstances", InstanceIds=[one])
    cloud.clock.advance(cloud.timings.pending_seconds)
    assert cloud.state(one) == "running"
    assert is_now(request_of(cloud, one)) == ("active", "fulfilled")


def test_a_machine_that_powers_off_is_stopped_by_its_user(cloud: Cloud) -> None:
    (one,) = cloud.running(InstanceMarketOptions=PERSISTENT)
    cloud.ec2.powered_off(one)
    assert is_now(request_of(cloud, one)) == ("disabled", "instance-stopped-by-user")


def test_a_one_time_machine_that_powers_off_is_gone(cloud: Cloud) -> None:
    (one,) = cloud.running(InstanceMarketOptions=ONE_TIME)
    cloud.ec2.powered_off(one)
    assert cloud.state(one) == "shutting-down"


def test_a_start_may_meet_no_spot_capacity_and_no_quota(cloud: Cloud) -> None:
    (one,) = cloud.stopped(InstanceMarketOptions=PERSISTENT)
    cloud.ec2.capacity.set(NO_SPOT)
    error = cloud.refused("InsufficientInstanceCapacity", "StartInstances", InstanceIds=[one])
    assert "Spot capacity" in error.message
    cloud.ec2.capacity.set({"vcpu_quota": {"spot": 1}})
    cloud.refused("MaxSpotInstanceCountExceeded", "StartInstances", InstanceIds=[one])
    assert is_now(request_of(cloud, one)) == ("disabled", "instance-stopped-by-user")


def test_the_type_of_a_spot_instance_cannot_be_changed(cloud: Cloud) -> None:
    (one,) = cloud.stopped(InstanceMarketOptions=PERSISTENT)
    change = {"InstanceType": {"Value": "t3.large"}}
    cloud.refused("UnsupportedOperation", "ModifyInstanceAttribute", InstanceId=one, **change)


# ---- interruptions


def test_an_interrupted_instance_is_stopped_when_its_notice_is_over(cloud: Cloud) -> None:
    (one,) = cloud.running(InstanceMarketOptions=PERSISTENT)
    cloud.ec2.capacity.set(NO_SPOT)
    interrupt(cloud, one)
    assert is_now(request_of(cloud, one)) == ("active", "marked-for-stop")
    cloud.clock.advance(119)
    assert cloud.state(one) == "running"
    cloud.clock.advance(1)
    assert cloud.state(one) == "stopping"
    cloud.clock.advance(cloud.timings.stopping_seconds)
    view = cloud.show(one)
    assert view["State"]["Name"] == "stopped"
    assert view["StateReason"]["Code"] == "Server.SpotInstanceShutdown"
    assert is_now(request_of(cloud, one)) == ("disabled", "instance-stopped-no-capacity")


def test_only_ec2_starts_what_it_stopped_and_does_when_there_is_capacity(cloud: Cloud) -> None:
    (one,) = cloud.running(InstanceMarketOptions=PERSISTENT)
    cloud.ec2.capacity.set(NO_SPOT)
    interrupt(cloud, one)
    cloud.clock.advance(120)
    cloud.state(one)
    cloud.clock.advance(1000)
    assert cloud.state(one) == "stopped"
    cloud.refused("IncorrectSpotRequestState", "StartInstances", InstanceIds=[one])
    cloud.ec2.capacity.set({})
    cloud.refused("IncorrectSpotRequestState", "StartInstances", InstanceIds=[one])
    cloud.clock.advance(cloud.timings.spot_retry_seconds)
    assert cloud.state(one) == "pending"
    assert is_now(request_of(cloud, one)) == ("active", "fulfilled")
    assert "StateReason" not in cloud.show(one)


def test_a_stop_before_the_notice_is_over_is_the_users(cloud: Cloud) -> None:
    (one,) = cloud.running(InstanceMarketOptions=PERSISTENT)
    interrupt(cloud, one)
    cloud.call("StopInstances", InstanceIds=[one])
    cloud.clock.advance(1000)
    assert cloud.state(one) == "stopped"
    assert is_now(request_of(cloud, one)) == ("disabled", "instance-stopped-by-user")
    cloud.call("StartInstances", InstanceIds=[one])
    cloud.clock.advance(1000)
    assert cloud.state(one) == "running"


@pytest.mark.parametrize("cancelled", [True, False])
def test_what_cannot_be_stopped_is_ended_by_an_interruption(cloud: Cloud, cancelled: bool) -> None:
    market = PERSISTENT if cancelled else ONE_TIME
    (one,) = cloud.running(InstanceMarketOptions=market)
    request_id = cloud.show(one)["SpotInstanceRequestId"]
    if cancelled:
        cancel(cloud, request_id)
    interrupt(cloud, one, 60)
    cloud.clock.advance(60)
    view = cloud.show(one)
    assert view["State"]["Name"] == "shutting-down"
    assert view["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    cloud.clock.advance(1000)
    assert cloud.listed() == [one]
    assert is_now(shown(cloud, request_id)) == (
        "cancelled" if cancelled else "closed",
        "instance-terminated-no-capacity",
    )


# ---- ends


def test_a_cancelled_request_lets_its_running_instance_run(cloud: Cloud) -> None:
    (one,) = cloud.running(InstanceMarketOptions=PERSISTENT)
    request_id = cloud.show(one)["SpotInstanceRequestId"]
    assert [cancel(cloud, request_id) for _ in range(2)] == ["cancelled"] * 2
    assert is_now(shown(cloud, request_id)) == (
        "cancelled",
        "request-canceled-and-instance-running",
    )
    cloud.clock.advance(1000)
    assert cloud.state(one) == "running"
    cloud.refused("UnsupportedOperation", "StopInstances", InstanceIds=[one])
    cloud.call("TerminateInstances", InstanceIds=[one])
    cloud.clock.advance(cloud.timings.shutting_down_seconds)
    assert is_now(shown(cloud, request_id)) == ("cancelled", "instance-terminated-by-user")
    cloud.clock.advance(1000)
    assert cloud.listed() == [one]


@pytest.mark.parametrize("still_stopping", [True, False])
def test_a_cancelled_request_ends_its_stopped_instance_and_leaves_the_home(
    cloud: Cloud, still_stopping: bool
) -> None:
    (one,) = cloud.running(InstanceMarketOptions=PERSISTENT, BlockDeviceMappings=[HOME])
    home = cloud.home_of(one)
    cloud.call("StopInstances", InstanceIds=[one])
    if not still_stopping:
        cloud.clock.advance(cloud.timings.stopping_seconds)
    cancel(cloud, cloud.show(one)["SpotInstanceRequestId"])
    cloud.clock.advance(100)
    cloud.state(one)
    cloud.clock.advance(100)
    assert cloud.state(one) == "terminated"
    assert [(v["VolumeId"], v["State"]) for v in cloud.volumes()] == [(home, "available")]


def test_a_persistent_request_that_is_not_cancelled_launches_another_without_tags(
    cloud: Cloud,
) -> None:
    specifications = [tags(a="b"), tags("volume", a="b"), tags("spot-instances-request", a="b")]
    (one,) = cloud.running(
        InstanceMarketOptions=PERSISTENT,
        BlockDeviceMappings=[HOME],
        TagSpecifications=specifications,
        KeyName="cluster",
    )
    request_id = cloud.show(one)["SpotInstanceRequestId"]
    cloud.call("TerminateInstances", InstanceIds=[one])
    cloud.clock.advance(cloud.timings.shutting_down_seconds)
    assert is_now(shown(cloud, request_id)) == ("open", "pending-evaluation")
    cloud.clock.advance(cloud.timings.spot_retry_seconds)
    old, new = cloud.listed()
    assert old == one
    cloud.clock.advance(cloud.timings.pending_seconds)
    view = cloud.show(new)
    assert (view["State"]["Name"], view["Tags"], view["ClientToken"]) == ("running", [], "")
    kept = ("InstanceType", "ImageId", "SubnetId", "KeyName", "SpotInstanceRequestId")
    assert {k: view[k] for k in kept} == {
        "InstanceType": "t3.medium",
        "ImageId": AMI,
        "SubnetId": SUBNET_A,
        "KeyName": "cluster",
        "SpotInstanceRequestId": request_id,
    }
    assert cloud.volumes(VolumeIds=[cloud.home_of(new)])[0]["Tags"] == []
    again = shown(cloud, request_id)
    assert (again["InstanceId"], is_now(again)) == (new, ("active", "fulfilled"))
    assert again["Tags"] == [{"Key": "a", "Value": "b"}]


def test_the_other_one_waits_for_capacity_and_a_cancelled_one_never_comes(cloud: Cloud) -> None:
    ids = cloud.running(2, InstanceMarketOptions=PERSISTENT)
    first, second = (cloud.show(i)["SpotInstanceRequestId"] for i in ids)
    cloud.ec2.capacity.set(NO_SPOT)
    cloud.call("TerminateInstances", InstanceIds=ids)
    cloud.clock.advance(cloud.timings.shutting_down_seconds)
    cloud.ec2.settle()
    cloud.clock.advance(1000)
    assert is_now(shown(cloud, first)) == ("open", "capacity-not-available")
    assert cancel(cloud, second) == "cancelled"
    cloud.ec2.capacity.set({})
    cloud.clock.advance(cloud.timings.spot_retry_seconds)
    cloud.ec2.settle()
    cloud.clock.advance(1000)
    assert len(cloud.listed()) == 3
    assert is_now(shown(cloud, first)) == ("active", "fulfilled")
    assert is_now(shown(cloud, second)) == ("cancelled", "canceled-before-fulfillment")


def test_a_request_that_can_no_longer_be_is_closed(cloud: Cloud) -> None:
    (one,) = cloud.running(InstanceMarketOptions=PERSISTENT, KeyName="cluster")
    request_id = cloud.show(one)["SpotInstanceRequestId"]
    cloud.surroundings.keys.clear()
    cloud.call("TerminateInstances", InstanceIds=[one])
    cloud.clock.advance(cloud.timings.shutting_down_seconds)
    cloud.ec2.settle()
    cloud.clock.advance(cloud.timings.spot_retry_seconds)
    assert is_now(shown(cloud, request_id)) == ("closed", "bad-parameters")


def test_a_request_that_is_over_is_shown_for_two_days(cloud: Cloud) -> None:
    (one,) = cloud.running(InstanceMarketOptions=ONE_TIME)
    request_id = cloud.show(one)["SpotInstanceRequestId"]
    cloud.call("TerminateInstances", InstanceIds=[one])
    cloud.clock.advance(cloud.timings.shutting_down_seconds)
    assert is_now(shown(cloud, request_id)) == ("closed", "instance-terminated-by-user")
    cloud.clock.advance(86_400 * 2)
    assert cloud.call("DescribeSpotInstanceRequests")["SpotInstanceRequests"] == []
