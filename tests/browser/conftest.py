"""One demo and one browser for all tests here; what people saw, as pictures.

The pictures go to ``.test-output/browser``, or into the folder that ``SCREENSHOTS`` names:

    SCREENSHOTS=docs/images .venv/bin/python -m pytest tests/browser

A failed test leaves ``failed-NAME.png`` of every open tab there, and the hub's log in its report.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub.processes import REPOSITORY
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from . import chromium
from .demos import Demo
from .visitors import HEIGHT, PAGE_SECONDS, WIDTH, Look, Progress, Visitor

Visit = Callable[[str], Visitor]
Shoot = Callable[..., None]
Film = Callable[[Visitor, str], Look]
WHO_IS_THERE = pytest.StashKey[tuple[Demo, dict[str, Visitor]]]()


@pytest.fixture(scope="package")
def chromium_path() -> str:
    return chromium.find(os.environ)


@pytest.fixture(scope="package")
def demo(chromium_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("demo"))
    try:
        demo.until_ready()
        yield demo
    finally:
        demo.end()


@pytest.fixture(scope="package")
def browser(chromium_path: str) -> Iterator[Browser]:
    # For the package only: while it is open, no test can run an event loop of its own.
    with sync_playwright() as playwright:
        expect.set_options(timeout=PAGE_SECONDS * 1000)
        browser = chromium.launch(playwright, chromium_path)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def visitors() -> dict[str, Visitor]:
    return {}


@pytest.fixture
def visit(
    request: pytest.FixtureRequest, demo: Demo, browser: Browser, visitors: dict[str, Visitor]
) -> Iterator[Visit]:
    """Brings somebody in; who was there before comes with the same browser."""

    def come(name: str) -> Visitor:
        if name not in visitors:
            visitors[name] = Visitor(browser, demo, name)
        return visitors[name]

    request.node.stash[WHO_IS_THERE] = (demo, visitors)
    yield come
    for visitor in visitors.values():
        visitor.leave()


@pytest.fixture
def come(request: pytest.FixtureRequest, hub: Demo, browser: Browser) -> Iterator[Visit]:
    """Somebody comes to the ``hub`` of the module with a new browser, which ends with the test."""
    visitors: dict[str, Visitor] = {}

    def visit(name: str) -> Visitor:
        visitors[name] = Visitor(browser, hub, name)
        return visitors[name]

    request.node.stash[WHO_IS_THERE] = (hub, visitors)
    yield visit
    for visitor in visitors.values():
        visitor.close()


def picture_folder() -> Path:
    folder = REPOSITORY / os.environ.get("SCREENSHOTS", ".test-output/browser")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def shoot() -> Shoot:
    """Takes a picture of a page, from its top down to ``height`` pixels."""

    def take(page: Page, name: str, height: int = HEIGHT) -> None:
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height}
        page.screenshot(path=picture_folder() / f"{name}.png", clip=clip)  # type: ignore[arg-type]

    return take


@pytest.fixture
def film(shoot: Shoot) -> Film:
    """Takes a picture of the spawn page whenever it changes and shows an estimate."""

    def look_at(visitor: Visitor, name: str) -> Look:
        def look(now: Progress) -> None:
            if "usually takes" in now.words:
                with contextlib.suppress(Error):  # the page goes on to the server in this moment
                    shoot(visitor.page, f"{name}-perhaps", 300)
                    # A page that is just left is blank; then the picture before stays.
                    if visitor.page.locator("#progress-bar").is_visible():
                        taken = picture_folder() / f"{name}-perhaps.png"
                        taken.replace(picture_folder() / f"{name}.png")

        return look

    return look_at


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed and WHO_IS_THERE in item.stash:
        demo, visitors = item.stash[WHO_IS_THERE]
        report.sections.append(("the hub's log", demo.hub_log()))
        for visitor in visitors.values():
            try:
                visitor.page.screenshot(path=picture_folder() / f"failed-{visitor.name}.png")
            except Error as error:
                report.sections.append((f"no picture of {visitor.name}", str(error)))
    return report
