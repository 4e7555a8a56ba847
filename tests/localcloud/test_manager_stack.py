"""What the emulated CloudFormation does for a manager's stack, in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ec2spawner.localcloud.ec2.images import ubuntu_image_id
from ec2spawner.localcloud.inprocess import InProcessCloud

TEMPLATE = (
    Path(__file__).resolve().parents[2] / "launch_cluster" / "templates" / "manager.yaml"
).read_text()
IMAGE = ubuntu_image_id("us-east-1", "amd64")
NAME = "ec2spawner-bio-manager"


class Stack:
    """A manager's stack in a cloud of its own."""

    def __init__(self, cloud: InProcessCloud) -> None:
        self.cloud = cloud
        self.cf, self.ec2 = cloud.client("cloudformation"), cloud.client("ec2")
        self.number = 0
        vpc = self.ec2.create_vpc(CidrBlock="127.77.0.0/16")["Vpc"]["VpcId"]
        subnet = self.ec2.create_subnet(
            VpcId=vpc, CidrBlock="127.77.0.0/24", AvailabilityZone="us-east-1a"
        )["Subnet"]["SubnetId"]
        group = self.ec2.create_security_group(GroupName="m", Description="d", VpcId=vpc)
        self.group = group["GroupId"]
        self.given = {
            "ClusterName": "bio",
            "WithInstance": "no",
            "SubnetId": subnet,
            "Zone": "us-east-1a",
            "SecurityGroupId": self.group,
            "ImageId": IMAGE,
            "RootDeviceName": "/dev/sda1",
            "RootSizeGib": "16",
            "DataSizeGib": "10",
            "InstanceType": "t3.medium",
            "CpuCredits": "standard",
            "UserDataHead": "#!/bin/sh\nexport VOLUME=",
            "UserDataTail": "\n",
            "Bucket": "b",
            "LaunchTemplateId": "lt-1",
            "WorkerSecurityGroupId": self.group,
            "WorkerSubnetArns": "arn:aws:ec2:us-east-1:1:subnet/s",
            "WorkerKeyName": "k",
            "UsesSpot": "no",
        }

    def change(self, kind: str = "UPDATE", **changes: str) -> dict[str, tuple[str, str]]:
        """Bring the stack to these parameters; by resource: the action, and its replacement."""
        self.given |= changes
        self.number += 1
        both = {"StackName": NAME, "ChangeSetName": f"c{self.number}"}
        self.cf.create_change_set(
            **both,
            ChangeSetType=kind,
            TemplateBody=TEMPLATE,
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in self.given.items()],
        )
        found = self.cf.describe_change_set(**both)["Changes"]
        self.cf.execute_change_set(**both)
        return {
            c["ResourceChange"]["LogicalResourceId"]: (
                c["ResourceChange"]["Action"],
                c["ResourceChange"].get("Replacement", ""),
            )
            for c in found
        }

    @property
    def described(self) -> dict[str, Any]:
        found: dict[str, Any] = self.cf.describe_stacks(StackName=NAME)["Stacks"][0]
        return found

    @property
    def outputs(self) -> dict[str, str]:
        return {o["OutputKey"]: o["OutputValue"] for o in self.described["Outputs"]}

    def instances(self) -> list[dict[str, Any]]:
        filters = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopped"]}]
        reservations = self.ec2.describe_instances(Filters=filters)["Reservations"]
        return [i for r in reservations for i in r["Instances"]]


@pytest.fixture
def stack() -> Iterator[Stack]:
    with InProcessCloud() as cloud:
        made = Stack(cloud)
        made.change("CREATE")
        yield made


def test_what_has_no_condition_comes_first_and_the_machine_with_its_parameter(
    stack: Stack,
) -> None:
    assert stack.instances() == []
    known = stack.outputs
    assert stack.change(WithInstance="yes") == {
        "Manager": ("Add", ""),
        "DataAttachment": ("Add", ""),
    }
    (machine,) = stack.instances()
    assert machine["PrivateIpAddress"] == known["PrivateAddress"]
    assert machine["PublicIpAddress"] == known["PublicAddress"]
    assert machine["NetworkInterfaces"][0]["Attachment"]["DeleteOnTermination"] is False
    assert stack.outputs["InstanceId"] == machine["InstanceId"]
    (volume,) = stack.ec2.describe_volumes(VolumeIds=[known["DataVolumeId"]])["Volumes"]
    assert volume["Attachments"][0]["InstanceId"] == machine["InstanceId"]


def test_the_machine_goes_and_comes_back_and_all_else_stays(stack: Stack) -> None:
    stack.change(WithInstance="yes")
    (before,), known = stack.instances(), stack.outputs
    assert set(stack.change(WithInstance="no")) == {"Manager", "DataAttachment"}
    assert stack.instances() == []
    stack.change(WithInstance="yes", ImageId=ubuntu_image_id("us-east-1", "amd64"))
    (after,) = stack.instances()
    assert after["InstanceId"] != before["InstanceId"]
    assert {k: v for k, v in stack.outputs.items() if k != "InstanceId"} == {
        k: v for k, v in known.items() if k != "InstanceId"
    }


def test_a_change_set_says_what_is_replaced(stack: Stack) -> None:
    stack.change(WithInstance="yes", SshCidr="10.0.0.0/8")
    assert stack.change(InstanceType="t3.large") == {"Manager": ("Modify", "Conditional")}
    assert stack.change(SshCidr="10.1.0.0/16") == {"SshFromOperators": ("Modify", "True")}
    rules = stack.ec2.describe_security_groups(GroupIds=[stack.group])["SecurityGroups"][0]
    assert [r["IpRanges"][0]["CidrIp"] for r in rules["IpPermissions"]] == ["10.1.0.0/16"]


def test_a_machine_cannot_be_made_anew_while_the_old_one_has_its_interface(
    stack: Stack,
) -> None:
    stack.change(WithInstance="yes")
    (before,) = stack.instances()
    other = ubuntu_image_id("us-east-1", "arm64")
    assert stack.change(ImageId=other)["Manager"] == ("Modify", "True")
    assert stack.described["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    given = {p["ParameterKey"]: p["ParameterValue"] for p in stack.described["Parameters"]}
    assert given["ImageId"] == IMAGE
    assert [i["InstanceId"] for i in stack.instances()] == [before["InstanceId"]]


def test_a_failed_update_goes_back(stack: Stack) -> None:
    stack.change(WithInstance="yes", InstanceType="t9.none", SshCidr="10.0.0.0/8")
    assert stack.described["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert stack.instances() == []
    rules = stack.ec2.describe_security_groups(GroupIds=[stack.group])["SecurityGroups"][0]
    assert rules["IpPermissions"] == []
    stack.change(InstanceType="t3.medium")
    assert len(stack.instances()) == 1


def test_what_a_manager_holds_cannot_be_deleted(stack: Stack) -> None:
    stack.change(WithInstance="yes")
    interface = stack.instances()[0]["NetworkInterfaces"][0]["NetworkInterfaceId"]
    with pytest.raises(ClientError, match="DependencyViolation"):
        stack.ec2.delete_security_group(GroupId=stack.group)
    with pytest.raises(ClientError, match="InUse"):
        stack.ec2.delete_network_interface(NetworkInterfaceId=interface)


def test_a_stack_that_goes_leaves_the_data_and_nothing_else(stack: Stack) -> None:
    stack.change(WithInstance="yes")
    data = stack.outputs["DataVolumeId"]
    stack.cf.delete_stack(StackName=NAME)
    assert stack.instances() == []
    volumes = stack.ec2.describe_volumes()["Volumes"]
    assert [(v["VolumeId"], v["State"]) for v in volumes] == [(data, "available")]
    assert stack.ec2.describe_addresses()["Addresses"] == []
    assert stack.ec2.describe_network_interfaces()["NetworkInterfaces"] == []
    iam = stack.cloud.client("iam")
    assert iam.list_roles()["Roles"] == []
    assert iam.list_policies(Scope="Local")["Policies"] == []
    stack.ec2.delete_security_group(GroupId=stack.group)


def test_a_failed_creation_leaves_not_even_the_data() -> None:
    with InProcessCloud() as cloud:
        stack = Stack(cloud)
        stack.change("CREATE", GivenRoleName="nobodys")
        assert stack.ec2.describe_volumes()["Volumes"] == []
        assert stack.ec2.describe_addresses()["Addresses"] == []


def test_it_is_known_after_a_restart(tmp_path: Path) -> None:
    with InProcessCloud(state_dir=tmp_path) as cloud:
        stack = Stack(cloud)
        stack.change("CREATE")
        stack.change(WithInstance="yes")
        known = stack.outputs
    with InProcessCloud(state_dir=tmp_path) as again:
        stack.cf, stack.ec2 = again.client("cloudformation"), again.client("ec2")
        assert stack.outputs == known
        assert stack.change(WithInstance="no").keys() == {"Manager", "DataAttachment"}
        assert stack.instances() == []
