"""Deleting a cluster: all of it goes but what was chosen to stay, and nothing of another's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import Result

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2, LaunchRequest
from ec2spawner.errors import AnotherHub
from ec2spawner.identity import Process, this_process
from ec2spawner.lease import Lease
from ec2spawner.s3 import Objects, Stored
from ec2spawner.settings import load_server_config
from ec2spawner.tenancy import Record, Standing
from launch_cluster import down as module
from launch_cluster import workers
from launch_cluster.belongings import Belonging, Belongings, Choice, left_over, stays
from launch_cluster.down import may_be_at_work, seize

from .conftest import Calls

Run = Callable[..., Result]
ACCOUNT = "123456789012"


class Cluster:
    """A cluster in the emulated cloud."""

    def __init__(self, run: Run, gateway: Gateway, folder: Path, name: str, *more: str) -> None:
        out = str(folder / f"{name}.json")
        made = run("up", name, "--no-manager", "--yes", "--config-out", out, *more)
        assert made.exit_code == 0, made.stderr
        self.name = name
        self.config, _ = load_server_config(Path(out))
        self.gateway = gateway

    def launch(self, count: int) -> list[str]:
        request = LaunchRequest(
            launch_template_id=self.config.LAUNCH_TEMPLATE_ID,
            instance_type="t3.medium",
            subnet_id=self.config.WORKER_SUBNETS[0].SUBNET_ID,
            count=count,
            profile="default",
            home_gib=1,
            cost_tags={},
        )
        found = asyncio.run(EC2(self.gateway, self.name).launch(request, f"token-{self.name}"))
        return [worker.instance_id for worker in found]

    def launch_at_once(self) -> None:
        """Launch another one, from within the command's own loop."""
        tags = [
            {"Key": "ec2spawner:cluster", "Value": self.name},
            {"Key": "ec2spawner:role", "Value": "worker"},
        ]
        home = {"VolumeSize": 1, "DeleteOnTermination": False}
        boto3.client("ec2").run_instances(
            LaunchTemplate={"LaunchTemplateId": self.config.LAUNCH_TEMPLATE_ID},
            SubnetId=self.config.WORKER_SUBNETS[0].SUBNET_ID,
            BlockDeviceMappings=[{"DeviceName": "/dev/sdf", "Ebs": home}],
            TagSpecifications=[{"ResourceType": k, "Tags": tags} for k in ("instance", "volume")],
            MinCount=1,
            MaxCount=1,
        )

    def belongings(self) -> list[Belonging]:
        """What is there, once what is about to be gone (the image's builder, at first) is gone."""
        bucket = f"ec2spawner-{self.name}-{ACCOUNT}-us-east-1"
        while True:
            things = asyncio.run(Belongings(self.gateway, self.name, bucket).look())
            if not any(thing.state == "shutting-down" for thing in things):
                return things
            time.sleep(0.05)

    def kinds(self) -> set[str]:
        return {thing.kind for thing in self.belongings()}

    def stacks(self) -> list[str]:
        pages = asyncio.run(self.gateway.pages("cloudformation", "describe_stacks"))
        names = [
            s["StackName"]
            for page in pages
            for s in page["Stacks"]
            if s["StackStatus"] != "DELETE_COMPLETE"
        ]
        return [
            n for n in names if n in (f"ec2spawner-{self.name}", f"ec2spawner-{self.name}-network")
        ]

    def stop(self, instance_id: str) -> None:
        """Stop it, and come back when it is."""
        self.ask("ec2", "stop_instances", InstanceIds=[instance_id])
        while True:
            found = self.ask("ec2", "describe_instances", InstanceIds=[instance_id])
            if found["Reservations"][0]["Instances"][0]["State"]["Name"] == "stopped":
                return
            time.sleep(0.05)

    def ask(self, service: str, operation: str, **params: Any) -> dict[str, Any]:
        return asyncio.run(self.gateway.call(service, operation, params))


@pytest.fixture
def make_cluster(
    run: Run,
    gateway: Gateway,
    aws: Path,
    calls: Calls,
    cluster: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Cluster]:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.05)
    return lambda suffix="", *more: Cluster(run, gateway, aws, f"{cluster}{suffix}", *more)


Make = Callable[..., Cluster]


def test_all_goes_but_the_homes_and_another_cluster_is_untouched(
    run: Run, make_cluster: Make
) -> None:
    mine, other = make_cluster("-a"), make_cluster("-b")
    mine.launch(2)
    other.launch(1)
    before = {(t.kind, t.ident) for t in other.belongings()}
    result = run("down", mine.name, answer=f"{mine.name}\n")
    assert result.exit_code == 0, result.stderr
    assert mine.kinds() == {"volume"}
    assert len(mine.belongings()) == 2
    assert result.stdout.count("stays: volume") == 2
    assert mine.stacks() == []
    assert {(t.kind, t.ident) for t in other.belongings()} == before
    assert len(other.stacks()) == 2


def test_a_cluster_with_a_manager_goes_too_and_the_hubs_data_stay_unless_told(
    run: Run, aws: Path, cluster: str, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    assert run("up", cluster, "--yes").exit_code == 0
    address = json.loads(run("status", cluster, "--output", "json").stdout)["url"]
    assert address.startswith("http://127.")
    bucket = f"ec2spawner-{cluster}-{ACCOUNT}-us-east-1"
    kept = json.loads(run("down", cluster, "--dry-run", "--output", "json").stdout)["stays"]
    assert [(thing["kind"], thing["role"]) for thing in kept] == [("volume", "manager")]
    assert run("down", cluster, "--yes").exit_code == 0
    (data,) = asyncio.run(Belongings(gateway, cluster, bucket).look())
    assert data.ident == kept[0]["id"]
    assert run("down", cluster, "--yes", "--delete-hub-data").exit_code == 0
    assert asyncio.run(Belongings(gateway, cluster, bucket).look()) == []


def test_what_somebody_launched_from_the_template_by_hand_goes_too(
    run: Run, make_cluster: Make
) -> None:
    mine = make_cluster()
    (by_hand,) = mine.ask(
        "ec2",
        "run_instances",
        LaunchTemplate={"LaunchTemplateId": mine.config.LAUNCH_TEMPLATE_ID},
        SubnetId=mine.config.WORKER_SUBNETS[0].SUBNET_ID,
        MinCount=1,
        MaxCount=1,
    )["Instances"]
    named = [{"Name": "key", "Values": ["Name"]}]
    tags = mine.ask("ec2", "describe_tags", Filters=named)["Tags"]
    kinds = {t["ResourceType"] for t in tags if t["Value"] == f"ec2spawner-{mine.name}-worker"}
    assert {"instance", "volume", "network-interface"} <= kinds
    assert "ec2spawner:role" not in {tag["Key"] for tag in by_hand["Tags"]}  # no student gets it
    assert run("down", mine.name, "--yes").exit_code == 0
    assert mine.kinds() == set()


def test_two_clusters_in_one_vpc_collide_in_nothing(run: Run, make_cluster: Make) -> None:
    first = make_cluster("-a")
    subnet = first.config.WORKER_SUBNETS[0].SUBNET_ID
    ami = first.config.WORKER_AMI_ID
    second = make_cluster("-b", ami, subnet)
    assert second.config.VPC_ID == first.config.VPC_ID
    (lives,) = first.launch(1)
    second.launch(1)
    result = run("down", second.name, "--yes", "--delete-homes", "--no-snapshots")
    assert result.exit_code == 0, result.stderr
    assert second.belongings() == []
    assert lives in {t.ident for t in first.belongings()}
    assert (
        run("up", first.name, "--no-manager", "--yes", "--config-out", "again.json").exit_code == 0
    )


def test_homes_go_only_if_told_each_after_a_snapshot_that_stays(
    run: Run, make_cluster: Make
) -> None:
    mine = make_cluster()
    mine.launch(1)
    assert run("down", mine.name, "--yes", "--delete-homes").exit_code == 0
    assert mine.kinds() == {"snapshot"}
    again = run("down", mine.name, "--yes", "--delete-snapshots")
    assert again.exit_code == 0, again.stderr
    assert mine.belongings() == []
    assert "Nothing to do." in run("down", mine.name, "--yes").stdout


def test_what_stays_is_told_as_json(run: Run, make_cluster: Make) -> None:
    mine = make_cluster()
    mine.launch(1)
    result = json.loads(run("down", mine.name, "--yes", "--output", "json").stdout)
    assert (result["cluster"], result["outcome"]) == (mine.name, "done")
    assert result["failed"] == []
    assert result["stays_usd_per_month"] == 0.08  # 1 GiB of gp3 in us-east-1
    (home,) = result["stays"]
    assert (home["kind"], home["size_gib"], home["role"]) == ("volume", 1, "worker")


def test_without_the_clusters_name_nothing_is_changed(run: Run, make_cluster: Make) -> None:
    mine = make_cluster()
    before = mine.belongings()
    assert run("down", mine.name, answer="yes\n").exit_code == 1
    assert run("down", mine.name, "--dry-run").exit_code == 0
    assert mine.belongings() == before
    assert len(mine.stacks()) == 2


def test_a_full_bucket_is_emptied(run: Run, make_cluster: Make) -> None:
    mine = make_cluster()
    for key in ("hub-lease/x.json", "package/a.tar.gz", "backup/b"):
        mine.ask("s3", "put_object", Bucket=mine.config.BUCKET, Key=key, Body=b"1")
    assert run("down", mine.name, "--yes").exit_code == 0
    assert mine.belongings() == []


def test_images_go_with_their_snapshots_unless_they_are_kept(run: Run, make_cluster: Make) -> None:
    mine = make_cluster()
    (worker,) = mine.launch(1)
    mine.stop(worker)
    tags = [{"Key": "ec2spawner:cluster", "Value": mine.name}]
    kinds = [{"ResourceType": kind, "Tags": tags} for kind in ("image", "snapshot")]
    made = mine.ask(
        "ec2",
        "create_image",
        InstanceId=worker,
        Name=f"image of {mine.name}",
        TagSpecifications=kinds,
    )
    assert run("down", mine.name, "--yes", "--keep-images", "--delete-homes").exit_code == 0
    assert made["ImageId"] in {t.ident for t in mine.belongings() if t.kind == "image"}
    result = run("down", mine.name, "--yes", "--delete-snapshots")
    assert result.exit_code == 0, result.stderr
    assert mine.belongings() == []


def test_an_image_that_another_cluster_is_launched_from_stays_with_its_snapshots(
    run: Run, make_cluster: Make
) -> None:
    mine = make_cluster()
    used = mine.config.WORKER_AMI_ID
    name = f"/ec2spawner/{mine.name}-other/worker-image"
    mine.ask("ssm", "put_parameter", Name=name, Value=used, Type="String")
    result = run("down", mine.name, "--yes")
    assert result.exit_code == 0, result.stderr
    assert f"(used by the cluster {mine.name}-other)" in result.stdout
    image, snapshot = mine.belongings()
    assert (image.kind, image.ident, snapshot.kind) == ("image", used, "snapshot")
    assert image.parts == (snapshot.ident,)
    mine.ask("ssm", "delete_parameter", Name=name)
    assert run("down", mine.name, "--yes").exit_code == 0
    assert mine.belongings() == []


async def test_a_hub_that_runs_elsewhere_writes_nothing_any_more(
    gateway: Gateway, aws: Path
) -> None:
    await gateway.call("s3", "create_bucket", {"Bucket": "seized"})
    bucket = Objects(gateway, "seized")
    hub = Lease(bucket, "town", this_process())
    running = asyncio.ensure_future(hub.run())
    held = asyncio.Event()
    hub.on_change = held.set
    await asyncio.wait_for(held.wait(), 10)
    assert hub.is_held()
    ours, before = await seize(bucket, "town")
    assert may_be_at_work(before, this_process())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    taken = await bucket.get("hub-lease/town.json")
    assert taken is not None
    assert json.loads(taken.body)["holder"] == ours.holder
    await hub._look()
    assert hub.standing is Standing.ANOTHERS
    assert isinstance(hub.permit(), AnotherHub)


ELSEWHERE = Process("elsewhere", "", "another-boot", "1", 7, 7)
RECORD = Record("a-hub", 3, "2026-01-01", ELSEWHERE)


@pytest.mark.parametrize(
    ("body", "may"),
    [
        (None, False),
        (RECORD.to_bytes(), True),
        (replace(RECORD, is_ended=True).to_bytes(), False),
        (replace(RECORD, process=replace(this_process(), started=1)).to_bytes(), False),
        (b"of no hub", True),
    ],
)
def test_only_a_hub_that_may_live_is_waited_for(body: bytes | None, may: bool) -> None:
    before = None if body is None else Stored("etag", body)
    assert may_be_at_work(before, this_process()) is may


def test_what_a_hub_launches_until_it_has_seen_the_lease_ends_too(
    run: Run, make_cluster: Make, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It launches once while it is waited for, and one more instance is listed late."""
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.3)
    mine = make_cluster()
    key = f"hub-lease/{mine.name}.json"
    mine.ask("s3", "put_object", Bucket=mine.config.BUCKET, Key=key, Body=RECORD.to_bytes())
    mine.launch(1)

    def launch_at(step: str) -> None:
        def launch() -> None:
            del calls.after[step]
            mine.launch_at_once()

        calls.after[step] = launch

    launch_at("put_object")
    launch_at("terminate_instances")
    calls.requests.clear()
    result = run("down", mine.name, "--yes")
    assert result.exit_code == 0, result.stderr
    assert calls.after == {}
    assert "Waiting until the hub launches nothing more: done" in result.stderr
    assert mine.kinds() == {"volume"}
    assert len(mine.belongings()) == 3


def test_the_lease_is_held_until_images_are_gone_and_the_bucket_is_emptied_after_it(
    run: Run, make_cluster: Make, calls: Calls
) -> None:
    mine = make_cluster()
    calls.requests.clear()
    calls.made.clear()
    result = run("down", mine.name, "--yes")
    assert result.exit_code == 0, result.stderr
    assert "Waiting until the hub" not in result.stderr
    writes = [i for i, name in enumerate(calls.made) if name == "put_object"]
    assert b'"is_ended": true' in calls.requests[writes[-1]][1]["Body"]
    gone = [
        i for i, name in enumerate(calls.made) if name in ("deregister_image", "delete_snapshot")
    ]
    assert max(gone) < writes[-1] < calls.made.index("delete_objects")


# ---- broken off


class Killed(BaseException):
    """The command is ended at this call."""


def test_ended_at_any_call_it_goes_on_when_run_again(
    run: Run, make_cluster: Make, calls: Calls
) -> None:
    """A break before each call that changes something, one after the other, in one cluster."""

    def end() -> None:
        raise Killed

    steps = (
        "terminate_instances",
        "deregister_image",
        "delete_snapshot",
        "delete_objects",
        "delete_stack",
        "delete_key_pair",
        "delete_parameters",
    )
    mine = make_cluster()
    mine.launch(1)
    mine.ask("s3", "put_object", Bucket=mine.config.BUCKET, Key="a", Body=b"1")
    for step in steps:
        calls.before = {step: end}
        with contextlib.suppress(Killed):
            run("down", mine.name, "--yes")
    calls.before = {}
    result = run("down", mine.name, "--yes")
    assert result.exit_code == 0, result.stderr
    assert mine.kinds() == {"volume"}
    assert mine.stacks() == []


def stacks_of(gateway: Gateway, cluster: str) -> dict[str, str]:
    """State by name, of those that are there."""
    pages = asyncio.run(gateway.pages("cloudformation", "describe_stacks"))
    found = {s["StackName"]: s["StackStatus"] for page in pages for s in page["Stacks"]}
    is_ours = (f"ec2spawner-{cluster}", f"ec2spawner-{cluster}-")
    return {
        name: status
        for name, status in found.items()
        if name.startswith(is_ours) and status != "DELETE_COMPLETE"
    }


def test_a_stack_that_up_has_only_named_goes_too(
    run: Run, gateway: Gateway, aws: Path, cluster: str, calls: Calls
) -> None:
    def die() -> None:
        calls.is_dead = True
        raise Killed

    calls.before = {"describe_change_set": die}
    with contextlib.suppress(BaseException):
        run("up", cluster, "--no-manager", "--yes")
    calls.before, calls.is_dead = {}, False
    named = f"ec2spawner-{cluster}-network"
    assert stacks_of(gateway, cluster) == {named: "REVIEW_IN_PROGRESS"}
    result = run("down", cluster, "--yes")
    assert result.exit_code == 0, result.stderr
    assert f"delete the stack {named}" in result.stdout
    assert stacks_of(gateway, cluster) == {}
    assert "Nothing to do." in run("down", cluster, "--yes").stdout


def test_a_stack_that_is_there_at_the_end_is_told(
    run: Run, gateway: Gateway, make_cluster: Make, calls: Calls
) -> None:
    """Somebody runs ``up`` meanwhile."""
    mine = make_cluster()

    def make() -> None:
        calls.before = {}
        boto3.client("cloudformation").create_change_set(
            StackName=f"ec2spawner-{mine.name}-manager",
            ChangeSetName="another",
            ChangeSetType="CREATE",
            TemplateBody='{"Resources": {"Q": {"Type": "AWS::SQS::Queue"}}}',
        )

    calls.before = {"delete_parameters": make}
    result = run("down", mine.name, "--yes")
    assert result.exit_code == 3
    assert f"ec2spawner-{mine.name}-manager (REVIEW_IN_PROGRESS) is still there" in result.stderr


# ---- what stays


def test_what_was_chosen_to_stay_stays() -> None:
    home = Belonging("volume", "vol-1", "available", "worker")
    data = Belonging("volume", "vol-2", "available", "manager")
    image = Belonging("image", "ami-1", parts=("snap-1",))
    part, saved = Belonging("snapshot", "snap-1"), Belonging("snapshot", "snap-2")
    half = Belonging("snapshot", "snap-3", role="image")  # its image is gone
    daily = Belonging("snapshot", "snap-4", role="manager")
    things = [home, data, image, part, saved, half, daily, Belonging("bucket", "b")]
    images = {"ami-1", "snap-1", "snap-3"}

    def gone(**choice: bool) -> set[str]:
        return {thing.ident for thing in left_over(things, Choice(**choice))}

    assert gone() == {*images, "b"}
    assert gone(keep_images=True) == {"b"}
    assert gone(delete_homes=True) == {"vol-1", *images, "b"}
    assert gone(delete_hub_data=True) == {"vol-2", "snap-4", *images, "b"}
    assert gone(delete_snapshots=True) == {"snap-2", *images, "b"}
    assert not stays(Belonging("instance", "i-1"), Choice())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("Biology 101",), "cannot be a cluster's name"),
        (("x", "--no-snapshots"), "together with --delete-homes"),
        (("x", "--region", "nowhere"), "--region"),
        ((), "Missing argument"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_asked_of_aws(
    run: Run, aws: Path, calls: Calls, arguments: tuple[str, ...], words: str
) -> None:
    result = run("down", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert calls.made == []
