"""What a worker remembers: whose it is (on its disk), and what runs (until the next boot).

Owns both files, and the lock that puts commands in a row. Must not know hosts. The claim can only
refuse a start, never assign a worker: whoever had root here could have written it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ec2spawner.worker.document import StartDocument
from ec2spawner.worker.protocol import Code, Fault

CLAIM_FILE = "claim.json"
SERVER_FILE = "server.json"  # also the name of the credential that the server is given
LOCK_FILE = "lock"
_LOCK_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Claim:
    """Whose worker this is, and which home it serves."""

    owner: str
    claim: str
    volume_id: str
    username: str


def read_claim(directory: Path) -> Claim | None:
    """The record, or None on a worker that is nobody's; raises Fault where it is no record."""
    try:
        return Claim(**json.loads((directory / CLAIM_FILE).read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise Fault(Code.INTERNAL, f"the claim record cannot be read: {error}") from None


def write_claim(directory: Path, claim: Claim) -> None:
    """Record the claim, so that it outlives a loss of power."""
    write_atomically(directory / CLAIM_FILE, json.dumps(asdict(claim)))


def write_server(directory: Path, document: StartDocument, environment: Mapping[str, str]) -> None:
    """Leave for the server's start what it needs, and what tells it from another."""
    content = {
        "digest": document.digest,
        "environment": dict(environment),
        "args": list(document.args),
    }
    write_atomically(directory / SERVER_FILE, json.dumps(content), durable=False)


def read_digest(directory: Path) -> str | None:
    """Which document the server in this boot was last started with."""
    try:
        raw: Any = json.loads((directory / SERVER_FILE).read_text())
        return str(raw["digest"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """The old content or the new, never a part; readable by its owner only.

    ``durable`` content outlives a loss of power; what is gone at the next boot need not.
    """
    partial = path.with_name(path.name + ".new")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as out:
        out.write(text)
        if durable:
            out.flush()
            os.fsync(out.fileno())
    partial.replace(path)
    if durable:
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def locked(directory: Path, timeout_seconds: float, *, interrupt: bool = False) -> Iterator[int]:
    """Hold the worker's lock; yields its descriptor.

    ``interrupt`` ends a start that holds it: every start can be killed at any line. Programs that
    the start runs (mkfs) inherit the lock and are waited for. Raises Fault(server-timeout).
    """
    fd = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(fd, time.monotonic() + timeout_seconds, interrupt)
        os.ftruncate(fd, 0)
        if not interrupt:
            os.pwrite(fd, str(os.getpid()).encode(), 0)
        try:
            yield fd
        finally:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _take(fd: int, deadline: float, interrupt: bool) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Fault(Code.SERVER_TIMEOUT, "another command holds this worker") from None
        else:
            return
        if interrupt:
            _interrupt(os.pread(fd, 16, 0))
        time.sleep(_LOCK_POLL_SECONDS)


def _interrupt(holder: bytes) -> None:
    """End the start that wrote its pid, unless the pid has passed to some other program."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(holder)
        if b"ec2spawner" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)
