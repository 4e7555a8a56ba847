"""Debian's chromium for the browser tests: where it is, and what happens where there is none.

Owns the browser's command line, which holds whatever keeps it from talking to other hosts.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping

import pytest
from playwright.sync_api import Browser, Playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def find(environ: Mapping[str, str]) -> str:
    """The browser's path. Without one the test is skipped, or fails where ``CI`` is "true"."""
    for name in NAMES:
        path = shutil.which(name, path=environ.get("PATH", ""))
        if path:
            return path
    reason = "needs Debian's chromium; as root: apt-get install --no-install-recommends chromium"
    if environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def launch(playwright: Playwright, path: str) -> Browser:
    """A browser without a window."""
    return playwright.chromium.launch(executable_path=path, args=list(FLAGS))
