"""``python -m benchmarks``: all of them, one after the other, as one JSON list."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import control_plane, report, spawn_overhead
from benchmarks.report import Report

MODULES = (control_plane, spawn_overhead)


async def measure(options: argparse.Namespace) -> list[Report]:
    """Their reports."""
    keep: Path | None = options.keep
    reports: list[Report] = []
    for module in MODULES:
        options.keep = keep and keep / module.__name__.rpartition(".")[2]
        reports += await module.measure(options)
    return reports


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    report.common_options(parser)
    for module in MODULES:
        module.add_options(parser)
    options = parser.parse_args(arguments)
    return report.run(measure(options), strict=options.strict, as_list=True)


if __name__ == "__main__":
    sys.exit(main())
