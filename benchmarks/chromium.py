"""Debian's chromium, as tests and benchmarks drive it: its names and its command line.

Owns the options that keep it from talking to other hosts.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # Nor may a page have it do so: only this computer has a name.
    "--host-resolver-rules="
    "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost, EXCLUDE *.localhost",
)
MISSING = "needs Debian's chromium; as root: apt-get install --no-install-recommends chromium"


def find(search_path: str | None = None) -> str | None:
    """Where it is, in these folders or in PATH's; None where there is none."""
    found = (shutil.which(name, path=search_path) for name in NAMES)
    return next(filter(None, found), None)


def behind(command: Sequence[str], path: str, script: Path) -> str:
    """Where to start it through ``command``: a new ``script``, since playwright takes one name."""
    script.write_text(f'#!/bin/sh\nexec {shlex.join([*command, path])} "$@"\n')
    script.chmod(0o755)
    return str(script)
