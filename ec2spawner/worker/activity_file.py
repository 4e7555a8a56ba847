"""The small file in which a server leaves when its user last worked.

Owns its form, the writing by the server, and the reading by root, which takes it for what it is: a
stranger's file. Whoever forges it can keep the own machine on, as a busy kernel can, and no more.

    $RUNTIME_DIRECTORY/activity.json    {"worked_at": 1234.5}    seconds of CLOCK_BOOTTIME
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from ec2spawner.worker.records import write_atomically

FILE_NAME = "activity.json"
MAX_BYTES = 256
WRITE_SECONDS = 15.0
"""How often a server writes it, at least; small against every time-out but a test's."""


def write(directory: Path, worked_at: float) -> None:
    """Leave it for the worker's watchdog; raises OSError."""
    content = json.dumps({"worked_at": worked_at})
    write_atomically(directory / FILE_NAME, content, durable=False)


def read(path: Path, uid: int) -> float | None:
    """What a regular file of this user says; None for anything else."""
    # Not blocking: a pipe of that name must keep nobody waiting.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        is_fit = stat.S_ISREG(status.st_mode) and status.st_uid == uid
        return _parsed(os.read(fd, MAX_BYTES + 1)) if is_fit else None
    except OSError:
        return None
    finally:
        os.close(fd)


def _parsed(data: bytes) -> float | None:
    if len(data) > MAX_BYTES:
        return None
    try:
        raw: Any = json.loads(data)
    except (ValueError, RecursionError):
        return None
    value = raw.get("worked_at") if isinstance(raw, dict) and len(raw) == 1 else None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value < 1e12 and math.isfinite(value) else None
