"""What the hub keeps on its own disk beside EC2's tags: one small JSON file.

Owns tag writes that must come to stand although AWS is away (renames, deletions), the workers'
pinned host keys, and how long earlier starts took. Losing the file loses no home: it costs
estimates, pins, and what was promised while AWS was away. Must not know EC2.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import statistics
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ec2spawner.wishes import TagWrite

log = logging.getLogger(__name__)

REMEMBERED_STARTS = 20
SAVE_SECONDS = 0.5
"""One write for a class of changes."""
USUAL_SECONDS = {"launch": 45.0, "start": 25.0, "running": 4.0}
"""Estimates before anything was measured: AWS.md's sources, and a server's bare start."""


@dataclass(frozen=True)
class Renaming:
    """A user's new name that the hub's database may not have taken yet.

    ``row`` tells the user's row in the database from every other, also from one of its id later.
    """

    row: str
    old: str
    new: str

    def is_done(self, row: str, name: str) -> bool | None:
        """What it means for this renaming that a row bears a name now; None if nothing.

        Names are unique: who else bears the old one shows that it was given up, who else bears the
        new one, that it was not taken.
        """
        if name == self.new:
            return row == self.row
        if name == self.old:
            return row != self.row
        return None


@dataclass(frozen=True)
class Promise:
    """A rename or deletion that must reach EC2's tags.

    ``owner_key`` is whose resources are meant. ``write.ids`` are settled at once if the cluster is
    listed then, else from the first listing (``ids`` empty until then). With a ``rename``, it does
    not hold yet: the hub has not said that the user has the new name.
    """

    owner_key: str
    at: float  # epoch seconds
    write: TagWrite
    rename: Renaming | None = None


@dataclass
class _Content:
    promises: list[Promise] = field(default_factory=list)
    host_keys: dict[str, str] = field(default_factory=dict)
    start_seconds: dict[str, list[float]] = field(default_factory=dict)


class Journal:
    """The file's content in memory; every change is written soon, promises at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = _read(path)
        self._file = _File(path)
        self._changed = False
        self._later: asyncio.Task[None] | None = None

    # ---- promises

    @property
    def promises(self) -> tuple[Promise, ...]:
        """All promises not yet kept, in the order in which they were made."""
        return tuple(self._content.promises)

    def promise(self, promise: Promise, *, even_unwritten: bool = False) -> None:
        """Add a promise; when this returns, it is on disk.

        Raises ``OSError`` where it cannot be written; it is then forgotten, or, with
        ``even_unwritten``, kept as long as the hub lives. It blocks for one small write: promises
        are rare, and the hub goes on only when they hold.
        """
        self._content.promises.append(promise)
        try:
            self._file.write(self._file.next_version(), _dump(self._content))
        except OSError:
            if not even_unwritten:
                self._content.promises.remove(promise)
            raise

    def replace(self, old: Promise, new: Promise | None) -> None:
        """Change a promise, or drop it once it is kept."""
        kept = self._content.promises
        at = kept.index(old)
        kept[at : at + 1] = [new] if new else []
        self._save_later()

    # ---- host keys

    def pinned(self, instance_id: str) -> str | None:
        """The host key that the instance showed first."""
        return self._content.host_keys.get(instance_id)

    def pin(self, instance_id: str, key: str) -> None:
        """Remember an instance's host key."""
        self._content.host_keys[instance_id] = key
        self._save_later()

    def forget_pins(self, ended: set[str]) -> None:
        """Drop the pins of instances that were seen to have ended."""
        gone = self._content.host_keys.keys() & ended
        for instance_id in gone:
            del self._content.host_keys[instance_id]
        if gone:
            self._save_later()

    # ---- estimates

    def note_start(self, kind: str, seconds: float) -> None:
        """Remember how long a start of this kind ("launch", "start", "running") took."""
        taken = self._content.start_seconds.setdefault(kind, [])
        taken.append(round(seconds, 1))
        del taken[:-REMEMBERED_STARTS]
        self._save_later()

    def usual_seconds(self, kind: str) -> float:
        """How long a start of this kind usually takes: the median of the last ones."""
        taken = self._content.start_seconds.get(kind)
        return statistics.median(taken) if taken else USUAL_SECONDS[kind]

    # ---- the file

    def _save_later(self) -> None:
        self._changed = True
        if self._later is None or self._later.done():
            self._later = asyncio.get_running_loop().create_task(self._save_soon())

    async def _save_soon(self) -> None:
        while self._changed:
            await asyncio.sleep(SAVE_SECONDS)
            try:
                await self._save()
            except OSError as error:
                log.error("The hub's journal %s cannot be written: %s", self._path, error)

    async def _save(self) -> None:
        self._changed = False  # what changes while this is written is written once more
        version, text = self._file.next_version(), _dump(self._content)
        await asyncio.get_running_loop().run_in_executor(None, self._file.write, version, text)

    async def close(self) -> None:
        """Write what is still to be written. Raises ``OSError``."""
        if self._later and not self._later.done():
            self._later.cancel()
            await self._save()


class _File:
    """The file itself; of two texts that are written at once, the newer one stays."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._made = 0
        self._written = 0

    def next_version(self) -> int:
        """A number for the text that is made now."""
        self._made += 1
        return self._made

    def write(self, version: int, text: str) -> None:
        """Put a text in the file's place, whole or not at all. Raises ``OSError``."""
        with self._lock:
            if version > self._written:
                _write(self._path, text)
                self._written = version


def _dump(content: _Content) -> str:
    promises = [
        {
            "owner_key": p.owner_key,
            "at": p.at,
            "ids": p.write.ids,
            "tags": p.write.tags,
            "reason": p.write.reason,
            "rename": [p.rename.row, p.rename.old, p.rename.new] if p.rename else None,
        }
        for p in content.promises
    ]
    return json.dumps(
        {
            "promises": promises,
            "host_keys": content.host_keys,
            "start_seconds": content.start_seconds,
        },
        indent=1,
    )


def _write(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
        _sync_folder(path.parent)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Make a file's new name outlive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> _Content:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return _parse(raw)
    except FileNotFoundError:
        return _Content()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # Kept aside, never overwritten: it may hold a promise.
        aside = _free_name(path)
        path.replace(aside)
        log.error("The hub's journal cannot be read (%s); kept as %s", error, aside)
        return _Content()


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.unreadable{n or ''}") for n in itertools.count())
    return next(name for name in names if not name.exists())


def _parse(raw: dict[str, Any]) -> _Content:
    return _Content(
        promises=[
            Promise(
                str(p["owner_key"]),
                float(p["at"]),
                TagWrite(
                    tuple(map(str, p["ids"])),
                    tuple((str(k), None if v is None else str(v)) for k, v in p["tags"]),
                    str(p["reason"]),
                ),
                Renaming(*map(str, p["rename"])) if p.get("rename") else None,
            )
            for p in raw["promises"]
        ],
        host_keys={str(k): str(v) for k, v in raw["host_keys"].items()},
        start_seconds={str(k): [float(s) for s in v] for k, v in raw["start_seconds"].items()},
    )
