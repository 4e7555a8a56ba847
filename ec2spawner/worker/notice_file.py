"""The small files in which root leaves word for the user of this worker.

Owns their form, the writing by root and the reading by the server, and what a notice says at a
moment. Must not know why there is one, or how it is shown. They lie in a directory that is root's
own, so that root writes nowhere where the user could have put a link:

    $EC2SPAWNER_NOTICES/KIND.json    {"level": "warning", "words": "It ends {when}.", "at": 1234.5}
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from ec2spawner.worker.records import write_atomically

VARIABLE = "EC2SPAWNER_NOTICES"
"""Names the directory to the server."""
MAX_BYTES = 2048
TEXT_MAX_CHARS = 140
"""JupyterLab 4 cuts what is longer (apputils-extension, notificationplugin, 2026)."""
WHEN = "{when}"
LONGEST_WHEN = "in less than a minute"
_KIND = re.compile(r"[a-z][a-z-]{0,30}")
_READABLE = 0o644


class Level(str, Enum):
    """How much it matters, in JupyterLab's words."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Notice:
    """Something that will happen to this machine ``at`` (epoch seconds).

    ``kind`` is a slug: of each kind there is one at a time. ``words`` are for the user, as plain
    text, and ``{when}`` in them is the time that is left. One that is shown again and again has a
    ``turn`` each time, and is shown for so many seconds; others stay until they are closed. (No
    file says these two.)
    """

    kind: str
    level: Level
    words: str
    at: float
    turn: int = 0
    shown_seconds: float | None = None

    def text(self, now: float) -> str:
        """What the user reads at ``now``."""
        return self.words.replace(WHEN, _time_left(self.at - now))


def _time_left(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return LONGEST_WHEN
    return "in about a minute" if minutes == 1 else f"in about {minutes} minutes"


def write(directory: Path, notice: Notice) -> None:
    """Leave it in the place of the last one of its kind; raises OSError."""
    content = {"level": notice.level.value, "words": notice.words, "at": notice.at}
    path = directory / f"{notice.kind}.json"
    write_atomically(path, json.dumps(content), durable=False, mode=_READABLE)


def remove(directory: Path, kind: str) -> None:
    """Take it away; nothing to do is done, too."""
    (directory / f"{kind}.json").unlink(missing_ok=True)


def read_all(directory: Path) -> list[Notice]:
    """Those that stand, by kind; what is no notice is passed over."""
    found = (_read(path) for path in sorted(directory.glob("*.json")))
    return [notice for notice in found if notice]


def _read(path: Path) -> Notice | None:
    try:
        with path.open("rb") as file:
            return _parsed(path.stem, file.read(MAX_BYTES + 1))
    except OSError:  # taken away meanwhile
        return None


def _parsed(kind: str, data: bytes) -> Notice | None:
    try:
        raw: Any = json.loads(data) if len(data) <= MAX_BYTES else None
        level, words, at = Level(raw["level"]), raw["words"], float(raw["at"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_fit = _KIND.fullmatch(kind) and isinstance(words, str) and words and math.isfinite(at)
    return Notice(kind, level, words, at) if is_fit else None
