"""The shared emulated clouds, shared hubs and a maker of hubs; a failed test shows their logs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .clouds import Cloud, Network
from .hubs import Hub, Proxy
from .processes import Nursery, clean_environment

LOG_LINES = 150
numbers = itertools.count(1)
QUICK_POLLS = {"Spawner": {"poll_interval": 1}}
QUICK_LOOKS = {"ec2spawner.inventory:Inventory.__init__.__kwdefaults__": {"full_seconds": 2.0}}
"""Polls of a server each second, full listings every 2 s: what takes half a minute in real life."""
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
    network, cloud = Network(), Cloud(folder / "process-cloud", "process")
    try:
        cloud.start()
        cloud.launch_cluster(network.cidr)
        yield cloud
    finally:
        cloud.close()
        network.close()


@pytest.fixture(scope="session")
def stub_cloud(cloud: Cloud, folder: Path) -> Iterator[Cloud]:
    """The same cloud as it was when its cluster was built, with workers that only answer."""
    stub_cloud = Cloud(folder / "stub-cloud", "stub")
    stub_cloud.take_over(cloud)
    try:
        stub_cloud.start()
        yield stub_cloud
    finally:
        stub_cloud.close()


@pytest.fixture(scope="session")
def apart(folder: Path) -> Iterator[Proxy]:
    """A proxy that goes on when a hub ends; for one hub at a time."""
    proxy = Proxy(folder, clean_environment())
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def process_hub(cloud: Cloud, folder: Path, nursery: Nursery) -> Iterator[Hub]:
    hub = Hub(cloud, folder / "shared-process-hub", nursery, REAPER_GRACE_SECONDS=2)
    hub.config, hub.constants = QUICK_POLLS, QUICK_LOOKS
    yield hub.start()
    hub.close()


@pytest.fixture(scope="session")
def stub_hub(stub_cloud: Cloud, folder: Path, nursery: Nursery) -> Iterator[Hub]:
    hub = Hub(stub_cloud, folder / "shared-stub-hub", nursery, REAPER_GRACE_SECONDS=2)
    hub.config, hub.constants = QUICK_POLLS, QUICK_LOOKS
    yield hub.start()
    hub.close()


@pytest.fixture
def hub(request: pytest.FixtureRequest, process_hub: Hub) -> Iterator[Hub]:
    """A running hub with real workers, for tests that neither end it nor hurt others' users."""
    request.node.hubs = [process_hub]
    yield process_hub
    process_hub.cloud.forgive()


@pytest.fixture
def quick_hub(request: pytest.FixtureRequest, stub_hub: Hub) -> Iterator[Hub]:
    """A running hub whose workers only answer, for tests that do not end it."""
    request.node.hubs = [stub_hub]
    yield stub_hub
    stub_hub.cloud.forgive()


@pytest.fixture
def make_hub(request: pytest.FixtureRequest, folder: Path, nursery: Nursery) -> Iterator[MakeHub]:
    """Makes hubs that end with the test."""
    hubs: list[Hub] = []
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)[:60]

    def make(cloud: Cloud, *, is_forked: bool = True, **options: Any) -> Hub:
        place = folder / f"hub-{next(numbers)}-{name}"
        hub = Hub(cloud, place, nursery if is_forked else None, **options)
        hub.config, hub.constants = dict(QUICK_POLLS), dict(QUICK_LOOKS)
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
