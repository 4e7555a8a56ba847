"""The time by which a hub waits: epoch seconds that never jump, whatever is done to the clock.

Owns how a jump of the computer's clock is made up for. Everything that compares two moments of one
hub's life reads this clock; what is compared with a calendar, as a class that begins, does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable

CATCH_UP_SHARE = 0.1
"""By so much faster or slower it goes until it shows what the computer's clock does: a jump of an
hour is made up for in ten, and no wait is more than a tenth longer or shorter for it."""


class SteadyClock:
    """Tells epoch seconds. Set back by an hour, ``time.time`` would have a hub look at nothing for
    that long; set forward, it would have every grace time end at once.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._shown = wall()
        self._at = monotonic()

    def __call__(self) -> float:
        """Now."""
        at = self._monotonic()
        passed, self._at = at - self._at, at
        most = passed * CATCH_UP_SHARE
        behind = self._wall() - (self._shown + passed)
        self._shown += passed + max(-most, min(most, behind))
        return self._shown
