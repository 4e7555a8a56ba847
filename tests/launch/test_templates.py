"""The CloudFormation templates, as cfn-lint and as data; the generated documentation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ec2spawner.manager.place import BACKUP_PREFIX, NEWEST_BACKUP_PREFIX
from ec2spawner.settings import InstanceConfig, worker_image_parameter
from launch_cluster import hosting, planning, schemas

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "launch_cluster" / "templates"
TEMPLATE_MAX_BYTES = 51_200  # CloudFormation user guide, "Quotas", 2026
NAMES = ("network", "cluster", "manager")
CANNOT_BE_TAGGED = {
    "AWS::EC2::VPCGatewayAttachment",
    "AWS::EC2::Route",
    "AWS::EC2::SubnetRouteTableAssociation",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::EC2::EIPAssociation",
    "AWS::EC2::VolumeAttachment",
    "AWS::IAM::InstanceProfile",
    "AWS::IAM::ManagedPolicy",
    "AWS::S3::BucketPolicy",
}


NAMING = (
    *("BucketName", "GroupName", "InstanceProfileName", "LaunchTemplateName"),
    *("ManagedPolicyName", "RoleName"),
)


class _Loader(yaml.SafeLoader):
    """Reads ``!Ref x`` as ``{"Ref": "x"}``, and other short forms alike."""


def _short_form(loader: Any, suffix: str, node: Any) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {suffix: loader.construct_scalar(node)}
    return {suffix: loader.construct_sequence(node, deep=True)}


_Loader.add_multi_constructor("!", _short_form)


def template(name: str) -> dict[str, Any]:
    text = (FOLDER / f"{name}.yaml").read_text()
    loaded: dict[str, Any] = yaml.load(text, Loader=_Loader)
    return loaded


def resources(name: str, kind: str) -> dict[str, dict[str, Any]]:
    return {k: v for k, v in template(name)["Resources"].items() if v["Type"] == kind}


def test_cfn_lint_has_no_findings() -> None:
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--include-checks", "W"]
    result = subprocess.run(
        [*command, "--", *map(str, sorted(FOLDER.glob("*.yaml")))], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("name", NAMES)
def test_every_resource_bears_the_clusters_tag(name: str) -> None:
    for resource in template(name)["Resources"].values():
        if resource["Type"] in CANNOT_BE_TAGGED:
            continue
        properties = resource["Properties"]
        tags = properties.get("Tags") or properties["TagSpecifications"][0]["Tags"]
        assert {"Key": "ec2spawner:cluster", "Value": {"Ref": "ClusterName"}} in tags


def ingress_rules() -> list[tuple[str, dict[str, Any]]]:
    """Every ingress rule of every template, with its group's name."""
    found = []
    for name in NAMES:
        for group, resource in resources(name, "AWS::EC2::SecurityGroup").items():
            rules = resource["Properties"].get("SecurityGroupIngress", [])
            found += [(f"{name} {group}", rule) for rule in rules]
        for single, resource in resources(name, "AWS::EC2::SecurityGroupIngress").items():
            found.append((f"{name} {single}", resource["Properties"]))
    return found


def test_the_world_reaches_the_manager_on_80_and_443_and_nothing_else() -> None:
    named = {
        ("manager SshFromOperators", "22"): "SshCidr",
        ("network NatSecurityGroup", "all"): "VpcCidr",
    }
    to_world = set()
    for name, rule in ingress_rules():
        assert ("CidrIp" in rule) != ("SourceSecurityGroupId" in rule), name
        assert not {"CidrIpv6", "SourcePrefixListId"} & set(rule)
        where = (name, str(rule.get("FromPort", "all")))
        if where in named:
            assert rule["CidrIp"] == {"Ref": named.pop(where)}
            continue
        assert rule["IpProtocol"] == "tcp", name
        if "CidrIp" in rule:
            to_world.add((name, rule["FromPort"], rule["ToPort"]))
            assert rule["CidrIp"] == "0.0.0.0/0"
    group = "cluster ManagerSecurityGroup"
    assert to_world == {(group, 80, 80), (group, 443, 443)}
    assert not named


def test_workers_are_reached_from_the_manager_only_and_reach_its_api() -> None:
    workers = resources("cluster", "AWS::EC2::SecurityGroup")["WorkerSecurityGroup"]
    rules = workers["Properties"]["SecurityGroupIngress"]
    assert {r["FromPort"]["Ref"] for r in rules} == {"WorkerSshPort", "WorkerNotebookPort"}
    for rule in rules:
        assert rule["FromPort"] == rule["ToPort"]
        assert rule["SourceSecurityGroupId"] == {"GetAtt": "ManagerSecurityGroup.GroupId"}
    api = template("cluster")["Resources"]["HubApiFromWorkers"]["Properties"]
    assert api["SourceSecurityGroupId"] == {"GetAtt": "WorkerSecurityGroup.GroupId"}
    assert api["FromPort"] == api["ToPort"] == {"Ref": "HubApiPort"}


def test_the_bucket_is_private_and_encrypted() -> None:
    bucket = template("cluster")["Resources"]["Bucket"]["Properties"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    rules = bucket["LifecycleConfiguration"]["Rules"]
    expiring = {r["Prefix"]: r["ExpirationInDays"] for r in rules if "ExpirationInDays" in r}
    assert expiring == {"package/": 365, BACKUP_PREFIX: 90}
    assert not NEWEST_BACKUP_PREFIX.startswith(tuple(expiring))


def test_a_builder_may_read_what_it_builds_from_within_the_clusters_network_only() -> None:
    role = template("cluster")["Resources"]["BuilderRole"]["Properties"]
    (who,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert who["Principal"] == {"Service": "ec2.amazonaws.com"}
    assert "ManagedPolicyArns" not in role
    (policy,) = role["Policies"]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert statement["Action"] == "s3:GetObject"
    assert [r["Sub"] for r in statement["Resource"]] == [
        "${Bucket.Arn}/package/*",
        "${Bucket.Arn}/course/*",
    ]
    assert statement["Condition"] == {
        "StringEquals": {"aws:Ec2InstanceSourceVpc": {"Ref": "VpcId"}}
    }


def test_workers_have_no_role_and_the_image_that_the_parameter_names() -> None:
    data = template("cluster")["Resources"]["WorkerTemplate"]["Properties"]["LaunchTemplateData"]
    assert "IamInstanceProfile" not in data
    name = worker_image_parameter("${ClusterName}")
    assert data["ImageId"] == {"Sub": f"resolve:ssm:{name}"}


def test_types_with_and_without_cpu_credits_may_be_launched_from_the_template() -> None:
    cluster = template("cluster")
    data = cluster["Resources"]["WorkerTemplate"]["Properties"]["LaunchTemplateData"]
    assert "CreditSpecification" not in data
    assert "CpuCredits" not in cluster["Parameters"]


def test_what_is_launched_from_the_template_is_the_clusters_and_no_worker_yet() -> None:
    data = template("cluster")["Resources"]["WorkerTemplate"]["Properties"]["LaunchTemplateData"]
    tags = {s["ResourceType"]: s["Tags"] for s in data["TagSpecifications"]}
    assert set(tags) == {"instance", "volume", "network-interface"}
    for found in tags.values():
        assert {tag["Key"] for tag in found} == {"Name", "ec2spawner:cluster"}
        assert {"Key": "ec2spawner:cluster", "Value": {"Ref": "ClusterName"}} in found


def test_private_subnets_go_out_by_nat_and_no_subnet_hands_out_public_addresses() -> None:
    network = template("network")["Resources"]
    for subnet in resources("network", "AWS::EC2::Subnet").values():
        assert subnet["Properties"]["MapPublicIpOnLaunch"] is False
    route = network["PrivateDefaultRoute"]["Properties"]
    assert route["NatGatewayId"]["If"][:2] == ["HasNatGateway", {"Ref": "NatGateway"}]
    assert route["NetworkInterfaceId"]["If"][:2] == ["HasNatInstance", {"Ref": "NatInterface"}]
    assert network["PrivateDefaultRoute"]["Condition"] == "HasNat"
    assert network["NatInterface"]["Properties"]["SourceDestCheck"] is False
    rules = network["NatSecurityGroup"]["Properties"]["SecurityGroupIngress"]
    assert [rule["CidrIp"] for rule in rules] == [{"Ref": "VpcCidr"}]
    assert "GatewayId" not in network["PrivateDefaultRoute"]["Properties"]
    for which in planning.ZONE_LETTERS:
        association = network[f"PrivateRoutes{which}"]["Properties"]
        assert association["SubnetId"] == {"Ref": f"PrivateSubnet{which}"}
        assert association["RouteTableId"] == {"Ref": "PrivateRoutes"}


def test_the_managers_stack_opens_port_22_only_to_whom_it_is_told() -> None:
    (rule,) = resources("manager", "AWS::EC2::SecurityGroupIngress").values()
    assert rule["Condition"] == "HasSsh"
    properties = rule["Properties"]
    assert (properties["FromPort"], properties["ToPort"]) == (22, 22)
    assert properties["CidrIp"] == {"Ref": "SshCidr"}
    assert template("manager")["Parameters"]["SshCidr"]["Default"] == ""


def test_the_managers_machine_is_what_it_must_be() -> None:
    manager = template("manager")["Resources"]["Manager"]["Properties"]
    assert manager["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
        "InstanceMetadataTags": "disabled",
    }
    root = manager["BlockDeviceMappings"][0]["Ebs"]
    assert (root["VolumeType"], root["Encrypted"]) == ("gp3", True)
    assert manager["NetworkInterfaces"] == [
        {"DeviceIndex": "0", "NetworkInterfaceId": {"Ref": "Interface"}}
    ]
    assert manager["KeyName"] == {"If": ["HasKey", {"Ref": "KeyName"}, {"Ref": "AWS::NoValue"}]}
    assert not {"SecurityGroupIds", "SubnetId"} & set(manager)


def test_the_managers_data_is_encrypted_saved_daily_and_outlives_its_stack() -> None:
    data = template("manager")["Resources"]["DataVolume"]
    assert (data["DeletionPolicy"], data["UpdateReplacePolicy"]) == (
        "RetainExceptOnCreate",
        "Retain",
    )
    assert (data["Properties"]["VolumeType"], data["Properties"]["Encrypted"]) == ("gp3", True)
    attachment = template("manager")["Resources"]["DataAttachment"]
    assert attachment["DeletionPolicy"] == "Retain"  # else it is torn off a hub that writes
    policy = template("manager")["Resources"]["DailySnapshots"]["Properties"]["PolicyDetails"]
    (target,) = policy["TargetTags"]
    assert target in data["Properties"]["Tags"]
    (schedule,) = policy["Schedules"]
    assert schedule["CopyTags"] is True
    assert (schedule["CreateRule"]["Interval"], schedule["CreateRule"]["IntervalUnit"]) == (
        24,
        "HOURS",
    )


def test_all_roles_are_bounded_where_that_is_asked_and_taken_on_by_one_service_each() -> None:
    roles = {k: v for name in NAMES for k, v in resources(name, "AWS::IAM::Role").items()}
    assert set(roles) == {"ManagerRole", "SnapshotRole", "BuilderRole"}
    services = set()
    for name, role in roles.items():
        boundary = role["Properties"]["PermissionsBoundary"]
        assert boundary["If"][:2] == ["HasBoundary", {"Ref": "PermissionsBoundary"}]
        (trust,) = role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        services.add(trust["Principal"]["Service"])
        assert role["Condition"] == ("MakesBuilderRole" if name == "BuilderRole" else "MakesRoles")
    assert services == {"ec2.amazonaws.com", "dlm.amazonaws.com"}


def test_each_template_fits_into_a_request() -> None:
    for name in NAMES:
        assert (FOLDER / f"{name}.yaml").stat().st_size <= TEMPLATE_MAX_BYTES


def test_names_of_stacks_own_things_hold_the_cluster_so_that_clusters_do_not_collide() -> None:
    for name in NAMES:
        for resource in template(name)["Resources"].values():
            for key in NAMING:
                if key in resource["Properties"]:
                    assert "${ClusterName}" in resource["Properties"][key]["Sub"]


def test_the_templates_say_what_the_plan_reads() -> None:
    assert set(planning.NETWORK_OUTPUTS) <= set(template("network")["Outputs"])
    assert set(planning.CLUSTER_OUTPUTS) <= set(template("cluster")["Outputs"])
    assert set(hosting.MANAGER_OUTPUTS) <= set(template("manager")["Outputs"])


def test_the_generated_files_are_what_the_models_say() -> None:
    for path, text in schemas.generated().items():
        assert path.read_text() == text, "run python -m launch_cluster.schemas"


def test_the_schemas_know_every_key_and_refuse_others() -> None:
    schema = json.loads((ROOT / "docs/schemas/instance_config.schema.json").read_text())
    assert set(InstanceConfig.model_fields) <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    example = json.loads((ROOT / "instance_config.json").read_text())
    assert set(example) <= set(schema["properties"])
    assert schema["properties"]["WORKER_EBS_SIZE"]["minimum"] == 8
