"""What the benchmarks compute from what they measure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import arithmetic
from benchmarks.arithmetic import (
    Check,
    differences,
    grown,
    percentile,
    phases,
    rates,
    summaries,
    summary,
)

seconds = st.floats(min_value=0, max_value=1e6)


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 50), (90, 90), (99, 99), (100, 100), (0.5, 1)]
)
def test_a_percentile_is_a_measured_value_that_so_many_do_not_exceed(
    percent: float, expected: int
) -> None:
    assert percentile([*range(100, 0, -1)], percent) == expected


@given(st.lists(seconds, min_size=1), st.floats(min_value=0.1, max_value=100))
def test_at_least_that_share_of_values_does_not_exceed_the_percentile(
    values: list[float], percent: float
) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(v <= found for v in values) >= len(values) * percent / 100 - 1e-6


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 0), ([1.0], 101)])
def test_a_percentile_of_nothing_or_out_of_bounds_is_refused(
    values: list[float], percent: float
) -> None:
    with pytest.raises(ValueError, match=r"values|percent"):
        percentile(values, percent)


def test_a_summary_has_median_p90_extremes_and_count() -> None:
    ten = [10.0, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert summary(ten) == {"median": 5.5, "p90": 9.0, "min": 1.0, "max": 10.0, "count": 10}


def test_each_value_is_compared_with_the_floor_of_its_own_round() -> None:
    assert differences([5.0, 9.0], [4.0, 8.5]) == [1.0, 0.5]
    with pytest.raises(ValueError, match="2 values beside 1 floors"):
        differences([5.0, 9.0], [4.0])


def test_phases_are_named_after_the_moment_that_ends_them() -> None:
    marks = [("ready", 107.0), ("sent", 100.0), ("machine", 101.0), ("connected", 104.5)]
    assert phases(marks) == {"machine": 1.0, "connected": 3.5, "ready": 2.5}


def test_a_phase_that_comes_twice_counts_both_times() -> None:
    marks = [("sent", 0.0), ("connected", 2.0), ("machine", 3.0), ("connected", 7.0)]
    assert phases(marks) == {"connected": 6.0, "machine": 1.0}


@given(st.lists(st.tuples(st.sampled_from("abc"), seconds), min_size=2))
def test_phases_add_up_to_the_whole(marks: list[tuple[str, float]]) -> None:
    moments = [at for _, at in marks]
    whole = max(moments) - min(moments)
    assert sum(phases(marks).values()) == pytest.approx(whole, abs=1e-6)


def test_a_start_without_a_phase_spent_no_time_on_it() -> None:
    found = summaries([{"format": 0.4, "mount": 1.0}, {"mount": 3.0}])
    assert found["format"]["max"] == 0.4
    assert found["format"]["min"] == 0.0
    assert found["mount"]["median"] == 2.0


def test_counters_that_stood_still_are_left_out() -> None:
    before, after = {"a": 1, "b": 2}, {"a": 1, "b": 5, "c": 1}
    assert grown(before, after) == {"b": 3, "c": 1}


def test_a_rate_does_not_depend_on_when_the_sampling_began() -> None:
    def samples(begin: float) -> list[tuple[float, dict[str, int]]]:
        times = [begin + n / 4 for n in range(400)]
        return [(at, {"List": int(at // 30) * 2, "Start": 1}) for at in times]

    for begin in (0.0, 7.0, 29.9):
        assert rates(samples(begin)) == {"List": 4.0}


def test_an_action_seen_once_has_no_rate() -> None:
    assert rates([(0.0, {}), (1.0, {"Start": 1}), (2.0, {"Start": 1})]) == {}


@pytest.mark.parametrize(
    ("value", "bound", "exact", "met"),
    [
        (0.5, 0.5, False, True),
        (0.51, 0.5, False, False),
        ({"StartInstances": 1}, {"StartInstances": 1}, True, True),
        ({"StartInstances": 2}, {"StartInstances": 1}, True, False),
        ({}, {"StartInstances": 1}, True, False),
    ],
)
def test_a_bound_is_kept_at_most_or_exactly(
    value: object, bound: object, exact: bool, met: bool
) -> None:
    check = Check("figure", value, bound, "s", exact)
    assert check.met is met
    assert check.to_json()["met"] is met


def test_drift_is_growth_and_no_peak() -> None:
    level = [(float(n), 100.0) for n in range(30)]
    assert arithmetic.drift(level) == 0
    peaks = [(at, value + (50 if at % 7 == 3 else 0)) for at, value in level]
    assert arithmetic.drift(peaks) == 0
    leak = [(at, value + 2 * at) for at, value in peaks]
    assert arithmetic.drift(leak) == pytest.approx(2 * 29)


def test_drift_needs_samples() -> None:
    with pytest.raises(ValueError, match="2 samples"):
        arithmetic.drift([(0.0, 1.0), (1.0, 2.0)])
