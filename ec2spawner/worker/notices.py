"""``ec2spawner-worker notices``: look whether EC2 takes this spot instance back, and leave word.

Owns the looking, the words, and the writing back of files before the end. Must not know the server
that shows the words, systemd, or the emulated cloud. Runs from boot to power-off, and ends at once
where nothing is ever taken back. Nothing here stops or closes anything: the two minutes are the
user's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ec2spawner.worker import notice_file
from ec2spawner.worker.host import Host
from ec2spawner.worker.metadata import Interruption
from ec2spawner.worker.notice_file import Level, Notice
from ec2spawner.worker.protocol import Events, Fault, clean

INTERRUPTION = "interruption"
INTERRUPTION_WORDS = (
    "Amazon takes this machine back {when}. Save now: files in your home stay, what runs ends."
    " Then start again from the hub."
)
"""Whatever EC2 does with the machine (stop, terminate, hibernate): the home's volume stays."""
LOOK_SECONDS = 5.0
"""As AWS recommends (EC2 user guide, "Spot Instance interruption notices", 2026)."""
WRITE_BACK_SECONDS = 30.0
"""So long before the end files are written back at each look, and once when the notice is found."""


@dataclass(frozen=True)
class World:
    """Time, for tests to replace; ``now`` is epoch seconds, as EC2's notices are."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


def notice_of(interruption: Interruption) -> Notice:
    """What the user is told of it."""
    return Notice(INTERRUPTION, Level.WARNING, INTERRUPTION_WORDS, interruption.at)


def watch(host: Host, events: Events, world: World | None = None) -> None:
    """Look until the power goes off; raises Fault where not even the market can be learned."""
    world = world or World()
    if not host.is_spot():
        events.write(event="notices", spot=False)
        return
    events.write(event="notices", spot=True)
    lookout = Lookout(host, events, host.notice_directory())
    while True:
        lookout.look(world.now())
        world.sleep(LOOK_SECONDS)


class Lookout:
    """Looks again and again, and says only what has changed."""

    def __init__(self, host: Host, events: Events, directory: Path) -> None:
        self._host = host
        self._events = events
        self._directory = directory
        self._found: Interruption | None = None
        self._trouble = ""

    def look(self, now: float) -> None:
        """One look; what fails is said, and made good by the next."""
        try:
            found = self._host.interruption_notice()
            is_new = found != self._found
            self._leave_word(found)
            self._found = found
            if is_new:
                self._tell(found, now)
            if found and (is_new or found.at - now <= WRITE_BACK_SECONDS):
                self._host.write_back()
            self._trouble = ""
        except (Fault, OSError) as error:
            self._complain(clean(str(error)))

    def _leave_word(self, found: Interruption | None) -> None:
        """Also in the place of what an earlier run of this command left."""
        if found is None:
            notice_file.remove(self._directory, INTERRUPTION)
        elif found != self._found:
            notice_file.write(self._directory, notice_of(found))

    def _tell(self, found: Interruption | None, now: float) -> None:
        action = found.action if found else None
        seconds = round(found.at - now) if found else None
        self._events.write(event="interruption", action=action, in_seconds=seconds)

    def _complain(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._events.write(event="trouble", detail=trouble)
        self._trouble = trouble
