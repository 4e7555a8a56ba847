"""The shared emulated clouds and a maker of hubs; a failed test shows its hubs' logs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from pathlib import Path
from typing import Any

import pytest

from .clouds import Cloud
from .hubs import Hub, Proxy
from .processes import Nursery

LOG_LINES = 150
MakeHub = Callable[..., Hub]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="session")
def nursery(folder: Path) -> Iterator[Nursery]:
    nursery = Nursery(folder / "nursery.log")
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def cloud(folder: Path, nursery: Nursery) -> Iterator[Cloud]:
    """A cloud whose workers are processes, with a cluster built by the real launch command."""
    cloud = Cloud(folder / "process-cloud", "process")
    try:
        cloud.start()
        cloud.launch_cluster()
        yield cloud
    finally:
        cloud.close()


@pytest.fixture(scope="session")
def stub_cloud(folder: Path, nursery: Nursery) -> Iterator[Cloud]:
    """The same, whose workers only answer."""
    cloud = Cloud(folder / "stub-cloud", "stub")
    try:
        cloud.start()
        cloud.launch_cluster()
        yield cloud
    finally:
        cloud.close()


@pytest.fixture(scope="session")
def apart(folder: Path) -> Iterator[Proxy]:
    """A proxy that goes on when a hub ends; for one hub at a time."""
    from .processes import clean_environment

    proxy = Proxy(folder, clean_environment())
    yield proxy
    proxy.close()


@pytest.fixture
def make_hub(
    request: pytest.FixtureRequest, folder: Path, nursery: Nursery
) -> Iterator[MakeHub]:
    """Makes hubs that end with the test."""
    hubs: list[Hub] = []
    names = itertools.count(1)

    def make(cloud: Cloud, **options: Any) -> Hub:
        place = folder / "".join(c if c.isalnum() else "-" for c in request.node.name)[:60]
        hub = Hub(cloud, place.with_name(f"{place.name}.{next(names)}"), nursery, **options)
        hubs.append(hub)
        return hub

    request.node.hubs = hubs
    yield make
    for hub in hubs:
        hub.close()
        hub.cloud.forgive()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        for hub in getattr(item, "hubs", ()):
            lines = hub.story().splitlines()[-LOG_LINES:]
            report.sections.append((f"log of {hub.folder.name}", "\n".join(lines)))
    return report
