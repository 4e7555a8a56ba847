"""How large a class is, as the options of several commands say: their bounds and their faults."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ec2spawner.configfile import Fault
from ec2spawner.costs import Usage

STUDENTS_MAX = 100_000
HOURS_A_WEEK_MAX = 7 * 24
WEEKS_MAX = 520
HOURS_A_WEEK_DEFAULT = 6.0
WEEKS_DEFAULT = 15.0
NOBODY = Usage(0, HOURS_A_WEEK_DEFAULT, WEEKS_DEFAULT)
"""Where nobody said how many students there will be."""


def usage_faults(usage: Usage, students_min: int) -> Iterator[Fault]:
    """All that is wrong with it."""
    yield from outside("--students", usage.students, students_min, STUDENTS_MAX)
    yield from outside("--hours-a-week", usage.hours_a_week, 0, HOURS_A_WEEK_MAX)
    yield from outside("--weeks", usage.weeks, 0, WEEKS_MAX)


def outside(option: str, value: float, low: float, high: float) -> Iterator[Fault]:
    """That a number lies outside its bounds, or is none."""
    if not (math.isfinite(value) and low <= value <= high):
        yield Fault(option, f"{value:g}", "is not usable", f"a number from {low:g} to {high:g}")
