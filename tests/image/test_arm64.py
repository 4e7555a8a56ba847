"""Provisioning on arm64: in a root of that architecture, whose programs qemu runs one by one.

What boots is x86_64 (``test_worker``, ``manager/test_machine``).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from . import making, roots

pytestmark = pytest.mark.full

EMULATOR = "qemu-aarch64-static"
PACKAGES = "qemu-user-static binfmt-support arch-test"
KNOWN_TO_THE_KERNEL = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
PATIENCE_SECONDS = 3600
CLUSTER = {
    "CLUSTER": "arm",
    "REGION": "us-east-1",
    "BUCKET": "ec2spawner-arm-123456789012-us-east-1",
    "DATA_VOLUME_ID": "vol-0123456789abcdef0",
}
COMPUTE = """
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(startup_timeout=600)
client.execute_interactive("import platform; print(platform.machine(), 6 * 7)", timeout=600)
manager.shutdown_kernel(now=True)
"""


@pytest.fixture
def place(can_run: None) -> Iterator[Path]:
    """Gigabytes that are gone with the test."""
    if not shutil.which(EMULATOR):
        pytest.skip(f"needs {EMULATOR} (Debian: apt-get install {PACKAGES})")
    if not KNOWN_TO_THE_KERNEL.exists():
        pytest.skip(f"this kernel runs no arm64 programs: there is no {KNOWN_TO_THE_KERNEL}")
    with tempfile.TemporaryDirectory(prefix="making-", dir=roots.cache()) as place:
        yield Path(place)


class Root:
    """Debian for arm64, and what a builder or a manager finds in its bundle."""

    def __init__(self, place: Path) -> None:
        self._root = place / "root"
        roots.unpack_base(self._root, "arm64")
        self._given = roots.unpack_bundle(place / "given")

    def run(self, *command: str, **variables: str) -> str:
        """What a command that must succeed says."""
        given: Mapping[str, str] = {"BUNDLE": roots.GIVEN, **variables}
        done = roots.enter(self._root, self._given, command, given, PATIENCE_SECONDS)
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout.strip()


def test_a_worker_is_provisioned_and_sealed_and_computes(place: Path) -> None:
    root = Root(place)
    variables = making.Recipe().variables
    for script in ("provision.sh", "seal.sh"):
        with roots.Timed(f"arm64: {script}"):
            root.run("sh", f"{roots.GIVEN}/provision/worker/{script}", **variables)
    server = "/opt/ec2spawner/bin"
    said = root.run(f"{server}/python", "-c", COMPUTE, JUPYTER_PATH="/opt/notebook/share/jupyter")
    assert said.endswith("aarch64 42")
    assert root.run(f"{server}/python", "-m", "jupyterlab", "--version")
    said = root.run("/usr/local/bin/ec2spawner-worker", "--version")  # after sudo's own words
    assert said.splitlines()[-1].startswith("ec2spawner-worker ")


def test_a_manager_has_its_hub_proxy_and_caddy(place: Path) -> None:
    root = Root(place)
    with roots.Timed("arm64: provision.sh of the manager"):
        root.run("sh", f"{roots.GIVEN}/provision/manager/provision.sh", **CLUSTER)
    current = "/opt/ec2spawner/current"
    assert root.run(f"{current}/bin/python", "-m", "jupyterhub", "--version")
    assert "usage" in root.run(f"{current}/bin/python", "-I", "-m", "ec2spawner.manager", "--help")
    assert root.run(f"{current}/proxy/bin/node", "-p", "process.arch") == "arm64"
    assert root.run("caddy", "version").removeprefix("v").startswith("2.")
    assert root.run("pg_dump", "--version").startswith("pg_dump")
