"""The background tasks of one owner: named, told of when they fail, and cancelled together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """What runs for as long as its owner does."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Begin ``work``; needs a running event loop."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    @property
    def running(self) -> tuple[asyncio.Task[None], ...]:
        """Those that have not ended."""
        return tuple(self._tasks)

    async def end(self) -> None:
        """Cancel all, and wait until they have ended."""
        tasks = self.running
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            error = task.exception()
            log.error("The %s's task %s ended", self._owner, task.get_name(), exc_info=error)
