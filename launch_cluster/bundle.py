"""The bundle: one file from which builders and managers are provisioned, put into the bucket once.

Owns what is in it and that the same inputs give the same bytes: the package's wheel, the locks,
the proxy's lock and the provisioning files. Must not know what the machines do with it.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import ec2spawner
import launch_cluster
from ec2spawner.cloud import Effect, Gateway
from ec2spawner.errors import EC2SpawnerError, NotFound
from ec2spawner.manager.place import PACKAGE_KEY
from ec2spawner.version import __version__

from .bootstrap import Package
from .reporter import Elapsed, Reporter

WORKER_LOCK, HUB_LOCK = "worker.lock", "hub.lock"
PROXY_FILES = ("package.json", "package-lock.json")
WHEEL_NAME = f"ec2spawner-{__version__}-py3-none-any.whl"
WHEEL_DEADLINE_SECONDS = 300.0
UPLOAD_DEADLINE_SECONDS = 600.0

FORMAT = "1"
"""Raised when images must be made anew although none of their inputs has changed."""

_INSTALLERS = ("RECORD", "WHEEL", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")
_EPOCH = "315532800"  # 1980, the first year that a zip file knows
_NEVER = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", "build")
ON_WORKERS = ("worker/", "__init__.py", "errors.py", "model.py", "version.py")
"""What of this package a worker runs. All else lies there unused: its change builds no image."""


class BundleError(EC2SpawnerError):
    """The bundle cannot be made."""

    code = "bundle"


@dataclass(frozen=True)
class Sources:
    """Where the bundle's parts lie; ``checkout`` is None where an installed package runs."""

    package: Path
    launcher: Path
    checkout: Path | None

    @property
    def worker(self) -> Path:
        """Provisioning of the worker image, and its lock."""
        return self.package / "worker" / "image"

    @property
    def manager(self) -> Path:
        """Provisioning of the manager, its lock, and the proxy's."""
        return self.launcher / "manager"

    @property
    def proxy(self) -> Path:
        """The proxy's package.json and its lock."""
        return self.manager / "proxy"


def find_sources() -> Sources:
    """The parts of the package that runs."""
    package = Path(ec2spawner.__file__).resolve().parent
    launcher = Path(launch_cluster.__file__).resolve().parent
    top = package.parent
    is_checkout = (top / "pyproject.toml").is_file() and launcher.parent == top
    return Sources(package, launcher, top if is_checkout else None)


@dataclass(frozen=True)
class Bundle:
    """The bytes, and the name under which they lie in the bucket."""

    data: bytes

    @property
    def sha256(self) -> str:
        """Hash of its bytes, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def key(self) -> str:
        """Its place in the bucket."""
        return PACKAGE_KEY.format(self.sha256)

    def package(self, bucket: str, region: str) -> Package:
        """What a bootstrap script must know of it."""
        return Package(bucket, region, self.key, self.sha256)


def missing_parts(sources: Sources) -> list[str]:
    """The files without which no bundle can be made, as people look for them."""
    wanted = [
        sources.worker / "provision.sh",
        sources.worker / "seal.sh",
        sources.worker / WORKER_LOCK,
        sources.manager / HUB_LOCK,
        *(sources.proxy / name for name in PROXY_FILES),
    ]
    top = sources.package.parent
    return [str(path.relative_to(top)) for path in wanted if not path.is_file()]


def check_parts(sources: Sources) -> None:
    """BundleError that names every missing part."""
    missing = missing_parts(sources)
    if missing:
        raise BundleError(
            "The package for builder and manager cannot be put together.",
            why=f"Missing: {', '.join(missing)}.",
            next_step="Restore them (git status shows what is gone), or install ec2spawner anew.",
        )


def worker_digest(sources: Sources) -> str:
    """A hash of all that a worker runs of this package; the same in a checkout and installed."""
    check_parts(sources)
    digest = hashlib.sha256(f"{FORMAT} {__version__}\n".encode())
    for name, path in _files(sources.package):
        if name.startswith(ON_WORKERS):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """All files below a folder with their names from there, sorted; nothing that Python made."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            yield path.relative_to(folder).as_posix(), path


def make_bundle(sources: Sources) -> Bundle:
    """The bundle of this package; takes a second, since the wheel is built for it."""
    check_parts(sources)
    contents = {
        WHEEL_NAME: make_wheel(sources),
        WORKER_LOCK: (sources.worker / WORKER_LOCK).read_bytes(),
        HUB_LOCK: (sources.manager / HUB_LOCK).read_bytes(),
    }
    contents |= {f"proxy/{name}": (sources.proxy / name).read_bytes() for name in PROXY_FILES}
    for role, folder in (("worker", sources.worker), ("manager", sources.manager)):
        for name, path in _files(folder):
            if name not in (WORKER_LOCK, HUB_LOCK) and not name.startswith("proxy/"):
                contents[f"provision/{role}/{name}"] = path.read_bytes()
    return Bundle(pack(contents))


def pack(contents: Mapping[str, bytes]) -> bytes:
    """A tar.gz that holds nothing but names and bytes, so that the same ones give the same."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(contents):
            info = tarfile.TarInfo(name)
            info.size = len(contents[name])
            info.mode = 0o755 if name.endswith(".sh") else 0o644
            tar.addfile(info, io.BytesIO(contents[name]))
    return gzip.compress(plain.getvalue(), compresslevel=9, mtime=0)


def make_wheel(sources: Sources) -> bytes:
    """This package as a wheel: built from the checkout without network, or downloaded."""
    with tempfile.TemporaryDirectory(prefix="ec2spawner-") as name:
        folder = Path(name)
        if sources.checkout:
            _build_wheel(sources.checkout, folder)
        else:
            _download_wheel(folder)
        wheel = folder / WHEEL_NAME
        if not wheel.is_file():
            found = ", ".join(sorted(path.name for path in folder.glob("*.whl"))) or "none"
            raise BundleError("The package's wheel has another name than expected.", why=found)
        if not sources.checkout:
            check_same(wheel, sources)
        return wheel.read_bytes()


def _build_wheel(checkout: Path, folder: Path) -> None:
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copyfile(checkout / name, source / name)
    for package in ("ec2spawner", "launch_cluster"):
        # Without modes and times, which differ from one checkout to the next.
        shutil.copytree(
            checkout / package, source / package, ignore=_NEVER, copy_function=shutil.copyfile
        )
    code = "import sys; from setuptools import build_meta as b; b.build_wheel(sys.argv[1])"
    _run(
        [sys.executable, "-c", code, str(folder)],
        source,
        "The package cannot be built from this checkout.",
        "Install what builds it: python -m pip install 'setuptools>=77'",
    )


def _download_wheel(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", "--dest", str(folder)]
    _run(
        [*command, f"ec2spawner=={__version__}"],
        folder,
        f"ec2spawner {__version__} cannot be downloaded for the cluster's machines.",
        "Look whether pip finds that version, or run launch-cluster from a checkout.",
    )


def check_same(wheel: Path, sources: Sources) -> None:
    """BundleError unless a downloaded wheel holds, byte for byte, what is installed here.

    The version alone does not tell: the index that pip asks may be another than the one from which
    this package came, and what the wheel holds runs as root on all machines of the cluster.
    """
    different = _differences(wheel, _installed_files(sources))
    if different:
        names = ", ".join(different[:5]) + (" …" if len(different) > 5 else "")
        raise BundleError(
            f"The downloaded ec2spawner {__version__} is not the one that is installed here; it was"
            " not used.",
            why=f"Not the same: {names}.",
            next_step="Look at which index pip asks (pip config list). Install ec2spawner anew from"
            f" one that you trust (pip install --force-reinstall ec2spawner=={__version__}), or run"
            " launch-cluster from a checkout.",
        )


def _installed_files(sources: Sources) -> dict[str, Path]:
    """The files of the installed distribution, of which its RECORD tells, by name in a wheel."""
    site = sources.package.parent
    found = next(iter(metadata.distributions(name="ec2spawner", path=[str(site)])), None)
    files = (found.files if found else None) or ()
    return {
        name: site / name
        for name in map(str, files)
        if ".." not in name.split("/") and "__pycache__" not in name.split("/")
        if not _is_installers(name)
    }


def _differences(wheel: Path, installed: Mapping[str, Path]) -> list[str]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            inside = [i for i in archive.infolist() if not i.is_dir()]
            names = [i.filename for i in inside]
            twice = {name for name in names if names.count(name) > 1}
            differ = {n for n in {*names} ^ {*installed} if not _is_installers(n)} | twice
            for info in inside:
                path = installed.get(info.filename)
                if path and not _has(path, archive, info):
                    differ.add(info.filename)
            return sorted(differ)
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        return [f"the wheel cannot be read ({error})"]


def _has(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    if not path.is_file() or path.stat().st_size != info.file_size:
        return False
    return path.read_bytes() == archive.read(info)


def _is_installers(name: str) -> bool:
    """Whether it is of those that the installer writes, or that name only what built the wheel."""
    folder, _, file = name.rpartition("/")
    return folder.endswith(".dist-info") and "/" not in folder and file in _INSTALLERS


def _run(command: list[str], folder: Path, what: str, next_step: str) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": _EPOCH, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        result = subprocess.run(  # noqa: S603 - our own command
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=WHEEL_DEADLINE_SECONDS,
            check=False,
            umask=0o022,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BundleError(what, why=str(error)[:400], next_step=next_step) from None
    if result.returncode:
        said = " ".join((result.stderr or result.stdout).strip().splitlines()[-3:])
        raise BundleError(what, why=said[-400:], next_step=next_step)


async def put_once(gateway: Gateway, bucket: str, key: str, data: bytes) -> bool:
    """Put an object into the bucket under the name that its content gave it; False if it is there.

    The name holds the hash, so that what is there already is the same.
    """
    try:
        await gateway.call("s3", "head_object", {"Bucket": bucket, "Key": key})
        return False
    except NotFound:
        pass
    params = {"Bucket": bucket, "Key": key, "Body": data, "ContentType": "application/gzip"}
    await gateway.call(
        "s3",
        "put_object",
        params,
        effect=Effect.REPEATABLE,
        deadline_seconds=UPLOAD_DEADLINE_SECONDS,
    )
    return True


async def put_bundle(
    gateway: Gateway, bucket: str, sources: Sources, reporter: Reporter, clock: Callable[[], float]
) -> Bundle:
    """Make the bundle and have it in the bucket."""
    elapsed = Elapsed(reporter, clock, "Putting the package into the cluster's bucket")
    bundle = await elapsed.during(asyncio.to_thread(make_bundle, sources), "making it")
    size = f"{len(bundle.data) / 1e6:.1f} MB"
    await elapsed.during(put_once(gateway, bucket, bundle.key, bundle.data), f"sending {size}")
    elapsed.finish("done")
    return bundle
