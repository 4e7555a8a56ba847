"""CPU credits of what is launched from the cluster's template, by types with and without any."""

from __future__ import annotations

import asyncio
import re
import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2, LaunchRequest
from ec2spawner.errors import Rejected
from launch_cluster import up as up_module
from launch_cluster.up import Templates, read_templates

from .conftest import Calls
from .test_up import Run, ask, up, written

__all__ = ["up"]  # a fixture

TYPES = ("t3.medium", "m7i.large", "g5.xlarge")


class Profiles:
    """A hub's launches, one for each type."""

    def __init__(self, folder: Path, cluster: str, gateway: Gateway) -> None:
        self.config = written(folder)
        self.gateway, self.cluster = gateway, cluster

    def launch(self, kind: str) -> str:
        subnet = self.config.WORKER_SUBNETS[0].SUBNET_ID
        request = LaunchRequest(self.config.LAUNCH_TEMPLATE_ID, kind, subnet, 1, "p", 10, {})
        (worker,) = asyncio.run(
            EC2(self.gateway, self.cluster).launch(request, secrets.token_hex())
        )
        return worker.instance_id

    def option(self, instance_id: str) -> str:
        reply = ask(
            self.gateway,
            "ec2",
            "describe_instance_credit_specifications",
            InstanceIds=[instance_id],
        )
        return str(reply["InstanceCreditSpecifications"][0]["CpuCredits"])


def templates_of_before() -> Templates:
    """With the credits of the default type in the launch template."""
    made = read_templates()
    cluster, count = re.subn(
        r"(?m)^        BlockDeviceMappings:\n(?=          - DeviceName: !Ref RootDeviceName)",
        "        CreditSpecification: {CpuCredits: !Ref CpuCredits}\n\\g<0>",
        made.cluster.replace(
            "\nParameters:\n", "\nParameters:\n  CpuCredits: {Type: String, Default: standard}\n"
        ),
    )
    assert count == 1
    return replace(made, cluster=cluster)


def test_types_with_and_without_credits_are_launched_from_one_template(
    up: Run, aws: Path, cluster: str, gateway: Gateway
) -> None:
    assert up().exit_code == 0
    profiles = Profiles(aws, cluster, gateway)
    launched = {kind: profiles.launch(kind) for kind in TYPES}
    assert profiles.option(launched["t3.medium"]) == "standard"


def test_up_takes_the_credits_out_of_a_template_of_before(
    up: Run, aws: Path, cluster: str, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(up_module, "read_templates", templates_of_before)
        assert up().exit_code == 0
    profiles = Profiles(aws, cluster, gateway)
    assert profiles.option(profiles.launch("t3.medium")) == "standard"
    with pytest.raises(Rejected) as caught:
        profiles.launch("m7i.large")
    assert caught.value.aws_code == "InstanceCreditSpecification.NotSupported"
    assert up().exit_code == 0
    assert profiles.launch("m7i.large")
    assert profiles.option(profiles.launch("t3.medium")) == "standard"


def test_a_builder_without_credits_is_not_given_any(up: Run, aws: Path, calls: Calls) -> None:
    (aws / "instance_config.json").write_text('{"WORKER_INSTANCE_TYPE": "m7i.large"}')
    result = up()
    assert result.exit_code == 0, result.stderr
    (params,) = (p for operation, p in calls.requests if operation == "run_instances")
    assert params["InstanceType"] == "m7i.large"
    assert "CreditSpecification" not in params
