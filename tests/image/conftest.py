"""The image, a cloud of its machines, and a hub; all of it only for ``make test-image``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub.clouds import Network
from hub.hubs import Hub

from ec2spawner.localcloud.vm_workers import HOST_ADDRESS

from . import making, roots
from .machines import VmCloud, reach_from_machines

ASKED = "EC2SPAWNER_TEST_IMAGE"
"""Set by ``make test-image`` (to "lean") and ``make test-image-full``; else nothing is made."""
REPORTS = roots.REPOSITORY / ".test-output"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    asked = os.environ.get(ASKED)
    for item in items:
        if not item.path.is_relative_to(Path(__file__).parent):
            continue
        if not asked:
            item.add_marker(pytest.mark.skip(reason="make test-image runs it"))
        elif asked != "full" and item.get_closest_marker("full"):
            item.add_marker(pytest.mark.skip(reason="make test-image-full runs it"))


@pytest.fixture(scope="session")
def can_run() -> None:
    """Skip where no image can be made, or fail where it could have been arranged."""
    if reason := roots.lack():
        if os.environ.get("CI") == "true" and not roots.unfit() and shutil.which("apt-get"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def image(can_run: None) -> Path:
    """The image of a worker."""
    return making.make(making.Recipe())


@pytest.fixture(scope="session")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], VmCloud]]:
    """Makes clouds of an image, each with a cluster built by the real launch command."""
    network = Network()
    made: list[VmCloud] = []

    def make(image: Path) -> VmCloud:
        cloud = VmCloud(tmp_path_factory.mktemp("vm") / "cloud", image)
        made.append(cloud)
        cloud.start()
        cloud.launch_cluster(network.cidr, hub_connect_url=f"http://{HOST_ADDRESS}:8081")
        return cloud

    yield make
    for cloud in made:
        cloud.close()
        for disk in cloud.folder.rglob("*.qcow2"):
            disk.unlink()
        shutil.rmtree(cloud.folder / "state" / "volumes", ignore_errors=True)
    network.close()


@pytest.fixture(scope="session")
def cloud(image: Path, clouds: Callable[[Path], VmCloud]) -> VmCloud:
    """A cloud of real machines."""
    return clouds(image)


@pytest.fixture
def hubs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Hub]]:
    """Makes hubs for a test, told how real machines reach them."""
    made: list[Hub] = []
    request.node.hubs = made

    def make(cloud: VmCloud, **choices: Any) -> Hub:
        hub = Hub(cloud, tmp_path / f"hub-{len(made)}", **choices)
        made.append(reach_from_machines(hub))
        return hub

    yield make
    for hub in made:
        hub.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        for hub in getattr(item, "hubs", ()):
            report.sections.append((f"log of {hub.folder.name}", hub.story()[-12_000:]))
            for machine in sorted(hub.cloud.folder.glob("state/instances/*")):
                for name in ("console.log", "qmp.log"):
                    path = machine / name
                    text = path.read_text(errors="replace")[-3000:] if path.exists() else ""
                    report.sections.append((f"{machine.name}/{name}", text))
    return report
