"""When a user was last at work, as plain functions of what was seen.

Owns the rule by which idle servers are stopped. Must not know Jupyter's classes, or a clock.

- A busy kernel is work, now: a silent cell of two hours as well. Else, when it last ended some.
- A terminal with a job in the foreground is work, now. Else, when something was typed into it.
- Whoever asked the hub to keep the machine up counts as at work until the moment that it said.
- Requests that a person makes: opening a page, and changing documents, kernels and terminals.
- An open tab is not work: what JupyterLab asks by itself (lists of kernels, terminals and files,
  layouts, settings, reconnecting websockets) does not count, nor does what answers it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_WORK = re.compile(r"api/(contents|files|kernels|sessions|terminals|nbconvert|shutdown)(/|$)")
_PAGE = re.compile(
    r"(lab|doc|tree|notebooks|edit|consoles|terminals|files|view|nbconvert)(/|$)(?!api/)|$"
)
_TERMINAL_REPORT = re.compile(
    r"(?:\x1b\[[?>]?[\d;]*[Rcn]|\x1b\[[IO]|\x1b\](?:1[0-2]|4);[^\x07\x1b]*(?:\x07|\x1b\\))+"
)
"""What a browser's terminal says by itself: position, identity, focus, colours."""


@dataclass(frozen=True)
class Kernel:
    """A kernel as it is; ``ended_at``: epoch seconds at which it last finished something."""

    busy: bool
    ended_at: float


@dataclass(frozen=True)
class Terminal:
    """A terminal as it is; ``typed_at``: epoch seconds of the last input (or of its opening)."""

    foreground_job: bool
    typed_at: float


def last_work(
    now: float,
    started_at: float,
    requested_at: float,
    kernels: Iterable[Kernel],
    terminals: Iterable[Terminal],
    kept_until: float | None = None,
) -> float:
    """Epoch seconds at which the user was last at work; never before ``started_at``."""
    moments = [started_at, requested_at, *([] if kept_until is None else [kept_until])]
    moments += [now if k.busy else k.ended_at for k in kernels]
    moments += [now if t.foreground_job else t.typed_at for t in terminals]
    return min(now, max(moments))


def is_persons_request(method: str, path: str, status: int, headers: Mapping[str, str]) -> bool:
    """Whether a person caused this request; ``path`` is below the server's prefix, no query.

    Header names are lower-case. Requests that were refused do not count: anybody can make them.
    """
    path = path.lstrip("/")
    if status >= 400:
        return False
    if method in _WRITES:
        return _WORK.match(path) is not None
    return method == "GET" and _is_navigation(path, headers)


def _is_navigation(path: str, headers: Mapping[str, str]) -> bool:
    mode = headers.get("sec-fetch-mode")
    if mode is not None:
        return mode == "navigate"
    # Browsers leave the header out on plain HTTP.
    return "text/html" in headers.get("accept", "") and _PAGE.match(path) is not None


def is_typed(text: str) -> bool:
    """Whether input of a terminal came from a person, not from the terminal itself."""
    return bool(text) and _TERMINAL_REPORT.fullmatch(text) is None
