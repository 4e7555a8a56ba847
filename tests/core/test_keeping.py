"""For how long a machine may be kept up, what is saved of it, and when an idle one stops."""

from __future__ import annotations

from typing import Any

import pytest

from ec2spawner import keeping
from ec2spawner.errors import KeepRefused
from ec2spawner.keeping import Kept

NOW = 1_000_000.0
HOUR = 3600.0


@pytest.mark.parametrize(
    ("longest", "offered"), [(0, ()), (1, (1,)), (3, (1, 2, 3)), (8, (1, 2, 4, 8))]
)
def test_the_form_offers_nothing_above_the_bound(longest: int, offered: tuple[int, ...]) -> None:
    assert keeping.offered_hours(longest) == offered


def test_up_to_the_bound_it_is_granted_in_the_name_of_whoever_asks() -> None:
    assert keeping.ask(12, 12, "ann", NOW) == Kept(NOW + 12 * HOUR, "ann")
    assert keeping.ask(0.5, 12, "ann", NOW).until == NOW + HOUR / 2


@pytest.mark.parametrize(
    "hours",
    [12.1, 0, -1, float("nan"), float("inf"), 10**400, True, "1", "", None, [1], {"hours": 1}],
)
def test_whatever_is_no_number_of_hours_within_the_bound_is_refused(hours: Any) -> None:
    with pytest.raises(KeepRefused, match="at most 12 hours"):
        keeping.ask(hours, 12, "ann", NOW)


def test_where_nothing_may_be_kept_up_that_is_said() -> None:
    with pytest.raises(KeepRefused, match="cannot be kept up in this hub"):
        keeping.ask(1, 0, "ann", NOW)


def test_what_was_saved_is_read_until_it_is_over() -> None:
    kept = Kept(NOW + 1, "ann")
    state = {"kept": kept.to_state()}
    assert keeping.kept_of(state, NOW) == kept
    assert keeping.kept_of(state, NOW + 1) is None


@pytest.mark.parametrize(
    "raw",
    [None, [], {}, {"until": "soon", "by": "ann"}, {"until": NOW + 1}, {"until": None, "by": ""}],
)
def test_what_nobody_of_ours_saved_keeps_nothing_up(raw: Any) -> None:
    assert keeping.kept_of({"kept": raw}, NOW) is None


def test_a_machine_that_is_kept_up_stops_when_that_is_over_by_the_rule_of_idle_ones() -> None:
    kept = Kept(NOW + 4 * HOUR, "ann")
    at_work = keeping.at_work_until(kept, HOUR, 30)
    assert keeping.stops_at(at_work, None, HOUR) == kept.until + 30


def test_an_idle_machine_stops_at_the_later_of_both_moments() -> None:
    assert keeping.stops_at(NOW, None, HOUR) == NOW + HOUR
    assert keeping.stops_at(NOW, Kept(NOW + 10, "ann"), HOUR) == NOW + HOUR
    assert keeping.stops_at(NOW, Kept(NOW + 2 * HOUR, "ann"), HOUR) == NOW + 2 * HOUR
    assert keeping.stops_at(None, None, HOUR) is None
    assert keeping.stops_at(None, Kept(NOW, "ann"), HOUR) == NOW
