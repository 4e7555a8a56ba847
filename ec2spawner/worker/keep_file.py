"""The small file in which a hub leaves until when a user's server counts as at work.

Owns its form, the writing by root and the reading by the server. Must not know why somebody wants
it, nor what is made of it. It lies beside the notices: in a directory that is root's own, which is
empty after every boot.

    $EC2SPAWNER_NOTICES/kept    {"at_work_until": 1234.5}    seconds of CLOCK_BOOTTIME
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ec2spawner.worker.records import write_atomically

FILE_NAME = "kept"
MAX_BYTES = 256
_READABLE = 0o644


def write(directory: Path, at_work_until: float) -> None:
    """Leave it in the place of the last one; raises OSError."""
    content = json.dumps({"at_work_until": at_work_until})
    write_atomically(directory / FILE_NAME, content, durable=False, mode=_READABLE)


def remove(directory: Path) -> None:
    """Take it away; nothing to do is done, too."""
    (directory / FILE_NAME).unlink(missing_ok=True)


def read(directory: Path) -> float | None:
    """What it says; None where there is none, or nothing that can be."""
    try:
        with (directory / FILE_NAME).open("rb") as file:
            return _parsed(file.read(MAX_BYTES + 1))
    except OSError:
        return None


def _parsed(data: bytes) -> float | None:
    try:
        raw: Any = json.loads(data) if len(data) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        return None
    value = raw.get("at_work_until") if isinstance(raw, dict) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) else None
