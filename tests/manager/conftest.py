"""Debian's Caddy for these tests, without installing it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .packages import REPOSITORY

CACHE = REPOSITORY / ".test-output/caddy"


def fetch() -> str:
    """Have Debian's package; why not, if not."""
    download = ["apt-get", "download", "-o", "APT::Sandbox::User=root", "caddy"]
    for command in (download, ["apt-get", "-q", "update"], download):
        done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, timeout=120)
        if command is download and done.returncode == 0 and any(CACHE.glob("caddy_*.deb")):
            return ""
    return done.stderr.strip()[-200:]


def find_caddy() -> Path | str:
    """Caddy, out of Debian's package if need be; or why there is none."""
    if found := shutil.which("caddy"):
        return Path(found)
    program = CACHE / "root/usr/bin/caddy"
    if program.exists():
        return program
    if not shutil.which("apt-get"):
        return "no Caddy on PATH, and no apt-get to fetch it"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.exists():
            return program
        if why := fetch():
            return f"Caddy cannot be fetched: {why}"
        packages = list(CACHE.glob("caddy_*.deb"))
        fresh = CACHE / "root.new"
        shutil.rmtree(fresh, ignore_errors=True)
        subprocess.run(["dpkg", "-x", str(packages[0]), str(fresh)], check=True)
        fresh.rename(CACHE / "root")
    return program


@pytest.fixture(scope="session")
def caddy() -> Path:
    found = find_caddy()
    if isinstance(found, Path):
        return found
    if os.environ.get("CI") == "true":
        pytest.fail(found)
    pytest.skip(found)
