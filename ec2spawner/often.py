"""How often each of many may do a thing within a minute.

Pure, but for its memory. Owns who did when. Must not know what is done, nor who may do more.
"""

from __future__ import annotations

from collections.abc import Hashable

MINUTE_SECONDS = 60.0


class Often:
    """Counts what each does; ``per_minute`` of it are let through in any 60 s."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._done: dict[Hashable, list[float]] = {}
        self._swept_at = 0.0

    def wait_seconds(self, who: Hashable, now: float) -> float:
        """0 if ``who`` may do it at ``now``, which counts; else how long until they may."""
        self._sweep(now)
        done = [moment for moment in self._done.get(who, ()) if now - moment < MINUTE_SECONDS]
        if len(done) < self.per_minute:
            self._done[who] = [*done, now]
            return 0.0
        self._done[who] = done
        return MINUTE_SECONDS - (now - done[0])

    def _sweep(self, now: float) -> None:
        """Forget, once a minute, whoever has done nothing for a minute."""
        if now - self._swept_at >= MINUTE_SECONDS:
            self._swept_at = now
            self._done = {w: d for w, d in self._done.items() if now - d[-1] < MINUTE_SECONDS}
