"""Tells the fleet in time which machines a class needs: its members' own, and spares.

Owns the way from the schedule's windows to the fleet's wishes. Must not know how machines are
started, nor the arithmetic of calendars (``schedule``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection

from ec2spawner.fleet import Fleet
from ec2spawner.model import Owner
from ec2spawner.schedule import ClassTime, Preparation, next_change, preparations
from ec2spawner.wishes import Crowd

log = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
"""How often it is looked who is a member."""


class Timetable:
    """Looks at the classes of the week until it is cancelled. ``clock`` gives epoch seconds.

    ``members`` are the owners of a group's default servers; a group that does not exist has none.
    """

    def __init__(
        self,
        fleet: Fleet,
        classes: tuple[ClassTime, ...],
        members: Callable[[str], Collection[Owner]],
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._fleet = fleet
        self._classes = classes
        self._members = members
        self._clock = clock
        self._sleep = sleep
        self._open: tuple[Preparation, ...] = ()

    async def run(self) -> None:
        """Say again and again what is to be running; ends only by cancellation."""
        while self._classes:
            try:
                self.look()
            except Exception:
                log.exception("The classes of the week could not be looked at")
            change_at = next_change(self._classes, self._clock())
            pause = LOOK_SECONDS if change_at is None else change_at - self._clock()
            await self._sleep(max(0.5, min(LOOK_SECONDS, pause)))

    def look(self) -> None:
        """Say what is to be running now."""
        is_open = preparations(self._classes, self._clock())
        for preparation in set(is_open) - set(self._open):
            whose = f"group {preparation.group}" if preparation.group else "people"
            log.info("A class is prepared for: %s, %s", whose, preparation.count or "its members")
        self._open = is_open
        groups = dict.fromkeys(p.group for p in is_open if p.group)
        expected = {owner for group in groups for owner in self._members(group)}
        crowds = tuple(Crowd(p.count, p.since) for p in is_open if p.count)
        self._fleet.prepare_ahead(expected, crowds)
