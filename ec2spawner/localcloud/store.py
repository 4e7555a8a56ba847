"""The emulated cloud's memory on disk: rows of records and moto's state, in one SQLite file.

Owns durability: what ``save`` returned from is there after SIGKILL. Writes go to the operating
system and are not forced to the disk, so a power cut may lose the last ones; this is a toy cloud.
Must not know what a row means.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FORMAT = "1"


class StoreError(Exception):
    """The state directory holds something that this version cannot read."""


class Store:
    """Rows by (kind, id), and named blobs. Safe to call from several threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._db.execute("SELECT name FROM sqlite_master")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=OFF")
            self._create()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise StoreError(f"{path}: {error}; remove the state directory to forget it") from error

    def _create(self) -> None:
        self._db.executescript(
            "CREATE TABLE IF NOT EXISTS rows (scope TEXT, kind TEXT, id TEXT, row TEXT,"
            " PRIMARY KEY (scope, kind, id));"
            "CREATE TABLE IF NOT EXISTS blobs (name TEXT PRIMARY KEY, data BLOB);"
        )
        found = self.blob("format")
        if found is None:
            self.save("", {}, {"format": FORMAT.encode()})
        elif found.decode() != FORMAT:
            raise StoreError(
                f"the state directory has format {found.decode()}, this version reads {FORMAT}; "
                "remove it to forget it"
            )

    def save(
        self,
        scope: str,
        rows: Mapping[tuple[str, str], Mapping[str, Any] | None],
        blobs: Mapping[str, bytes | None] | None = None,
    ) -> None:
        """Write rows and blobs (None deletes), all of them or none."""
        with self._lock, self._db:
            self._db.execute("BEGIN")
            for (kind, id_), row in rows.items():
                if row is None:
                    self._db.execute(
                        "DELETE FROM rows WHERE scope=? AND kind=? AND id=?", (scope, kind, id_)
                    )
                else:
                    self._db.execute(
                        "INSERT OR REPLACE INTO rows VALUES (?,?,?,?)",
                        (scope, kind, id_, json.dumps(row)),
                    )
            for name, data in (blobs or {}).items():
                if data is None:
                    self._db.execute("DELETE FROM blobs WHERE name=?", (name,))
                else:
                    self._db.execute("INSERT OR REPLACE INTO blobs VALUES (?,?)", (name, data))

    def scopes(self) -> list[str]:
        """The scopes that have rows."""
        with self._lock:
            return [s for (s,) in self._db.execute("SELECT DISTINCT scope FROM rows")]

    def rows(self, scope: str) -> Iterable[tuple[str, dict[str, Any]]]:
        """All rows of a scope, as (kind, row)."""
        with self._lock:
            found = self._db.execute("SELECT kind, row FROM rows WHERE scope=?", (scope,))
            return [(kind, json.loads(row)) for kind, row in found]

    def blob(self, name: str) -> bytes | None:
        """A named blob, or None."""
        with self._lock:
            found = self._db.execute("SELECT data FROM blobs WHERE name=?", (name,)).fetchone()
            return found[0] if found else None

    def blob_names(self) -> frozenset[str]:
        """The blobs that there are."""
        with self._lock:
            return frozenset(name for (name,) in self._db.execute("SELECT name FROM blobs"))

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()
