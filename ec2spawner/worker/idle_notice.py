"""The warning that this machine stops soon because nobody works on it.

Pure. Owns when it stands, and its words. Must not know how it is shown, nor a clock.

A notice that is shown cannot be taken back (``notice_extension``). So this one closes by itself and
is shown anew, each time with the time that is left, until somebody works again.
"""

from __future__ import annotations

from collections.abc import Mapping

from ec2spawner.worker.notice_file import Level, Notice

VARIABLE = "EC2SPAWNER_IDLE_SECONDS"
"""Names to the server after how long without work the hub stops it."""
KIND = "idle"
WORDS = (
    "Nobody works here: this machine stops {when}. Save a file or run a cell to go on. Files in"
    " your home stay."
)
WARN_SECONDS = 600.0
TURNS = 5
"""So often it is shown anew."""


def idle_seconds(environ: Mapping[str, str]) -> float | None:
    """What the hub has said; None where it said nothing, or nothing that can be."""
    try:
        seconds = float(environ[VARIABLE])
    except (KeyError, ValueError):
        return None
    return seconds if 0 < seconds < 1e9 else None


def warn_seconds(timeout_seconds: float) -> float:
    """So long before the stop it is first shown: of a short time-out, half of it."""
    return min(WARN_SECONDS, timeout_seconds / 2)


def notice(now: float, worked_at: float, timeout_seconds: float) -> Notice | None:
    """What stands at ``now``; None while somebody works, or has lately."""
    warn = warn_seconds(timeout_seconds)
    stops_at = worked_at + timeout_seconds
    elapsed = now - (stops_at - warn)
    if elapsed < 0:
        return None
    turn_seconds = warn / TURNS
    turn = min(TURNS - 1, int(elapsed / turn_seconds))
    return Notice(KIND, Level.WARNING, WORDS, stops_at, turn, turn_seconds)
