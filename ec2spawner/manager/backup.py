"""Copies of the hub's database: one a day into the cluster's bucket, one beside it at an upgrade.

Owns that a copy is whole, also while the hub writes. SQLite is copied by its own backup function,
PostgreSQL by ``pg_dump``, if that is installed. Must not know when.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import sqlite3
import subprocess
import tempfile
from datetime import datetime
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from ec2spawner.cloud import Effect, Gateway
from ec2spawner.errors import ConditionFailed, ConfigError, EC2SpawnerError
from ec2spawner.manager.place import BACKUP_PREFIX, DB_VARIABLE, NEWEST_BACKUP_PREFIX

UPLOAD_DEADLINE_SECONDS = 600.0
BUSY_SECONDS = 60.0
DUMP_TIMEOUT_SECONDS = 1800.0
PG_DUMP = "pg_dump"
LEFTOVERS = ("-wal", "-shm", "-journal")


class BackupFailed(EC2SpawnerError):
    """No copy was made."""

    code = "backup-failed"


class NoCopy(EC2SpawnerError):
    """A database that somebody else must copy."""

    code = "no-copy"


def parse(url: str) -> URL:
    """The hub's database; ConfigError without the password that may be in it."""
    try:
        return make_url(url)
    except ArgumentError:
        raise ConfigError(
            f"{DB_VARIABLE} is no database URL.",
            next_step=f"Correct {DB_VARIABLE} in /etc/jupyterhub/hub.env.",
        ) from None


def is_sqlite(url: URL) -> bool:
    """Whether it is a file here."""
    return url.get_backend_name() == "sqlite" and bool(url.database)


def copy_database(url: URL, target: Path) -> None:
    """A whole copy at ``target``, mode 0600. ``BackupFailed``, and ``NoCopy`` where we cannot."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    fresh = Path(name)
    try:
        if is_sqlite(url):
            _copy_sqlite(Path(str(url.database)), fresh)
        else:
            _dump_postgresql(url, fresh)
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def _copy_sqlite(database: Path, fresh: Path) -> None:
    try:
        source = sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True)
    except sqlite3.Error as error:
        raise _failed(database, str(error)) from None
    copy = sqlite3.connect(fresh)
    try:
        source.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        source.backup(copy)
        (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise _failed(database, str(error)) from None
    finally:
        copy.close()
        source.close()
    if verdict != "ok":
        raise _failed(database, f"The copy is damaged: {verdict}")


def _failed(database: Path, why: str) -> BackupFailed:
    return BackupFailed(
        f"The hub's database {database} could not be copied.",
        why=why,
        next_step="Look at the disk: df, dmesg.",
    )


def _dump_postgresql(url: URL, fresh: Path) -> None:
    if url.get_backend_name() != "postgresql":
        raise _nobodys(f"the database is {url.get_backend_name()}")
    if not shutil.which(PG_DUMP):
        raise _nobodys(f"{PG_DUMP} is not installed (apt-get install postgresql-client)")
    argv = [PG_DUMP, "--no-password", "--format=custom", f"--file={fresh}"]
    try:
        done = subprocess.run(  # noqa: S603 - fixed words; the password is in no argument
            argv,
            env={**os.environ, **postgresql_environment(url)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DUMP_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _dump_failed("It took longer than half an hour.") from None
    if done.returncode != 0:
        raise _dump_failed(done.stderr.strip()[-400:])


def _dump_failed(why: str) -> BackupFailed:
    return BackupFailed(
        f"{PG_DUMP} failed.",
        why=why,
        next_step=f"Try it as root; its major version must be the server's or a later one. See"
        f" {DB_VARIABLE} in /etc/jupyterhub/hub.env.",
    )


def postgresql_environment(url: URL) -> dict[str, str]:
    """libpq's variables: what ``ps`` shows of a command is nobody's secret."""
    values = {
        "PGHOST": url.host,
        "PGPORT": str(url.port) if url.port else None,
        "PGUSER": url.username,
        "PGPASSWORD": url.password,
        "PGDATABASE": url.database,
        "PGSSLMODE": url.query.get("sslmode"),
        "PGSSLROOTCERT": url.query.get("sslrootcert"),
    }
    return {name: str(value) for name, value in values.items() if value}


def _nobodys(why: str) -> NoCopy:
    return NoCopy(
        "No copy of the hub's database was made.",
        why=f"{DB_VARIABLE} is set, and {why}.",
        next_step="See to it that whoever runs the database keeps copies of it.",
    )


def restore_sqlite(url: URL, source: Path) -> None:
    """Put a copy in the place of the hub's database; the hub must be stopped."""
    database = Path(str(url.database))
    fresh = database.with_name(f".{database.name}.restored")
    owner = database.parent.stat()
    # The folder is the hub's own, and root may do this: no link that lies there is followed.
    fresh.unlink(missing_ok=True)
    made = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(made, "wb") as file, source.open("rb") as saved:  # noqa: PTH123 - a descriptor
        os.fchown(made, owner.st_uid, owner.st_gid)
        shutil.copyfileobj(saved, file)
        file.flush()
        os.fsync(made)
    for end in LEFTOVERS:  # they belong to what is replaced
        database.with_name(database.name + end).unlink(missing_ok=True)
    fresh.replace(database)


async def back_up(gateway: Gateway, bucket: str, url: URL, now: datetime) -> str:
    """Copy the database into the bucket, by date and as the newest; the key of the first.

    Raises as above, or ``CloudError``.
    """
    with tempfile.TemporaryDirectory(prefix="ec2spawner-") as folder:
        copy = Path(folder) / "copy"
        copy_database(url, copy)
        body = gzip.compress(copy.read_bytes(), mtime=0)
    kind = "sqlite.gz" if is_sqlite(url) else "pgdump.gz"
    key = f"{BACKUP_PREFIX}{now:%Y-%m-%dT%H%M%SZ}.{kind}"
    try:  # the manager may not write over a backup
        await _put(gateway, bucket, key, body, IfNoneMatch="*")
    except ConditionFailed:
        if not await _is_there(gateway, bucket, key, body):
            raise
    await _put(gateway, bucket, f"{NEWEST_BACKUP_PREFIX}hub.{kind}", body)
    return key


async def _put(gateway: Gateway, bucket: str, key: str, body: bytes, **more: str) -> None:
    params = {
        "Bucket": bucket,
        "Key": key,
        "Body": body,
        "ContentType": "application/gzip",
        "ServerSideEncryption": "AES256",
        **more,
    }
    await gateway.call(
        "s3",
        "put_object",
        params,
        effect=Effect.REPEATABLE,
        deadline_seconds=UPLOAD_DEADLINE_SECONDS,
    )


async def _is_there(gateway: Gateway, bucket: str, key: str, body: bytes) -> bool:
    """Whether an attempt of ours, whose answer was lost, has written the object.

    What is put in one part under AES256 has the MD5 of its bytes as its ETag (S3 API reference,
    "Object", 2026).
    """
    found = await gateway.call("s3", "head_object", {"Bucket": bucket, "Key": key})
    ours = hashlib.md5(body, usedforsecurity=False).hexdigest()
    return str(found["ETag"]).strip('"') == ours
