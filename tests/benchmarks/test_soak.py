"""What the soak makes of the samples of a hub under load."""

from __future__ import annotations

import pytest

from benchmarks import soak
from benchmarks.report import Report, Row


def samples(**growth: float) -> list[Row]:
    """A wave each 20 s for ten minutes; what grows, by so much in each of them."""
    levels = {
        "rss_bytes": 2e8,
        "private_bytes": 1.8e8,
        "tasks": 30,
        "descriptors": 45,
        "threads": 13,
    }
    return [
        {"at_seconds": 20.0 * n, **{k: v + n * growth.get(k, 0) for k, v in levels.items()}}
        for n in range(30)
    ]


def missed(found: list[Row]) -> list[str]:
    sheet = Report("soak", "stub", {})
    soak.judged(sheet, found)
    return [check.name for check in sheet.checks if not check.met]


def test_a_hub_that_stays_as_it_is_passes() -> None:
    assert missed(samples()) == []


@pytest.mark.parametrize(
    ("kind", "each"),
    [
        ("rss_bytes", 5e5),
        ("private_bytes", 5e5),
        ("tasks", 1),
        ("descriptors", 0.5),
        ("threads", 0.1),
    ],
)
def test_what_grows_is_named(kind: str, each: float) -> None:
    assert missed(samples(**{kind: each})) == [f"growth of {kind} in the second half"]


def test_what_is_loaded_at_first_is_no_growth() -> None:
    found = samples()
    for early in found[:14]:
        early["rss_bytes"] -= 1e7
    assert missed(found) == []


def test_too_few_waves_tell_nothing() -> None:
    assert missed(samples()[:3]) == ["samples in the second half are enough"]
