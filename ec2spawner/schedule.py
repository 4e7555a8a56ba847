"""Classes of the week: which are about to begin or have just begun, so that machines are running.

Pure: owns the arithmetic of weekdays, time zones and daylight saving. Must not know who is in a
group, nor machines. Times that are given and returned are epoch seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from zoneinfo import ZoneInfo

from ec2spawner.classes import WEEKDAYS, ScheduledClass

MINUTE_SECONDS = 60.0
NEARBY_DAYS = range(-8, 9)
"""Local days, from today, on which a class that matters now may begin: the last one, which may go
on, and the next one, which may be prepared, with the date line and any change of clocks between."""


@dataclass(frozen=True)
class ClassTime:
    """One class of the week, for a group or for a number of people: one of both is set."""

    weekday: int  # 0 is Monday, as in ``date.weekday``
    at: time  # local
    zone: ZoneInfo
    ahead_seconds: float
    keep_seconds: float
    group: str | None = None
    count: int | None = None


@dataclass(frozen=True)
class Preparation:
    """For one class, from a while before it begins: machines that are to be running.

    Either those of a group's members or, for a class whose members nobody knows before, ``count``
    spare ones; ``since`` then they are made ready, ``until`` then, whoever has not come does not.
    """

    group: str | None
    count: int | None
    since: float
    until: float


@dataclass(frozen=True)
class _Window:
    opens_at: float
    closes_at: float


def classes_of(schedule: Iterable[ScheduledClass]) -> tuple[ClassTime, ...]:
    """The classes of a configuration. Reads the zones' files, once."""
    return tuple(
        ClassTime(
            WEEKDAYS.index(entry.WEEKDAY),
            time.fromisoformat(entry.TIME),
            ZoneInfo(entry.TIME_ZONE),
            entry.MINUTES_AHEAD * MINUTE_SECONDS,
            entry.KEEP_MINUTES * MINUTE_SECONDS,
            entry.GROUP,
            entry.COUNT,
        )
        for entry in schedule
    )


def begins_at(of: ClassTime, day: date) -> float:
    """When a class begins that is on this day, by its zone's clocks.

    A time that exists twice, where clocks are put back, is the first of both. A time that does not
    exist, where they are put forward, is counted on from before: 02:30, where 02:00 is followed by
    03:00, is 03:30, half an hour after the change.
    """
    # Without a ``fold``, a datetime has the offset of before the change in both cases (PEP 495).
    local = datetime.combine(day, of.at, of.zone)
    return local.astimezone(timezone.utc).timestamp()


def preparations(classes: Iterable[ClassTime], now: float) -> tuple[Preparation, ...]:
    """What is to be running now; for two classes at a time, one each, in the schedule's order."""
    return tuple(
        Preparation(of.group, of.count, window.opens_at, window.closes_at)
        for of in classes
        for window in _windows(of, now)
        if window.opens_at <= now < window.closes_at
    )


def next_change(classes: Iterable[ClassTime], now: float) -> float | None:
    """When ``preparations`` will next be other ones; None if there are no classes."""
    changes = (
        moment
        for of in classes
        for window in _windows(of, now)
        if window.opens_at < window.closes_at
        for moment in (window.opens_at, window.closes_at)
    )
    return min((moment for moment in changes if moment > now), default=None)


def _windows(of: ClassTime, now: float) -> Iterator[_Window]:
    """The last windows of a class and the next ones."""
    today = datetime.fromtimestamp(now, of.zone).date()
    for days in NEARBY_DAYS:
        day = today + timedelta(days=days)
        if day.weekday() == of.weekday:
            begin = begins_at(of, day)
            yield _Window(begin - of.ahead_seconds, begin + of.keep_seconds)
