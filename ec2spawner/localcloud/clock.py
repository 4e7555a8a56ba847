"""Time as the emulated cloud sees it: the computer's, or a test's own.

Owns nothing but the reading of time. Everything that waits in the emulated cloud compares
``clock()`` (epoch seconds) with a due time, so that a test can move hours in no time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]

system_clock: Clock = time.time


class ManualClock:
    """A clock that only moves when it is told to; starts at 2026-01-01T00:00:00Z."""

    def __init__(self, now: float = 1_767_225_600.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time, in epoch seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass at once."""
        self.now += seconds
