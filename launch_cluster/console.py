"""A builder's console: pieces put together, and what they say of how far it is.

Pure. The console is untrusted text: a course's own scripts write to it, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

WORD = re.compile(r"ec2spawner-image: (phase|done|failed)\b[ :]*(.*)")
OVERLAP_CHARS = 200
LINE_MAX_CHARS = 300


def join(seen: str, latest: str) -> str:
    """What was seen before, with what is new in the console's latest content.

    EC2 shows the end of the console only, so that the beginning of ``latest`` may be missing; a
    gap between the two is not noticed.
    """
    tail = seen[-OVERLAP_CHARS:]
    at = latest.rfind(tail) if tail else -1
    if at >= 0:
        return seen + latest[at + len(tail) :]
    return seen if seen.endswith(latest) else seen + latest


@dataclass
class ConsoleLog:
    """All that was seen of a console so far."""

    text: str = ""

    def add(self, latest: str) -> list[str]:
        """Take in the console's latest content; the phases that are new in it."""
        known = len(self._words("phase"))
        self.text = join(self.text, latest)
        return self._words("phase")[known:]

    def lines(self) -> list[str]:
        """Its lines that say something, each of bounded length."""
        return [line.strip()[:LINE_MAX_CHARS] for line in self.text.splitlines() if line.strip()]

    def _words(self, kind: str) -> list[str]:
        found = (WORD.search(line) for line in self.text.splitlines())
        return [m[2].strip()[:LINE_MAX_CHARS] for m in found if m and m[1] == kind]

    @property
    def _verdict(self) -> tuple[str, str] | None:
        """The last of "done" and "failed", with its words."""
        found = (WORD.search(line) for line in reversed(self.text.splitlines()))
        return next(((m[1], m[2].strip()) for m in found if m and m[1] != "phase"), None)

    @property
    def phase(self) -> str:
        """The phase that it is in; "" before the first."""
        phases = self._words("phase")
        return phases[-1] if phases else ""

    @property
    def is_over(self) -> bool:
        """Whether the builder has said how it went."""
        return self._verdict is not None

    @property
    def is_done(self) -> bool:
        """Whether the last word is that all is done."""
        return self._verdict is not None and self._verdict[0] == "done"

    @property
    def failure(self) -> str:
        """What failed, in the builder's words; "" if it has not said so."""
        verdict = self._verdict
        return verdict[1][:LINE_MAX_CHARS] if verdict and verdict[0] == "failed" else ""
