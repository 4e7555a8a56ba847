"""Roots of Debian 12: from the cache, copied to be changed, entered, made into disks.

Owns the use of ``tools/image`` for workers and the manager, and the cache outside the checkout.
Needs root, and a way to Debian's, Python's and npm's packages; ``lack`` says what is missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ec2spawner.localcloud.vm_options import PROGRAMS
from launch_cluster.bundle import find_sources, make_bundle

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = REPOSITORY / "tools/image"
DEBIAN = "http://deb.debian.org/debian"
GIVEN = "/run/harness/given"
CERTIFICATES = "/run/harness/certs/ca-certificates.crt"
KEPT = 3
"""Things of a kind in the cache; the oldest go."""
MAKERS = {**PROGRAMS, "mmdebstrap": "mmdebstrap", "mkfs.ext4": "e2fsprogs"}
APART = ("unshare", "--mount", "--pid", "--fork", "true")


def unfit() -> str:
    """Why no package could make this a place where a root is made and booted; "" if it is one."""
    if os.geteuid() != 0:
        return "needs root, for a Debian root of its own"
    if os.uname().machine != "x86_64":
        return f"makes and runs x86_64 only, and this is {os.uname().machine}"
    if subprocess.run(APART, capture_output=True, check=False).returncode:
        return "needs to mount, which root may not here (a container without the right to?)"
    return ""


def lack() -> str:
    """Why no root can be made and booted here; "" where it can."""
    if reason := unfit():
        return reason
    missing = [f"{name} ({package})" for name, package in MAKERS.items() if not shutil.which(name)]
    return f"needs {', '.join(missing)}, of Debian's packages" if missing else ""


def cache() -> Path:
    """Outside the checkout; what is in it may be removed at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "ec2spawner"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def prune(kind: str) -> None:
    """Remove the oldest of a kind from the cache."""
    found = [path for path in cache().glob(f"{kind}-*") if path.suffix != ".lock"]
    for path in sorted(found, key=lambda path: path.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def digest(*parts: bytes) -> str:
    """A name for what these decide."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def digest_of(files: Iterable[Path]) -> bytes:
    """Of files by name and contents."""
    texts = [f"{path}".encode() + b"\0" + path.read_bytes() for path in sorted(files)]
    return digest(*texts).encode()


class Lock:
    """One process at a time makes a thing of the cache."""

    def __init__(self, name: str) -> None:
        self._file = (cache() / f"{name}.lock").open("w")

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *failure: object) -> None:
        self._file.close()


class Timed:
    """Says how long a step took."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *failure: object) -> None:
        seconds = time.monotonic() - self._began
        print(f"image: {self._what}: {seconds:.0f} s", file=sys.stderr, flush=True)


def unpack_base(root: Path, architecture: str = "amd64") -> None:
    """A Debian as a cloud image has it, before any provisioning; for one of Debian's names."""
    with Lock("debian"):
        name = digest((TOOLS / "make_root.sh").read_bytes(), architecture.encode())
        archive = cache() / f"debian-{name}.tar"
        if not archive.exists():
            with Timed(f"making a root of Debian 12, {architecture}"):
                run([str(TOOLS / "make_root.sh"), str(root), mirror(), architecture], 1800)
            pack(root, archive)
            return
    unpack(archive, root)


def pack(root: Path, archive: Path) -> None:
    """Into the cache, where the oldest of its kind go."""
    partial = archive.with_suffix(f".{os.getpid()}")
    run(["tar", "-C", str(root), "-cf", str(partial), "--one-file-system", "."], 300)
    partial.replace(archive)
    prune(archive.name.partition("-")[0])


def unpack(archive: Path, root: Path) -> None:
    """Out of the cache."""
    root.mkdir(parents=True)
    run(["tar", "-C", str(root), "-xpf", str(archive)], 300)


def mirror() -> str:
    """This computer's mirror of Debian 12, if it has one."""
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Codename: bookworm"]
    done = subprocess.run([*asked, "Component: main"], capture_output=True, text=True)
    return next(iter(done.stdout.split()), DEBIAN)


def unpack_bundle(folder: Path) -> Path:
    """The launch command's own bundle of this checkout, as machines fetch it."""
    folder.mkdir(parents=True)
    data = make_bundle(find_sources()).data
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def enter(
    root: Path,
    given: Path,
    command: Sequence[str],
    variables: Mapping[str, str] | None = None,
    seconds: float = 1200,
) -> subprocess.CompletedProcess[str]:
    """Run a command in a root; ``given`` is seen there as GIVEN."""
    words = [f"{name}={value}" for name, value in (variables or {}).items()]
    words.append(f"NODE_EXTRA_CA_CERTS={CERTIFICATES}")
    return subprocess.run(
        [str(TOOLS / "in_root.sh"), str(root), str(given), *words, *command],
        env={**os.environ, "MIRROR": mirror()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )


def make_disk(root: Path, disk: Path, size_gib: int) -> Path:
    """A disk image with the root on it."""
    with disk.open("wb") as file:
        file.truncate(size_gib << 30)
    options = ["-q", "-F", "-L", "root", "-E", "lazy_itable_init=1,lazy_journal_init=1"]
    with Timed("making a disk"):
        run(["mkfs.ext4", *options, "-d", str(root), str(disk)], 300)
    return disk


def run(command: Sequence[str], seconds: float) -> None:
    """A command that must succeed; what it said, if it does not."""
    done = subprocess.run(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-2000:]}"
