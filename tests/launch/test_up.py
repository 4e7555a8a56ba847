"""``launch-cluster up`` against the emulated cloud: made once, then nothing to do."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from click.testing import Result
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from ec2spawner.cloud import Gateway
from ec2spawner.errors import Unreachable
from ec2spawner.settings import ServerConfig, load_server_config

from .conftest import Calls

Run = Callable[..., Result]
ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ("--no-manager", "--vpc-cidr", "127.79.0.0/16", "--yes")


def ask(gateway: Gateway, service: str, operation: str, **params: Any) -> dict[str, Any]:
    return asyncio.run(gateway.call(service, operation, params))


def written(folder: Path) -> ServerConfig:
    config, notices = load_server_config(folder / "server_config.json")
    assert notices == ()
    return config


@pytest.fixture
def up(run: Run, aws: Path, cluster: str, calls: Calls) -> Run:
    def up(*more: str, answer: str = "", options: tuple[str, ...] = OPTIONS) -> Result:
        return run("up", cluster, *more, *options, answer=answer)

    return up


def test_a_launch_makes_network_key_and_cluster_and_writes_the_hubs_file(
    up: Run, aws: Path, cluster: str, gateway: Gateway
) -> None:
    (aws / "instance_config.json").write_text(
        json.dumps({"SERVER_OWNER": "Biology", "COST_TAGS": {"CostCenter": "4711"}})
    )
    result = up(
        *("--worker-ssh-port", "2222", "--hub-connect-url", "http://127.0.0.1:9081"),
        *("--hub-address", "127.0.0.1"),
    )
    assert result.exit_code == 0, result.stderr
    config = written(aws)
    assert config.CLUSTER_NAME == cluster  # noqa: SIM300 - an upper-case field
    assert (config.HUB_CONNECT_URL, config.hub_api_port) == ("http://127.0.0.1:9081", 9081)
    assert (config.HUB_LISTEN_ADDRESS, config.WORKER_SSH_PORT) == ("127.0.0.1", 2222)
    assert config.operator_tags == {"Owner": "Biology", "CostCenter": "4711"}

    named = [subnet.SUBNET_ID for subnet in config.WORKER_SUBNETS]
    subnets = ask(gateway, "ec2", "describe_subnets", SubnetIds=named)["Subnets"]
    assert {s["VpcId"] for s in subnets} == {config.VPC_ID}
    assert len({s["AvailabilityZone"] for s in subnets}) == 2
    assert {s["AvailabilityZone"] for s in subnets} == {s.ZONE for s in config.WORKER_SUBNETS}
    assert all(s["CidrBlock"].startswith("127.79.") for s in subnets)
    assert all(not s["MapPublicIpOnLaunch"] for s in subnets)


def test_the_plan_says_what_the_cluster_costs_while_nobody_works(up: Run) -> None:
    # A NAT gateway (0.045 an hour) and its address (0.005): 36.50 in a month of 730 hours.
    text = up("--dry-run").stdout
    assert "A month in us-east-1 before anybody works (USD):" in text
    assert re.search(r"^NAT gateway's address +730 hours +0.005 +3.65$", text, re.MULTILINE)
    assert re.search(r"^together +36.50$", text, re.MULTILINE)
    assert "workers (" not in text
    assert "--students N reckons with what N students add" in text


@pytest.mark.parametrize("more", [(), ("--nat", "instance"), ("--hours-a-week", "2")])
def test_a_dry_run_and_the_plan_show_the_bill_of_cost(
    run: Run, up: Run, aws: Path, cluster: str, more: tuple[str, ...]
) -> None:
    profiles = [{"SLUG": "big", "NAME": "Big", "INSTANCE_TYPES": ["m7i.large"]}]
    (aws / "instance_config.json").write_text(json.dumps({"PROFILES": profiles}))
    options = ("--no-manager", "--students", "12", "--weeks", "9", *more)
    told = run("cost", *options, "--output", "json")
    document = json.loads(told.stdout)
    for command in (("plan",), ("up", "--dry-run")):
        cost = json.loads(run(*command, cluster, *options, "--output", "json").stdout)["cost"]
        shared = {key: document[key] for key in cost if key != "prices"}
        assert cost == {**shared, "prices": cost["prices"]}
        assert cost["use"]["items"][0]["what"] == "workers (m7i.large)"
        assert all(price in document["prices"] for price in cost["prices"])
        table = run("cost", *options).stdout.split("The machines and disks alone")[0]
        assert table in run(*command, cluster, *options).stdout


def test_a_bill_of_a_manager_has_the_manager(run: Run, aws: Path, cluster: str) -> None:
    cost = json.loads(run("plan", cluster, "--output", "json").stdout)["cost"]
    whats = [item["what"] for item in cost["standing"]["items"]]
    assert "manager (t3.medium)" in whats
    assert cost["use"]["items"] == []
    assert cost["month_usd"] == cost["standing"]["usd"]


def test_where_nothing_is_to_do_the_bill_is_shown_to_who_only_looks(
    run: Run, up: Run, cluster: str
) -> None:
    assert "together" in up().stdout
    assert "together" not in up().stdout
    assert "together" in up("--dry-run").stdout
    looked = run("plan", cluster, *OPTIONS[:-1]).stdout
    assert "nothing to do" in looked
    assert "together" in looked


def test_the_launch_template_is_what_workers_need(
    up: Run, aws: Path, cluster: str, gateway: Gateway
) -> None:
    assert up().exit_code == 0
    config = written(aws)
    versions = ask(
        gateway,
        "ec2",
        "describe_launch_template_versions",
        LaunchTemplateId=config.LAUNCH_TEMPLATE_ID,
    )["LaunchTemplateVersions"]
    data = versions[0]["LaunchTemplateData"]
    assert data["ImageId"] == f"resolve:ssm:/ec2spawner/{cluster}/worker-image"
    assert data["KeyName"] == f"ec2spawner-{cluster}"
    assert data["SecurityGroupIds"] == [config.WORKER_SECURITY_GROUP_ID]
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert data["InstanceInitiatedShutdownBehavior"] == "stop"
    assert "CreditSpecification" not in data, "refused by types of other profiles"
    assert "IamInstanceProfile" not in data
    root = data["BlockDeviceMappings"][0]
    assert root["DeviceName"] == config.ROOT_DEVICE_NAME
    assert root["Ebs"]["Encrypted"] is True
    assert root["Ebs"]["VolumeSize"] == config.WORKER_EBS_SIZE
    assert root["Ebs"]["VolumeType"] == "gp3"


def test_everything_made_bears_the_clusters_tag_and_the_operators(
    up: Run, aws: Path, cluster: str, gateway: Gateway
) -> None:
    (aws / "instance_config.json").write_text('{"COST_TAGS": {"CostCenter": "4711"}}')
    assert up().exit_code == 0
    filters = [{"Name": "key", "Values": ["ec2spawner:cluster"]}]
    tags = ask(gateway, "ec2", "describe_tags", Filters=filters)["Tags"]
    ours = {t["ResourceId"] for t in tags if t["Value"] == cluster}
    kinds = {t["ResourceId"].rsplit("-", 1)[0] for t in tags if t["ResourceId"] in ours}
    wanted = {"vpc", "igw", "subnet", "eipalloc", "nat", "rtb", "vpce", "sg", "lt", "key"}
    assert wanted <= kinds
    for stack in (f"ec2spawner-{cluster}-network", f"ec2spawner-{cluster}"):
        found = ask(gateway, "cloudformation", "describe_stacks", StackName=stack)["Stacks"][0]
        assert {"Key": "CostCenter", "Value": "4711"} in found["Tags"]
    parameter = ask(
        gateway,
        "ssm",
        "list_tags_for_resource",
        ResourceType="Parameter",
        ResourceId=f"/ec2spawner/{cluster}/ssh-key",
    )["TagList"]
    assert {"Key": "ec2spawner:cluster", "Value": cluster} in parameter
    assert {"Key": "CostCenter", "Value": "4711"} in parameter


def test_the_private_half_of_the_key_is_in_ssm_and_nowhere_else(
    up: Run, aws: Path, cluster: str, gateway: Gateway
) -> None:
    result = up()
    assert result.exit_code == 0
    parameter = ask(
        gateway,
        "ssm",
        "get_parameter",
        Name=f"/ec2spawner/{cluster}/ssh-key",
        WithDecryption=True,
    )["Parameter"]
    assert parameter["Type"] == "SecureString"
    load_ssh_private_key(parameter["Value"].encode(), None)
    assert asyncssh.import_private_key(parameter["Value"]).get_algorithm() == "ssh-ed25519"
    secret = parameter["Value"].splitlines()[1]
    assert secret not in result.output
    for file in aws.parent.rglob("*"):
        assert not file.is_file() or secret not in file.read_text()


def test_builders_of_a_cluster_have_the_role_that_was_named(
    up: Run, cluster: str, gateway: Gateway, calls: Calls
) -> None:
    policy = json.dumps({"Version": "2012-10-17", "Statement": []})
    name = f"builders-{cluster}"
    ask(gateway, "iam", "create_role", RoleName=name, AssumeRolePolicyDocument=policy)
    arn = f"arn:aws:iam::123456789012:role/{name}"
    assert up("--builder-role", arn).exit_code == 0
    (params,) = (p for operation, p in calls.requests if operation == "run_instances")
    profile = params["IamInstanceProfile"]["Arn"].rpartition("/")[2]
    found = ask(gateway, "iam", "get_instance_profile", InstanceProfileName=profile)
    assert [r["RoleName"] for r in found["InstanceProfile"]["Roles"]] == [name]
    assert "nothing to do" in up().stdout
    # What the manager's policy lets it hand to builders, each month.
    stack = ask(gateway, "cloudformation", "describe_stacks", StackName=f"ec2spawner-{cluster}")
    outputs = {o["OutputKey"]: o["OutputValue"] for o in stack["Stacks"][0]["Outputs"]}
    assert outputs["BuilderRoleArn"] == arn


def test_a_missing_part_of_the_package_is_told_before_aws_is_asked(
    up: Run, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch_cluster.bundle.HUB_LOCK", "absent.lock")
    result = up()
    assert result.exit_code == 1
    assert "Missing: launch_cluster/manager/absent.lock." in result.stderr
    assert calls.made == []


def test_run_again_it_has_nothing_to_do_and_changes_nothing(
    up: Run, aws: Path, calls: Calls
) -> None:
    assert up().exit_code == 0
    assert calls.changing
    file = aws / "server_config.json"
    before = (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino)
    calls.made.clear()
    for options in (OPTIONS, ("--no-manager",)):  # said once, it is not asked for again
        result = up(options=options)
        assert result.exit_code == 0
        assert "nothing to do" in result.stdout
    assert calls.made
    assert calls.changing == []
    assert (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino) == before


def test_a_dry_run_shows_the_plan_and_changes_nothing(up: Run, aws: Path, calls: Calls) -> None:
    result = up("--dry-run")
    assert result.exit_code == 0
    assert "make the stack" in result.stdout
    assert "write server_config.json" in result.stdout
    assert calls.changing == []
    assert list(aws.iterdir()) == []


@pytest.mark.parametrize(("answer", "exit_code"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_it_asks_before_it_changes_anything(
    up: Run, aws: Path, calls: Calls, answer: str, exit_code: int
) -> None:
    result = up(options=("--no-manager",), answer=answer)
    assert result.exit_code == exit_code
    assert bool(calls.changing) is (exit_code == 0)


def test_a_changed_choice_changes_the_stack_and_the_file(
    up: Run, aws: Path, gateway: Gateway
) -> None:
    assert up().exit_code == 0
    before = written(aws)
    (aws / "instance_config.json").write_text(
        '{"WORKER_INSTANCE_TYPE": "m5.large", "WORKER_EBS_SIZE": 20}'
    )
    result = up()
    assert result.exit_code == 0
    assert "InstanceType: t3.medium -> m5.large" in result.stdout
    after = written(aws)
    assert after.LAUNCH_TEMPLATE_ID == before.LAUNCH_TEMPLATE_ID
    assert (after.WORKER_INSTANCE_TYPE, after.WORKER_EBS_SIZE) == ("m5.large", 20)
    newest = ask(
        gateway,
        "ec2",
        "describe_launch_template_versions",
        LaunchTemplateId=after.LAUNCH_TEMPLATE_ID,
        Versions=["$Latest"],
    )["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    assert newest["InstanceType"] == "m5.large"
    assert "nothing to do" in up().stdout


def test_a_timeout_edited_in_the_hubs_file_is_kept_with_a_note(up: Run, aws: Path) -> None:
    assert up().exit_code == 0
    file = aws / "server_config.json"
    file.write_text(file.read_text().replace(": 3600", ": 7200"))
    result = up()
    assert result.exit_code == 0
    assert "nothing to do" in result.stdout
    assert "JUPYTER_NOTEBOOK_TIMEOUT stays 7200" in result.stderr
    assert written(aws).JUPYTER_NOTEBOOK_TIMEOUT == 7200


def test_a_lost_or_broken_file_is_written_anew(up: Run, aws: Path, calls: Calls) -> None:
    assert up().exit_code == 0
    file = aws / "server_config.json"
    before = file.read_bytes()
    file.unlink()
    calls.made.clear()
    assert up().exit_code == 0
    assert file.read_bytes() == before
    file.write_text(file.read_text()[:40])
    result = up()
    assert result.exit_code == 0
    assert "ends too early" in result.stderr
    assert file.read_bytes() == before
    assert calls.changing == []


def test_the_operators_own_subnets_are_used_and_remembered(
    run: Run, up: Run, aws: Path, cluster: str, gateway: Gateway, calls: Calls
) -> None:
    vpc = ask(gateway, "ec2", "create_vpc", CidrBlock="10.90.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ask(
            gateway,
            "ec2",
            "create_subnet",
            VpcId=vpc,
            CidrBlock=f"10.90.{i}.0/24",
            AvailabilityZone=f"us-east-1{'abc'[i]}",
        )["Subnet"]["SubnetId"]
        for i in range(3)
    ]
    image = run("up", cluster, "--no-manager", "--dry-run", "--output", "json")
    assert image.exit_code == 0
    result = run("up", cluster, "", ",".join(subnets[:2]), subnets[2], "--no-manager", "--yes")
    assert result.exit_code == 0, result.stderr
    config = written(aws)
    assert config.VPC_ID == vpc  # noqa: SIM300 - an upper-case field
    assert [s.SUBNET_ID for s in config.WORKER_SUBNETS] == subnets[:2]
    with pytest.raises(Exception, match="does not exist"):
        ask(
            gateway,
            "cloudformation",
            "describe_stacks",
            StackName=f"ec2spawner-{cluster}-network",
        )
    calls.made.clear()
    assert "nothing to do" in run("up", cluster, "--no-manager", "--yes").stdout
    assert calls.changing == []


@pytest.mark.parametrize(
    "broken_at",
    [
        "create_change_set",
        "execute_change_set",
        "put_parameter",
        "put_object",
        "run_instances",
        "create_image",
        "terminate_instances",
        "import_key_pair",
        "describe_change_set",
    ],
)
def test_broken_off_at_any_step_it_converges_when_run_again(
    up: Run, aws: Path, calls: Calls, gateway: Gateway, cluster: str, broken_at: str
) -> None:
    seen = 0

    def break_off() -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            raise KeyboardInterrupt

    calls.before[broken_at] = break_off
    result = up()
    assert result.exit_code == 130
    assert "Run the same command again" in result.stderr
    result = up()
    assert result.exit_code == 0, result.stderr
    assert "nothing to do" in up().stdout
    names = [f"ec2spawner-{cluster}", f"ec2spawner-{cluster}-network"]
    pages = asyncio.run(gateway.pages("cloudformation", "describe_stacks"))
    stacks = [stack["StackName"] for page in pages for stack in page["Stacks"]]
    assert sorted(name for name in stacks if name in names) == names


def test_broken_off_between_the_two_stacks_it_is_partly_done(
    up: Run, aws: Path, calls: Calls
) -> None:
    def fail() -> None:
        raise Unreachable("AWS did not answer.", next_step="Check the network.")

    calls.before["import_key_pair"] = fail
    result = up()
    assert result.exit_code == 3
    assert "Some of it is done" in result.stderr
    calls.before.clear()
    assert up().exit_code == 0


def test_a_stack_that_fails_leaves_nothing_behind_and_says_why(
    up: Run, aws: Path, gateway: Gateway, cluster: str
) -> None:
    taken = {"LaunchTemplateName": f"ec2spawner-{cluster}"}
    data = {"InstanceType": "t3.medium"}
    ask(gateway, "ec2", "create_launch_template", **taken, LaunchTemplateData=data)
    result = up()
    assert result.exit_code == 3
    assert f"The stack ec2spawner-{cluster} was not made (DELETE_COMPLETE)" in result.stderr
    assert "already in use" in result.stderr
    groups = [{"Name": "group-name", "Values": [f"ec2spawner-{cluster}-*"]}]
    assert ask(gateway, "ec2", "describe_security_groups", Filters=groups)["SecurityGroups"] == []
    assert not (aws / "server_config.json").exists()
    ask(gateway, "ec2", "delete_launch_template", **taken)
    assert up().exit_code == 0
    assert "nothing to do" in up().stdout


def test_a_lost_key_pair_is_imported_from_the_private_half(
    up: Run, cluster: str, gateway: Gateway, aws: Path
) -> None:
    assert up().exit_code == 0
    pairs = {"KeyNames": [f"ec2spawner-{cluster}"], "IncludePublicKey": True}
    before = ask(gateway, "ec2", "describe_key_pairs", **pairs)["KeyPairs"][0]["PublicKey"]
    ask(gateway, "ec2", "delete_key_pair", KeyName=f"ec2spawner-{cluster}")
    result = up()
    assert result.exit_code == 0
    assert "import the public half" in result.stdout
    after = ask(gateway, "ec2", "describe_key_pairs", **pairs)["KeyPairs"][0]["PublicKey"]
    assert after == before


def test_a_lost_private_half_is_renewed_while_no_worker_knows_the_old(
    up: Run, cluster: str, gateway: Gateway, aws: Path
) -> None:
    assert up().exit_code == 0
    ask(gateway, "ssm", "delete_parameter", Name=f"/ec2spawner/{cluster}/ssh-key")
    result = up()
    assert result.exit_code == 0
    assert "renew the key pair" in result.stdout
    assert "nothing to do" in up().stdout


def test_a_parameter_that_holds_no_key_is_refused_without_showing_it(
    up: Run, cluster: str, gateway: Gateway, aws: Path
) -> None:
    ask(
        gateway,
        "ssm",
        "put_parameter",
        Name=f"/ec2spawner/{cluster}/ssh-key",
        Type="SecureString",
        Value="hunter2",
    )
    result = up()
    assert result.exit_code == 1
    assert "holds no usable private key" in result.stderr
    assert "hunter2" not in result.output


def test_json_output_is_one_document_on_stdout(up: Run, aws: Path, cluster: str) -> None:
    result = up("--output", "json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["cluster"] == cluster
    assert document["outcome"] == "done"
    image = written(aws).WORKER_AMI_ID
    assert document["done"] == [
        f"stack ec2spawner-{cluster}-network",
        f"key pair ec2spawner-{cluster}",
        f"stack ec2spawner-{cluster}",
        f"image {image}",
        f"worker image {image}",
        "server_config.json",
    ]
    assert len(document["steps"]) == 5
    assert json.loads(up("--output", "json").stdout)["outcome"] == "nothing to do"


def test_the_script_of_a_checkout_runs_from_any_folder_and_ctrl_c_ends_it(
    aws: Path, cluster: str, endpoint: str
) -> None:
    script = ROOT / "launch_cluster" / "launch.py"
    command = [sys.executable, str(script), cluster, "--no-manager"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        assert process.stdout
        lines = iter(process.stderr.readline, "")
        assert next(line for line in lines if "Looking at us-east-1" in line)
        assert any("write server_config.json" in line for line in iter(process.stdout.readline, ""))
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert "Interrupted" in process.stderr.read()
    assert not (aws / "server_config.json").exists()


@pytest.mark.parametrize(
    ("nat", "target", "zones"),
    [("gateway", "NatGatewayId", 4), ("instance", "NetworkInterfaceId", 3), ("none", None, 2)],
)
def test_private_subnets_go_out_as_was_asked(
    up: Run, aws: Path, gateway: Gateway, nat: str, target: str | None, zones: int
) -> None:
    result = up("--nat", nat, "--zones", str(zones))
    assert result.exit_code == 0, result.stderr
    assert len({s.ZONE for s in written(aws).WORKER_SUBNETS}) == zones
    vpc = [{"Name": "vpc-id", "Values": [written(aws).VPC_ID]}]
    private = {s.SUBNET_ID for s in written(aws).WORKER_SUBNETS}
    tables = ask(gateway, "ec2", "describe_route_tables", Filters=vpc)["RouteTables"]
    ours = [t for t in tables if private & {a.get("SubnetId") for a in t["Associations"]}]
    assert len(ours) == 1
    routes = [r for r in ours[0]["Routes"] if r.get("DestinationCidrBlock") == "0.0.0.0/0"]
    assert [bool(r.get(target or "")) for r in routes] == ([True] if target else [])
    assert "nothing to do" in up().stdout
    filters = [*vpc, {"Name": "instance-state-name", "Values": ["running", "pending"]}]
    found = ask(gateway, "ec2", "describe_instances", Filters=filters)["Reservations"]
    assert len(found) == (nat == "instance")
