"""The shared emulated clouds, shared hubs and stages; a failed test shows its hubs' logs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .beside import AT_ONCE, Beside, Stage
from .clouds import Cloud, Network
from .hubs import Hub
from .processes import HERE, Nursery

LOG_LINES = 150


def only_asks(item: pytest.Item) -> bool:
    """Whether a test asks for the outcome of a scenario, and does nothing itself."""
    return item.path.parent == HERE and "stub_cloud" not in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Within these tests, those that only ask come last."""
    places = [n for n, item in enumerate(items) if item.path.parent == HERE]
    ours = sorted((items[place] for place in places), key=only_asks)
    for place, item in zip(places, ours, strict=True):
        items[place] = item


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
    network, cloud = Network(), Cloud(folder / "process-cloud", "process", 0)
    try:
        cloud.start()
        cloud.launch_cluster(network.cidr)
        yield cloud
    finally:
        cloud.close()
        network.close()


@contextmanager
def _copy(cloud: Cloud, number: int) -> Iterator[Cloud]:
    """A cloud as the other one was when its cluster was built, with workers that only answer."""
    copy = Cloud(cloud.folder.with_name(f"stub-cloud-{number}"), "stub", number)
    copy.take_over(cloud)
    try:
        copy.start()
        yield copy
    finally:
        copy.close()


@pytest.fixture(scope="session")
def stub_cloud(cloud: Cloud) -> Iterator[Cloud]:
    """A cloud whose workers only answer; tests may break it for a while."""
    with _copy(cloud, 1) as stub_cloud:
        yield stub_cloud


@pytest.fixture(scope="session")
def calm_cloud(cloud: Cloud) -> Iterator[Cloud]:
    """The same for scenarios beside the tests: nobody breaks it."""
    with _copy(cloud, 2) as calm_cloud:
        yield calm_cloud


@pytest.fixture(scope="session", autouse=True)
def beside(request: pytest.FixtureRequest, folder: Path, nursery: Nursery) -> Iterator[None]:
    """Begin the scenarios that are played beside the tests."""
    chosen = (i for i in request.session.items if isinstance(i, pytest.Function))
    modules = {item.module for item in chosen if only_asks(item)}
    scenarios = [
        (module.__name__, value)
        for module in sorted(modules, key=lambda m: m.__name__)
        for value in vars(module).values()
        if isinstance(value, Beside)
    ]
    if not scenarios:
        yield
        return
    clouds = [request.getfixturevalue(kind) for kind in ("cloud", "calm_cloud")]
    turns = threading.Semaphore(AT_ONCE)
    threads = [
        scenario.begin(Stage(name, folder, nursery, *clouds), turns) for name, scenario in scenarios
    ]
    yield
    for thread in threads:
        thread.join(60)


@pytest.fixture(scope="session")
def stub_hub(stub_cloud: Cloud, folder: Path, nursery: Nursery) -> Iterator[Hub]:
    hub = Hub(stub_cloud, folder / "shared-hub", nursery, REAPER_GRACE_SECONDS=2)
    yield hub.start()
    hub.close()


@pytest.fixture
def quick_hub(request: pytest.FixtureRequest, stub_hub: Hub) -> Hub:
    """A running hub whose workers only answer, for tests that do not end it."""
    request.node.hubs = [stub_hub]
    return stub_hub


@pytest.fixture
def stage(
    request: pytest.FixtureRequest, folder: Path, nursery: Nursery, cloud: Cloud, stub_cloud: Cloud
) -> Iterator[Stage]:
    """Makes hubs that end with the test."""
    stage = Stage(request.node.name, folder, nursery, cloud, stub_cloud)
    request.node.hubs = stage.hubs
    yield stage
    stage.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        for hub in _hubs_of(item):
            lines = hub.story().splitlines()[-LOG_LINES:]
            report.sections.append((f"log of {hub.folder.name}", "\n".join(lines)))
    return report


def _hubs_of(item: pytest.Item) -> list[Hub]:
    played = [
        b.stage for b in vars(getattr(item, "module", None)).values() if isinstance(b, Beside)
    ]
    return [*getattr(item, "hubs", ()), *(hub for stage in played if stage for hub in stage.hubs)]
