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
from collections.abc import Mapping
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
    check_same,
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
        "ec2spawner/dashboard/templates/machines.html",
        "ec2spawner/dashboard/templates/page.html",
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


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the index which pip asks."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def wheel(bundle: Bundle) -> bytes:
    return contents(bundle)[WHEEL_NAME]


@pytest.fixture
def installed(wheel: bytes, tmp_path: Path) -> Sources:
    """The package as pip installs it, with what pip adds."""
    site = tmp_path / "site"
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        archive.extractall(site)
    (info,) = site.glob("*.dist-info")
    (info / "INSTALLER").write_text("pip\n")
    with (info / "RECORD").open("a") as record:
        record.write(f"{info.name}/INSTALLER,,\n../../bin/launch-cluster,,\n")
        record.write("ec2spawner/__pycache__/fleet.cpython-311.pyc,,\n")
    (site / "ec2spawner" / "__pycache__").mkdir()
    (site / "ec2spawner/__pycache__/fleet.cpython-311.pyc").write_bytes(b"x")
    return Sources(site / "ec2spawner", site / "launch_cluster", None)


def rewritten(wheel: bytes, changes: Mapping[str, bytes | None]) -> bytes:
    """A wheel with some files changed, added, or (None) left out; its RECORD says nothing of it."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        files: dict[str, bytes | None] = {n: archive.read(n) for n in archive.namelist()}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in {**files, **changes}.items():
            if data is not None:
                archive.writestr(name, data)
    return packed.getvalue()


def test_an_installed_package_is_downloaded_at_its_own_version(
    installed: Sources, wheel: bytes, shelf: Path
) -> None:
    with pytest.raises(BundleError) as caught:
        make_wheel(installed)
    assert f"ec2spawner {__version__} cannot be downloaded" in caught.value.what
    (shelf / WHEEL_NAME).write_bytes(wheel)
    assert make_wheel(installed) == wheel
    info = WHEEL_NAME.removesuffix("-py3-none-any.whl") + ".dist-info"
    another_builder = rewritten(wheel, {f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: other\n"})
    (shelf / WHEEL_NAME).write_bytes(another_builder)
    assert make_wheel(installed) == another_builder


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("ec2spawner/fleet.py", b"print('other')\n"),
        ("ec2spawner/worker/image/provision.sh", b""),
        ("ec2spawner/worker/more.py", b""),
        ("evil.pth", b"import os\n"),
        (f"ec2spawner-{__version__}.dist-info/entry_points.txt", b""),
        (f"ec2spawner-{__version__}.data/scripts/ls", b""),
        ("launch_cluster/up.py", None),
    ],
)
def test_a_downloaded_wheel_that_differs_from_what_is_installed_is_refused(
    installed: Sources, wheel: bytes, shelf: Path, name: str, data: bytes | None
) -> None:
    (shelf / WHEEL_NAME).write_bytes(rewritten(wheel, {name: data}))
    with pytest.raises(BundleError) as caught:
        make_wheel(installed)
    assert "is not the one that is installed here" in caught.value.what
    assert caught.value.why == f"Not the same: {name}."
    assert "from a checkout" in caught.value.next_step


def test_a_file_of_the_same_size_that_is_twice_in_a_wheel_is_refused(
    installed: Sources, wheel: bytes, tmp_path: Path
) -> None:
    twice = tmp_path / WHEEL_NAME
    twice.write_bytes(wheel)
    with zipfile.ZipFile(twice) as archive:
        data = archive.read("ec2spawner/fleet.py")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(twice, "a") as archive:
        archive.writestr("ec2spawner/fleet.py", data)
    with pytest.raises(BundleError, match="not the one"):
        check_same(twice, installed)


def test_what_was_changed_here_after_it_was_installed_is_seen_too(
    installed: Sources, wheel: bytes, tmp_path: Path
) -> None:
    downloaded = tmp_path / WHEEL_NAME
    downloaded.write_bytes(wheel)
    check_same(downloaded, installed)
    with (installed.package / "fleet.py").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(BundleError) as caught:
        check_same(downloaded, installed)
    assert caught.value.why == "Not the same: ec2spawner/fleet.py."


def test_a_package_without_a_record_and_a_broken_wheel_are_refused_in_a_line(
    installed: Sources, wheel: bytes, tmp_path: Path
) -> None:
    downloaded = tmp_path / WHEEL_NAME
    downloaded.write_bytes(b"no zip")
    with pytest.raises(BundleError, match="not the one") as caught:
        check_same(downloaded, installed)
    assert "cannot be read" in caught.value.why
    downloaded.write_bytes(wheel)
    next(installed.package.parent.glob("*.dist-info/RECORD")).unlink()
    with pytest.raises(BundleError, match="not the one") as caught:
        check_same(downloaded, installed)
    assert caught.value.why.endswith("….")


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
