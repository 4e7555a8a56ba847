"""What tests of several folders share: the browser, or the reason why there is none."""

import os
import shutil
import subprocess

import pytest

CHROMIUM_ARGS = [
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
"""For Playwright's ``launch``: a browser that asks nobody on the network for anything."""


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Debian's chromium; without it the test is skipped, or fails where CI=true."""
    path = shutil.which("chromium")
    if (
        path
        and subprocess.run([path, "--version"], capture_output=True, timeout=60).returncode == 0
    ):
        return path
    reason = "the browser tests need Debian's chromium: sudo apt-get install chromium"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason)
    pytest.skip(reason)
