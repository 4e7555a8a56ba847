"""A benchmark's report: where and with what it was measured, results, and which bounds are kept.

Owns the one shape of all reports, and the commands' options that are common to them. JSON goes to
stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.arithmetic import Check

SCHEMA = 1
PACKAGES = (
    *("ec2spawner", "jupyterhub", "jupyterlab", "jupyter-server"),
    *("asyncssh", "boto3", "moto", "tornado"),
)
_begun = time.monotonic()

Row = dict[str, Any]


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(f"[{time.monotonic() - _begun:6.1f} s] {text}", file=sys.stderr, flush=True)


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    found = {"python": platform.python_version(), "kernel": platform.release()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def machine() -> Row:
    """The computer, and how busy it was when asked; others' work makes every figure worse."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class Report:
    """Collects one benchmark's results."""

    def __init__(self, benchmark: str, workers: str, settings: Mapping[str, Any]) -> None:
        self.results: Row = {}
        self.checks: list[Check] = []
        self._head = {
            "schema": SCHEMA,
            "benchmark": benchmark,
            "workers": workers,
            "settings": dict(settings),
            "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
        }
        self._begun = time.monotonic()
        self._end: Row = {}

    def close(self) -> None:
        """All is measured: how long that took, and how busy the computer was at the end."""
        self._end = {
            "load_average_after": [round(load, 2) for load in os.getloadavg()],
            "seconds": round(time.monotonic() - self._begun, 1),
        }

    def check(self, name: str, value: Any, bound: Any, unit: str, *, exact: bool = False) -> None:
        """Note a figure and its bound."""
        self.checks.append(Check(name, value, bound, unit, exact))

    def to_json(self) -> Row:
        """The report."""
        return {
            **self._head,
            **self._end,
            "results": self.results,
            "checks": [check.to_json() for check in self.checks],
        }


def main(
    benchmark: str,
    add_options: Callable[[argparse.ArgumentParser], None],
    measure: Callable[[argparse.Namespace], Coroutine[Any, Any, Sequence[Report]]],
    arguments: Sequence[str] | None = None,
) -> int:
    """The command of one benchmark: its options, its report, its exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}")
    common_options(parser)
    add_options(parser)
    options = parser.parse_args(arguments)
    return run(measure(options), strict=options.strict, as_list=False)


def common_options(parser: argparse.ArgumentParser) -> None:
    """Options that every benchmark takes."""
    add = parser.add_argument
    add("--keep", type=Path, metavar="DIR", help="put logs and state there, and keep them")
    add("--strict", action="store_true", help="exit with 1 when a bound is not kept")


async def _until_signal(work: Coroutine[Any, Any, Sequence[Report]]) -> Sequence[Report]:
    """Do the work; a signal to end cancels it, so that it ends what it has started."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def run(work: Coroutine[Any, Any, Sequence[Report]], *, strict: bool, as_list: bool) -> int:
    """Measure and print; the exit code. One report is printed as an object, several as a list."""
    try:
        reports = asyncio.run(_until_signal(work))
    except asyncio.CancelledError:
        say("interrupted")
        return 130
    documents = [report.to_json() for report in reports]
    print(json.dumps(documents if as_list else documents[0], indent=1))
    missed = [check for report in reports for check in report.checks if not check.met]
    for check in missed:
        say(f"NOT KEPT: {check.name}: {check.value}, bound {check.bound} {check.unit}")
    return 1 if strict and missed else 0
