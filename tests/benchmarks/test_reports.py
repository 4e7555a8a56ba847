"""The shape of a report, and how figures become bounds that are kept or not."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import control_plane, report, soak, spawn_overhead
from benchmarks.__main__ import MODULES
from benchmarks.client import Start
from benchmarks.inside import LagMeter, Marks
from benchmarks.report import Report

HEAD = {"schema", "benchmark", "workers", "settings", "measured_at", "machine", "versions"}
TAIL = {"load_average_after", "seconds", "results", "checks"}


def a_report(met: bool = True) -> Report:
    sheet = Report("example", "stub", {"runs": 1})
    sheet.results = {"figure": 1.5}
    sheet.check("figure", 1.5, 2 if met else 1, "s")
    sheet.close()
    return sheet


async def reports(*sheets: Report) -> list[Report]:
    return [*sheets]


def test_a_report_says_where_with_what_and_how_it_was_measured() -> None:
    document = a_report().to_json()
    assert set(document) == HEAD | TAIL
    assert document["machine"]["cores"] >= 1
    assert len(document["machine"]["load_average"]) == 3
    assert {"jupyterhub", "ec2spawner", "python"} <= set(document["versions"])
    assert document["workers"] == "stub"


def test_one_report_is_an_object_and_several_are_a_list(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert report.run(reports(a_report()), strict=False, as_list=False) == 0
    assert json.loads(capsys.readouterr().out)["benchmark"] == "example"
    assert report.run(reports(a_report(), a_report()), strict=False, as_list=True) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


@pytest.mark.parametrize(("strict", "code"), [(False, 0), (True, 1)])
def test_a_bound_that_is_not_kept_is_told_and_ends_a_strict_run_with_1(
    strict: bool, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.run(reports(a_report(met=False)), strict=strict, as_list=False) == code
    assert "NOT KEPT: figure: 1.5, bound 1 s" in capsys.readouterr().err


def test_a_benchmarks_own_options_and_the_common_ones_reach_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given: list[argparse.Namespace] = []

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--runs", type=int, default=5)

    async def measure(options: argparse.Namespace) -> list[Report]:
        given.append(options)
        return [a_report(met=False)]

    arguments = ["--runs", "2", "--strict", "--keep", str(tmp_path)]
    assert report.main("example", add_options, measure, arguments) == 1
    assert (given[0].runs, given[0].keep) == (2, tmp_path)
    assert json.loads(capsys.readouterr().out)["benchmark"] == "example"
    with pytest.raises(SystemExit):
        report.main("example", add_options, measure, ["--run", "many"])
    assert "python -m benchmarks.example" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(module.__name__ for module in (*MODULES, soak)))
def test_each_benchmark_is_a_command(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", name, "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"usage: python -m {name} ")


def test_a_signal_to_end_lets_the_benchmark_clean_up_and_exits_with_130(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cleaned = False

    async def measure() -> list[Report]:
        nonlocal cleaned
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            cleaned = True
        return []

    assert report.run(measure(), strict=False, as_list=True) == 130
    assert cleaned
    assert capsys.readouterr().out == ""


class Measured:
    """Rounds as they were measured elsewhere."""

    def __init__(self, plain: float, ours: float, seconds: float) -> None:
        self.bare = {"plain": [plain] * 2, "ours": [ours] * 2}
        self.starts = {way: [self._start(seconds)] * 2 for way in spawn_overhead.WAYS}

    def _start(self, seconds: float) -> Start:
        marks = [("machine", 10.5), ("connected", 12.5)]
        return Start("ada", 10.0, 10.1, 9.5 + seconds, 10 + seconds, inside=marks)


def overhead(measured: Any) -> Report:
    sheet = Report("spawn_overhead", "process", {})
    sheet.results = spawn_overhead.results(measured, boot_seconds=2.0)
    spawn_overhead.judged(sheet)
    return sheet


def test_the_floor_is_the_boot_where_there_is_one_and_the_bare_start() -> None:
    results = overhead(Measured(plain=3.0, ours=1.5, seconds=5.4)).results
    for way, plain, ours in (
        ("first_login", 0.4, 1.9),
        ("stopped_worker", 0.4, 1.9),
        ("running_worker", 2.4, 3.9),
    ):
        assert results[way]["added_to_plain_floor"]["median"] == pytest.approx(plain)
        assert results[way]["added_to_our_server_floor"]["median"] == pytest.approx(ours)


def test_more_than_half_a_second_over_the_floor_is_not_kept() -> None:
    met = {c.name: c.met for c in overhead(Measured(3.0, 1.5, seconds=5.4)).checks}
    assert list(met.values()) == [True, True, False]


def test_every_phase_of_a_start_is_told_with_its_meaning() -> None:
    phases = overhead(Measured(3.0, 1.5, 5.4)).results["first_login"]["phases"]
    assert list(phases) == ["machine", "connected", "ready_seen", "page"]
    assert phases["connected"]["median"] == 2.0
    assert all(phase["what"] for phase in phases.values())


def test_own_metrics_become_means() -> None:
    name = "ec2spawner_start_phase_seconds"
    metrics = {}
    for phase, total in (("machine", 2.0), ("ssh", 8.0), ("server", 6.0)):
        metrics |= {f"{name}_sum['{phase}']": total, f"{name}_count['{phase}']": 4.0}
    means = spawn_overhead.own_metrics(metrics)
    assert (means["machine"], means["ssh"], means["server"]) == (0.5, 2.0, 1.5)


def control(**changes: Any) -> dict[str, bool]:
    quiet = {
        "calls_per_minute": {"DescribeInstances": 2.0},
        "calls_beside_listings": {},
        "lease_calls_per_minute": {"PutObject": 6.7},
    }
    figures: dict[str, Any] = {
        "start": {"StartInstances": 1},
        "first": {"RunInstances": 1, "CreateTags": 2},
        "many": {},
        "refused": {},
        "by_cloud": 8,
        **changes,
    }
    sheet = Report("control_plane", "stub", {})
    sheet.results = {
        "logins": {
            "stopped_worker": {"aws_calls_beside_listings": figures["start"]},
            "first_login": {"aws_calls_beside_listings": figures["first"]},
        },
        "quiet_minute": {
            "with_1_running": quiet,
            f"with_{control_plane.SERVERS}_running": {**quiet, **figures["many"]},
            "calls_counted_by_the_hubs": 8,
            "calls_counted_by_the_cloud": figures["by_cloud"],
        },
        "refused": figures["refused"],
    }
    control_plane.judged(sheet)
    return {check.name: check.met for check in sheet.checks}


def test_the_calls_of_the_design_keep_every_bound() -> None:
    assert all(control().values())


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"start": {"StartInstances": 1, "DescribeTags": 1}}, "a start of a stopped worker"),
        ({"first": {"RunInstances": 1, "CreateTags": 3}}, "a first login"),
        ({"many": {"calls_per_minute": {"DescribeInstances": 52.0}}}, "calls per minute"),
        ({"many": {"calls_beside_listings": {"DescribeTags": 1}}}, "calls beside listings"),
        ({"many": {"lease_calls_per_minute": {"PutObject": 60.0}}}, "lease renewals with 50"),
        ({"refused": {"RunInstances": 1}}, "refused"),
        ({"by_cloud": 9}, "every call"),
    ],
)
def test_a_call_too_many_breaks_its_bound_and_no_other(changes: dict[str, Any], name: str) -> None:
    missed = [check for check, met in control(**changes).items() if not met]
    assert len(missed) == 1
    assert name in missed[0]


def test_the_leases_calls_are_told_from_all_others_by_hub_and_cloud() -> None:
    calls = {"PutObject": 3, "s3:PutObject": 3, "s3:GetObject": 1, "CreateTags": 2}
    assert control_plane.of_lease(calls) == {"PutObject": 3, "s3:PutObject": 3, "s3:GetObject": 1}
    assert control_plane.beside_lease(calls) == {"CreateTags": 2}
    assert control_plane.changing({"PutObject": 3, "DescribeTags": 1, "DescribeVolumes": 1}) == {
        "DescribeTags": 1
    }


def test_memory_grows_per_server_from_the_first_and_from_the_second_sample() -> None:
    rows = [(0, 100), (1, 110), (51, 160)]
    samples = [
        {
            "running": running,
            "rss_bytes": mib * 2**20,
            "private_bytes": 0,
            "tasks": 1,
            "descriptors": 1,
        }
        for running, mib in rows
    ]
    found = control_plane.memory_figures(samples)
    assert found["rss_kib_per_server"] == pytest.approx(60 * 1024 / 51, abs=0.1)
    assert found["rss_kib_per_further_server"] == 1024.0


def test_lag_is_told_as_what_comes_on_top_of_a_hub_that_does_nothing() -> None:
    def lag(p50: float, p99: float) -> dict[str, Any]:
        return {"event_loop_lag": {"p50_ms": p50, "p99_ms": p99}}

    logins = {"first_logins_at_once": lag(12, 80), "stopped_workers_at_once": lag(9, 40)}
    found = control_plane.lag_over(logins, {"spawns_at_once": lag(10, 50)})
    assert found["first_logins_at_once"] == {"p50_ms": 2, "p99_ms": 30}
    assert found["stopped_workers_at_once"] == {"p50_ms": -1, "p99_ms": -10}


async def test_every_tick_that_a_blocked_loop_missed_counts_as_lag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    turns = 0

    async def sleep(seconds: float) -> None:
        nonlocal now, turns
        turns += 1
        now += seconds + (0.1 if turns == 1 else 0.0)  # once, somebody blocks for 100 ms
        if turns == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr("benchmarks.inside.time.monotonic", lambda: now)
    monkeypatch.setattr("benchmarks.inside.asyncio.sleep", sleep)
    meter = LagMeter()
    with contextlib.suppress(asyncio.CancelledError):
        await meter.run()
    found = meter.report()
    assert found["samples"] >= 10
    assert found["max_ms"] == pytest.approx(100, abs=0.1)
    assert 40 <= found["p50_ms"] <= 60
    meter.reset()
    assert meter.report()["samples"] == 0


async def test_marks_wrap_a_method_and_pass_on_what_it_returns() -> None:
    class Door:
        async def open(self, who: str) -> str:
            return f"come in, {who}"

    marks = Marks()
    marks.around(Door, "open", lambda _, who: who, "knock", "open")
    assert await Door().open("ada") == "come in, ada"
    assert [name for name, _ in marks.take("ada")] == ["knock", "open"]
    assert marks.take("ada") == []
