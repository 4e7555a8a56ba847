"""What moto plays: network, templates, parameters, stacks, and where it is mended."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from ec2spawner.localcloud.inprocess import InProcessCloud
from localcloud.support import AMI, ARM_AMI
from localcloud.test_through_boto3 import launch, refused

CANONICAL = "/aws/service/canonical/ubuntu/server/24.04/stable/current"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHi0ZEMbOYdTn7ywyDPVpIaYXfCBkBWjHvNFnpy7zZrs"


@pytest.fixture
def ec2(whole: InProcessCloud) -> Any:
    return whole.client("ec2")


@pytest.fixture
def vpc(ec2: Any) -> str:
    return str(ec2.create_vpc(CidrBlock="127.77.0.0/16")["Vpc"]["VpcId"])


@pytest.fixture
def subnet(ec2: Any, vpc: str) -> str:
    made = ec2.create_subnet(VpcId=vpc, CidrBlock="127.77.1.0/24", AvailabilityZone="us-east-1a")
    return str(made["Subnet"]["SubnetId"])


def test_ubuntus_parameters_name_its_images(whole: InProcessCloud) -> None:
    ssm = whole.client("ssm")
    names = {a: f"{CANONICAL}/{a}/hvm/ebs-gp3/ami-id" for a in ("amd64", "arm64")}
    found = ssm.get_parameters(Names=list(names.values()))["Parameters"]
    assert {p["Name"]: p["Value"] for p in found} == {
        names["amd64"]: AMI,
        names["arm64"]: ARM_AMI,
    }


def test_subnet_and_group_stay_while_an_instance_uses_them(
    whole: InProcessCloud, ec2: Any, vpc: str, subnet: str
) -> None:
    group = ec2.create_security_group(GroupName="w", Description="w", VpcId=vpc)["GroupId"]
    one = launch(ec2, subnet, SecurityGroupIds=[group])
    refused("DependencyViolation", ec2.delete_subnet, SubnetId=subnet)
    refused("DependencyViolation", ec2.delete_security_group, GroupId=group)
    ec2.terminate_instances(InstanceIds=[one["InstanceId"]])
    refused("DependencyViolation", ec2.delete_subnet, SubnetId=subnet)
    whole.clock.advance(60)
    ec2.delete_subnet(SubnetId=subnet)
    ec2.delete_security_group(GroupId=group)


def test_a_group_that_another_names_stays(ec2: Any, vpc: str) -> None:
    one, two = (
        ec2.create_security_group(GroupName=n, Description=n, VpcId=vpc)["GroupId"] for n in "ab"
    )
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    rule["UserIdGroupPairs"] = [{"GroupId": one}]
    ec2.authorize_security_group_ingress(GroupId=two, IpPermissions=[rule])
    refused("DependencyViolation", ec2.delete_security_group, GroupId=one)
    ec2.delete_security_group(GroupId=two)
    ec2.delete_security_group(GroupId=one)


def test_a_subnet_counts_its_free_addresses(ec2: Any, subnet: str) -> None:
    def free() -> int:
        found = ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]
        return int(found["AvailableIpAddressCount"])

    assert free() == 251
    launch(ec2, subnet, MinCount=3, MaxCount=3)
    assert free() == 248


def test_a_template_made_by_call_is_honoured(ec2: Any, vpc: str, subnet: str) -> None:
    group = ec2.create_security_group(GroupName="w", Description="w", VpcId=vpc)["GroupId"]
    ec2.import_key_pair(KeyName="cluster", PublicKeyMaterial=KEY.encode())
    template = ec2.create_launch_template(
        LaunchTemplateName="worker",
        LaunchTemplateData={
            "ImageId": AMI,
            "InstanceType": "t3.medium",
            "KeyName": "cluster",
            "SecurityGroupIds": [group],
            "UserData": base64.b64encode(b"#!/bin/sh").decode(),
            "MetadataOptions": {"HttpTokens": "required"},
        },
    )["LaunchTemplate"]["LaunchTemplateId"]
    one = ec2.run_instances(
        LaunchTemplate={"LaunchTemplateId": template, "Version": "$Latest"},
        SubnetId=subnet,
        MinCount=1,
        MaxCount=1,
    )["Instances"][0]
    assert (one["ImageId"], one["KeyName"]) == (AMI, "cluster")
    assert one["SecurityGroups"][0]["GroupId"] == group
    assert one["MetadataOptions"]["HttpTokens"] == "required"
    shown = ec2.describe_instance_attribute(InstanceId=one["InstanceId"], Attribute="userData")
    assert base64.b64decode(shown["UserData"]["Value"]) == b"#!/bin/sh"
    wrong = {"LaunchTemplateId": template, "Version": "7"}
    refused(
        "InvalidLaunchTemplateId.VersionNotFound",
        ec2.run_instances,
        LaunchTemplate=wrong,
        MinCount=1,
        MaxCount=1,
    )
    refused(
        "InvalidLaunchTemplateName.NotFoundException",
        ec2.run_instances,
        LaunchTemplate={"LaunchTemplateName": "nobody"},
        MinCount=1,
        MaxCount=1,
    )


def test_types_and_zones_are_awss(ec2: Any, subnet: str) -> None:
    refused("InvalidParameterValue", launch, ec2=ec2, subnet=subnet, InstanceType="t3.enormous")
    launch(ec2, subnet, InstanceType="t4g.medium", ImageId=ARM_AMI)
    zones = ec2.describe_availability_zones()["AvailabilityZones"]
    assert "us-east-1a" in {z["ZoneName"] for z in zones}


def test_tags_of_subnets_and_instances_go_through_one_call(ec2: Any, subnet: str, vpc: str) -> None:
    one = launch(ec2, subnet)["InstanceId"]
    ec2.create_tags(Resources=[one, subnet], Tags=[{"Key": "a", "Value": "b"}])
    found = ec2.describe_tags(Filters=[{"Name": "key", "Values": ["a"]}])["Tags"]
    assert {t["ResourceId"] for t in found} == {one, subnet}
    tagged = ec2.describe_subnets(Filters=[{"Name": "tag:a", "Values": ["b"]}])["Subnets"]
    assert [s["SubnetId"] for s in tagged] == [subnet]


def _template() -> str:
    """What a cluster needs, in short; YAML is CloudFormation's, JSON is short here."""
    ref = {name: {"Ref": name} for name in ("Vpc", "Gateway", "Public", "Address", "Table")}
    group = {"GroupDescription": "g", "VpcId": ref["Vpc"]}
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    resources: dict[str, Any] = {
        "Vpc": ("VPC", {"CidrBlock": "127.77.0.0/16", "EnableDnsSupport": True}),
        "Gateway": ("InternetGateway", {}),
        "Attachment": (
            "VPCGatewayAttachment",
            {"VpcId": ref["Vpc"], "InternetGatewayId": ref["Gateway"]},
        ),
        "Public": ("Subnet", {"VpcId": ref["Vpc"], "CidrBlock": "127.77.0.0/24"}),
        "Private": ("Subnet", {"VpcId": ref["Vpc"], "CidrBlock": "127.77.1.0/24"}),
        "Address": ("EIP", {"Domain": "vpc"}),
        "Nat": (
            "NatGateway",
            {
                "SubnetId": ref["Public"],
                "AllocationId": {"Fn::GetAtt": ["Address", "AllocationId"]},
            },
        ),
        "Table": ("RouteTable", {"VpcId": ref["Vpc"]}),
        "Route": (
            "Route",
            {
                "RouteTableId": ref["Table"],
                "DestinationCidrBlock": "0.0.0.0/0",
                "NatGatewayId": {"Ref": "Nat"},
            },
        ),
        "Association": (
            "SubnetRouteTableAssociation",
            {"RouteTableId": ref["Table"], "SubnetId": {"Ref": "Private"}},
        ),
        "Endpoint": (
            "VPCEndpoint",
            {
                "VpcId": ref["Vpc"],
                "ServiceName": "com.amazonaws.us-east-1.s3",
                "RouteTableIds": [ref["Table"]],
            },
        ),
        "Manager": ("SecurityGroup", group),
        "Worker": (
            "SecurityGroup",
            {
                **group,
                "SecurityGroupIngress": [
                    {**rule, "SourceSecurityGroupId": {"Fn::GetAtt": ["Manager", "GroupId"]}}
                ],
            },
        ),
        "Back": (
            "SecurityGroupIngress",
            {
                **rule,
                "GroupId": {"Fn::GetAtt": ["Manager", "GroupId"]},
                "SourceSecurityGroupId": {"Fn::GetAtt": ["Worker", "GroupId"]},
            },
        ),
        "Template": (
            "LaunchTemplate",
            {
                "LaunchTemplateName": "worker",
                "LaunchTemplateData": {
                    "ImageId": AMI,
                    "InstanceType": {"Ref": "Type"},
                    "SecurityGroupIds": [{"Fn::GetAtt": ["Worker", "GroupId"]}],
                    "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": "1"},
                },
            },
        ),
    }
    document = {
        "Parameters": {"Type": {"Type": "String"}},
        "Resources": {
            **{n: {"Type": f"AWS::EC2::{t}", "Properties": p} for n, (t, p) in resources.items()},
            "Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "the-bucket"}},
            "Policy": {
                "Type": "AWS::S3::BucketPolicy",
                "Properties": {
                    "Bucket": {"Ref": "Bucket"},
                    "PolicyDocument": {
                        "Version": "2012-10-17",
                        "Statement": [
                            {
                                "Effect": "Deny",
                                "Principal": "*",
                                "Action": "s3:*",
                                "Resource": "*",
                                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                            }
                        ],
                    },
                },
            },
            "Parameter": {
                "Type": "AWS::SSM::Parameter",
                "Properties": {"Name": "/cluster/x", "Type": "String", "Value": "y"},
            },
        },
        "Outputs": {
            "Subnet": {"Value": {"Ref": "Private"}},
            "Template": {"Value": {"Ref": "Template"}},
        },
    }
    return json.dumps(document)


def _apply(cloudformation: Any, kind: str, type_: str = "t3.medium") -> dict[str, str]:
    names = {"StackName": "s", "ChangeSetName": f"c-{kind}-{type_.replace('.', '-')}"}
    cloudformation.create_change_set(
        **names,
        ChangeSetType=kind,
        TemplateBody=_template(),
        Parameters=[{"ParameterKey": "Type", "ParameterValue": type_}],
        Tags=[{"Key": "team", "Value": "x"}],
    )
    cloudformation.execute_change_set(**names)
    (stack,) = cloudformation.describe_stacks(StackName="s")["Stacks"]
    assert stack["StackStatus"] == f"{kind}_COMPLETE"
    return {o["OutputKey"]: o["OutputValue"] for o in stack["Outputs"]}


def _inventory(ec2: Any) -> dict[str, int]:
    return {
        "vpcs": len(ec2.describe_vpcs()["Vpcs"]),
        "subnets": len(ec2.describe_subnets()["Subnets"]),
        "gateways": len(ec2.describe_internet_gateways()["InternetGateways"]),
        "tables": len(ec2.describe_route_tables()["RouteTables"]),
        "addresses": len(ec2.describe_addresses()["Addresses"]),
        "endpoints": len(ec2.describe_vpc_endpoints()["VpcEndpoints"]),
        "groups": len(ec2.describe_security_groups()["SecurityGroups"]),
        "templates": len(ec2.describe_launch_templates()["LaunchTemplates"]),
        "nat": sum(n["State"] != "deleted" for n in ec2.describe_nat_gateways()["NatGateways"]),
    }


def test_a_clusters_stack_is_made_updated_and_deleted(whole: InProcessCloud, ec2: Any) -> None:
    cloudformation, s3 = whole.client("cloudformation"), whole.client("s3")
    before = _inventory(ec2)
    outputs = _apply(cloudformation, "CREATE")
    template = {"LaunchTemplateId": outputs["Template"], "Version": "$Latest"}

    def launch_one() -> Any:
        return ec2.run_instances(
            LaunchTemplate=template, SubnetId=outputs["Subnet"], MinCount=1, MaxCount=1
        )["Instances"][0]

    interfaces = ec2.describe_network_interfaces()["NetworkInterfaces"]
    assert len(interfaces) == 1  # the NAT gateway's
    one = launch_one()
    assert one["InstanceType"] == "t3.medium"
    assert one["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    associated = ec2.describe_route_tables(
        Filters=[{"Name": "association.subnet-id", "Values": [outputs["Subnet"]]}]
    )["RouteTables"]
    assert len(associated) == 1
    s3.put_object(Bucket="the-bucket", Key="a", Body=b"x")
    s3.delete_object(Bucket="the-bucket", Key="a")
    assert _apply(cloudformation, "UPDATE", "t3.large")["Template"] == outputs["Template"]
    two = launch_one()
    assert two["InstanceType"] == "t3.large"

    cloudformation.delete_stack(StackName="s")
    (stack,) = cloudformation.describe_stacks(StackName="s")["Stacks"]
    assert stack["StackStatus"] == "DELETE_FAILED"
    ec2.terminate_instances(InstanceIds=[one["InstanceId"], two["InstanceId"]])
    whole.clock.advance(60)
    cloudformation.delete_stack(StackName="s")
    refused("ValidationError", cloudformation.describe_stacks, StackName="s")
    assert _inventory(ec2) == before
    assert s3.list_buckets()["Buckets"] == []


def test_a_change_set_without_changes_says_so(whole: InProcessCloud) -> None:
    cloudformation = whole.client("cloudformation")
    _apply(cloudformation, "CREATE")
    cloudformation.create_change_set(
        StackName="s",
        ChangeSetName="again",
        ChangeSetType="UPDATE",
        TemplateBody=_template(),
        Parameters=[{"ParameterKey": "Type", "ParameterValue": "t3.medium"}],
        Tags=[{"Key": "team", "Value": "x"}],
    )
    found = cloudformation.describe_change_set(StackName="s", ChangeSetName="again")
    assert found["Status"] == "FAILED"
    assert "didn't contain changes" in found["StatusReason"]


def test_change_sets_go_with_the_one_that_is_executed_and_by_a_deletion_that_may_be_repeated(
    whole: InProcessCloud,
) -> None:
    cloudformation = whole.client("cloudformation")

    def ask(name: str, kind: str, bucket: str) -> None:
        queue = {"Q": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": bucket}}}
        body = json.dumps({"Resources": queue})
        cloudformation.create_change_set(
            StackName="s", ChangeSetName=name, ChangeSetType=kind, TemplateBody=body
        )

    def waiting() -> set[str]:
        found = cloudformation.list_change_sets(StackName="s")["Summaries"]
        return {c["ChangeSetName"] for c in found if c["ExecutionStatus"] == "AVAILABLE"}

    for name in ("first", "second"):  # the same stack, for none is made yet
        ask(name, "CREATE", "one")
    cloudformation.execute_change_set(StackName="s", ChangeSetName="second")
    assert waiting() == set()
    for name in ("third", "fourth", "fifth"):
        ask(name, "UPDATE", "two")
    for _ in range(2):
        cloudformation.delete_change_set(StackName="s", ChangeSetName="third")
    assert waiting() == {"fourth", "fifth"}
    cloudformation.execute_change_set(StackName="s", ChangeSetName="fourth")
    assert waiting() == set()
