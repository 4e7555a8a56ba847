"""What a quiet fleet may cost, and the cluster that the cost is measured on."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import seeded, steady
from benchmarks.report import Report
from ec2spawner.localcloud.clock import ManualClock
from ec2spawner.localcloud.ec2.state import Timings
from ec2spawner.localcloud.inprocess import InProcessCloud
from ec2spawner.model import InstanceState, parse_volume, parse_worker


@pytest.mark.parametrize(
    ("workers", "instances", "volumes"),
    [(1, 2, 2), (1000, 2, 4), (1001, 4, 6), (10_000, 20, 40)],
)
def test_a_minute_holds_two_listings_of_as_many_pages_as_there_are(
    workers: int, instances: int, volumes: int
) -> None:
    most = steady.most_listings(workers, 60.0)
    assert (most["DescribeInstances"], most["DescribeVolumes"]) == (instances, volumes)


def row(workers: int, **changes: Any) -> dict[str, Any]:
    figures = {
        "seconds": 60.0,
        "cpu_seconds": workers / 500,
        "aws_calls": steady.most_listings(workers, 60.0),
        "rss_bytes": 100 * 2**20,
        "peak_rss_bytes": 100 * 2**20,
        "event_loop_lag": {},
        **changes,
    }
    return steady.row_of(figures, workers)


def missed(*rows: dict[str, Any]) -> list[str]:
    sheet = Report("steady", "none", {})
    steady.judged(sheet, rows)
    return [check.name for check in sheet.checks if not check.met]


def test_what_grows_as_the_workers_do_keeps_every_bound() -> None:
    assert missed(row(100), row(1000), row(10_000)) == []


def test_one_call_more_than_the_pages_is_told() -> None:
    calls = {**steady.most_listings(1000, 60.0), "DescribeInstances": 3}
    assert missed(row(1000, aws_calls=calls)) == ["1000 workers: DescribeInstances"]


def test_a_call_that_is_no_listing_is_told() -> None:
    calls = {**steady.most_listings(1000, 60.0), "DescribeTags": 1}
    assert missed(row(1000, aws_calls=calls)) == ["1000 workers: calls beside listings"]


@pytest.mark.parametrize("figure", ["cpu_seconds", "peak_rss_bytes"])
def test_what_grows_faster_than_the_workers_is_told(figure: str) -> None:
    few = row(100)
    names = missed(few, row(1000, **{figure: 2**40}))
    assert len(names) == 1
    assert names[0].endswith("of 1000 workers, as many times that of 100")


@pytest.mark.parametrize("text", ["", "10,10", "100,10", "0,10", "a"])
def test_sizes_that_do_not_grow_are_refused(text: str) -> None:
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        steady.sizes(text)
    assert steady.sizes("10,100") == [10, 100]


def test_a_seeded_cluster_is_running_claimed_and_whole(tmp_path: Path) -> None:
    seeded.fill(tmp_path, 7)
    clock = ManualClock(time.time())
    with InProcessCloud(clock=clock, state_dir=tmp_path, timings=Timings()) as cloud:
        client = cloud.client("ec2")
        reservations = client.describe_instances()["Reservations"]
        workers = [parse_worker(raw) for r in reservations for raw in r["Instances"]]
        volumes = [parse_volume(raw) for raw in client.describe_volumes()["Volumes"]]
    homes = {volume.volume_id: volume for volume in volumes}
    assert len(workers) == 7
    assert len(volumes) == 7 * seeded.VOLUMES_EACH
    for worker in workers:
        home = homes[worker.home_volume_id or ""]
        assert worker.state is InstanceState.RUNNING
        assert home.owner == worker.owner
        assert home.claim == worker.claim
        assert home.attached_to == worker.instance_id
        assert home.generation == 1
    assert {w.owner for w in workers} == {seeded.owner_of(n).key for n in range(7)}
