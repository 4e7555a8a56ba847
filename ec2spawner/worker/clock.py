"""The worker's clock for spans of time: one that nobody sets.

Owns which clock that is: CLOCK_BOOTTIME runs on while a machine sleeps, and NTP does not move it.
Its seconds mean nothing after the next boot.
"""

from __future__ import annotations

import time


def boot_seconds() -> float:
    """Seconds since the kernel booted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
