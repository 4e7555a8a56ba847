"""Capacity, quota and request limits."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ec2spawner.localcloud.clock import ManualClock
from ec2spawner.localcloud.ec2.capacity import CapacityFile, CapacityFormatError
from ec2spawner.localcloud.ec2.failures import EC2Error
from ec2spawner.localcloud.ec2.quotas import QUOTAS, class_of
from ec2spawner.localcloud.throttle import Throttle
from ec2spawner.quotas import quota_code
from localcloud.support import AMI, SUBNET_A, SUBNET_B, Cloud

ONE = {"ImageId": AMI, "MinCount": 1, "MaxCount": 1}


def _write(path: Path, document: object) -> None:
    path.write_text(json.dumps(document))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def test_rules_are_by_type_zone_and_market(cloud: Cloud) -> None:
    cloud.ec2.capacity.set(
        {"rules": [{"type": "t3.*", "zone": "us-east-1a", "market": "on-demand", "max_running": 0}]}
    )
    params = {**ONE, "InstanceType": "t3.medium", "SubnetId": SUBNET_A}
    cloud.refused("InsufficientInstanceCapacity", "RunInstances", **params)
    cloud.run(SubnetId=SUBNET_B)
    cloud.run(InstanceType="m7i.large")
    cloud.run(InstanceMarketOptions={"MarketType": "spot"})


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("InsufficientInstanceCapacity", 500),
        ("InsufficientHostCapacity", 500),
        ("Unsupported", 400),
        ("UnfulfillableCapacity", 400),
        ("MaxSpotInstanceCountExceeded", 400),
    ],
)
def test_a_rule_says_with_which_code(cloud: Cloud, code: str, status: int) -> None:
    cloud.ec2.capacity.set({"rules": [{"max_running": 0, "code": code}]})
    params = {**ONE, "InstanceType": "t3.medium", "SubnetId": SUBNET_A}
    assert cloud.refused(code, "RunInstances", **params).status == status


def test_the_spot_quota_has_a_code_of_its_own(cloud: Cloud) -> None:
    cloud.ec2.capacity.set({"vcpu_quota": {"spot": 0}})
    cloud.run()
    cloud.refused(
        "MaxSpotInstanceCountExceeded",
        "RunInstances",
        **ONE,
        InstanceType="t3.medium",
        SubnetId=SUBNET_A,
        InstanceMarketOptions={"MarketType": "spot"},
    )


def test_a_quota_may_be_for_each_class_of_families(cloud: Cloud) -> None:
    cloud.ec2.capacity.set({"vcpu_quota": {"on-demand": {"standard": 4, "g": 4}}})
    params = {**ONE, "SubnetId": SUBNET_A}
    gpu = cloud.running(InstanceType="g5.xlarge")
    error = cloud.refused("VcpuLimitExceeded", "RunInstances", InstanceType="g5.xlarge", **params)
    assert "your current vCPU limit of 4 allows" in error.message
    cloud.running(2)
    cloud.refused("VcpuLimitExceeded", "RunInstances", InstanceType="m7i.large", **params)
    cloud.call("StopInstances", InstanceIds=gpu)
    cloud.clock.advance(cloud.timings.stopping_seconds)
    cloud.running(InstanceType="g5.xlarge")
    cloud.refused("VcpuLimitExceeded", "StartInstances", InstanceIds=gpu)
    cloud.run(InstanceMarketOptions={"MarketType": "spot"})


def test_one_number_is_for_all_families_together(cloud: Cloud) -> None:
    cloud.ec2.capacity.set({"vcpu_quota": {"on-demand": 4}})
    cloud.running(InstanceType="g5.xlarge")
    params = {**ONE, "InstanceType": "t3.medium", "SubnetId": SUBNET_A}
    cloud.refused("VcpuLimitExceeded", "RunInstances", **params)


@pytest.mark.parametrize("market", ["on-demand", "spot"])
@pytest.mark.parametrize(
    "instance_type",
    [
        *("t3.medium", "im4gn.large", "mac2.metal", "g5.xlarge", "gr6.4xlarge", "vt1.3xlarge"),
        *("p4d.24xlarge", "p5.48xlarge", "x2gd.medium", "f1.2xlarge", "inf2.xlarge"),
        *("trn1.2xlarge", "dl1.24xlarge", "hpc7g.4xlarge", "u-6tb1.metal", "u7i-12tb.224xlarge"),
    ],
)
def test_the_product_asks_for_the_quota_that_counts_here(instance_type: str, market: str) -> None:
    code = quota_code(instance_type, market)
    if market == "spot" and instance_type.startswith(("hpc", "u")):
        assert code == ""
    else:
        assert QUOTAS[code].market == market
        assert QUOTAS[code].class_ == class_of(instance_type, market)


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "capacity.json"
    _write(path, {"rules": [{"max_running": 0}]})
    cloud = Cloud(capacity=CapacityFile(path))
    params = {**ONE, "InstanceType": "t3.medium", "SubnetId": SUBNET_A}
    cloud.refused("InsufficientInstanceCapacity", "RunInstances", **params)
    _write(path, {"rules": [{"max_running": 1}]})
    cloud.run()
    path.unlink()
    cloud.run()


def test_a_file_that_breaks_leaves_the_last_good_one_in_force(tmp_path: Path) -> None:
    path = tmp_path / "capacity.json"
    _write(path, {"rules": [{"max_running": 0}]})
    cloud = Cloud(capacity=CapacityFile(path))
    cloud.ec2.capacity.load()
    path.write_text("{")
    params = {**ONE, "InstanceType": "t3.medium", "SubnetId": SUBNET_A}
    cloud.refused("InsufficientInstanceCapacity", "RunInstances", **params)


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ([], "object"),
        ({"rule": []}, "unknown key 'rule'"),
        ({"rules": [{"max_running": -1}]}, "rules[0].max_running"),
        ({"rules": [{"max_running": True}]}, "rules[0].max_running"),
        ({"rules": [{"max": 1}]}, "rules[0]: unknown key 'max'"),
        ({"rules": [{"max_running": 1, "actions": ["Fly"]}]}, "actions"),
        ({"vcpu_quota": {"spots": 1}}, "vcpu_quota"),
        ({"vcpu_quota": {"spot": "many"}}, "vcpu_quota.spot"),
        ({"vcpu_quota": {"spot": {"gpu": 1}}}, "vcpu_quota.spot: unknown class 'gpu'"),
        ({"vcpu_quota": {"spot": {"g": True}}}, "vcpu_quota.spot.g must be"),
        ({"address_quota": -1}, "address_quota must be"),
        ({"address_quota": "five"}, "address_quota must be"),
    ],
)
def test_a_bad_file_is_told_what_is_wrong(tmp_path: Path, document: object, word: str) -> None:
    path = tmp_path / "capacity.json"
    _write(path, document)
    with pytest.raises(CapacityFormatError) as caught:
        CapacityFile(path).load()
    assert word in str(caught.value)


def _drain(throttle: Throttle, action: str, flat: dict[str, str] | None = None) -> int:
    """How many calls pass before one is refused."""
    for passed in range(2000):
        if _is_refused(throttle, action, flat or {}):
            return passed
    raise AssertionError("never refused")


def _is_refused(throttle: Throttle, action: str, flat: dict[str, str]) -> bool:
    try:
        throttle.admit("us-east-1", action, flat)
    except EC2Error as error:
        return (error.code, error.status) == ("RequestLimitExceeded", 503)
    return False


@pytest.mark.parametrize(
    ("action", "flat", "size", "per_second"),
    [
        ("RunInstances", {}, 5, 2),
        ("StartInstances", {}, 5, 2),
        ("StopInstances", {}, 50, 5),
        ("TerminateInstances", {}, 100, 5),
        ("CreateTags", {}, 100, 10),
        ("CreateVolume", {}, 100, 5),
        ("AttachVolume", {}, 50, 5),
        ("DescribeInstances", {}, 50, 10),
        ("DescribeInstances", {"MaxResults": "100"}, 100, 20),
        ("DescribeInstances", {"Filter.1.Name": "vpc-id"}, 100, 20),
        ("DescribeSubnets", {}, 100, 20),
    ],
)
def test_buckets_have_awss_sizes_and_refill(
    action: str, flat: dict[str, str], size: int, per_second: int
) -> None:
    clock = ManualClock()
    throttle = Throttle(clock)
    assert _drain(throttle, action, flat) == size
    clock.advance(1)
    assert _drain(throttle, action, flat) == per_second
    clock.advance(3600)
    assert _drain(throttle, action, flat) == size


def test_actions_and_regions_have_buckets_of_their_own() -> None:
    throttle = Throttle(ManualClock())
    _drain(throttle, "RunInstances")
    throttle.admit("us-east-1", "StartInstances", {})
    throttle.admit("eu-west-1", "RunInstances", {})


def test_instances_are_counted_in_a_bucket_of_their_own() -> None:
    clock = ManualClock()
    throttle = Throttle(clock)
    throttle.admit("us-east-1", "RunInstances", {"MaxCount": "900"})
    with pytest.raises(EC2Error):
        throttle.admit("us-east-1", "RunInstances", {"MaxCount": "101"})
    throttle.admit("us-east-1", "RunInstances", {"MaxCount": "100"})
    ids = {f"InstanceId.{n}": f"i-{n}" for n in range(1000)}
    throttle.admit("us-east-1", "TerminateInstances", ids)
    with pytest.raises(EC2Error):
        throttle.admit("us-east-1", "TerminateInstances", {"InstanceId.1": "i-1"})
    clock.advance(0.06)  # 20 a second
    throttle.admit("us-east-1", "TerminateInstances", {"InstanceId.1": "i-1"})
