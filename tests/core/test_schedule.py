"""When classes' machines are to be running: weekdays, time zones, and clocks that are changed."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, time, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2spawner.classes import WEEKDAYS, ScheduledClass
from ec2spawner.schedule import (
    ClassTime,
    Preparation,
    begins_at,
    classes_of,
    next_change,
    preparations,
)

MINUTE = 60.0
HOUR = 3600.0
DAY = 86400.0
BERLIN = ZoneInfo("Europe/Berlin")
MONDAY = ClassTime(0, time(9, 15), BERLIN, 15 * MINUTE, 30 * MINUTE, group="biology101")


def utc(text: str) -> float:
    """Epoch seconds of "2026-01-05 08:15"."""
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()


def begins(of: ClassTime, day: str) -> str:
    """A class's beginning on a day, as UTC."""
    moment = datetime.fromtimestamp(begins_at(of, date.fromisoformat(day)), timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M")


def in_zone(zone: str, weekday: str, at: str, **more: float) -> ClassTime:
    more = {"ahead_seconds": 15 * MINUTE, "keep_seconds": 30 * MINUTE, **more}
    moment = time.fromisoformat(at)
    return ClassTime(WEEKDAYS.index(weekday), moment, ZoneInfo(zone), count=5, **more)


# ---- one class

BEGIN = utc("2026-01-05 08:15")  # a Monday, 09:15 in Berlin
MONDAYS = Preparation("biology101", None, BEGIN - 15 * MINUTE, BEGIN + 30 * MINUTE)


@pytest.mark.parametrize(
    ("minutes", "is_open"),
    [(-10_000, False), (-15.1, False), (-15, True), (0, True), (29.9, True), (30, False)],
)
def test_machines_run_from_a_while_before_the_class_until_a_while_after_it(
    minutes: float, is_open: bool
) -> None:
    expected = (MONDAYS,) if is_open else ()
    assert preparations([MONDAY], BEGIN + minutes * MINUTE) == expected


@pytest.mark.parametrize(
    ("minutes", "change"),
    [
        (-20, -15.0),
        (-15, 30.0),
        (0, 30.0),
        (30, 7 * 24 * 60 - 15.0),
        (60, 7 * 24 * 60 - 15.0),
        (6 * 24 * 60, 7 * 24 * 60 - 15.0),
    ],
)
def test_the_next_change_is_when_the_next_window_opens_or_closes(
    minutes: float, change: float
) -> None:
    assert next_change([MONDAY], BEGIN + minutes * MINUTE) == BEGIN + change * MINUTE


def test_without_classes_nothing_ever_changes() -> None:
    assert preparations([], BEGIN) == ()
    assert next_change([], BEGIN) is None


def test_classes_at_the_same_time_are_prepared_each_for_itself() -> None:
    physics = replace(MONDAY, group=None, count=30, keep_seconds=60 * MINUTE)
    tuesday = replace(MONDAY, weekday=1)
    found = preparations([MONDAY, physics, tuesday], BEGIN)
    assert found == (
        MONDAYS,
        Preparation(None, 30, BEGIN - 15 * MINUTE, BEGIN + 60 * MINUTE),
    )
    assert next_change([MONDAY, physics, tuesday], BEGIN) == BEGIN + 30 * MINUTE


# ---- from one day, week, month and year to the next


def test_a_class_just_after_midnight_is_prepared_on_the_day_before() -> None:
    early = replace(MONDAY, at=time(0, 5))
    begin = utc("2026-01-04 23:05")  # Monday 00:05 in Berlin; it is Sunday in London
    assert begins(early, "2026-01-05") == "2026-01-04 23:05"
    assert preparations([early], begin - 15 * MINUTE), "Sunday 23:50 in Berlin"
    assert not preparations([early], begin - 16 * MINUTE)


def test_a_class_just_before_midnight_goes_on_on_the_next_day() -> None:
    late = replace(MONDAY, weekday=6, at=time(23, 50))
    begin = utc("2026-01-04 22:50")
    assert preparations([late], begin + 29 * MINUTE), "Monday 00:19 in Berlin"


def test_a_class_on_a_leap_day_and_over_the_turn_of_the_year() -> None:
    saturday = replace(MONDAY, weekday=5)
    assert preparations([saturday], utc("2020-02-29 08:15"))
    assert preparations([replace(MONDAY, weekday=3)], utc("2024-02-29 08:15"))
    assert next_change([MONDAY], utc("2024-02-29 08:15")) == utc("2024-03-04 08:00")
    thursday = replace(MONDAY, weekday=3, at=time(0, 10))
    assert preparations([thursday], utc("2025-12-31 22:56")), "for the first of January"


# ---- far zones


@pytest.mark.parametrize(
    ("zone", "day", "begin"),
    [
        ("Pacific/Kiritimati", "2026-01-05", "2026-01-04 19:15"),  # 14 hours ahead of UTC
        ("Pacific/Pago_Pago", "2026-01-05", "2026-01-05 20:15"),  # 11 hours behind
        ("America/St_Johns", "2026-01-05", "2026-01-05 12:45"),  # half hours
        ("America/St_Johns", "2026-07-06", "2026-07-06 11:45"),
        ("Asia/Kathmandu", "2026-01-05", "2026-01-05 03:30"),  # quarters
        ("Australia/Lord_Howe", "2026-01-05", "2026-01-04 22:15"),  # half an hour of summer time
        ("Australia/Lord_Howe", "2026-07-06", "2026-07-05 22:45"),
        ("UTC", "2026-01-05", "2026-01-05 09:15"),
    ],
)
def test_a_class_begins_by_the_clocks_of_its_zone(zone: str, day: str, begin: str) -> None:
    of = in_zone(zone, "monday", "09:15")
    assert begins(of, day) == begin
    window = (utc(begin) - 15 * MINUTE, utc(begin) + 30 * MINUTE)
    assert preparations([of], utc(begin)) == (Preparation(None, 5, *window),)
    assert not preparations([of], utc(begin) - 15.1 * MINUTE)
    assert not preparations([of], utc(begin) + 30 * MINUTE)


def test_a_class_where_it_is_already_tomorrow_and_one_where_it_is_still_yesterday() -> None:
    ahead = in_zone("Pacific/Kiritimati", "monday", "00:30")
    behind = in_zone("Pacific/Pago_Pago", "saturday", "23:30")
    now = utc("2026-01-04 10:30")  # a Sunday in Greenwich
    assert [p.count for p in preparations([ahead], now)] == [5]
    assert [p.count for p in preparations([behind], now)] == [5]


# ---- clocks that are changed


def test_before_and_after_a_change_of_clocks_a_class_begins_at_the_same_local_time() -> None:
    assert begins(MONDAY, "2026-03-23") == "2026-03-23 08:15"
    assert begins(MONDAY, "2026-03-30") == "2026-03-30 07:15"
    assert begins(MONDAY, "2026-10-19") == "2026-10-19 07:15"
    assert begins(MONDAY, "2026-10-26") == "2026-10-26 08:15"
    shortest, longest = utc("2026-03-23 09:00"), utc("2026-10-19 09:00")
    assert next_change([MONDAY], shortest) == utc("2026-03-30 07:00")
    assert next_change([MONDAY], longest) == utc("2026-10-26 08:00")


@pytest.mark.parametrize(
    ("zone", "weekday", "at", "day", "begin"),
    [
        # put forward: 01:59:59, then 03:00
        ("Europe/Berlin", "sunday", "01:59", "2026-03-29", "2026-03-29 00:59"),
        ("Europe/Berlin", "sunday", "02:00", "2026-03-29", "2026-03-29 01:00"),
        ("Europe/Berlin", "sunday", "02:30", "2026-03-29", "2026-03-29 01:30"),
        ("Europe/Berlin", "sunday", "03:00", "2026-03-29", "2026-03-29 01:00"),
        ("America/New_York", "sunday", "02:30", "2026-03-08", "2026-03-08 07:30"),
        ("Australia/Lord_Howe", "sunday", "02:15", "2026-10-04", "2026-10-03 15:45"),
        ("Africa/Cairo", "friday", "00:30", "2026-04-24", "2026-04-23 22:30"),  # at midnight
        # put back: 02:59:59, then 02:00
        ("Europe/Berlin", "sunday", "01:59", "2026-10-25", "2026-10-24 23:59"),
        ("Europe/Berlin", "sunday", "02:00", "2026-10-25", "2026-10-25 00:00"),
        ("Europe/Berlin", "sunday", "02:30", "2026-10-25", "2026-10-25 00:30"),
        ("Europe/Berlin", "sunday", "03:00", "2026-10-25", "2026-10-25 02:00"),
        ("America/New_York", "sunday", "01:30", "2026-11-01", "2026-11-01 05:30"),
    ],
)
def test_a_time_that_does_not_exist_is_counted_on_and_of_two_the_first_is_meant(
    zone: str, weekday: str, at: str, day: str, begin: str
) -> None:
    of = in_zone(zone, weekday, at)
    assert begins(of, day) == begin
    assert preparations([of], utc(begin))
    assert not preparations([of], utc(begin) - HOUR)
    assert not preparations([of], utc(begin) + HOUR)


def test_a_window_over_a_change_of_clocks_is_as_long_as_any_other() -> None:
    night = in_zone("Europe/Berlin", "sunday", "03:10", ahead_seconds=30 * MINUTE)
    begin = utc("2026-03-29 01:10")
    assert preparations([night], begin - 30 * MINUTE), "01:40: 30 minutes before 03:10"
    assert not preparations([night], begin - 31 * MINUTE)


def test_a_class_whose_time_exists_twice_is_prepared_once() -> None:
    night = in_zone("Europe/Berlin", "sunday", "02:30")
    moments = [utc("2026-10-24 22:00") + n * MINUTE for n in range(6 * 60)]
    opened = [bool(preparations([night], moment)) for moment in moments]
    assert sum(now and not before for before, now in pairwise(opened)) == 1
    assert sum(opened) == 45


# ---- whatever the schedule

ZONES = [
    *("Europe/Berlin", "America/St_Johns", "Pacific/Kiritimati", "Pacific/Pago_Pago"),
    *("Australia/Lord_Howe", "America/New_York", "Africa/Cairo", "America/Santiago", "UTC"),
]
CLASSES = st.builds(
    ClassTime,
    weekday=st.integers(0, 6),
    at=st.times().map(lambda t: t.replace(second=0, microsecond=0, tzinfo=None)),
    zone=st.sampled_from(ZONES).map(ZoneInfo),
    ahead_seconds=st.integers(0, 180).map(lambda m: m * MINUTE),
    keep_seconds=st.integers(1, 720).map(lambda m: m * MINUTE),
    group=st.none(),
    count=st.integers(1, 9),
)
MOMENTS = st.integers(int(utc("2026-01-01 00:00")), int(utc("2028-12-31 00:00"))).map(float)


@given(classes=st.lists(CLASSES, max_size=4), now=MOMENTS)
def test_nothing_changes_before_the_next_change_and_something_does_then(
    classes: list[ClassTime], now: float
) -> None:
    change = next_change(classes, now)
    assert (change is None) is (not classes)
    if change is None:
        return
    assert now < change <= now + 8 * DAY
    before = preparations(classes, now)
    for share in (0.25, 0.5, 0.99):
        assert preparations(classes, now + share * (change - now)) == before
    assert preparations(classes, change) != before


@given(of=CLASSES, now=MOMENTS)
def test_every_class_is_prepared_on_its_day_every_week(of: ClassTime, now: float) -> None:
    day = datetime.fromtimestamp(now, of.zone).date()
    day += timedelta(days=(of.weekday - day.weekday()) % 7)
    begin = begins_at(of, day)
    window = (begin - of.ahead_seconds, begin + of.keep_seconds)
    assert Preparation(None, of.count, *window) in preparations([of], begin)
    local = datetime.fromtimestamp(begin, of.zone)
    is_skipped = datetime.combine(day, of.at) != local.replace(tzinfo=None, fold=0)
    assert local.date() == day
    assert is_skipped is (local.time() != of.at)
    assert (
        timedelta(0)
        <= local.replace(tzinfo=None) - datetime.combine(day, of.at)
        <= (timedelta(hours=1) if is_skipped else timedelta(0))
    )


# ---- from the configuration


def test_the_configurations_classes_are_the_ones_of_the_plan() -> None:
    entry = ScheduledClass(WEEKDAY="monday", TIME="09:15", TIME_ZONE="Europe/Berlin", GROUP="b")
    assert classes_of([entry]) == (replace(MONDAY, group="b"),)
    entry = ScheduledClass(
        WEEKDAY="sunday",
        TIME="23:59",
        TIME_ZONE="Asia/Kathmandu",
        MINUTES_AHEAD=0,
        KEEP_MINUTES=1,
        COUNT=3,
    )
    zone = ZoneInfo("Asia/Kathmandu")
    assert classes_of([entry]) == (ClassTime(6, time(23, 59), zone, 0.0, MINUTE, count=3),)
