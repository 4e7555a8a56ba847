"""What ``launch-cluster`` asks of AWS, judged by the policies that it prints for operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from policies.commands import ACCOUNT, REGION, judging
from policies.iam import Request, decide
from policies.lives import Judge

from ec2spawner.cloud import Gateway
from ec2spawner.model import Owner
from launch_cluster import down, restore, workers
from launch_cluster.commands import common
from launch_cluster.policies import Place, merged
from launch_cluster.rights import NOT_FOR_BUILDING, operator_policies

from .shops import ask
from .test_restore import Cluster as Homes
from .test_terminate_workers import launch_workers

Run = Callable[..., Result]
PLACE = Place("rights", REGION, ACCOUNT)
STRANGER = "210987654321"
OF_RARE_USE = {
    "cloudformation:DescribeStackEvents",  # of a stack that fails
    "ec2:CancelSpotInstanceRequests",  # of spot workers
    "ec2:StopInstances",  # of a builder that does not switch itself off
}
OF_STRAYS = {"TakeInStrayMachines", "TakeInStrayDisks"}  # see tests/policies/test_operator.py


class Operator:
    """Somebody who has these rights only, and runs commands."""

    def __init__(self, run: Run, judge: Judge) -> None:
        self._run, self.judge = run, judge

    def does(self, *arguments: str) -> None:
        """Run a command, all of whose calls are allowed."""
        result = self._run(*arguments)
        assert self.judge.denied == [], arguments
        assert result.exit_code == 0, (arguments, result.stderr)


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch, aws: Path, tmp_path: Path) -> Judge:
    """Of all calls of commands; no command pauses for long."""
    judge = Judge(merged(operator_policies(PLACE)))
    monkeypatch.setattr(common, "Gateway", judging(judge))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for module in (down, restore, workers):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(restore, "WATCH_SECONDS", 0.1)
    return judge


@pytest.fixture
def operator(run: Run, judge: Judge) -> Operator:
    return Operator(run, judge)


def live(operator: Operator, gateway: Gateway, folder: Path) -> None:
    """Build a cluster, change it, keep its images and homes, and delete it."""
    name = PLACE.cluster
    operator.does("doctor", name, "--students", "10")
    operator.does("up", name, "--vpc-cidr", "127.79.0.0/16", "--yes")
    asked = {request.action for request in operator.judge.requests}
    assert asked & NOT_FOR_BUILDING == set()
    operator.does("plan", name, "--ssh-cidr", "203.0.113.0/24")
    operator.does("plan", name, "--print-policies")
    operator.does("up", name, "--domain", "hub.invalid", "--yes")
    operator.does("up", name, "--replace-manager", "--yes")
    operator.does("status", name)
    operator.does("cost", "--refresh-prices")
    operator.does("cost", name)
    others = "/ec2spawner/another/worker-image"
    ask(gateway, "ssm", "put_parameter", Name=others, Value="ami-1", Type="String")
    keep_images(operator)
    homes = Homes(gateway, folder, name)
    restore_homes(operator, homes)
    launch_workers(homes.ec2, homes.config, 2)
    operator.does("terminate-workers", name, "--delete-homes", "--yes")
    launch_workers(homes.ec2, homes.config, 1)
    operator.does("down", name, "--delete-homes", "--delete-hub-data", "--yes")
    operator.does("down", name, "--delete-snapshots", "--yes")


def keep_images(operator: Operator) -> None:
    operator.does("image", "build", "--unencrypted", "--yes")
    operator.does("image", "list")
    operator.does("image", "share", STRANGER, "--yes")
    operator.does("image", "share", STRANGER, "--revoke", "--yes")
    operator.does("image", "build", "--again", "--yes")
    operator.does("image", "prune", "--keep", "0", "--yes")


def restore_homes(operator: Operator, homes: Homes) -> None:
    """From the volume; and of another user from the snapshot that is left."""
    homes.home(Owner("ann"))
    operator.does("users", "restore", "ann", "--yes")
    bobs = homes.home(Owner("bob"))
    saved = homes.save(bobs)
    ask(homes.gateway, "ec2", "delete_volume", VolumeId=bobs)
    operator.does("users", "restore", "bob", saved, "--yes")


def test_all_that_an_operator_does_is_allowed_and_all_that_is_allowed_is_of_use(
    operator: Operator, judge: Judge, gateway: Gateway, aws: Path
) -> None:
    live(operator, gateway, aws)
    policies = operator_policies(PLACE)
    by_hand = [s for name in ("commands", "upgrades") for s in policies[name]["Statement"]]
    assert {s["Sid"] for s in by_hand} - OF_STRAYS <= judge.needed
    asked = {request.action for request in judge.requests}
    named = {action for s in by_hand for action in s["Action"] if "*" not in action}
    assert named - asked == OF_RARE_USE


def test_no_script_is_run_on_a_worker_or_on_another_cluster() -> None:
    policy = merged(operator_policies(PLACE))
    machine = f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/i-1"
    for cluster, role in ((PLACE.cluster, "worker"), ("other", "manager")):
        tags = {"ec2spawner:cluster": cluster, "ec2spawner:role": role}
        context = {f"ssm:resourceTag/{key}": value for key, value in tags.items()}
        assert not decide(policy, Request("ssm:SendCommand", machine, context)).is_allowed
