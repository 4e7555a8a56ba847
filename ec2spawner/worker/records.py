"""What a worker remembers: whose it is (on its disk), and what runs (until the next boot).

Owns these files, and the lock that puts commands in a row. Must not know hosts. The claim can only
refuse a start, never assign a worker: whoever had root here could have written it. The terms of a
hub say whose it is to the dead-man switch, and to nobody else. What holds for one boot only names
that boot, though its directory is emptied by the next.
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

from ec2spawner.worker.deadman import Terms, Watch
from ec2spawner.worker.document import StartDocument, parse_terms
from ec2spawner.worker.protocol import Code, Fault

CLAIM_FILE = "claim.json"
SERVER_FILE = "server.json"  # also the name of the credential that the server is given
TERMS_FILE = "watchdog.json"
CONTACT_FILE = "contact.json"
WATCH_FILE = "watch.json"
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


def read_terms(directory: Path) -> Terms | None:
    """What a hub last told this worker; None where none did, or where it cannot be read."""
    try:
        return parse_terms(json.loads((directory / TERMS_FILE).read_text()))
    except (OSError, ValueError, Fault):
        return None


def write_terms(directory: Path, terms: Terms) -> None:
    """Remember a hub, so that it outlives a loss of power; the same again writes nothing."""
    if read_terms(directory) != terms:
        write_atomically(directory / TERMS_FILE, json.dumps(asdict(terms)))


def note_contact(directory: Path, boot_id: str, now: float) -> None:
    """Note that a hub commanded this worker at ``now``."""
    content = {"boot_id": boot_id, "commanded_at": now}
    write_atomically(directory / CONTACT_FILE, json.dumps(content), durable=False)


def read_contact(directory: Path, boot_id: str) -> float | None:
    """When a hub last commanded this worker in this boot."""
    try:
        return float(_of_this_boot(directory / CONTACT_FILE, boot_id)["commanded_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_watch(directory: Path, boot_id: str, watch: Watch) -> None:
    """Leave for the next look what this one knows."""
    content = {"boot_id": boot_id, "watch": asdict(watch)}
    write_atomically(directory / WATCH_FILE, json.dumps(content), durable=False)


def read_watch(directory: Path, boot_id: str) -> Watch | None:
    """What the last look in this boot left."""
    try:
        return Watch(**_of_this_boot(directory / WATCH_FILE, boot_id)["watch"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _of_this_boot(path: Path, boot_id: str) -> dict[str, Any]:
    raw = json.loads(path.read_text())
    if raw["boot_id"] != boot_id:
        raise ValueError("a record of another boot")
    return dict(raw)


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


def write_atomically(path: Path, text: str, *, durable: bool = True, mode: int = 0o600) -> None:
    """The old content or the new, never a part; by default readable by its owner only.

    ``durable`` content outlives a loss of power, and is written by whoever holds the lock; what is
    gone at the next boot may be written by several at once.
    """
    partial = path.with_name(path.name + (".new" if durable else f".{os.getpid()}.new"))
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as out:
        os.fchmod(fd, mode)
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
