"""What the surge makes of its figures, and the spawner that it compares ours with."""

from __future__ import annotations

import argparse
import asyncio
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from benchmarks import report, surge
from benchmarks.client import Start
from benchmarks.one_call import TRIES, Calls
from benchmarks.report import Report

BOOT_SECONDS = 10.0
USERS = 500


def test_the_class_is_measured_as_asked_then_in_a_burst_then_doubled() -> None:
    planned = surge.scenes(500, 60, alone=False)
    assert [(s.users, s.within_seconds) for s in planned] == [(500, 60), (500, 1), (1000, 10)]
    assert planned[0].ways == ("nothing", "ours", "one_call")
    assert planned[1].ways == planned[2].ways == ("nothing", "ours")
    assert [s.name for s in surge.scenes(5, 2, alone=True, ways=["ours"])] == ["asked"]


def test_a_class_asked_for_at_once_is_the_burst_itself() -> None:
    planned = surge.scenes(500, 1, alone=False)
    assert [(s.name, s.users) for s in planned] == [("burst", 500), ("crowd", 1000)]
    assert "one_call" in planned[0].ways
    sheet = Report("surge", "stub", {})
    burst = figures()
    burst["burst"]["ways"]["one_call"] = {p: phase(53.0) for p in (surge.FIRST, surge.AGAIN)}
    del burst["asked"]
    sheet.results = burst
    surge.judged(sheet, BOOT_SECONDS)
    late = [check.name for check in sheet.checks if not check.met]
    assert late == [
        f"burst, {p}: one call per user is 4 times slower or loses users"
        for p in (surge.FIRST, surge.AGAIN)
    ]


def test_seconds_are_of_those_who_came_up_and_the_others_are_counted() -> None:
    starts = [Start(f"u{n}", float(n), answered=n + 10.0) for n in range(4)]
    starts += [Start("v", 1.0, failure="too late"), Start("w", 2.0, failure="too late")]
    found = surge.outcome(starts)
    assert (found["ready"], found["failed"], found["wall_seconds"]) == (4, 2, 13.0)
    assert found["seconds"] == {"p50": 10.0, "p99": 10.0, "max": 10.0}
    assert found["failures"] == {"too late": 2}


def test_nobody_who_came_up_took_no_seconds() -> None:
    assert surge.outcome([Start("v", 1.0, failure="no")]) == {
        "ready": 0,
        "failed": 1,
        "failures": {"no": 1},
    }


@pytest.mark.parametrize(("users", "seconds"), [(50, 0), (100, 0), (110, 1), (500, 40)])
def test_claims_last_as_long_as_ec2_limits_them(users: int, seconds: float) -> None:
    assert surge.claims_seconds(users) == seconds


def phase(p99: float, wall: float = 60.0, lag: float = 50.0) -> dict[str, Any]:
    return {
        "ready": USERS,
        "failed": 0,
        "seconds": {"p50": 1.0, "p99": p99, "max": p99},
        "wall_seconds": wall,
        "refused_by_throttling": {},
        "event_loop_lag": {"p99_ms": lag},
    }


def figures() -> dict[str, Any]:
    """Each figure just as its bound allows."""

    def ways(**rows: Any) -> dict[str, Any]:
        both = {way: {p: row(p) for p in (surge.FIRST, surge.AGAIN)} for way, row in rows.items()}
        return {"users": USERS, "ways": both}

    return {
        "asked": ways(
            nothing=lambda _: phase(1.0),
            ours=lambda _: phase(13.0, lag=150.0),
            one_call=lambda _: phase(53.0),
        ),
        "burst": ways(
            nothing=lambda _: phase(16.0, wall=16.0),
            ours=lambda p: phase(60.0, wall=70.0 if p == surge.FIRST else 32.5, lag=150.0),
        ),
    }


def missed(results: dict[str, Any]) -> list[str]:
    sheet = Report("surge", "stub", {})
    sheet.results = results
    surge.judged(sheet, BOOT_SECONDS)
    return [check.name for check in sheet.checks if not check.met]


def test_figures_at_their_bounds_keep_them() -> None:
    assert missed(figures()) == []


def ours(results: Any, scene: str = "asked", name: str = surge.FIRST) -> Any:
    return results[scene]["ways"]["ours"][name]


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (lambda r: ours(r).update(ready=499), "asked, first_login: ready"),
        (lambda r: ours(r).update(failed=1), "asked, first_login: failed"),
        (
            lambda r: ours(r).update(refused_by_throttling={"CreateTags": 1}),
            "asked, first_login: refused by throttling",
        ),
        (
            lambda r: ours(r)["event_loop_lag"].update(p99_ms=150.2),
            "asked, first_login: event loop's lag over the hub's own, p99",
        ),
        (
            lambda r: ours(r, name=surge.AGAIN)["seconds"].update(p99=13.01),
            "asked, stopped_worker: request to ready, p99",
        ),
        (
            lambda r: ours(r, "burst").update(wall_seconds=70.1),
            "burst, first_login: first request to last ready",
        ),
        (
            lambda r: ours(r, "burst", surge.AGAIN).update(wall_seconds=32.6),
            "burst, stopped_worker: first request to last ready",
        ),
        (
            lambda r: r["asked"]["ways"]["one_call"][surge.FIRST]["seconds"].update(p99=51.9),
            "asked, first_login: one call per user is 4 times slower or loses users",
        ),
    ],
)
def test_each_figure_beyond_its_bound_is_told(spoil: Callable[[Any], Any], name: str) -> None:
    results = copy.deepcopy(figures())
    spoil(results)
    assert missed(results) == [name]


def test_a_way_that_loses_users_is_far_worse_however_fast_it_is() -> None:
    lossy = {**phase(1.0), "failed": 1}
    assert surge.is_far_worse(lossy, phase(13.0))
    assert surge.is_far_worse({"failed": 0}, phase(13.0))
    assert not surge.is_far_worse(phase(51.9), phase(13.0))


def test_phases_are_of_the_starts_in_between_only() -> None:
    def metrics(total: float, count: float) -> dict[str, float]:
        name = "ec2spawner_start_phase_seconds"
        return {f"{name}_sum['machine']": total, f"{name}_count['machine']": count}

    assert surge.mean_phases(metrics(100, 10), metrics(160, 30))["machine"] == 3.0
    assert surge.mean_phases({}, metrics(6, 3)) == {"machine": 2.0, "ssh": 0.0, "server": 0.0}


class Refusing:
    """A client whose first calls are refused."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.made = 0

    def run_instances(self, **params: Any) -> dict[str, Any]:
        self.made += 1
        if self.made <= self.refusals:
            code = {"Error": {"Code": "RequestLimitExceeded", "Message": ""}}
            raise ClientError(code, "RunInstances")  # type: ignore[arg-type]
        return params


async def nap(seconds: float) -> None:
    await asyncio.sleep(0)


async def test_one_call_per_user_repeats_what_is_refused_and_gives_up_in_the_end() -> None:
    client = Refusing(TRIES - 1)
    assert await Calls(client, nap).make("run_instances", MinCount=1) == {"MinCount": 1}
    assert client.made == TRIES
    with pytest.raises(ClientError):
        await Calls(Refusing(TRIES), nap).make("run_instances")


class Described:
    """A client to which a machine shows one state after the other."""

    def __init__(self, *states: str) -> None:
        self.states = list(states)

    def describe_instances(self, InstanceIds: list[str]) -> dict[str, Any]:  # noqa: N803 - boto3's
        instance = {"InstanceId": InstanceIds[0], "State": {"Name": self.states.pop(0)}}
        return {"Reservations": [{"Instances": [instance]}]}


async def test_one_call_per_user_asks_again_until_its_own_machine_runs() -> None:
    client = Described("pending", "pending", "running", "stopped")
    worker = await Calls(client, nap).until_running("i-1")
    assert worker.instance_id == "i-1"
    assert client.states == ["stopped"]


async def test_a_small_class_comes_up_in_a_real_hub_and_again(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    report.common_options(parser)
    surge.add_options(parser)
    few = ["--users", "3", "--within", "0.2", "--boot-seconds", "0.5", "--alone", "--ways", "ours"]
    (sheet,) = await surge.measure(parser.parse_args([*few, "--keep", str(tmp_path)]))
    ours = sheet.results["burst"]["ways"]["ours"]
    for name in (surge.FIRST, surge.AGAIN):
        row = ours[name]
        assert (row["ready"], row["failed"], row["refused_by_throttling"]) == (3, 0, {})
        assert row["hub_cpu_seconds"] > 0
        assert row["mean_phase_seconds"]["machine"] > 0
    assert ours[surge.FIRST]["aws_calls"]["RunInstances"] <= 3
    assert "RunInstances" not in ours[surge.AGAIN]["aws_calls"]
