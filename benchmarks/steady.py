"""``python -m benchmarks.steady``: what running workers cost while nothing happens.

A fleet in a process of its own, without a hub, against an emulated cloud in another that holds so
many running workers, each wanted by its owner: AWS calls and CPU seconds a minute, and memory. No
machines are behind the workers, so that nothing but listing, reading and planning is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import report, seeded
from benchmarks.bed import REPOSITORY, Bed, Setting, made
from benchmarks.report import Report, Row, say
from ec2spawner.ec2 import PAGE_SIZE
from ec2spawner.inventory import FULL_SECONDS

START_SECONDS = 300.0
MIB = 2**20


def most_listings(workers: int, seconds: float) -> dict[str, int]:
    """The pages of one listing of everything, as often as one is due in such a time."""
    refreshes = math.ceil(seconds / FULL_SECONDS)
    volumes = seeded.VOLUMES_EACH * workers
    return {
        "DescribeInstances": refreshes * max(1, math.ceil(workers / PAGE_SIZE)),
        "DescribeVolumes": refreshes * max(1, math.ceil(volumes / PAGE_SIZE)),
        "DescribeSnapshots": 1,
    }


def row_of(figures: Mapping[str, Any], workers: int) -> Row:
    """Figures of one size, by the minute and by the worker."""
    minutes = figures["seconds"] / 60
    calls = figures["aws_calls"]
    return {
        "workers": workers,
        "seconds": figures["seconds"],
        "aws_calls": calls,
        "aws_calls_per_minute": round(sum(calls.values()) / minutes, 1),
        "cpu_seconds_per_minute": round(figures["cpu_seconds"] / minutes, 3),
        "rss_mib": round(figures["rss_bytes"] / MIB, 1),
        "peak_rss_mib": round(figures["peak_rss_bytes"] / MIB, 1),
        "event_loop_lag": figures["event_loop_lag"],
    }


def judged(sheet: Report, rows: Sequence[Row]) -> None:
    """Note each bound."""
    for row in rows:
        most = most_listings(row["workers"], row["seconds"])
        others = {action: n for action, n in row["aws_calls"].items() if action not in most}
        what = f"{row['workers']} workers"
        sheet.check(f"{what}: calls beside listings", others, {}, "", exact=True)
        for action, bound in most.items():
            sheet.check(f"{what}: {action}", row["aws_calls"].get(action, 0), bound, "calls")
    for few, many in itertools.pairwise(rows):
        times = many["workers"] / few["workers"]
        for figure in ("cpu_seconds_per_minute", "peak_rss_mib"):
            grown = round(many[figure] / max(few[figure], 0.001), 2)
            name = f"{figure} of {many['workers']} workers, as many times that of {few['workers']}"
            sheet.check(name, grown, times, "")


async def _measured(bed: Bed, workers: int, seconds: float) -> Row:
    folder = bed.folder / "fleet"
    arguments = [str(workers), f"{seconds:g}", str(folder)]
    command = [sys.executable, "-m", "benchmarks.steady_fleet", *arguments]
    fleet = bed.part("fleet", command, {**bed.environment, "PYTHONPATH": str(REPOSITORY)})
    await fleet.start()
    try:
        code = await asyncio.wait_for(fleet.ended(), START_SECONDS + seconds)
    finally:
        await fleet.stop(1.0)
    if code:
        raise fleet.failure(f"ended with code {code}")
    figures = json.loads((folder / "figures.json").read_text())
    if figures["workers_listed"] != workers:
        raise RuntimeError(f"{figures['workers_listed']} workers listed instead of {workers}")
    return row_of(figures, workers)


async def measure(options: argparse.Namespace) -> list[Report]:
    """The report."""
    settings = {
        "workers": options.workers,
        "seconds": options.seconds,
        "refresh_seconds": FULL_SECONDS,
        "who": "a fleet in a process of its own, without a hub; no machines behind the workers",
    }
    sheet = Report("steady", "none", settings)
    rows = []
    for workers in options.workers:
        say(f"steady: {workers} running workers for {options.seconds:g} s")
        keep: Path | None = options.keep and options.keep / str(workers)
        setting = Setting("stub", 1.0, 1.0, in_memory=True)
        prepare = partial(seeded.fill, workers=workers)
        async with made(setting, keep, prepare=prepare) as bed:
            rows.append(await _measured(bed, workers, options.seconds))
        say(f"steady: {rows[-1]}")
    sheet.results = {"sizes": rows}
    sheet.close()
    judged(sheet, rows)
    return [sheet]


def sizes(text: str) -> list[int]:
    """Numbers of workers, with commas between them, as they grow."""
    found = [int(part) for part in text.split(",")]
    if found != sorted(set(found)) or found[0] < 1:
        raise argparse.ArgumentTypeError("numbers over 0, each more than the one before")
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this benchmark."""
    add = parser.add_argument
    usual = "100,1000,10000"
    add("--workers", type=sizes, default=sizes(usual), help=f"that run ({usual})")
    add("--seconds", type=float, default=60.0, help="of which each is measured (60)")


if __name__ == "__main__":
    sys.exit(report.main("steady", add_options, measure))
