"""Looks at spares once they have booted: only what was seen to work rests, or is counted on.

Owns the one SSH command that each new spare of a pool gets. Must not decide what becomes of a
spare: the plan does, from what the fleet is told here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ec2spawner.errors import EC2SpawnerError
from ec2spawner.fleet import Fleet
from ec2spawner.model import Worker
from ec2spawner.remote import WorkerLink

log = logging.getLogger(__name__)

PREPARE_SECONDS = 600.0
"""A spare that is not as it should be so long after EC2 called it running, never will be."""
AGAIN_SECONDS = 5.0
AT_ONCE = 10
"""Spares looked at at a time: nobody waits for it, and users' starts need the same processor."""

Sleep = Callable[[float], Awaitable[object]]


class Preparing:
    """Prepares the spares of one fleet until it is cancelled."""

    def __init__(
        self,
        fleet: Fleet,
        link: Callable[[], Awaitable[WorkerLink]],
        make_document: Callable[[], Mapping[str, Any]],
        *,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._fleet = fleet
        self._link = link
        self._make_document = make_document
        self._sleep = sleep
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look at each new spare once it runs; ends only by cancellation."""
        try:
            while True:
                self._begin()
                await self._fleet.next_change()
        finally:
            await self._end()

    def _begin(self) -> None:
        spares = {w.instance_id: w for w in self._fleet.unprepared_spares()}
        for instance_id in self._tasks.keys() - spares.keys():
            self._tasks.pop(instance_id).cancel()  # somebody got it, or it is gone
        for instance_id in spares.keys() - self._tasks.keys():
            work = self._prepare(spares[instance_id])
            name = f"preparing {instance_id}"
            self._tasks[instance_id] = asyncio.get_running_loop().create_task(work, name=name)

    async def _end(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _prepare(self, spare: Worker) -> None:
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._until_prepared(spare), PREPARE_SECONDS)
                self._fleet.note_prepared(spare)
                return
        except Exception:
            log.exception("%s could not be looked at", spare.instance_id)
        self._fleet.note_unfit(spare)

    async def _until_prepared(self, spare: Worker) -> None:
        while True:
            try:
                async with self._turns:
                    link = await self._link()
                    await link.prepare(spare, self._make_document())
                return
            except EC2SpawnerError as error:
                log.info("%s is not ready yet: %s", spare.instance_id, error)
                await self._sleep(AGAIN_SECONDS)
