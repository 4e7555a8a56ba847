"""Copies of the hub's database: whole, also while somebody writes, and back again."""

from __future__ import annotations

import gzip
import hashlib
import sqlite3
import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ec2spawner.cloud import Gateway
from ec2spawner.errors import ConditionFailed, ConfigError
from ec2spawner.localcloud.inprocess import InProcessCloud
from ec2spawner.manager.backup import (
    BackupFailed,
    NoCopy,
    back_up,
    copy_database,
    is_sqlite,
    parse,
    postgresql_environment,
    restore_sqlite,
)
from ec2spawner.manager.place import database_url

NOW = datetime(2026, 11, 27, 3, 4, 5, tzinfo=timezone.utc)
POSTGRESQL = "postgresql+psycopg://hub:s3cr%40t@db.example.org:5433/hubdb?sslmode=require"


def make_database(path: Path, *rows: str) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE IF NOT EXISTS users (name TEXT)")
        database.executemany("INSERT INTO users VALUES (?)", [(row,) for row in rows])
    database.close()


def names_in(path: Path) -> list[str]:
    database = sqlite3.connect(path)
    try:
        return [name for (name,) in database.execute("SELECT name FROM users ORDER BY name")]
    finally:
        database.close()


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


class Bucket:
    """The gateway, as far as a backup needs it."""

    def __init__(self, there: bytes | None = None) -> None:
        self.puts: list[dict[str, Any]] = []
        self.there = there
        self.loses_answer = False

    async def call(self, service: str, operation: str, params: Any, **_: Any) -> dict[str, Any]:
        assert service == "s3"
        if operation == "head_object":
            return {"ETag": f'"{hashlib.md5(self.there or b"").hexdigest()}"'}
        assert operation == "put_object"
        self.puts.append(params)
        if params["Key"].startswith("backup/newest/"):
            return {}
        assert params["IfNoneMatch"] == "*"
        if self.loses_answer:  # and the gateway tries again
            self.there = params["Body"]
        if self.there is not None:
            raise ConditionFailed("It is there.")
        return {}


def test_a_copy_holds_what_is_committed_while_somebody_writes(tmp_path: Path) -> None:
    database, copy = tmp_path / "hub.sqlite", tmp_path / "copy"
    make_database(database, "ada", "zoë")
    writer = sqlite3.connect(database)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("INSERT INTO users VALUES ('committed')")
    writer.commit()
    writer.execute("INSERT INTO users VALUES ('half done')")
    copy_database(parse(url_of(database)), copy)
    writer.close()
    assert names_in(copy) == ["ada", "committed", "zoë"]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_no_database_is_no_copy_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(BackupFailed):
        copy_database(parse(url_of(tmp_path / "missing.sqlite")), tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_database_leaves_the_last_copy(tmp_path: Path) -> None:
    database, copy = tmp_path / "hub.sqlite", tmp_path / "copy"
    make_database(database, "ada")
    copy_database(parse(url_of(database)), copy)
    database.write_bytes(b"nonsense" * 1000)
    with pytest.raises(BackupFailed):
        copy_database(parse(url_of(database)), copy)
    assert names_in(copy) == ["ada"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "hub.sqlite"]


def test_a_copy_comes_back_without_what_the_later_hub_left(tmp_path: Path) -> None:
    database, copy = tmp_path / "hub.sqlite", tmp_path / "copy"
    make_database(database, "ada")
    copy_database(parse(url_of(database)), copy)
    writer = sqlite3.connect(database)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("INSERT INTO users VALUES ('later')")
    writer.commit()
    log = database.with_name(f"{database.name}-wal")
    left = log.read_bytes()
    writer.close()
    log.write_bytes(left)  # as after a kill
    restore_sqlite(parse(url_of(database)), copy)
    assert names_in(database) == ["ada"]
    assert stat.S_IMODE(database.stat().st_mode) == 0o600


def test_a_link_that_the_hub_has_laid_is_not_followed(tmp_path: Path) -> None:
    database, copy, other = tmp_path / "hub.sqlite", tmp_path / "copy", tmp_path / "other"
    make_database(copy, "ada")
    other.write_text("root's own")
    (tmp_path / ".hub.sqlite.restored").symlink_to(other)
    restore_sqlite(parse(url_of(database)), copy)
    assert names_in(database) == ["ada"]
    assert other.read_text() == "root's own"


async def test_the_bucket_gets_it_by_date(tmp_path: Path) -> None:
    database, bucket = tmp_path / "hub.sqlite", Bucket()
    make_database(database, "ada")
    key = await back_up(bucket, "the-bucket", parse(url_of(database)), NOW)  # type: ignore[arg-type]
    assert key == "backup/hub/2026-11-27T030405Z.sqlite.gz"
    put, newest = bucket.puts
    assert (put["Bucket"], put["Key"]) == ("the-bucket", key)
    # Once more where nothing expires, over the one of the day before.
    assert (newest["Bucket"], newest["Key"]) == ("the-bucket", "backup/newest/hub.sqlite.gz")
    assert "IfNoneMatch" not in newest
    assert newest["Body"] == put["Body"]
    restored = tmp_path / "restored"
    restored.write_bytes(gzip.decompress(put["Body"]))
    assert names_in(restored) == ["ada"]


async def test_a_backup_is_never_written_over(tmp_path: Path) -> None:
    database, bucket = tmp_path / "hub.sqlite", Bucket(there=b"another")
    make_database(database, "ada")
    with pytest.raises(ConditionFailed):
        await back_up(bucket, "b", parse(url_of(database)), NOW)  # type: ignore[arg-type]
    assert bucket.there == b"another"
    assert [put["Key"] for put in bucket.puts if "newest" in put["Key"]] == []


async def test_a_backup_whose_answer_was_lost_is_known_by_its_bytes(tmp_path: Path) -> None:
    database, bucket = tmp_path / "hub.sqlite", Bucket()
    make_database(database, "ada")
    bucket.loses_answer = True
    assert await back_up(bucket, "b", parse(url_of(database)), NOW)  # type: ignore[arg-type]


async def test_nothing_is_put_where_no_copy_was_made(tmp_path: Path) -> None:
    bucket = Bucket()
    with pytest.raises(BackupFailed):
        await back_up(bucket, "b", parse(url_of(tmp_path / "missing")), NOW)  # type: ignore[arg-type]
    assert bucket.puts == []


def a_dump(folder: Path, script: str) -> Path:
    program = folder / "bin/pg_dump"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program.parent


def test_pg_dump_reads_the_password_where_ps_does_not_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """
for word; do case $word in *s3cr*) exit 9 ;; --file=*) file=${word#--file=} ;; esac; done
echo "$PGHOST $PGPORT $PGUSER $PGPASSWORD $PGDATABASE $PGSSLMODE" >"$file"
"""
    monkeypatch.setenv("PATH", f"{a_dump(tmp_path, script)}:/usr/bin:/bin")
    copy_database(parse(POSTGRESQL), tmp_path / "copy")
    assert (tmp_path / "copy").read_text().split() == [
        *("db.example.org", "5433", "hub", "s3cr@t", "hubdb", "require")
    ]


def test_a_dump_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "echo 'server version mismatch' >&2; exit 1"
    monkeypatch.setenv("PATH", f"{a_dump(tmp_path, script)}:/usr/bin:/bin")
    with pytest.raises(BackupFailed, match="server version mismatch") as failed:
        copy_database(parse(POSTGRESQL), tmp_path / "copy")
    assert "s3cr" not in str(failed.value)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("url", "why"), [(POSTGRESQL, "pg_dump is not installed"), ("mysql://u:p@h/d", "mysql")]
)
def test_a_database_that_we_cannot_copy_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, why: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCopy, match=why):
        copy_database(parse(url), tmp_path / "copy")


def test_a_bad_url_does_not_show_its_password() -> None:
    with pytest.raises(ConfigError) as refused:
        parse("postgresql//hub:s3cret@db")
    assert "s3cret" not in str(refused.value)


def test_the_database_is_on_the_data_volume_unless_it_is_elsewhere() -> None:
    assert database_url({}) == "sqlite:////var/lib/jupyterhub/hub/jupyterhub.sqlite"
    assert is_sqlite(parse(database_url({})))
    assert database_url({"HUB_DB_URL": POSTGRESQL}) == POSTGRESQL
    assert not is_sqlite(parse(POSTGRESQL))


def test_variables_of_what_is_not_said_are_not_set() -> None:
    assert postgresql_environment(parse("postgresql+psycopg://db/hubdb")) == {
        "PGHOST": "db",
        "PGDATABASE": "hubdb",
    }


async def test_the_newest_takes_the_place_of_the_one_before_and_both_stay_by_date(
    tmp_path: Path,
) -> None:
    database = tmp_path / "hub.sqlite"
    with InProcessCloud() as cloud:
        s3 = cloud.client("s3")
        s3.create_bucket(Bucket="copies")
        session = SimpleNamespace(client=lambda service, **_: cloud.client(service))
        gateway = Gateway("us-east-1", session_factory=lambda: session)
        keys = []
        for number, user in enumerate(("ada", "zoë")):
            database.unlink(missing_ok=True)
            make_database(database, user)
            day = NOW + timedelta(days=number)
            keys.append(await back_up(gateway, "copies", parse(url_of(database)), day))
        gateway.close()
        found = {entry["Key"] for entry in s3.list_objects_v2(Bucket="copies")["Contents"]}
        newest = "backup/newest/hub.sqlite.gz"
        assert found == {*keys, newest}
        bodies = [s3.get_object(Bucket="copies", Key=key)["Body"].read() for key in (*keys, newest)]
    assert bodies[0] != bodies[1] == bodies[2]
