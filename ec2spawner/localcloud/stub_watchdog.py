"""The dead-man switch of a stub worker: the worker's own rule, by the emulated clock.

Owns what a stub knows of its hub and its user. Must not know sockets: it is told whether the hub
is in reach, and tells why the machine should go off.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ec2spawner.worker import activity, deadman
from ec2spawner.worker.deadman import Reason, Seen, Terms, Watch
from ec2spawner.worker.document import KeepDocument, parse_terms
from ec2spawner.worker.protocol import Code, Fault

FILE_NAME = "watchdog.json"


@dataclass(frozen=True)
class StubWork:
    """What the user of a stub does; moments are of the emulated clock."""

    requested_at: float = 0.0
    kernels: tuple[activity.Kernel, ...] = ()
    terminals: tuple[activity.Terminal, ...] = ()


class StubWatchdog:
    """One stub's, from its boot on; what hubs told it before is on its disk."""

    def __init__(self, directory: Path, booted_at: float, every_seconds: float) -> None:
        self._file = directory / FILE_NAME
        self._booted_at = booted_at
        self._every_seconds = every_seconds
        self._look_at = booted_at + every_seconds
        self._watch: Watch | None = None
        self._served_from: float | None = None
        self.commanded_at: float | None = None
        self.work = StubWork()
        self.kept_until: float | None = None
        self.terms = self._read_terms()

    def _read_terms(self) -> Terms | None:
        try:
            return parse_terms(json.loads(self._file.read_text()))
        except (OSError, ValueError, Fault):
            return None

    def learn(self, raw: Any) -> None:
        """Remember the hub that a document names; raises Fault for what is no such thing."""
        self.terms = parse_terms(raw, "watchdog.")
        partial = self._file.with_suffix(".new")
        partial.write_text(json.dumps(asdict(self.terms)))
        partial.replace(self._file)

    def serve_from(self, moment: float | None) -> None:
        """A notebook server runs since then; None: none runs any more."""
        self._served_from = moment
        self.work = StubWork()
        self.kept_until = None

    def keep(self, document: KeepDocument, serving: str, now: float) -> None:
        """Have its user count as at work; ``serving``: the claim whose server runs, or ""."""
        if document.claim != serving:
            raise Fault(Code.SERVER_DIED, "no server of that claim runs here")
        seconds = document.at_work_seconds
        self.kept_until = None if seconds is None else now + seconds

    def is_due(self, now: float) -> bool:
        """Whether its timer says that it should look now."""
        return self._every_seconds > 0 and now >= self._look_at

    def look(self, now: float, *, is_claimed: bool, is_hub_reached: bool) -> Reason | None:
        """Look once; why the machine should go off, if it should."""
        self._look_at = now + self._every_seconds
        seen = Seen(
            terms=self.terms,
            is_claimed=is_claimed,
            booted_at=self._booted_at,
            commanded_at=self.commanded_at,
            is_hub_reached=is_hub_reached,
            is_serving=self._served_from is not None,
            worked_at=self._worked_at(now),
        )
        self._watch = deadman.look(self._watch, seen, now)
        return deadman.reason_to_power_off(self._watch, seen, now)

    def _worked_at(self, now: float) -> float | None:
        if self._served_from is None:
            return None
        work = self.work
        return activity.last_work(
            now,
            self._served_from,
            work.requested_at,
            work.kernels,
            work.terminals,
            self.kept_until,
        )
