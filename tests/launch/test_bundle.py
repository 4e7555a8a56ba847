"""The bundle: what is in it, that it is the same each time, and what is said when it cannot be."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ec2spawner.cloud import Gateway
from ec2spawner.version import __version__
from launch_cluster import bundle as module
from launch_cluster.bundle import (
    ON_WORKERS,
    WHEEL_NAME,
    Bundle,
    BundleError,
    Sources,
    find_sources,
    make_wheel,
    missing_parts,
    put_once,
    worker_digest,
)

from .conftest import Calls

REAL_MAKE_BUNDLE = module.make_bundle


def contents(bundle: Bundle) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(bundle.data)) as tar:
        files = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        return {name: file.read() for name, file in files.items() if file}


@pytest.fixture
def copy(tmp_path: Path) -> Sources:
    """A checkout of its own, which a test may change."""
    real = find_sources()
    assert real.checkout
    top = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("ec2spawner", "launch_cluster"):
        shutil.copytree(real.checkout / name, top / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(real.checkout / name, top / name)
    return Sources(top / "ec2spawner", top / "launch_cluster", top)


def test_it_holds_wheel_locks_proxy_and_provisioning(bundle: Bundle) -> None:
    found = contents(bundle)
    assert {
        WHEEL_NAME,
        "worker.lock",
        "hub.lock",
        "proxy/package.json",
        "proxy/package-lock.json",
        "provision/worker/provision.sh",
        "provision/worker/seal.sh",
    } <= set(found)
    assert all(
        name.split("/")[0] in {WHEEL_NAME, "worker.lock", "hub.lock", "proxy", "provision"}
        for name in found
    )
    assert b"jupyterhub==" in found["hub.lock"]
    assert b"--hash=sha256:" in found["hub.lock"]
    assert b"://" not in found["hub.lock"]
    assert len(bundle.data) < 2_000_000
    assert bundle.key == f"package/{bundle.sha256}.tar.gz"


def test_the_wheel_holds_what_an_installed_launch_command_needs(bundle: Bundle) -> None:
    with zipfile.ZipFile(io.BytesIO(contents(bundle)[WHEEL_NAME])) as wheel:
        names = set(wheel.namelist())
    assert {
        "ec2spawner/worker/image/provision.sh",
        "ec2spawner/worker/image/worker.lock",
        "launch_cluster/manager/hub.lock",
        "launch_cluster/manager/proxy/package-lock.json",
        "launch_cluster/bootstrap.sh",
        "launch_cluster/templates/cluster.yaml",
        f"ec2spawner-{__version__}.dist-info/METADATA",
    } <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]


def test_the_same_checkout_gives_the_same_bytes_whatever_its_modes_and_times(
    copy: Sources, bundle: Bundle
) -> None:
    for path in copy.package.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    assert REAL_MAKE_BUNDLE(copy).sha256 == bundle.sha256


def test_building_leaves_nothing_in_the_checkout(copy: Sources) -> None:
    assert copy.checkout
    before = sorted(copy.checkout.rglob("*"))
    make_wheel(copy)
    assert sorted(copy.checkout.rglob("*")) == before


def test_a_change_of_the_launch_command_builds_no_image_and_one_of_the_worker_does(
    copy: Sources,
) -> None:
    before = worker_digest(copy)
    for name in ("launch_cluster/up.py", "ec2spawner/localcloud/cloud.py", "ec2spawner/fleet.py"):
        with (copy.package.parent / name).open("a") as file:
            file.write("# changed\n")
    assert worker_digest(copy) == before
    for name in ("worker/records.py", "worker/image/worker.lock", "worker/image/provision.sh"):
        with (copy.package / name).open("a") as file:
            file.write("# changed\n")
        after = worker_digest(copy)
        assert after != before
        before = after


def test_nothing_else_of_this_package_is_loaded_on_a_worker() -> None:
    code = (
        "import importlib, pkgutil, sys, ec2spawner.worker as worker\n"
        "for module in pkgutil.iter_modules(worker.__path__):\n"
        "    if module.name not in ('singleuser',) and 'extension' not in module.name:\n"
        "        importlib.import_module(f'ec2spawner.worker.{module.name}')\n"
        "print(*(n for n in sys.modules if n.startswith('ec2spawner.')))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = {name.removeprefix("ec2spawner.").replace(".", "/") for name in result.stdout.split()}
    assert "worker/home" in loaded, result.stderr
    assert not [n for n in loaded if not f"{n}.py".startswith(ON_WORKERS) and n != "worker"]


def test_every_missing_part_is_named(copy: Sources) -> None:
    (copy.worker / "seal.sh").unlink()
    (copy.manager / "hub.lock").unlink()
    missing = ["ec2spawner/worker/image/seal.sh", "launch_cluster/manager/hub.lock"]
    assert missing_parts(copy) == missing
    for work in (worker_digest, REAL_MAKE_BUNDLE):
        with pytest.raises(BundleError) as caught:
            work(copy)
        assert caught.value.why == f"Missing: {', '.join(missing)}."
        assert caught.value.next_step


def test_a_checkout_that_cannot_be_built_is_told_in_a_line(copy: Sources) -> None:
    assert copy.checkout
    (copy.checkout / "pyproject.toml").write_text("[project\n")
    with pytest.raises(BundleError) as caught:
        make_wheel(copy)
    assert "cannot be built from this checkout" in caught.value.what
    assert "setuptools" in caught.value.next_step
    assert "\n" not in caught.value.why
    assert len(caught.value.why) <= 400


def test_an_installed_package_is_downloaded_at_its_own_version(
    copy: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    installed = replace(copy, checkout=None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    with pytest.raises(BundleError) as caught:
        make_wheel(installed)
    assert f"ec2spawner {__version__} cannot be downloaded" in caught.value.what
    wheel = make_wheel(copy)
    (shelf / WHEEL_NAME).write_bytes(wheel)
    assert make_wheel(installed) == wheel


def test_a_command_that_does_not_end_is_given_up(
    copy: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WHEEL_DEADLINE_SECONDS", 0.01)
    with pytest.raises(BundleError, match="cannot be built"):
        make_wheel(copy)


def test_what_is_in_the_bucket_is_not_put_again(
    gateway: Gateway, calls: Calls, cluster: str
) -> None:
    bucket = f"bundle-{cluster}"

    async def put() -> tuple[bool, bool]:
        await gateway.call("s3", "create_bucket", {"Bucket": bucket})
        first = await put_once(gateway, bucket, "package/x.tar.gz", b"x")
        return first, await put_once(gateway, bucket, "package/x.tar.gz", b"x")

    assert asyncio.run(put()) == (True, False)


def test_a_wheel_that_is_installed_finds_its_own_parts(bundle: Bundle, tmp_path: Path) -> None:
    """The same content hash as in the checkout: the same worker image."""
    with zipfile.ZipFile(io.BytesIO(contents(bundle)[WHEEL_NAME])) as wheel:
        wheel.extractall(tmp_path)
    code = (
        "from launch_cluster.bundle import *\n"
        "sources = find_sources()\n"
        "print(sources.checkout, missing_parts(sources), worker_digest(sources))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert result.stdout.strip() == f"None [] {worker_digest(find_sources())}", result.stderr
