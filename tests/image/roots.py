"""Roots of Debian 12: from the cache, copied to be changed, entered, made into disks.

Owns the use of ``tools/image`` for the manager. Needs root, and a way to Debian's, Python's and
npm's packages. The base is the one of the workers' images, in the same place of the cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = REPOSITORY / "tools/image"
DEBIAN = "http://deb.debian.org/debian"
GIVEN = "/run/harness/given"
CERTIFICATES = "/run/harness/certs/ca-certificates.crt"
KEPT = 2
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
    "qemu-system-x86_64": "qemu-system-x86",
}


def lack() -> str:
    """Why no root can be made and booted here; "" where it can."""
    if os.geteuid() != 0:
        return "needs root, for a Debian root of its own"
    if os.uname().machine != "x86_64":
        return f"makes and runs x86_64 only, and this is {os.uname().machine}"
    missing = [
        f"{name} ({package})" for name, package in PROGRAMS.items() if not shutil.which(name)
    ]
    return f"needs {', '.join(missing)}: tools/qemu.sh" if missing else ""


def cache() -> Path:
    """Outside the checkout; what is in it may be removed at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "ec2spawner"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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


def unpack_base(root: Path) -> None:
    """A Debian as a cloud image has it, before any provisioning."""
    with Lock("debian"):
        archive = cache() / f"debian-{digest((TOOLS / 'make_root.sh').read_bytes())}.tar"
        if not archive.exists():
            run([str(TOOLS / "make_root.sh"), str(root), mirror()], 1200)
            partial = archive.with_suffix(f".{os.getpid()}")
            run(["tar", "-C", str(root), "-cf", str(partial), "--one-file-system", "."], 300)
            partial.replace(archive)
            return
    unpack(archive, root)


def pack(root: Path, archive: Path) -> None:
    """Into the cache, where the oldest of its kind go."""
    partial = archive.with_suffix(f".{os.getpid()}")
    run(["tar", "-C", str(root), "-cf", str(partial), "--one-file-system", "."], 300)
    partial.replace(archive)
    kind = f"{archive.name.partition('-')[0]}-*.tar"
    for old in sorted(cache().glob(kind), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        old.unlink()


def unpack(archive: Path, root: Path) -> None:
    """Out of the cache."""
    root.mkdir(parents=True)
    run(["tar", "-C", str(root), "-xpf", str(archive)], 300)


def mirror() -> str:
    """This computer's mirror of Debian 12, if it has one."""
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Codename: bookworm"]
    done = subprocess.run([*asked, "Component: main"], capture_output=True, text=True)
    return next(iter(done.stdout.split()), DEBIAN)


def enter(
    root: Path, given: Path, command: Sequence[str], variables: Mapping[str, str] | None = None
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
        timeout=1200,
    )


def make_disk(root: Path, disk: Path, size_gib: int) -> Path:
    """A disk image with the root on it."""
    with disk.open("wb") as file:
        file.truncate(size_gib << 30)
    options = ["-q", "-F", "-L", "root", "-E", "lazy_itable_init=1,lazy_journal_init=1"]
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
