"""What ``ec2spawner-worker`` says: JSON lines on stdout, and the codes of its failures.

Owns the wire format of answers and the removal of secrets from texts. Must not know hosts or how
a server is started. Standard library only, and little of it: the command must start fast.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection
from enum import Enum
from typing import IO, Any

from ec2spawner.errors import WorkerError

DETAIL_MAX_CHARS = 500
LINE_MAX_BYTES = 4096
_SECRET_MIN_CHARS = 6
_NAMED_SECRET = re.compile(
    r"(?i)((?:(?:authorization|token|bearer|password|secret|cookie)['\"]?[\s=:]+['\"]?)+)[^\s'\"]+"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class Code(str, Enum):
    """Why a command failed, as the hub is told."""

    BAD_DOCUMENT = "bad-document"
    OWNER_MISMATCH = "owner-mismatch"
    HOME_MISSING = "home-missing"
    FOREIGN_FILESYSTEM = "foreign-filesystem"
    MOUNT_FAILED = "mount-failed"
    DISK_FULL = "disk-full"
    SERVER_DIED = "server-died"
    SERVER_TIMEOUT = "server-timeout"
    BOOT_UNFINISHED = "boot-unfinished"
    INTERNAL = "internal"


class Fault(WorkerError):
    """An expected failure on the worker: its code, and a detail for operators."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(detail)
        self.slug = code
        self.detail = detail


def clean(text: str, secrets: Collection[str] = ()) -> str:
    """``text`` without secrets and control characters, its last ``DETAIL_MAX_CHARS``."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SECRET_MIN_CHARS:
            text = text.replace(secret, "[removed]")
    text = _NAMED_SECRET.sub(r"\1[removed]", text)
    text = _CONTROL.sub("", _ESCAPE_SEQUENCE.sub("", text)).strip()
    return text if len(text) <= DETAIL_MAX_CHARS else "…" + text[1 - DETAIL_MAX_CHARS :]


class Events:
    """Writes the answer line by line; a reader that has gone away does not stop the work."""

    def __init__(self, out: IO[bytes], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._monotonic = monotonic
        self._began = monotonic()
        self._gone = False

    @property
    def seconds(self) -> float:
        """Since the command began."""
        return round(self._monotonic() - self._began, 3)

    def progress(self, step: str) -> None:
        """``step`` (a slug) begins now."""
        self.write(event="progress", step=step, seconds=self.seconds)

    def error(self, fault: Fault, secrets: Collection[str] = ()) -> None:
        """The last line of a failed command."""
        self.write(event="error", code=fault.slug.value, detail=clean(fault.detail, secrets))

    def write(self, **fields: Any) -> None:
        """One flushed line of at most ``LINE_MAX_BYTES``."""
        line = json.dumps(fields, separators=(",", ":")).encode()
        while len(line) >= LINE_MAX_BYTES and fields.get("detail"):
            fields["detail"] = fields["detail"][len(fields["detail"]) // 2 + 1 :]
            line = json.dumps(fields, separators=(",", ":")).encode()
        if self._gone:
            return
        try:
            self._out.write(line + b"\n")
            self._out.flush()
        except OSError:  # the hub hung up; the next start finds what this one does
            self._gone = True
