"""Ending a cluster's workers: this cluster's only, and no file lost that was not given up."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2, LaunchRequest
from ec2spawner.errors import CloudError, NotFound, OutcomeUnknown, WrongState
from ec2spawner.model import (
    HOME_DEVICE,
    TAG_LAST_OF,
    InstanceState,
    Snapshot,
    SnapshotState,
    SpotRequest,
    Volume,
    VolumeState,
    Worker,
)
from ec2spawner.settings import ServerConfig, load_server_config
from launch_cluster import workers as module
from launch_cluster.reporter import Reporter
from launch_cluster.workers import (
    StillThere,
    TerminateRequest,
    TerminateWorkers,
    may_delete,
    plan_removal,
    superseded,
)

from .clouds import control, of_cluster
from .conftest import Calls

Run = Callable[..., Result]


# ---- against the emulated cloud


def launch_request(config: ServerConfig, count: int) -> LaunchRequest:
    return LaunchRequest(
        launch_template_id=config.LAUNCH_TEMPLATE_ID,
        instance_type="t3.medium",
        subnet_id=config.WORKER_SUBNETS[0].SUBNET_ID,
        count=count,
        profile="default",
        home_gib=1,
        cost_tags={},
    )


def launch_workers(ec2: EC2, config: ServerConfig, count: int) -> list[str]:
    """The ids of new workers with homes."""
    request = launch_request(config, count)
    launched = asyncio.run(ec2.launch(request, f"token-{config.CLUSTER_NAME}-{count}"))
    return [worker.instance_id for worker in launched]


class Cluster:
    """A cluster in the emulated cloud, with workers that are claimed."""

    def __init__(self, run: Run, gateway: Gateway, folder: Path, name: str) -> None:
        out = str(folder / f"{name}.json")
        assert run("up", name, "--no-manager", "--yes", "--config-out", out).exit_code == 0
        self.name = name
        self.config, _ = load_server_config(Path(out))
        self.ec2 = EC2(gateway, name)
        self.gateway = gateway

    def launch(self, count: int) -> list[str]:
        return launch_workers(self.ec2, self.config, count)

    def run_call(self, operation: str, **params: Any) -> None:
        asyncio.run(self.gateway.call("ec2", operation, params))

    def strays(self, *known: str) -> list[str]:
        """What EC2 launched for spot requests of ours, besides ``known``."""
        requests = asyncio.run(self.ec2.list_spot_requests())
        return [r.instance_id for r in requests if r.instance_id and r.instance_id not in known]

    def workers(self) -> dict[str, InstanceState]:
        found = asyncio.run(self.ec2.list_workers())
        return {w.instance_id: w.state for w in found if w.state is not InstanceState.TERMINATED}

    def homes(self) -> list[Volume]:
        return [v for v in asyncio.run(self.ec2.list_volumes()) if v.is_home]

    def snapshots(self) -> list[Snapshot]:
        return asyncio.run(self.ec2.list_snapshots())


@pytest.fixture
def make_cluster(
    run: Run,
    gateway: Gateway,
    aws: Path,
    calls: Calls,
    cluster: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], Cluster]:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    return lambda suffix="": Cluster(run, gateway, aws, f"{cluster}{suffix}")


def test_the_workers_end_their_homes_stay_and_another_cluster_is_untouched(
    run: Run, make_cluster: Callable[[str], Cluster], calls: Calls
) -> None:
    mine, other = make_cluster("-a"), make_cluster("-b")
    ids, others = mine.launch(3), other.launch(2)
    homes, other_homes = mine.homes(), other.homes()
    assert (len(homes), len(other_homes)) == (3, 2)
    calls.requests.clear()  # the builders of the clusters' images were ended, too
    result = run("terminate-workers", mine.name, answer=f"{mine.name}\n")
    assert result.exit_code == 0, result.stderr
    assert all(i in result.stdout for i in ids)
    assert result.stdout.count("stays") == 3
    assert mine.workers() == {}
    assert sorted(other.workers()) == sorted(others)
    assert {v.volume_id for v in mine.homes()} == {v.volume_id for v in homes}
    assert {v.volume_id for v in other.homes()} == {v.volume_id for v in other_homes}
    assert not {"delete_volume", "create_snapshot"} & set(calls.made)
    for name, params in calls.requests:
        if name == "terminate_instances":
            assert set(params["InstanceIds"]) <= set(ids)


def test_a_builder_at_work_is_left_alone(
    run: Run, make_cluster: Callable[[str], Cluster], calls: Calls
) -> None:
    mine = make_cluster("-a")
    (worker,) = mine.launch(1)
    control("builders/next", fault="hang")
    listed = [
        {"Key": "ec2spawner:cluster", "Value": mine.name},
        {"Key": "ec2spawner:role", "Value": "builder"},
    ]
    params = {
        "LaunchTemplate": {"LaunchTemplateId": mine.config.LAUNCH_TEMPLATE_ID},
        "SubnetId": mine.config.WORKER_SUBNETS[0].SUBNET_ID,
        "TagSpecifications": [{"ResourceType": "instance", "Tags": listed}],
        "MinCount": 1,
        "MaxCount": 1,
    }
    asyncio.run(mine.gateway.call("ec2", "run_instances", params))
    result = run("terminate-workers", mine.name, "--yes")
    assert result.exit_code == 0, result.stderr
    assert worker in result.stdout
    (builder,) = of_cluster(control("state")["instances"], mine.name, "builder")[-1:]
    assert builder["state"] in ("pending", "running")


def test_homes_are_deleted_only_if_told_each_after_its_snapshot(
    run: Run, make_cluster: Callable[[str], Cluster], calls: Calls
) -> None:
    mine, other = make_cluster("-a"), make_cluster("-b")
    mine.launch(2)
    other.launch(1)
    owners = {"ec2spawner:owner": "zoe-1", "ec2spawner:user": "zoe"}
    asyncio.run(mine.ec2.tag([mine.homes()[0].volume_id], owners))
    homes = {v.volume_id for v in mine.homes()}
    result = run("terminate-workers", mine.name, "--delete-homes", "--yes", "--output", "json")
    assert result.exit_code == 0, result.stderr
    assert mine.homes() == []
    assert len(other.homes()) == 1
    snapshots = mine.snapshots()
    assert {s.volume_id for s in snapshots} == homes
    assert {s.state for s in snapshots} == {SnapshotState.COMPLETED}
    assert [s.owner for s in snapshots if s.owner] == ["zoe-1"]
    document = json.loads(result.stdout)
    assert document["snapshots"] == {s.volume_id: s.snapshot_id for s in snapshots}
    assert calls.made.index("delete_volume") > calls.made.index("create_snapshot")


def test_without_snapshots_none_is_made(
    run: Run, make_cluster: Callable[[str], Cluster], calls: Calls
) -> None:
    mine = make_cluster("")
    mine.launch(1)
    options = ("--delete-homes", "--no-snapshots", "--yes")
    result = run("terminate-workers", mine.name, *options)
    assert result.exit_code == 0, result.stderr
    assert "WITHOUT A SNAPSHOT" in result.stdout
    assert mine.homes() == []
    assert "create_snapshot" not in calls.made


@pytest.mark.parametrize("answer", ["", "yes\n", "another\n"])
def test_without_the_clusters_name_nothing_ends(
    run: Run, make_cluster: Callable[[str], Cluster], calls: Calls, answer: str
) -> None:
    mine = make_cluster("")
    ids = mine.launch(1)
    calls.made.clear()
    result = run("terminate-workers", mine.name, "--delete-homes", answer=answer)
    assert result.exit_code == 1
    assert "Nothing was changed" in result.stderr
    assert calls.changing == []
    assert list(mine.workers()) == ids


def test_a_dry_run_shows_all_and_ends_nothing(
    run: Run, make_cluster: Callable[[str], Cluster], calls: Calls, aws: Path
) -> None:
    mine = make_cluster("")
    ids = mine.launch(1)
    calls.made.clear()
    config = str(aws / f"{mine.name}.json")
    result = run("terminate-workers", "--config", config, "--delete-homes", "--dry-run")
    assert result.exit_code == 0
    assert ids[0] in result.stdout
    assert "is deleted after a snapshot" in result.stdout
    assert calls.changing == []


def test_run_again_there_is_nothing_to_do(run: Run, make_cluster: Callable[[str], Cluster]) -> None:
    mine = make_cluster("")
    mine.launch(1)
    assert run("terminate-workers", mine.name, "--yes").exit_code == 0
    result = run("terminate-workers", mine.name, "--yes")
    assert result.exit_code == 0
    assert "Nothing to do" in result.stdout


def test_a_lost_private_half_is_not_renewed_while_a_worker_knows_the_old(
    run: Run, make_cluster: Callable[[str], Cluster], calls: Calls, aws: Path
) -> None:
    mine = make_cluster("")
    mine.launch(1)
    name = f"/ec2spawner/{mine.name}/ssh-key"
    asyncio.run(mine.gateway.call("ssm", "delete_parameter", {"Name": name}))
    up = ("up", mine.name, "--no-manager", "--yes", "--config-out", str(aws / "x.json"))
    calls.made.clear()
    result = run(*up)
    assert result.exit_code == 1
    assert "is lost, and 1 workers know only the old one" in result.stderr
    assert calls.changing == []
    assert run("terminate-workers", mine.name, "--yes").exit_code == 0
    assert run(*up).exit_code == 0


def test_what_ec2_launched_by_itself_ends_with_the_requests_that_stand(
    run: Run, make_cluster: Callable[[str], Cluster], calls: Calls
) -> None:
    mine = make_cluster("")
    request = replace(launch_request(mine.config, 2), market="spot")
    control("timings", spot_retry_seconds=1)
    first, second = asyncio.run(mine.ec2.launch(request, "token-spot"))
    mine.run_call("terminate_instances", InstanceIds=[first.instance_id])  # as in the console
    while not (stray := mine.strays(first.instance_id, second.instance_id)):
        time.sleep(0.05)
    control("timings", spot_retry_seconds=60)
    shown = run("terminate-workers", mine.name, "--dry-run")
    assert f"and end {stray[0]}, which EC2 launched for it by itself" in shown.stdout
    result = run("terminate-workers", mine.name, "--delete-homes", "--yes")
    assert result.exit_code == 0, result.stderr
    assert asyncio.run(mine.ec2.list_spot_requests()) == []
    states = {row["id"]: row["state"] for row in control("state")["instances"]}
    assert {states.get(i, "terminated") for i in (*stray, second.instance_id)} == {"terminated"}
    assert mine.homes() == []
    again = run("terminate-workers", mine.name, "--delete-homes", "--yes")
    assert "Nothing to do" in again.stdout


# ---- decisions


WORKER = Worker("i-1", InstanceState.RUNNING)
HOME = Volume("vol-1", VolumeState.AVAILABLE, size_gib=10)
SNAPSHOT = Snapshot("snap-1", SnapshotState.COMPLETED, volume_id="vol-1", size_gib=10)


def test_homes_of_workers_and_of_nobody_are_listed_those_attached_elsewhere_left_alone() -> None:
    root = replace(HOME, volume_id="vol-root", attached_to="i-1", device="/dev/sda1")
    held = replace(HOME, volume_id="vol-held", attached_to="i-1", device=HOME_DEVICE)
    foreign = replace(HOME, volume_id="vol-foreign", attached_to="i-9", device=HOME_DEVICE)
    going = replace(HOME, volume_id="vol-going", state=VolumeState.DELETING)
    ended = replace(WORKER, instance_id="i-2", state=InstanceState.TERMINATED)
    removal = plan_removal([WORKER, ended], [HOME, root, held, foreign, going])
    assert removal.workers == (WORKER,)
    assert [v.volume_id for v in removal.homes] == ["vol-1", "vol-held"]
    assert len(removal.left_alone) == 1
    assert "vol-foreign" in removal.left_alone[0]


@pytest.mark.parametrize(
    ("home", "snapshot", "allowed"),
    [
        (HOME, SNAPSHOT, True),
        (HOME, None, False),
        (HOME, replace(SNAPSHOT, state=SnapshotState.PENDING), False),
        (HOME, replace(SNAPSHOT, state=SnapshotState.ERROR), False),
        (HOME, replace(SNAPSHOT, volume_id="vol-2"), False),
        (HOME, replace(SNAPSHOT, size_gib=5), False),
        (replace(HOME, state=VolumeState.IN_USE), SNAPSHOT, False),
        (replace(HOME, attached_to="i-1"), SNAPSHOT, False),
    ],
)
def test_a_home_goes_only_when_free_and_its_own_snapshot_is_completed(
    home: Volume, snapshot: Snapshot | None, allowed: bool
) -> None:
    assert (may_delete(home, snapshot, with_snapshot=True) is None) is allowed


@pytest.mark.parametrize(("state", "allowed"), [("available", True), ("in-use", False)])
def test_without_a_snapshot_a_home_must_still_be_free(state: str, allowed: bool) -> None:
    home = replace(HOME, state=VolumeState(state))
    assert (may_delete(home, None, with_snapshot=False) is None) is allowed


# ---- order, with an EC2 that misbehaves


class FakeGateway(Gateway):
    """Says only which account it is."""

    def __init__(self) -> None:
        pass

    async def call(self, service: str, operation: str, *_: Any, **__: Any) -> dict[str, Any]:
        assert operation == "get_caller_identity"
        return {"Account": "1"}


class FakeEC2(EC2):
    """One cluster in memory; snapshots complete after ``slow`` looks, or as told."""

    def __init__(self, workers: Sequence[Worker], homes: Sequence[Volume]) -> None:
        self.cluster = "c"
        self.workers = {w.instance_id: w for w in workers}
        self.volumes = {v.volume_id: v for v in homes}
        self.made: dict[str, Snapshot] = {}
        self.slow = 0
        self.ends_as = SnapshotState.COMPLETED
        self.tags: dict[str, dict[str, str]] = {}
        self.deleted: list[str] = []
        self.terminated: list[str] = []
        self.cancelled: set[str] = set()
        self.requests: list[SpotRequest] = []
        self.hidden: set[str] = set()  # what the next listings of volumes lack
        self.refused: dict[str, CloudError] = {}
        self.stuck = False

    async def list_workers(self, ids: Sequence[str] | None = None) -> list[Worker]:
        return [w for i, w in self.workers.items() if ids is None or i in ids]

    async def list_volumes(self, ids: Sequence[str] | None = None) -> list[Volume]:
        shown = [v for v in self.volumes.values() if v.volume_id not in self.hidden or ids is None]
        return [v for v in shown if ids is None or v.volume_id in ids]

    async def list_spot_requests(self, ids: Sequence[str] | None = None) -> list[SpotRequest]:
        return [r for r in self.requests if ids is None or r.request_id in ids]

    async def cancel_spot(self, request_ids: Sequence[str]) -> None:
        self.cancelled.update(request_ids)

    async def tag(self, ids: Sequence[str], tags: Mapping[str, str]) -> None:
        raise NotFound("gone", aws_code="InvalidInstanceID.NotFound")

    async def list_snapshots(self, ids: Sequence[str] | None = None) -> list[Snapshot]:
        self.slow -= 1
        if self.slow < 0:
            self.made = {i: replace(s, state=self.ends_as) for i, s in self.made.items()}
        return [s for i, s in self.made.items() if ids is None or i in ids]

    async def tags_of(self, ids: Sequence[str]) -> dict[str, dict[str, str]]:
        ours = {"ec2spawner:cluster": "c", "ec2spawner:role": "worker"}
        return {i: self.tags.get(i, ours) for i in ids}

    async def terminate(self, ids: Sequence[str], spot_requests: Sequence[str] = ()) -> None:
        self.cancelled.update(spot_requests)
        for i in ids:
            if i in self.refused:
                raise self.refused[i]
        self.terminated += ids
        if not self.stuck:
            ended = InstanceState.TERMINATED
            self.workers |= {i: replace(self.workers[i], state=ended) for i in ids}

    async def snapshot(self, volume_id: str, tags: Mapping[str, str]) -> Snapshot:
        if volume_id in self.refused:
            raise self.refused[volume_id]
        known = [s for s in self.made.values() if s.volume_id == volume_id]
        if known:  # as for a lost reply: the newest of the volume is taken for it
            return known[-1]
        made = Snapshot(f"snap-{volume_id}", SnapshotState.PENDING, volume_id, 10)
        self.made[made.snapshot_id] = made
        return made

    async def delete_volume(self, volume_id: str) -> None:
        if f"delete {volume_id}" in self.refused:
            raise self.refused[f"delete {volume_id}"]
        states = [s.state for s in self.made.values() if s.volume_id == volume_id]
        assert states == [SnapshotState.COMPLETED]
        self.deleted.append(volume_id)


class VirtualTime:
    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def job_for(ec2: EC2, *, delete_homes: bool = True) -> TerminateWorkers:
    async def yes() -> None:
        pass

    virtual = VirtualTime()
    return TerminateWorkers(
        FakeGateway(),
        ec2,
        TerminateRequest("c", delete_homes=delete_homes),
        Reporter(),
        yes,
        sleep=virtual.sleep,
        clock=virtual.clock,
    )


async def test_a_slow_snapshot_is_waited_for() -> None:
    ec2 = FakeEC2([WORKER], [HOME])
    ec2.slow = 100
    result = await job_for(ec2).run(dry_run=False)
    assert ec2.deleted == ["vol-1"]
    assert result["outcome"] == "done"


async def test_a_snapshot_that_never_completes_keeps_its_home_and_begins_no_end() -> None:
    began = time.monotonic()
    ec2 = FakeEC2([WORKER], [HOME])
    ec2.slow = 10**9
    result = await job_for(ec2).run(dry_run=False)
    assert ec2.deleted == []
    assert result["outcome"] == "partly done"
    assert "snap-vol-1 is pending" in result["failed"][0]
    assert time.monotonic() - began < 20


async def test_a_failed_snapshot_keeps_its_home_and_the_others_go() -> None:
    other = replace(HOME, volume_id="vol-2")
    ec2 = FakeEC2([WORKER], [HOME, other])
    ec2.refused["vol-1"] = WrongState("no", aws_code="IncorrectState")
    result = await job_for(ec2).run(dry_run=False)
    assert ec2.deleted == ["vol-2"]
    assert "vol-1: no snapshot was made" in result["failed"][0]


async def test_a_snapshot_in_error_keeps_its_home() -> None:
    ec2 = FakeEC2([WORKER], [HOME])
    ec2.ends_as = SnapshotState.ERROR
    result = await job_for(ec2).run(dry_run=False)
    assert ec2.deleted == []
    assert "is error" in result["failed"][0]


async def test_an_earlier_snapshot_is_never_taken_for_the_new_one() -> None:
    ec2 = FakeEC2([WORKER], [HOME])
    ec2.made["snap-old"] = replace(SNAPSHOT, snapshot_id="snap-old")
    result = await job_for(ec2).run(dry_run=False)
    assert ec2.deleted == []
    assert "whether a snapshot was begun is unknown" in result["failed"][0]


async def test_a_snapshot_without_an_answer_keeps_its_home() -> None:
    ec2 = FakeEC2([WORKER], [HOME])
    ec2.refused["vol-1"] = OutcomeUnknown("lost")
    await job_for(ec2).run(dry_run=False)
    assert ec2.deleted == []


async def test_a_home_that_is_still_attached_is_kept() -> None:
    held = replace(HOME, state=VolumeState.IN_USE, attached_to="i-1", device=HOME_DEVICE)
    ec2 = FakeEC2([WORKER], [held])
    result = await job_for(ec2).run(dry_run=False)
    assert ec2.deleted == []
    assert "it is in-use" in result["failed"][0]


async def test_what_lost_our_tags_since_it_was_listed_is_not_ended() -> None:
    second = replace(WORKER, instance_id="i-2")
    third = replace(WORKER, instance_id="i-3")
    ec2 = FakeEC2([WORKER, second, third], [])
    ec2.tags["i-1"] = {"ec2spawner:cluster": "other", "ec2spawner:role": "worker"}
    ec2.tags["i-2"] = {"ec2spawner:cluster": "c", "ec2spawner:role": "manager"}
    await job_for(ec2, delete_homes=False).run(dry_run=False)
    assert ec2.terminated == ["i-3"]


async def test_one_worker_that_is_gone_holds_up_no_other() -> None:
    many = [replace(WORKER, instance_id=f"i-{n}") for n in range(450)]
    ec2 = FakeEC2(many, [])
    ec2.refused["i-77"] = NotFound("gone", aws_code="InvalidInstanceID.NotFound")
    ec2.refused["i-78"] = NotFound("gone", aws_code="InvalidInstanceID.NotFound")
    await job_for(ec2, delete_homes=False).run(dry_run=False)
    assert len(ec2.terminated) == 448


async def test_the_requests_of_spot_workers_end_with_them() -> None:
    spot = replace(WORKER, instance_id="i-2", is_spot=True, spot_request_id="sir-2")
    ec2 = FakeEC2([WORKER, spot], [])
    await job_for(ec2, delete_homes=False).run(dry_run=False)
    assert sorted(ec2.terminated) == ["i-1", "i-2"]
    assert ec2.cancelled == {"", "sir-2"}


async def test_a_request_that_stands_alone_is_work_too_and_another_clusters_machine_is_spared() -> (
    None
):
    ec2 = FakeEC2([], [])
    ec2.requests = [SpotRequest("sir-1", "open"), SpotRequest("sir-2", "active", "", "i-9")]
    ec2.tags["i-9"] = {"ec2spawner:cluster": "other", "ec2spawner:role": "worker"}
    result = await job_for(ec2).run(dry_run=False)
    assert ec2.cancelled == {"sir-1", "sir-2"}
    assert ec2.terminated == []
    assert result["failed"] == ["i-9 is left alone: it bears another's tags"]
    assert result["outcome"] == "partly done"


async def test_what_a_later_listing_lacks_has_failed() -> None:
    other = replace(HOME, volume_id="vol-2")
    ec2 = FakeEC2([WORKER, replace(WORKER, instance_id="i-2")], [HOME, other])
    ec2.hidden, ec2.tags["i-2"] = {"vol-2"}, {}
    result = await job_for(ec2).run(dry_run=False)
    assert ec2.deleted == ["vol-1"]
    assert [text.partition(" ")[0].strip(":") for text in result["failed"]] == ["i-2", "vol-2"]


async def test_workers_that_do_not_end_keep_all_homes() -> None:
    ec2 = FakeEC2([WORKER], [HOME])
    ec2.stuck = True
    with pytest.raises(StillThere, match="i-1 is running"):
        await job_for(ec2).run(dry_run=False)
    assert ec2.deleted == []
    assert ec2.made == {}


def test_only_snapshots_that_were_made_before_a_deletion_of_the_same_home_are_superseded() -> None:
    def saved(name: str, volume: str, last_of: str = "") -> Snapshot:
        tags = {TAG_LAST_OF: last_of} if last_of else {}
        return Snapshot(name, SnapshotState.COMPLETED, volume, tags=tags)

    found = superseded(
        [
            saved("snap-1", "vol-1", "vol-1"),
            saved("snap-2", "vol-1", "vol-1"),
            saved("snap-3", "vol-1"),  # an archive, or somebody's own
            saved("snap-4", "vol-2", "vol-1"),  # of a home that was made of such a snapshot
        ]
    )
    assert found == {"vol-1": ["snap-1", "snap-2"]}
