"""A new manager gets the hub's data that an earlier one left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ec2spawner.cloud import Gateway
from launch_cluster import down, hubdata
from launch_cluster.facts import HubData
from launch_cluster.hosting import manager_obstacles
from launch_cluster.hubdata import REUSE_SECONDS, TAG_TAKEOVER, begun_before, newest, save
from launch_cluster.manager_request import ManagerOptions, read_manager
from launch_cluster.reporter import Reporter

from .shops import ask
from .test_hosting import ASKED, EMPTY, planned, spec_of

Run = Callable[..., Result]


def at(day: int) -> datetime:
    return datetime(2026, 1, day, tzinfo=timezone.utc)


def volume(ident: str, day: int, state: str = "available") -> dict[str, Any]:
    return {"VolumeId": ident, "CreateTime": at(day), "State": state, "Size": 20}


def snapshot(ident: str, day: int, state: str = "completed") -> dict[str, Any]:
    return {"SnapshotId": ident, "StartTime": at(day), "State": state, "VolumeSize": 20}


def test_the_newest_volume_is_taken_and_only_without_one_the_newest_snapshot() -> None:
    volumes = [volume("vol-1", 1), volume("vol-2", 3), volume("vol-3", 5, "deleting")]
    snapshots = [snapshot("snap-1", 9), snapshot("snap-2", 7), snapshot("snap-3", 10, "pending")]
    assert newest(volumes, snapshots) == HubData("vol-2", 20)
    assert newest([], snapshots) == HubData("snap-1", 20, snapshot_id="snap-1")
    assert newest([], []) is None


def test_a_volume_that_a_machine_still_holds_stands_in_the_way() -> None:
    held = {**volume("vol-1", 1, "in-use"), "Attachments": [{"InstanceId": "i-1"}]}
    data = newest([held], [])
    assert EMPTY.manager
    facts = replace(EMPTY, manager=replace(EMPTY.manager, data=data))
    (finding,) = manager_obstacles(ASKED, facts, "subnet-0123456789abcdef2")
    assert "vol-1 of an earlier manager is attached to i-1" in str(finding)


def test_the_new_volume_is_as_large_and_its_snapshot_is_said_once() -> None:
    assert EMPTY.manager
    data = HubData("snap-1", 50, snapshot_id="snap-1")
    facts = replace(EMPTY, manager=replace(EMPTY.manager, data=data))
    assert spec_of(facts=EMPTY).parameters["DataSnapshotId"] == ""
    parameters = spec_of(facts=facts).parameters
    assert (parameters["DataSizeGib"], parameters["DataSnapshotId"]) == ("50", "snap-1")
    assert planned(facts=facts).data == data


def test_a_snapshot_of_a_run_that_was_broken_off_is_taken_if_it_is_young_and_not_in_error() -> None:
    def takeover(ident: str, day: int, state: str = "completed", of: str = "vol-1") -> Any:
        return {**snapshot(ident, day, state), "Tags": [{"Key": TAG_TAKEOVER, "Value": of}]}

    now = at(9).timestamp()
    daily = snapshot("snap-daily", 9)
    assert begun_before([daily], "vol-1", now) is None
    assert begun_before([daily, takeover("snap-1", 9, "pending")], "vol-1", now) == "snap-1"
    assert begun_before([takeover("snap-1", 9)], "vol-1", now + REUSE_SECONDS) == "snap-1"
    assert begun_before([takeover("snap-1", 9)], "vol-1", now + REUSE_SECONDS + 1) is None
    assert begun_before([takeover("snap-1", 9, "error")], "vol-1", now) is None
    assert begun_before([takeover("snap-1", 9, of="vol-2")], "vol-1", now) is None


def test_new_data_is_for_a_manager() -> None:
    request, faults = read_manager(ManagerOptions(has_new_data=True), None)
    assert request is not None
    assert request.has_new_data
    assert not faults
    _, faults = read_manager(ManagerOptions(is_left_out=True, has_new_data=True), None)
    assert [fault.key for fault in faults] == ["--new-data"]


# ---- against the emulated cloud


def data_volumes(gateway: Gateway, cluster: str) -> dict[str, dict[str, Any]]:
    """The volumes of the hub's data, by id."""
    filters = [
        {"Name": "tag:ec2spawner:cluster", "Values": [cluster]},
        {"Name": "tag:ec2spawner:role", "Values": ["manager"]},
    ]
    found = ask(gateway, "ec2", "describe_volumes", Filters=filters)["Volumes"]
    return {
        v["VolumeId"]: v
        for v in found
        if not any(a["DeleteOnTermination"] for a in v["Attachments"])
    }


def source_of(gateway: Gateway, snapshot_id: str) -> str:
    found = ask(gateway, "ec2", "describe_snapshots", SnapshotIds=[snapshot_id])["Snapshots"]
    volume_id: str = found[0]["VolumeId"]
    return volume_id


def test_up_after_down_goes_on_with_the_hubs_data_unless_told_otherwise(
    run: Run, aws: Path, cluster: str, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(down, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(hubdata, "POLL_SECONDS", 0.05)
    assert run("up", cluster, "--yes").exit_code == 0
    (first,) = data_volumes(gateway, cluster)
    assert run("down", cluster, "--yes").exit_code == 0

    shown = run("up", cluster, "--dry-run")
    assert f"take the hub's data over from the volume {first} (10 GiB)" in shown.stdout
    assert run("up", cluster, "--yes").exit_code == 0
    volumes = data_volumes(gateway, cluster)
    (second,) = set(volumes) - {first}
    assert source_of(gateway, volumes[second]["SnapshotId"]) == first
    saved_daily = [
        ident
        for ident, raw in volumes.items()
        if "ec2spawner:backup" in {tag["Key"] for tag in raw["Tags"]}
    ]
    assert saved_daily == [second]
    assert "nothing to do" in run("up", cluster, "--yes").stdout
    assert run("down", cluster, "--yes").exit_code == 0

    for ident in (first, second):
        ask(gateway, "ec2", "delete_volume", VolumeId=ident)
    shown = run("up", cluster, "--dry-run", "--output", "json")
    (line,) = (step for step in json.loads(shown.stdout)["steps"] if "hub's data" in step)
    assert "from the snapshot snap-" in line
    result = run("up", cluster, "--new-data", "--yes")
    assert result.exit_code == 0, result.stderr
    (blank,) = data_volumes(gateway, cluster).values()
    assert not blank["SnapshotId"]


def test_runs_that_are_broken_off_share_one_snapshot_of_the_hubs_data(
    run: Run, aws: Path, cluster: str, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubdata, "POLL_SECONDS", 0.05)
    made = ask(
        gateway,
        "ec2",
        "create_volume",
        AvailabilityZone="us-east-1a",
        Size=10,
        TagSpecifications=[
            {"ResourceType": "volume", "Tags": [{"Key": "ec2spawner:cluster", "Value": cluster}]}
        ],
    )
    data = HubData(made["VolumeId"], 10)

    async def twice() -> set[str]:
        return {await save(gateway, cluster, data, Reporter()) for _ in range(2)}

    (snapshot_id,) = asyncio.run(twice())
    assert source_of(gateway, snapshot_id) == data.ident
