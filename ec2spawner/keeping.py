"""Keeping an idle machine up, and when it would stop by itself: the rules and the words.

Pure. Owns the bound of KEEP_ALIVE_MAX_HOURS, what is saved of a promise, and the arithmetic of
idle time. Must not know the hub, workers or how they are told.

A machine that is kept up stops no earlier than promised, and no later than if somebody had worked
on it until one time-out before that: so the culler's rule and the dead-man switch's hold as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ec2spawner.errors import KeepRefused

HOUR_SECONDS = 3600.0
STEPS_HOURS = (1, 2, 4, 8, 12, 24, 48, 72, 120, 168)
"""What the form offers, as far as it is allowed."""
BY_MAX_CHARS = 255


@dataclass(frozen=True)
class Kept:
    """Until when a machine stays up (epoch seconds), and who said so."""

    until: float
    by: str

    def to_state(self) -> dict[str, Any]:
        """As the hub's database keeps it."""
        return {"until": self.until, "by": self.by}


def kept_of(state: Mapping[str, Any], now: float) -> Kept | None:
    """What was saved, unless it is over."""
    raw = state.get("kept")
    until, by = (raw.get("until"), raw.get("by")) if isinstance(raw, dict) else (None, None)
    if not isinstance(until, (int, float)) or not isinstance(by, str) or not until > now:
        return None
    return Kept(float(until), by)


def offered_hours(max_hours: int) -> tuple[int, ...]:
    """The choices of the form, the longest one last; none where nothing may be kept up."""
    steps = [hours for hours in STEPS_HOURS if hours < max_hours]
    return (*steps, max_hours) if max_hours else ()


def ask(hours: object, max_hours: int, by: str, now: float) -> Kept:
    """What was asked for, if it may be; ``KeepRefused`` with words. ``hours``: any JSON."""
    if not max_hours:
        raise KeepRefused(
            "Machines cannot be kept up in this hub.",
            why="KEEP_ALIVE_MAX_HOURS is 0",
            next_step="A machine on which somebody works stays up by itself.",
        )
    is_number = isinstance(hours, (int, float)) and not isinstance(hours, bool)
    if not (is_number and 0 < hours <= max_hours):  # type: ignore[operator]
        raise KeepRefused(
            f"A machine can be kept up for at most {in_hours(max_hours)}.",
            why=f"{str(hours)[:40]!r} hours were asked for by {by[:BY_MAX_CHARS]!r}",
            next_step="Choose a shorter time; you can ask again before it is over.",
        )
    return Kept(now + float(hours) * HOUR_SECONDS, by[:BY_MAX_CHARS])  # type: ignore[arg-type]


def in_hours(hours: int) -> str:
    """ "1 hour", "12 hours"."""
    return f"{hours} hour{'s' if hours != 1 else ''}"


def at_work_until(kept: Kept, timeout_seconds: float, grain_seconds: float) -> float:
    """The moment until which its user counts as at work.

    ``grain_seconds``: by so much can the hub's knowledge of the last work be behind.
    """
    return kept.until - timeout_seconds + grain_seconds


def stops_at(
    last_activity: float | None, kept: Kept | None, timeout_seconds: float
) -> float | None:
    """When a machine stops by itself if nobody works on it; None where that is not known."""
    if last_activity is None:
        return kept.until if kept else None
    return max(last_activity + timeout_seconds, kept.until if kept else 0.0)
