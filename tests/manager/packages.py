"""The package that managers are provisioned from, as a folder and as an archive."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
MANAGER = REPOSITORY / "launch_cluster/manager"
PROXY = next(p for p in (MANAGER / "proxy", REPOSITORY / "tools/proxy") if p.is_dir())


def build_wheel(folder: Path) -> Path:
    """This checkout as a wheel."""
    source = folder / "source"
    shutil.copytree(
        REPOSITORY,
        source,
        ignore=shutil.ignore_patterns(".*", "*.egg-info", "build", "tests", "__pycache__"),
    )
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)),
            str(source),
        ],
        check=True,
        timeout=120,
    )
    shutil.rmtree(source)
    (wheel,) = folder.glob("ec2spawner-*.whl")
    return wheel


def make_bundle(folder: Path) -> Path:
    """What lies in /opt/ec2spawner-bundle, as far as it is the manager's."""
    folder.mkdir(parents=True)
    build_wheel(folder)
    shutil.copy(MANAGER / "hub.lock", folder)
    (folder / "proxy").mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PROXY / name, folder / "proxy")
    ignored = shutil.ignore_patterns("__pycache__", "__init__.py", "hub.lock", "proxy")
    shutil.copytree(MANAGER, folder / "provision/manager", ignore=ignored)
    return folder


def pack(folder: Path, archive: Path) -> str:
    """An archive of it, and its SHA-256."""
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    return hashlib.sha256(archive.read_bytes()).hexdigest()
