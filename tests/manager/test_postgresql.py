"""A real PostgreSQL as the hub's database: the driver that is installed, and copies of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from hub.processes import free_port

from ec2spawner.manager.backup import BackupFailed, copy_database, parse

PASSWORD = "s3cr@t/word"
SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def as_nobody(*words: str | Path, **environment: str) -> None:
    """PostgreSQL does not run as root."""
    drop = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    subprocess.run(
        [*(drop if os.geteuid() == 0 else []), *map(str, words)],
        env={"PATH": f"{SERVERS[-1]}:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", **environment},
        check=True,
        timeout=60,
        stdout=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with one empty database."""
    if not SERVERS or not shutil.which("pg_dump"):
        pytest.skip("no PostgreSQL here (Debian: apt-get install postgresql)")
    # Where nobody may enter: pytest's own folders are its user's.
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody", "nogroup")
    secret = folder / "secret"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    data, port = folder / "data", free_port()
    as_nobody(
        "initdb",
        "-D",
        data,
        "-U",
        "hub",
        "-A",
        "scram-sha-256",
        "--pwfile",
        secret,
        "-N",
        "-E",
        "UTF8",
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {folder}"
    as_nobody("pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
    try:
        yield f"postgresql+psycopg://hub:s3cr%40t%2Fword@127.0.0.1:{port}/postgres"
    finally:
        as_nobody("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def test_a_copy_holds_what_the_hub_wrote(url: str, tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(parse(url))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE users (name TEXT)"))
        connection.execute(sqlalchemy.text("INSERT INTO users VALUES ('ada'), ('zoë')"))
    copy_database(parse(url), tmp_path / "copy")
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE users"))
    target = url.replace("+psycopg", "")
    subprocess.run(["pg_restore", "--dbname", target, tmp_path / "copy"], check=True, timeout=60)
    with engine.connect() as connection:
        found = connection.execute(sqlalchemy.text("SELECT name FROM users ORDER BY name"))
        assert [name for (name,) in found] == ["ada", "zoë"]
    engine.dispose()


def test_a_refused_password_is_a_failure_without_the_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(BackupFailed, match="authentication failed") as failed:
        copy_database(parse(url.replace("s3cr%40t", "wr0ng")), tmp_path / "copy")
    assert "wr0ng" not in str(failed.value)
    assert list(tmp_path.iterdir()) == []
