"""``python -m benchmarks``: all of them, one after the other, as one JSON list."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks import control_plane, crowd, pool, report, spawn_overhead, steady, surge
from benchmarks.report import Report

MODULES = (control_plane, spawn_overhead, pool, surge, steady, crowd)


def usual_options(module: Any) -> argparse.Namespace:
    """A benchmark's options where nobody chooses; to choose, each is run by itself."""
    parser = argparse.ArgumentParser()
    report.common_options(parser)
    module.add_options(parser)
    return parser.parse_args([])


async def measure(keep: Path | None) -> list[Report]:
    """Their reports."""
    reports: list[Report] = []
    for module in MODULES:
        options = usual_options(module)
        options.keep = keep and keep / module.__name__.rpartition(".")[2]
        reports += await module.measure(options)
    return reports


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    report.common_options(parser)
    options = parser.parse_args(arguments)
    return report.run(measure(options.keep), strict=options.strict, as_list=True)


if __name__ == "__main__":
    sys.exit(main())
