"""``launch-cluster up`` with a manager, against the emulated cloud."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ec2spawner.cloud import Gateway
from ec2spawner.errors import Unreachable
from ec2spawner.settings import load_server_config, server_config_text
from launch_cluster import answering, managing, provisioning
from launch_cluster import up as up_module

from .conftest import Calls

Run = Callable[..., Result]
OPTIONS = ("--vpc-cidr", "127.79.0.0/16", "--yes")
ROLE = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "ec2.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}


def ask(gateway: Gateway, service: str, operation: str, **params: Any) -> dict[str, Any]:
    return asyncio.run(gateway.call(service, operation, params))


@pytest.fixture
def up(run: Run, aws: Path, cluster: str, calls: Calls) -> Run:
    def up(*more: str, answer: str = "", options: tuple[str, ...] = OPTIONS) -> Result:
        return run("up", cluster, *more, *options, answer=answer)

    return up


@pytest.fixture
def stack(gateway: Gateway, cluster: str) -> Callable[[], dict[str, str]]:
    """Parameters and outputs of the manager's stack, and its status."""

    def stack() -> dict[str, str]:
        name = f"ec2spawner-{cluster}-manager"
        found = ask(gateway, "cloudformation", "describe_stacks", StackName=name)["Stacks"][0]
        given = {p["ParameterKey"]: p["ParameterValue"] for p in found["Parameters"]}
        said = {o["OutputKey"]: o["OutputValue"] for o in found["Outputs"]}
        return {**given, **said, "status": found["StackStatus"]}

    return stack


def machines(gateway: Gateway, cluster: str) -> list[dict[str, Any]]:
    """The cluster's managers that are not gone."""
    filters = [
        {"Name": "tag:ec2spawner:cluster", "Values": [cluster]},
        {"Name": "tag:ec2spawner:role", "Values": ["manager"]},
        {"Name": "instance-state-name", "Values": ["pending", "running", "stopped"]},
    ]
    found = ask(gateway, "ec2", "describe_instances", Filters=filters)["Reservations"]
    return [i for r in found for i in r["Instances"]]


def data_volumes(gateway: Gateway, cluster: str) -> list[dict[str, Any]]:
    filters = [{"Name": "tag:ec2spawner:backup", "Values": [cluster]}]
    volumes: list[dict[str, Any]] = ask(gateway, "ec2", "describe_volumes", Filters=filters)[
        "Volumes"
    ]
    return volumes


def in_bucket(gateway: Gateway, bucket: str, key: str) -> str:
    return bytes(ask(gateway, "s3", "get_object", Bucket=bucket, Key=key)["Body"]).decode()


# ---- made once, then nothing to do


def test_a_launch_ends_when_the_hub_answers_and_says_where(
    up: Run,
    aws: Path,
    cluster: str,
    gateway: Gateway,
    stack: Any,
    calls: Calls,
    hub_suffix: str,
) -> None:
    result = up("--output", "json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    known = stack()
    url = f"http://{known['PublicAddress']}{hub_suffix}"
    assert document["hub"] == {
        "url": url,
        "callback": f"{url}/hub/oauth_callback",
        "address": known["PublicAddress"],
    }
    assert len(document["next"]) == 5
    assert document["next"][0].startswith("Set AUTHENTICATOR and ADMIN_USERS")
    assert f"/ec2spawner/{cluster}/oauth-client-id" in document["next"][1]

    config, _ = load_server_config(aws / "server_config.json")
    assert f"http://{known['PrivateAddress']}:8081" == config.HUB_CONNECT_URL
    assert config.HUB_LISTEN_ADDRESS == "0.0.0.0"
    text = in_bucket(gateway, config.BUCKET, "config/server_config.json")
    assert text == server_config_text(config)

    calls.made.clear()
    again = up()
    assert "nothing to do" in again.stdout
    assert f"The hub answers at {url}" in again.stdout
    assert calls.changing == []


def test_the_manager_is_one_machine_with_an_address_and_data_of_its_own(
    up: Run, aws: Path, cluster: str, gateway: Gateway, stack: Any
) -> None:
    (aws / "instance_config.json").write_text('{"COST_TAGS": {"CostCenter": "4711"}}')
    assert up().exit_code == 0
    known = stack()
    (machine,) = machines(gateway, cluster)
    assert machine["PrivateIpAddress"] == known["PrivateAddress"]
    assert machine["PublicIpAddress"] == known["PublicAddress"]
    assert machine["MetadataOptions"]["HttpTokens"] == "required"
    assert machine["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert machine["IamInstanceProfile"]["Arn"].endswith(f"ec2spawner-{cluster}-us-east-1-manager")
    assert machine.get("KeyName") is None
    tags = {t["Key"]: t["Value"] for t in machine["Tags"]}
    assert (tags["ec2spawner:role"], tags["CostCenter"]) == ("manager", "4711")
    (data,) = data_volumes(gateway, cluster)
    assert data["Encrypted"] is True
    assert data["Attachments"][0]["InstanceId"] == machine["InstanceId"]
    assert data["Attachments"][0]["Device"] == "/dev/sdf"


def test_its_user_data_names_what_it_fetches_and_its_data_and_holds_no_secret(
    up: Run, aws: Path, cluster: str, gateway: Gateway, stack: Any
) -> None:
    assert up("--domain", "hub.invalid", "--email", "a@b.org").exit_code == 0
    (machine,) = machines(gateway, cluster)
    reply = ask(
        gateway,
        "ec2",
        "describe_instance_attribute",
        InstanceId=machine["InstanceId"],
        Attribute="userData",
    )
    script = base64.b64decode(reply["UserData"]["Value"]).decode()
    assert f"DATA_VOLUME_ID={stack()['DataVolumeId']}" in script
    assert f"CLUSTER={cluster}\n" in script
    assert "DOMAIN=hub.invalid" in script
    key = ask(
        gateway,
        "ssm",
        "get_parameter",
        Name=f"/ec2spawner/{cluster}/ssh-key",
        WithDecryption=True,
    )["Parameter"]["Value"]
    assert not any(line in script for line in key.splitlines() if len(line) > 20)
    assert len(script.encode()) < 16_384


def test_a_domain_that_does_not_point_there_yet_is_the_first_thing_to_do(
    up: Run, aws: Path, stack: Any, gateway: Gateway, cluster: str
) -> None:
    result = up("--domain", "Hub.Invalid", "--email", "a@b.org", "--output", "json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["hub"]["callback"] == "https://hub.invalid/hub/oauth_callback"
    assert document["next"][0].startswith(f"Let hub.invalid point to {document['hub']['address']}")
    bucket = stack()["Bucket"]
    chosen = json.loads(in_bucket(gateway, bucket, "config/manager.json"))
    assert chosen == {"DOMAIN": "hub.invalid", "EMAIL": "a@b.org"}


def test_what_was_said_once_is_remembered_until_it_is_taken_back(
    up: Run, aws: Path, stack: Any, gateway: Gateway
) -> None:
    said = ("--domain", "hub.invalid", "--email", "a@b.org", "--ssh-cidr", "203.0.113.0/24")
    assert up(*said).exit_code == 0
    assert "nothing to do" in up().stdout
    group = stack()["SecurityGroupId"]

    def ports() -> set[int]:
        groups = ask(gateway, "ec2", "describe_security_groups", GroupIds=[group])
        return {r["FromPort"] for r in groups["SecurityGroups"][0]["IpPermissions"]}

    assert 22 in ports()
    result = up("--ssh-cidr", "", "--email", "c@d.org")
    assert result.exit_code == 0, result.stderr
    assert "have the manager take that over" in result.stdout
    assert 22 not in ports()
    known = stack()
    assert (known["Domain"], known["Email"], known["SshCidr"]) == ("hub.invalid", "c@d.org", "")


# ---- changes


def test_a_larger_machine_is_the_same_machine_and_that_it_stops_is_said(
    up: Run, aws: Path, cluster: str, gateway: Gateway
) -> None:
    assert up().exit_code == 0
    (before,) = machines(gateway, cluster)
    (aws / "instance_config.json").write_text('{"MANAGER_INSTANCE_TYPE": "m5.large"}')
    result = up()
    assert result.exit_code == 0, result.stderr
    assert "stops the hub for some minutes; workers go on" in result.stdout
    (after,) = machines(gateway, cluster)
    assert after["InstanceId"] == before["InstanceId"]
    assert after["InstanceType"] == "m5.large"


def test_what_would_replace_the_machine_is_refused_until_it_is_allowed(
    up: Run, aws: Path, cluster: str, gateway: Gateway, calls: Calls, stack: Any
) -> None:
    assert up().exit_code == 0
    (before,), known = machines(gateway, cluster), stack()
    (data,) = data_volumes(gateway, cluster)
    ask(gateway, "ec2", "create_key_pair", KeyName=f"{cluster}-operators")
    calls.made.clear()
    result = up("--key-name", f"{cluster}-operators")
    assert result.exit_code == 1
    assert "would replace the manager's machine" in result.stderr
    assert "--replace-manager" in result.stderr
    assert calls.changing == []

    result = up("--key-name", f"{cluster}-operators", "--replace-manager")
    assert result.exit_code == 0, result.stderr
    assert "END the manager's machine" in result.stdout
    (after,) = machines(gateway, cluster)
    assert after["InstanceId"] != before["InstanceId"]
    assert after["KeyName"] == f"{cluster}-operators"
    for address in ("PrivateIpAddress", "PublicIpAddress"):
        assert after[address] == before[address]
    assert stack()["DataVolumeId"] == known["DataVolumeId"] == data["VolumeId"]
    (data,) = data_volumes(gateway, cluster)
    assert data["Attachments"][0]["InstanceId"] == after["InstanceId"]
    assert calls.made.count("execute_change_set") == 2
    assert "nothing to do" in up().stdout


def test_a_template_that_would_replace_the_machine_is_refused_too(
    up: Run, aws: Path, cluster: str, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert up().exit_code == 0
    (before,) = machines(gateway, cluster)
    read = up_module.read_templates

    def changed() -> Any:
        templates = read()
        larger = templates.manager.replace(
            "VolumeType: gp3\n            VolumeSize: !Ref RootSize",
            "VolumeType: gp2\n            VolumeSize: !Ref RootSize",
        )
        assert larger != templates.manager
        return type(templates)(templates.network, templates.cluster, larger)

    monkeypatch.setattr(up_module, "read_templates", changed)
    result = up()
    assert result.exit_code == 1
    assert "BlockDeviceMappings would replace the manager's machine" in result.stderr
    assert [m["InstanceId"] for m in machines(gateway, cluster)] == [before["InstanceId"]]
    assert up("--replace-manager").exit_code == 0
    assert [m["InstanceId"] for m in machines(gateway, cluster)] != [before["InstanceId"]]


def test_a_newer_base_image_and_script_leave_a_living_manager_alone(
    up: Run, aws: Path, cluster: str, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, stack: Any
) -> None:
    assert up().exit_code == 0
    known = stack()

    def newer(package: Any, parameters: Any) -> str:
        return f"#!/bin/sh\necho {provisioning.DATA_VOLUME} {known['Bucket']} of a newer package\n"

    monkeypatch.setattr(provisioning, "render_script", newer)
    (aws / "instance_config.json").write_text('{"COST_TAGS": {"CostCenter": "4711"}}')
    assert up().exit_code == 0
    after = stack()
    for key in ("ImageId", "UserDataHead", "UserDataTail", "InstanceId"):
        assert after[key] == known[key]
    assert up("--replace-manager").exit_code == 0
    assert "newer package" in stack()["UserDataTail"]


def test_a_running_worker_is_not_touched_by_any_of_it(
    up: Run, aws: Path, cluster: str, gateway: Gateway
) -> None:
    assert up().exit_code == 0
    config, _ = load_server_config(aws / "server_config.json")
    tags = [
        {"Key": "ec2spawner:cluster", "Value": cluster},
        {"Key": "ec2spawner:role", "Value": "worker"},
    ]
    launched = ask(
        gateway,
        "ec2",
        "run_instances",
        LaunchTemplate={"LaunchTemplateId": config.LAUNCH_TEMPLATE_ID},
        SubnetId=config.WORKER_SUBNETS[0].SUBNET_ID,
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )["Instances"][0]
    assert up("--replace-manager").exit_code == 0
    ids = [launched["InstanceId"]]
    found = ask(gateway, "ec2", "describe_instances", InstanceIds=ids)
    worker = found["Reservations"][0]["Instances"][0]
    assert worker["State"]["Name"] in ("pending", "running")
    assert worker["LaunchTime"] == launched["LaunchTime"]


# ---- broken off


STEPS = [
    *(("create_change_set", 3), ("execute_change_set", 3), ("put_object", 1)),
    *(("create_change_set", 4), ("execute_change_set", 4)),
]
"""Calls of the manager's part: its stack, the files, its machine."""


@pytest.mark.parametrize(("operation", "nth"), STEPS)
@pytest.mark.parametrize("how", ["interrupted before", "killed after"])
def test_broken_off_at_any_step_it_converges_when_run_again(
    up: Run,
    aws: Path,
    calls: Calls,
    gateway: Gateway,
    cluster: str,
    operation: str,
    nth: int,
    how: str,
    stack: Any,
) -> None:
    """Killed: what was on its way arrives, and nobody hears of it (SIGKILL runs no handler)."""
    seen = 0

    class Killed(BaseException):
        pass

    def break_off() -> None:
        nonlocal seen
        seen += 1
        if seen == nth:
            raise KeyboardInterrupt if how == "interrupted before" else Killed

    (calls.before if how == "interrupted before" else calls.after)[operation] = break_off
    try:
        result = up()
        assert result.exit_code == 130
        assert "Run the same command again" in result.stderr
    except Killed:
        pass
    assert seen >= nth
    result = up()
    assert result.exit_code == 0, result.stderr
    assert "nothing to do" in up().stdout
    (machine,) = machines(gateway, cluster)
    (data,) = data_volumes(gateway, cluster)
    assert data["Attachments"][0]["InstanceId"] == machine["InstanceId"]
    known = stack()
    assert known["PublicAddress"] == machine["PublicIpAddress"]
    filters = [{"Name": "tag:ec2spawner:cluster", "Values": [cluster]}]
    addresses = ask(gateway, "ec2", "describe_addresses", Filters=filters)["Addresses"]
    assert len(addresses) == 2  # the manager's, and NAT's


def test_interrupted_while_it_waits_for_the_hub_it_waits_on_when_run_again(
    up: Run, aws: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(managing, "wait_for_hub", interrupt)
        assert up().exit_code == 130
        assert up().exit_code == 130  # although nothing is to be done any more
    calls.made.clear()
    result = up()
    assert (result.exit_code, calls.changing) == (0, [])
    assert "nothing to do" in result.stdout
    assert "The hub answers at" in result.stdout


@pytest.mark.parametrize("nth", [1, 2])
def test_a_replacement_that_is_broken_off_goes_on_with_the_new_machine(
    up: Run, aws: Path, calls: Calls, gateway: Gateway, cluster: str, nth: int
) -> None:
    assert up().exit_code == 0
    (before,) = machines(gateway, cluster)
    seen = 0

    def break_off() -> None:
        nonlocal seen
        seen += 1
        if seen == nth:
            raise KeyboardInterrupt

    calls.after["execute_change_set"] = break_off
    assert up("--replace-manager").exit_code == 130
    result = up()  # it need not be said again: there is none that could be replaced
    assert result.exit_code == 0, result.stderr
    (after,) = machines(gateway, cluster)
    assert after["InstanceId"] != before["InstanceId"]
    assert "nothing to do" in up().stdout


def test_a_machine_that_finds_no_room_leaves_addresses_and_data_for_the_next_run(
    up: Run, aws: Path, calls: Calls, gateway: Gateway, cluster: str, endpoint: str, stack: Any
) -> None:
    def capacity(document: dict[str, Any]) -> None:
        request = urllib.request.Request(
            f"{endpoint}/_localcloud/capacity",
            json.dumps(document).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()

    (aws / "instance_config.json").write_text('{"MANAGER_INSTANCE_TYPE": "m5.large"}')
    full = {"type": "m5.large", "zone": "*", "market": "*", "max_running": 0}
    capacity({"rules": [full]})
    try:
        result = up()
    finally:
        capacity({})
    assert result.exit_code == 3
    assert "was not changed (UPDATE_ROLLBACK_COMPLETE)" in result.stderr
    assert "InsufficientInstanceCapacity" in result.stderr
    known = stack()
    assert known["WithInstance"] == "no"
    assert up().exit_code == 0
    assert stack()["PublicAddress"] == known["PublicAddress"]


def test_a_hub_that_never_answers_ends_the_command_with_its_consoles_last_lines(
    up: Run, aws: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "WAIT_SECONDS", 1.0)
    monkeypatch.setattr(answering, "HEALTH", "/nowhere")
    result = up()
    assert result.exit_code == 3
    assert "does not answer after" in result.stderr
    assert "ec2spawner-manager: " in result.stderr
    monkeypatch.undo()


# ---- where others own network or rights


def test_a_role_or_profile_of_others_is_used_and_none_is_made(
    up: Run, aws: Path, cluster: str, gateway: Gateway, stack: Any
) -> None:
    name = f"{cluster}-by-others"
    role = ask(
        gateway, "iam", "create_role", RoleName=name, AssumeRolePolicyDocument=json.dumps(ROLE)
    )["Role"]["Arn"]
    result = up("--manager-role", role, "--builder-role", role)
    assert result.exit_code == 0, result.stderr
    assert "Daily snapshots of the manager's data are not set up" in result.stderr
    assert stack()["GivenRoleName"] == name
    roles = ask(gateway, "iam", "list_roles")["Roles"]
    made = [r["RoleName"] for r in roles if f"ec2spawner-{cluster}-" in r["RoleName"]]
    assert [name for name in made if not name.endswith("-builder")] == []
    assert "nothing to do" in up().stdout


def test_a_permissions_boundary_bounds_the_roles_that_are_made(
    run: Run, up: Run, aws: Path, cluster: str, gateway: Gateway
) -> None:
    document = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
    }
    boundary = ask(
        gateway,
        "iam",
        "create_policy",
        PolicyName=f"{cluster}-boundary",
        PolicyDocument=json.dumps(document),
    )["Policy"]["Arn"]
    result = up("--permissions-boundary", boundary)
    assert result.exit_code == 0, result.stderr
    for whose in ("manager", "builder"):
        role = ask(gateway, "iam", "get_role", RoleName=f"ec2spawner-{cluster}-us-east-1-{whose}")
        assert role["Role"]["PermissionsBoundary"]["PermissionsBoundaryArn"] == boundary
    printed = json.loads(run("plan", cluster, "--print-policies").stdout)["operator"]
    assert boundary in json.dumps(printed["cloudformation"])


def test_a_vpc_of_others_is_searched_for_its_subnets(
    run: Run, up: Run, aws: Path, cluster: str, gateway: Gateway
) -> None:
    assert up().exit_code == 0
    config, _ = load_server_config(aws / "server_config.json")
    other = f"{cluster}b"
    (aws / "server_config.json").unlink()
    result = run("up", other, "--vpc-id", config.VPC_ID, "--yes")
    assert result.exit_code == 0, result.stderr
    found, _ = load_server_config(aws / "server_config.json")
    assert found.VPC_ID == config.VPC_ID
    assert {s.SUBNET_ID for s in found.WORKER_SUBNETS} == {
        s.SUBNET_ID for s in config.WORKER_SUBNETS
    }
    assert "nothing to do" in run("up", other, "--yes").stdout


# ---- what may go wrong


def test_own_subnets_without_a_public_one_are_refused(
    run: Run, up: Run, aws: Path, cluster: str, gateway: Gateway, calls: Calls
) -> None:
    vpc = ask(gateway, "ec2", "create_vpc", CidrBlock="10.91.0.0/16")["Vpc"]["VpcId"]
    subnet = ask(
        gateway,
        "ec2",
        "create_subnet",
        VpcId=vpc,
        CidrBlock="10.91.0.0/24",
        AvailabilityZone="us-east-1a",
    )["Subnet"]["SubnetId"]
    calls.made.clear()
    result = run("up", cluster, "", subnet, "--yes")
    assert result.exit_code == 1
    assert "PUBLIC_SUBNET_ID is missing" in result.stderr
    result = run("up", cluster, "--vpc-id", vpc, "--yes")
    assert result.exit_code == 1
    assert f"The VPC {vpc} has no subnet with a route to NAT" in result.stderr
    result = run("up", cluster, "--vpc-id", "vpc-00000000000000000", "--yes")
    assert result.exit_code == 1
    assert "vpc-00000000000000000 does not exist" in result.stderr
    assert calls.changing == []


@pytest.mark.parametrize(
    ("options", "config", "words"),
    [
        (("--key-name", "nobodys"), "{}", "--key-name nobodys is not a key pair"),
        (("--email", "a@b.org"), "{}", "is for certificates, which need a domain"),
        ((), '{"MANAGER_INSTANCE_TYPE": "t9.big"}', "MANAGER_INSTANCE_TYPE t9.big is not a type"),
        ((), '{"MANAGER_INSTANCE_TYPE": "t2.micro"}', "t2.micro has no NVMe volumes"),
    ],
)
def test_what_aws_does_not_have_for_a_manager_is_found_before_anything_is_made(
    up: Run, aws: Path, calls: Calls, options: tuple[str, ...], config: str, words: str
) -> None:
    (aws / "instance_config.json").write_text(config)
    result = up(*options)
    assert result.exit_code == 1
    assert words in result.stderr
    assert calls.changing == []


def test_a_failure_in_the_middle_is_partly_done(up: Run, aws: Path, calls: Calls) -> None:
    def fail() -> None:
        raise Unreachable("AWS did not answer.", next_step="Check the network.")

    calls.before["put_object"] = fail
    result = up()
    assert result.exit_code == 3
    assert "Some of it is done" in result.stderr
    calls.before.clear()
    assert up().exit_code == 0


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_what_becomes_of_a_running_clusters_stacks_is_shown_before_the_yes(
    up: Run, aws: Path, cluster: str, calls: Calls, options: tuple[str, ...]
) -> None:
    assert up("--ssh-cidr", "203.0.113.0/24").exit_code == 0
    choices = {"MANAGER_INSTANCE_TYPE": "m5.large", "WORKER_INSTANCE_TYPE": "m5.large"}
    (aws / "instance_config.json").write_text(json.dumps(choices))
    calls.made.clear()
    result = up("--ssh-cidr", "198.51.100.0/24", *options, options=(), answer="n\n")
    assert result.exit_code == (0 if options else 1)
    shown = result.stdout.split(f"Stack ec2spawner-{cluster}:")[1]
    of_cluster, of_manager = shown.split(f"Stack ec2spawner-{cluster}-manager:")
    assert "AWS::EC2::LaunchTemplate" in of_cluster
    assert "REPLACED" not in of_cluster
    assert "SshFromOperators  REPLACED" in of_manager
    assert "Manager           perhaps" in of_manager
    # One for each stack, although the manager's is looked at for its machine as well.
    assert calls.changing == ["create_change_set", "delete_change_set"] * 2


# ---- plan


def test_a_plan_shows_what_would_be_made_and_makes_nothing(
    run: Run, aws: Path, cluster: str, calls: Calls
) -> None:
    result = run("plan", cluster, "--output", "json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["outcome"] == "planned"
    made = document["changes"][f"ec2spawner-{cluster}-manager"]
    kinds = {change["type"] for change in made}
    assert {"AWS::EC2::EIP", "AWS::EC2::Volume", "AWS::IAM::Role"} <= kinds
    assert "AWS::EC2::SecurityGroupIngress" not in kinds  # nobody asked for --ssh-cidr
    assert calls.changing == []


def test_a_plan_marks_what_is_replaced(
    run: Run, up: Run, aws: Path, cluster: str, gateway: Gateway, calls: Calls
) -> None:
    assert up("--ssh-cidr", "203.0.113.0/24").exit_code == 0
    (aws / "instance_config.json").write_text('{"MANAGER_INSTANCE_TYPE": "m5.large"}')
    calls.made.clear()
    result = run("plan", cluster, "--ssh-cidr", "198.51.100.0/24", "--output", "json")
    assert result.exit_code == 0, result.stderr
    changes = json.loads(result.stdout)["changes"][f"ec2spawner-{cluster}-manager"]
    by_name = {change["resource"]: change["replaced"] for change in changes}
    assert by_name == {"Manager": "perhaps", "SshFromOperators": "yes"}
    assert set(calls.changing) == {"create_change_set", "delete_change_set"}
    assert "execute_change_set" not in calls.made
    text = run("plan", cluster, "--ssh-cidr", "198.51.100.0/24").stdout
    assert "SshFromOperators  REPLACED" in text
    assert "change" in text.split(f"Stack ec2spawner-{cluster}-manager:")[1]


def test_policies_are_printed_as_json_for_those_who_grant_them(
    run: Run, up: Run, aws: Path, cluster: str, calls: Calls
) -> None:
    result = run("plan", cluster, "--print-policies")
    assert result.exit_code == 0, result.stderr
    before = json.loads(result.stdout)
    assert {"operator", "manager", "snapshots"} <= set(before)
    assert "<LaunchTemplateId>" in json.dumps(before["manager"])
    assert calls.changing == []
    assert up().exit_code == 0
    after = json.loads(run("plan", cluster, "--print-policies").stdout)
    text = json.dumps(after["manager"])
    assert "<" not in text
    assert f"ec2spawner-{cluster}-123456789012-us-east-1" in text
    for policy in (*after["manager"].values(), *after["operator"].values()):
        assert policy["Version"] == "2012-10-17"
