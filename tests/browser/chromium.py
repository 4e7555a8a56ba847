"""The browser of the tests here, and what happens where there is none."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from playwright.sync_api import Browser, Playwright

from benchmarks import chromium


def find(environ: Mapping[str, str]) -> str:
    """The browser's path. Without one the test is skipped, or fails where ``CI`` is "true"."""
    if path := chromium.find(environ.get("PATH", "")):
        return path
    if environ.get("CI") == "true":
        pytest.fail(chromium.MISSING)
    pytest.skip(chromium.MISSING)


def launch(playwright: Playwright, path: str) -> Browser:
    """A browser without a window."""
    return playwright.chromium.launch(executable_path=path, args=list(chromium.FLAGS))
