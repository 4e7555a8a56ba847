"""Who waits for EC2's request limits, and when whose turn is: the line of a class that is large.

Owns the order of those who wait. Must not know what they wait to have done.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable


class Line:
    """Owners whose calls are held back until a moment, in epoch seconds."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._order: list[float] | None = None

    def enter(self, owner_keys: Iterable[str], until: float) -> None:
        """The call that these owners wait for is sent at ``until``."""
        self._until.update(dict.fromkeys(owner_keys, until))
        self._order = None

    def leave(self, owner_keys: Collection[str]) -> None:
        """It was sent, or will not be."""
        for key in owner_keys:
            self._until.pop(key, None)
        self._order = None

    def place(self, owner_key: str) -> tuple[int, float] | None:
        """An owner's place, from 1 on, and the moment of the turn; None for who waits for nobody.

        Who is in one call is at one place.
        """
        until = self._until.get(owner_key)
        if until is None:
            return None
        if self._order is None:
            self._order = sorted(self._until.values())
        return bisect_left(self._order, until) + 1, until
