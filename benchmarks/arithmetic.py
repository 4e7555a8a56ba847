"""What is computed from measurements: medians, percentiles, phases, verdicts.

Pure. Must not know how anything was measured.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Summary = dict[str, float]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of all values do not exceed (nearest rank)."""
    if not values:
        raise ValueError("no values")
    if not 0 < percent <= 100:
        raise ValueError(f"percent must be over 0, at most 100, not {percent}")
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def summary(values: Sequence[float]) -> Summary:
    """Median, p90, extremes and count."""
    return {
        "median": round(statistics.median(values), 4),
        "p90": round(percentile(values, 90), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "count": len(values),
    }


def spread(values: Sequence[float]) -> Summary:
    """Median and what few exceed, of many values."""
    return {
        "p50": round(percentile(values, 50), 2),
        "p99": round(percentile(values, 99), 2),
        "max": round(max(values), 2),
    }


def differences(values: Sequence[float], floors: Sequence[float]) -> list[float]:
    """What each value adds to the floor that was measured beside it."""
    if len(values) != len(floors):
        raise ValueError(f"{len(values)} values beside {len(floors)} floors")
    return [value - floor for value, floor in zip(values, floors, strict=True)]


def drift(samples: Sequence[tuple[float, float]]) -> float:
    """By how much a value grows over all samples (moment, value): the median of the slopes between
    any two of them (Theil and Sen), times the whole time. Single peaks do not count."""
    if len(samples) < 3:
        raise ValueError(f"{len(samples)} samples tell no drift")
    slopes = [
        (later - earlier) / (end - begin)
        for (begin, earlier), (end, later) in itertools.combinations(sorted(samples), 2)
        if end > begin
    ]
    moments = [moment for moment, _ in samples]
    return statistics.median(slopes) * (max(moments) - min(moments))


def phases(marks: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Seconds from each mark to the next, by the name of the later one; they add up to the whole.

    ``marks`` are (name, seconds of a monotonic clock), in any order.
    """
    ordered = sorted(marks, key=lambda mark: mark[1])
    spans: dict[str, float] = {}
    for (_, before), (name, at) in itertools.pairwise(ordered):
        spans[name] = spans.get(name, 0.0) + at - before
    return spans


def summaries(rows: Iterable[Mapping[str, float]]) -> dict[str, Summary]:
    """The summary of each name over all rows; a row that lacks one spent no time on it."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: summary([row.get(name, 0.0) for row in rows]) for name in names}


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """By how much counters have grown, without those that have not."""
    names = sorted({*before, *after})
    growth = {name: after.get(name, 0) - before.get(name, 0) for name in names}
    return {name: count for name, count in growth.items() if count}


def rates(samples: Sequence[tuple[float, Mapping[str, int]]]) -> dict[str, float]:
    """Calls a minute of each action that recurs, from samples (seconds, counts so far).

    Measured from one rise of a counter to another, so that it does not depend on when the sampling
    began; an action that was seen rising less than twice has no rate.
    """
    found: dict[str, float] = {}
    for action in sorted({action for _, counts in samples for action in counts}):
        rises = [
            (at, counts.get(action, 0))
            for (_, before), (at, counts) in itertools.pairwise(samples)
            if counts.get(action, 0) > before.get(action, 0)
        ]
        if len(rises) > 1:
            (begun, first), (ended, last) = rises[0], rises[-1]
            found[action] = round((last - first) * 60 / (ended - begun), 1)
    return found


@dataclass(frozen=True)
class Check:
    """A figure that has a bound: ``value`` is at most (or exactly) ``bound``."""

    name: str
    value: Any
    bound: Any
    unit: str
    is_exact: bool = False

    @property
    def met(self) -> bool:
        """Whether it is kept."""
        return bool(self.value == self.bound if self.is_exact else self.value <= self.bound)

    def to_json(self) -> dict[str, Any]:
        """As it is reported."""
        return {
            "name": self.name,
            "value": self.value,
            "must_be": "exactly" if self.is_exact else "at most",
            "bound": self.bound,
            "unit": self.unit,
            "met": self.met,
        }
