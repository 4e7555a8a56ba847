"""Programs of Debian's packages for these tests, without installing them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from .packages import REPOSITORY

TOOL = REPOSITORY / "tools/debian_program.sh"


def find_program(program: str, package: str) -> Path:
    """A program out of a package; the test is skipped, with the reason, where it cannot be had."""
    done = subprocess.run([TOOL, program, package], capture_output=True, text=True, timeout=400)
    if done.returncode == 0:
        return Path(done.stdout.strip())
    if os.environ.get("CI") == "true":
        pytest.fail(done.stderr)
    pytest.skip(done.stderr.strip())


@pytest.fixture(scope="session")
def caddy() -> Path:
    return find_program("caddy", "caddy")
