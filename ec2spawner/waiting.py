"""Those who wait for the cluster to be different: woken when their own wait is over.

Must not know what anybody waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class _Wait:
    def __init__(self, is_over: Callable[[], bool]) -> None:
        self.is_over = is_over
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Waits:
    """All waits of one fleet. To wake everybody at every change costs a class most of its time."""

    def __init__(self) -> None:
        self._waits: set[_Wait] = set()

    async def until(
        self, is_over: Callable[[], bool], timeout_seconds: float | None = None
    ) -> None:
        """Wait until a look finds that it is over; it may not be so any more at the return."""
        wait = _Wait(is_over)
        self._waits.add(wait)
        try:
            await asyncio.wait({wait.over}, timeout=timeout_seconds)
        finally:
            self._waits.discard(wait)

    def look(self) -> None:
        """Something may be different: wake those whose wait is over."""
        for wait in list(self._waits):
            if not wait.over.done() and wait.is_over():
                wait.over.set_result(None)
