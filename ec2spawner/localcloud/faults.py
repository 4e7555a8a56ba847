"""Faults by rule, outages, and the count of calls: what tests and players do to the API.

Owns which call is hit by which fault, and what was counted. Must not know HTTP: the front carries
the faults out.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

FAULTS = ("lose-reply", "error", "throttle", "delay", "never-answer")
WHEN = ("before", "after")
OUTAGES = ("refuse", "never-answer", "error")
_KEYS = {
    "action",
    "service",
    "fault",
    "code",
    "message",
    "status",
    "count",
    "skip",
    "when",
    "seconds",
    "match",
}


class FaultFormatError(ValueError):
    """A rule that cannot be; the text says what is wrong and what is right."""


@dataclass
class Fault:
    """A rule: the next ``count`` calls that fit, after ``skip`` of them, go wrong."""

    id: int
    fault: str
    action: str = "*"
    service: str = "*"
    code: str = "InternalError"
    message: str = "An internal error has occurred"
    status: int = 500
    count: int | None = 1  # None: for ever
    skip: int = 0
    when: str = ""
    seconds: float = 1.0
    match: str = ""  # a text that the call's parameters must hold

    def fits(self, service: str, action: str, text: str) -> bool:
        """Whether a call is meant."""
        return (
            fnmatchcase(action, self.action)
            and fnmatchcase(service, self.service)
            and self.match in text
        )


def parse_fault(id_: int, raw: Any) -> Fault:
    """A rule from its JSON, or FaultFormatError."""
    if not isinstance(raw, dict):
        raise FaultFormatError('a fault is an object such as {"action": "RunInstances", ...}')
    unknown = set(raw) - _KEYS
    if unknown:
        known = ", ".join(sorted(_KEYS))
        raise FaultFormatError(f"unknown key {sorted(unknown)[0]!r}; known: {known}")
    kind = raw.get("fault")
    if kind not in FAULTS:
        raise FaultFormatError(f"fault must be one of {', '.join(FAULTS)}, not {kind!r}")
    when = raw.get("when", "after" if kind in ("lose-reply",) else "before")
    if when not in WHEN:
        raise FaultFormatError(f"when must be one of {', '.join(WHEN)}, not {when!r}")
    for key in ("action", "service", "code", "message", "match"):
        if not isinstance(raw.get(key, ""), str):
            raise FaultFormatError(f"{key} must be a text, not {raw[key]!r}")
    _check_number(raw, "status", 100, 599)
    _check_number(raw, "count", 1, 10**9, none=True)
    _check_number(raw, "skip", 0, 10**9)
    _check_number(raw, "seconds", 0, 86_400)
    return Fault(id=id_, **{**raw, "when": when})


def _check_number(
    raw: dict[str, Any], key: str, least: int, most: int, *, none: bool = False
) -> None:
    if key not in raw or (none and raw[key] is None):
        return
    value = raw[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise FaultFormatError(f"{key} must be a number from {least} to {most}, not {value!r}")


class Trouble:
    """All faults in force, the outage, and the counts. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 1
        self._faults: dict[int, Fault] = {}
        self._calls: Counter[tuple[str, str, str]] = Counter()
        self.outage: str | None = None

    def add(self, raw: Any) -> Fault:
        """Put a rule in force."""
        with self._lock:
            fault = parse_fault(self._next, raw)
            self._faults[fault.id] = fault
            self._next += 1
            return fault

    def remove(self, id_: int) -> bool:
        """Take a rule back."""
        with self._lock:
            return self._faults.pop(id_, None) is not None

    def clear(self) -> None:
        """Take all rules and the outage back."""
        with self._lock:
            self._faults.clear()
            self.outage = None

    def list(self) -> list[dict[str, Any]]:
        """The rules in force."""
        with self._lock:
            return [asdict(f) for f in self._faults.values()]

    def take(self, service: str, action: str, text: str) -> Fault | None:
        """The fault that this call gets, if any; it is used up by one."""
        with self._lock:
            for fault in self._faults.values():
                if not fault.fits(service, action, text):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                if fault.count is not None:
                    fault.count -= 1
                    if fault.count == 0:
                        del self._faults[fault.id]
                return fault
        return None

    def is_in_force(self, id_: int) -> bool:
        """Whether a rule is still listed."""
        with self._lock:
            return id_ in self._faults

    def count(self, service: str, action: str, outcome: str) -> None:
        """Note one call and how it ended."""
        with self._lock:
            self._calls[(service, action, outcome)] += 1

    def calls(self) -> Mapping[str, Mapping[str, int]]:
        """How often each action was called, by outcome."""
        with self._lock:
            result: dict[str, dict[str, int]] = {}
            for (service, action, outcome), number in sorted(self._calls.items()):
                name = action if service == "ec2" else f"{service}:{action}"
                result.setdefault(name, {})[outcome] = number
            return result

    def reset_calls(self) -> None:
        """Count from zero."""
        with self._lock:
            self._calls.clear()
