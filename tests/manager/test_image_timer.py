"""The monthly image, made by the command of the timer's unit, from a release as on a manager."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from hub.clouds import Cloud, Network
from image import roots

from .packages import MANAGER, change_wheel

UNIT = MANAGER / "units/ec2spawner-image.service"
PARAMETER = "/ec2spawner/hubtest/worker-image"
IN_USE = "/opt/ec2spawner/current"
CONFIG = "/etc/jupyterhub/server_config.json"
STATE = "/var/lib/ec2spawner-image"
GIVEN = {"EC2SPAWNER_CLUSTER": "hubtest", "EC2SPAWNER_REGION": "us-east-1"}
"""What of manager.env the unit needs."""


@dataclass(frozen=True)
class Manager:
    """A manager's folders as far as the unit names them, and its cloud."""

    folder: Path
    cloud: Cloud

    @property
    def release(self) -> Path:
        return self.folder / "release"

    def words_of(self, key: str) -> list[str]:
        """A setting of the unit, with the folders and parameters of this manager."""
        text = UNIT.read_text().replace("\\\n", " ")
        for place, path in (
            (IN_USE, self.release),
            (CONFIG, self.cloud.folder / "server_config.json"),
            (STATE, self.folder / "state"),
        ):
            text = text.replace(place, str(path))
        for name, value in GIVEN.items():
            text = text.replace(f"${{{name}}}", value)
        return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)

    def run(self) -> subprocess.CompletedProcess[str]:
        """What the timer starts."""
        (command,) = self.words_of("ExecStart")
        (directory,) = self.words_of("WorkingDirectory")
        libraries = sysconfig.get_path("purelib", vars={"base": str(self.release)})
        environment = {
            **self.cloud.environment(),
            **GIVEN,
            **dict(line.split("=", 1) for line in self.words_of("Environment")),
            "PYTHONPATH": libraries,  # for want of a virtual environment with all packages
        }
        return subprocess.run(
            shlex.split(command),
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def client(self, service: str) -> Any:
        return boto3.Session().client(
            service,
            endpoint_url=self.cloud.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    @property
    def image(self) -> str:
        """The image that new workers get."""
        return str(self.client("ssm").get_parameter(Name=PARAMETER)["Parameter"]["Value"])

    def packages(self) -> dict[str, bytes]:
        """The packages in the cluster's bucket."""
        s3 = self.client("s3")
        (bucket,) = (b["Name"] for b in s3.list_buckets()["Buckets"])
        found = s3.list_objects_v2(Bucket=bucket, Prefix="package/").get("Contents", [])
        keys = [item["Key"] for item in found]
        return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release, as ``provision.sh`` lays it out, besides the packages that it needs.

    It is not what this checkout would be built into.
    """
    folder = tmp_path_factory.mktemp("manager")
    bundle = roots.unpack_bundle(folder / "bundle")
    change_wheel(bundle, "ec2spawner/later.py", '"""Only this release has it."""\n')
    (wheel,) = bundle.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    install = [*pip, "--no-index", "--no-deps", "--ignore-installed", "--prefix"]
    subprocess.run([*install, folder / "release", wheel], check=True, timeout=120)
    (folder / "release/wheels").mkdir()
    shutil.copy(wheel, folder / "release/wheels")
    (folder / "state").mkdir()
    return folder


@pytest.fixture(scope="module")
def manager(installed: Path) -> Iterator[Manager]:
    network = Network()
    cloud = Cloud(installed / "cloud", "stub", 7)
    try:
        cloud.start()
        cloud.launch_cluster(network.cidr)
        yield Manager(installed, cloud)
    finally:
        cloud.close()
        network.close()


def test_the_timer_s_command_makes_an_image_of_the_package_in_use(manager: Manager) -> None:
    before, packages = manager.image, manager.packages()
    done = manager.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert manager.image != before
    ec2 = manager.client("ec2")
    images = ec2.describe_images(ImageIds=[before, manager.image])["Images"]
    assert [image["State"] for image in images] == ["available"] * 2
    (wheel,) = (manager.release / "wheels").iterdir()
    (fresh,) = (data for key, data in manager.packages().items() if key not in packages)
    with tarfile.open(fileobj=io.BytesIO(fresh)) as tar:
        member = tar.extractfile(wheel.name)
        assert member
        assert member.read() == wheel.read_bytes()


def test_a_build_that_fails_is_a_failure_of_the_unit_and_changes_nothing(manager: Manager) -> None:
    before = manager.image
    manager.cloud.control("POST", "builders/next", {"fault": "fail", "count": 9})
    done = manager.run()
    assert done.returncode != 0
    assert "no space left on device" in done.stdout + done.stderr
    assert manager.image == before
