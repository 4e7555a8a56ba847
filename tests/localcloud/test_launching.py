"""RunInstances: counts, tokens, templates, checks, addresses."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ec2spawner.localcloud.ec2.surroundings import SubnetInfo
from localcloud.support import AMI, ARM_AMI, HOME, SUBNET_A, SUBNET_B, Cloud, tags


def test_launches_as_many_as_there_is_room_for_between_min_and_max(cloud: Cloud) -> None:
    cloud.ec2.capacity.set({"rules": [{"type": "t3.*", "max_running": 3}]})
    assert len(cloud.launch(1, MinCount=1, MaxCount=5)["Instances"]) == 3


def test_launches_none_below_min_count(cloud: Cloud) -> None:
    cloud.ec2.capacity.set({"rules": [{"max_running": 3}]})
    error = cloud.refused(
        "InsufficientInstanceCapacity",
        "RunInstances",
        ImageId=AMI,
        InstanceType="t3.medium",
        SubnetId=SUBNET_A,
        MinCount=4,
        MaxCount=9,
    )
    assert error.status == 500  # EC2 counts it among the server's errors
    assert cloud.listed() == []


def test_a_batch_is_one_reservation_in_one_zone(cloud: Cloud) -> None:
    instances = cloud.launch(3, SubnetId=SUBNET_B)["Instances"]
    assert {i["Placement"]["AvailabilityZone"] for i in instances} == {"us-east-1b"}
    assert [i["AmiLaunchIndex"] for i in instances] == [0, 1, 2]
    assert len(cloud.call("DescribeInstances")["Reservations"]) == 1


def test_the_same_token_is_the_same_launch(cloud: Cloud) -> None:
    first = cloud.run(2, ClientToken="token")
    assert cloud.run(2, ClientToken="token") == first
    assert cloud.listed() == first


def test_a_token_with_other_parameters_is_refused(cloud: Cloud) -> None:
    cloud.run(2, ClientToken="token")
    cloud.refused(
        "IdempotentParameterMismatch",
        "RunInstances",
        ImageId=AMI,
        InstanceType="t3.large",
        SubnetId=SUBNET_A,
        MinCount=2,
        MaxCount=2,
        ClientToken="token",
    )


def test_a_token_whose_instances_are_gone_launches_nothing(cloud: Cloud) -> None:
    ids = cloud.running(1, ClientToken="token")
    cloud.call("TerminateInstances", InstanceIds=ids)
    cloud.refused(
        "IdempotentInstanceTerminated",
        "RunInstances",
        ImageId=AMI,
        InstanceType="t3.medium",
        SubnetId=SUBNET_A,
        MinCount=1,
        MaxCount=1,
        ClientToken="token",
    )


def test_a_token_of_more_than_64_characters_is_refused(cloud: Cloud) -> None:
    cloud.refused("InvalidParameterValue", "RunInstances", ClientToken="x" * 65)


def test_the_template_gives_what_the_request_leaves_out(cloud: Cloud) -> None:
    cloud.surroundings.templates["lt-1"] = [
        {
            "ImageId": AMI,
            "InstanceType": "t3.large",
            "KeyName": "cluster",
            "SecurityGroupIds": ["sg-1"],
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            "IamInstanceProfile": {"Name": "builder"},
            "CreditSpecification": {"CpuCredits": "standard"},
            "HibernationOptions": {"Configured": True},
            "InstanceMarketOptions": {"MarketType": "spot"},
            "UserData": base64.b64encode(b"#!/bin/sh").decode(),
            "BlockDeviceMappings": [
                {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 20, "Encrypted": True}}
            ],
            "TagSpecifications": [tags("instance", a="1"), tags("volume", b="2")],
        }
    ]
    (launched,) = cloud.run(
        ImageId=None, InstanceType=None, LaunchTemplate={"LaunchTemplateId": "lt-1"}
    )
    cloud.clock.advance(5)
    view = cloud.show(launched)
    assert view["InstanceType"] == "t3.large"
    assert view["KeyName"] == "cluster"
    assert view["SecurityGroups"] == [{"GroupId": "sg-1", "GroupName": "workers"}]
    assert view["MetadataOptions"]["HttpTokens"] == "required"
    assert view["IamInstanceProfile"]["Arn"].endswith("builder")
    assert view["HibernationOptions"] == {"Configured": True}
    assert view["InstanceLifecycle"] == "spot"
    assert {t["Key"]: t["Value"] for t in view["Tags"]} == {
        "a": "1",
        "aws:ec2launchtemplate:id": "lt-1",
        "aws:ec2launchtemplate:version": "1",
    }
    (root,) = cloud.volumes()
    assert (root["Size"], root["Encrypted"], root["Tags"]) == (
        20,
        True,
        [{"Key": "b", "Value": "2"}],
    )
    behaviour = cloud.call(
        "DescribeInstanceAttribute",
        InstanceId=launched,
        Attribute="instanceInitiatedShutdownBehavior",
    )
    assert behaviour["InstanceInitiatedShutdownBehavior"] == {"Value": "terminate"}
    shown = cloud.call("DescribeInstanceCreditSpecifications", InstanceIds=[launched])
    assert shown["InstanceCreditSpecifications"][0]["CpuCredits"] == "standard"


CREDITS = {"CreditSpecification": {"CpuCredits": "standard"}}


@pytest.mark.parametrize("kind", ["m7i.large", "g5.xlarge"])
@pytest.mark.parametrize(
    ("template", "request_"), [({}, CREDITS), (CREDITS, {}), (CREDITS, CREDITS)]
)
def test_a_type_without_cpu_credits_takes_no_credit_option(
    cloud: Cloud, kind: str, template: dict[str, Any], request_: dict[str, Any]
) -> None:
    cloud.surroundings.templates["lt-1"] = [
        {"ImageId": AMI, "InstanceType": "t3.large", **template}
    ]
    launch = {"LaunchTemplate": {"LaunchTemplateId": "lt-1"}, "SubnetId": SUBNET_A}
    one = {"MinCount": 1, "MaxCount": 1, "InstanceType": kind}
    cloud.refused(
        "InstanceCreditSpecification.NotSupported", "RunInstances", **launch, **one, **request_
    )
    assert cloud.listed() == []


def test_a_type_with_cpu_credits_borrows_unless_told_otherwise(cloud: Cloud) -> None:
    (told,), (free,) = cloud.run(**CREDITS), cloud.run()
    (without,) = cloud.run(InstanceType="m7i.large")

    def options(**params: Any) -> dict[str, str]:
        shown = cloud.call("DescribeInstanceCreditSpecifications", **params)
        return {s["InstanceId"]: s["CpuCredits"] for s in shown["InstanceCreditSpecifications"]}

    all_ = options(InstanceIds=[told, free, without])
    assert all_ == {told: "standard", free: "unlimited", without: "standard"}
    assert options() == {free: "unlimited"}


def test_the_request_goes_over_the_template(cloud: Cloud) -> None:
    cloud.surroundings.templates["lt-1"] = [
        {
            "ImageId": "ami-0",
            "InstanceType": "t3.large",
            "TagSpecifications": [tags("instance", a="template", b="template")],
            "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 20}}],
        }
    ]
    (launched,) = cloud.run(
        LaunchTemplate={"LaunchTemplateId": "lt-1", "Version": "$Latest"},
        TagSpecifications=[tags("instance", b="request")],
        BlockDeviceMappings=[HOME],
    )
    cloud.clock.advance(5)
    view = cloud.show(launched)
    shown = {t["Key"]: t["Value"] for t in view["Tags"]}
    assert (view["InstanceType"], shown["a"], shown["b"]) == ("t3.medium", "template", "request")
    assert sorted(m["DeviceName"] for m in view["BlockDeviceMappings"]) == ["/dev/sda1", "/dev/sdf"]
    assert sorted(v["Size"] for v in cloud.volumes()) == [10, 20]


def test_tags_reach_instance_volumes_and_interface_in_the_call_itself(cloud: Cloud) -> None:
    (launched,) = cloud.run(
        BlockDeviceMappings=[HOME],
        TagSpecifications=[
            tags("instance", a="i"),
            tags("volume", a="v"),
            tags("network-interface", a="n"),
        ],
    )
    found = cloud.call("DescribeTags", Filters=[{"Name": "key", "Values": ["a"]}])["Tags"]
    assert sorted((t["ResourceType"], t["Value"]) for t in found) == [
        ("instance", "i"),
        ("network-interface", "n"),
        ("volume", "v"),
        ("volume", "v"),
    ]
    assert cloud.show(launched)["Tags"] == [{"Key": "a", "Value": "i"}]


def test_mappings_show_only_a_moment_after_the_launch(cloud: Cloud) -> None:
    launched = cloud.launch(BlockDeviceMappings=[HOME])["Instances"][0]
    assert launched["BlockDeviceMappings"] == []
    cloud.clock.advance(0.3)
    assert len(cloud.show(launched["InstanceId"])["BlockDeviceMappings"]) == 2


def test_what_cannot_be_launched_is_refused(cloud: Cloud) -> None:
    good = {
        "ImageId": AMI,
        "InstanceType": "t3.medium",
        "SubnetId": SUBNET_A,
        "MinCount": 1,
        "MaxCount": 1,
    }
    too_long = base64.b64encode(b"x" * 16_385).decode()
    cases = [
        ("InvalidAMIID.NotFound", {"ImageId": "ami-0123456789abcdef0"}),
        ("InvalidAMIID.Malformed", {"ImageId": "image"}),
        ("InvalidParameterValue", {"InstanceType": "t3.enormous"}),
        ("InvalidParameterValue", {"ImageId": ARM_AMI}),
        ("InvalidKeyPair.NotFound", {"KeyName": "nobody"}),
        ("InvalidSubnetID.NotFound", {"SubnetId": "subnet-0"}),
        ("InvalidGroup.NotFound", {"SecurityGroupIds": ["sg-0"]}),
        ("InvalidParameterValue", {"UserData": too_long}),
        ("InvalidParameterValue", {"MinCount": 0}),
        ("InvalidParameterValue", {"MinCount": 2}),
        ("MissingParameter", {"ImageId": None}),
        ("InvalidParameterValue", {"TagSpecifications": [tags("volume", **{"aws:a": "b"})]}),
        ("InvalidParameterValue", {"TagSpecifications": [tags("sofa", a="b")]}),
        ("DryRunOperation", {"DryRun": True}),
        (
            "InvalidBlockDeviceMapping",
            {"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 4}}]},
        ),
    ]
    for code, change in cases:
        merged = {k: v for k, v in {**good, **change}.items() if v is not None}
        cloud.refused(code, "RunInstances", **merged)
    assert cloud.listed() == []
    assert cloud.volumes() == []


def test_user_data_of_16_kib_is_taken(cloud: Cloud) -> None:
    cloud.run(UserData=base64.b64encode(b"x" * 16_384).decode())


def test_a_group_of_another_network_is_refused(cloud: Cloud) -> None:
    cloud.surroundings.subnets["subnet-x"] = SubnetInfo(
        "subnet-x", "vpc-other", "us-east-1a", "127.78.0.0/24"
    )
    cloud.refused(
        "InvalidParameter",
        "RunInstances",
        ImageId=AMI,
        InstanceType="t3.medium",
        SubnetId="subnet-x",
        SecurityGroupIds=["sg-1"],
        MinCount=1,
        MaxCount=1,
    )


def test_addresses_are_the_subnets_own_and_never_double(cloud: Cloud) -> None:
    ids = [*cloud.run(20), *cloud.run(20, SubnetId=SUBNET_B)]
    addresses = [str(cloud.show(i)["PrivateIpAddress"]) for i in ids]
    assert len(set(addresses)) == 40
    assert all(a.startswith("127.77.16.") for a in addresses[:20])
    assert all(a.startswith("127.77.32.") for a in addresses[20:])


def _small_subnet(cloud: Cloud) -> str:
    cloud.surroundings.subnets["subnet-small"] = SubnetInfo(
        "subnet-small", "vpc-0", "us-east-1a", "127.77.200.0/28"
    )
    return "subnet-small"


def test_a_full_subnet_says_so_and_addresses_come_back(cloud: Cloud) -> None:
    subnet = _small_subnet(cloud)
    ids = cloud.running(11, SubnetId=subnet)
    full = {"ImageId": AMI, "InstanceType": "t3.medium", "MinCount": 1, "MaxCount": 1}
    cloud.refused("InsufficientFreeAddressesInSubnet", "RunInstances", SubnetId=subnet, **full)
    cloud.call("TerminateInstances", InstanceIds=ids[:2])
    cloud.refused("InsufficientFreeAddressesInSubnet", "RunInstances", SubnetId=subnet, **full)
    cloud.clock.advance(cloud.timings.shutting_down_seconds)
    assert len(cloud.run(2, SubnetId=subnet)) == 2


def test_an_address_that_came_back_is_not_used_again_at_once(cloud: Cloud) -> None:
    subnet = _small_subnet(cloud)
    (first,) = cloud.running(1, SubnetId=subnet)
    address = cloud.show(first)["PrivateIpAddress"]
    cloud.call("TerminateInstances", InstanceIds=[first])
    cloud.clock.advance(cloud.timings.shutting_down_seconds)
    (second,) = cloud.run(1, SubnetId=subnet)
    assert cloud.show(second)["PrivateIpAddress"] != address


def test_a_fresh_id_may_be_unknown_for_a_while(cloud: Cloud) -> None:
    cloud.timings.change({"fresh_ids_hidden_seconds": 3})
    (launched,) = cloud.run()
    cloud.refused("InvalidInstanceID.NotFound", "DescribeInstances", InstanceIds=[launched])
    cloud.refused("InvalidInstanceID.NotFound", "TerminateInstances", InstanceIds=[launched])
    cloud.refused(
        "InvalidInstanceID.NotFound",
        "CreateTags",
        Resources=[launched],
        Tags=[{"Key": "a", "Value": "b"}],
    )
    assert cloud.listed() == []
    cloud.clock.advance(3)
    assert cloud.listed() == [launched]


def test_a_home_made_from_a_snapshot_needs_a_completed_one(cloud: Cloud) -> None:
    (first,) = cloud.running(BlockDeviceMappings=[HOME])
    snapshot = cloud.call("CreateSnapshot", VolumeId=cloud.home_of(first))["SnapshotId"]
    device = {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": snapshot}}
    cloud.refused(
        "IncorrectState",
        "RunInstances",
        ImageId=AMI,
        InstanceType="t3.medium",
        SubnetId=SUBNET_A,
        MinCount=1,
        MaxCount=1,
        BlockDeviceMappings=[device],
    )
    cloud.clock.advance(cloud.timings.snapshot_seconds)
    (second,) = cloud.running(BlockDeviceMappings=[device])
    (home,) = cloud.volumes(VolumeIds=[cloud.home_of(second)])
    assert (home["Size"], home["SnapshotId"]) == (10, snapshot)
