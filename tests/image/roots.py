"""Debian roots: made by debootstrap, kept by what they are made of, entered by chroot, booted.

Owns the cache, the mounts, and how this machine's settings for pip, npm and certificates reach what
runs inside. Needs root.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CACHE = Path.home() / ".cache/ec2spawner"
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
SOURCES = "".join(
    f"deb {mirror} {suite} main\n"
    for mirror, suite in (
        (MIRROR, SUITE),
        (MIRROR, f"{SUITE}-updates"),
        ("http://deb.debian.org/debian-security", f"{SUITE}-security"),
    )
)
BOOTABLE = (
    *("systemd", "systemd-sysv", "dbus", "udev", "kmod", "linux-image-cloud-amd64", "e2fsprogs"),
    *("iproute2", "ifupdown", "ca-certificates", "python3", "python3-boto3", "procps"),
)
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
INSIDE = "/run/host/ca.crt"
CERTIFICATE_VARIABLES = ("PIP_CERT", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
HANDED_ON = ("http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL", "NPM_CONFIG_REGISTRY")
_ENTER = """
set -e
root=$1; shift
mount --make-rprivate /
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root/run/host"
cp "$CERTIFICATES" "$root/run/host/ca.crt"
mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device" 2>/dev/null || true
    mount --bind "/dev/$device" "$root/dev/$device"
done
for pair in $BINDS; do
    mkdir -p "$root${pair#*:}"
    mount --bind "${pair%%:*}" "$root${pair#*:}"
done
exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C "$@"
"""


def why_not() -> str:
    """Why roots cannot be made on this machine; empty if they can."""
    if os.geteuid() != 0:
        return "needs root"
    programs = ("debootstrap", "unshare", "chroot", "mkfs.ext4", "qemu-system-x86_64")
    if missing := [name for name in programs if not shutil.which(name)]:
        return f"{', '.join(missing)} missing (apt-get install debootstrap qemu-system-x86)"
    return ""


def digest(*parts: object) -> str:
    """A name for what these decide."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


@contextlib.contextmanager
def made_once(name: str) -> Iterator[tuple[Path, Path | None]]:
    """A folder of the cache, and where to make it if it is not there; one process at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done, fresh = CACHE / name, CACHE / f".{name}.new"
        if done.exists():
            yield done, None
            return
        shutil.rmtree(fresh, ignore_errors=True)
        yield done, fresh
        fresh.rename(done)


def plain_root() -> Path:
    """A bootable Debian 12; nobody may change it."""
    with made_once(f"debian-{digest(SUITE, BOOTABLE, SOURCES)}") as (done, fresh):
        if fresh:
            command = ["debootstrap", "--variant=minbase", f"--include={','.join(BOOTABLE)}"]
            run([*command, SUITE, str(fresh), MIRROR], 900)
            (fresh / "etc/apt/sources.list").write_text(SOURCES)
            run(["rm", "-rf", str(fresh / "var/cache/apt/archives")], 60)
            (fresh / "var/cache/apt/archives/partial").mkdir(parents=True)
    return done


def copy_root(root: Path, target: Path) -> Path:
    """A copy to change."""
    run(["cp", "-a", "--reflink=auto", str(root), str(target)], 300)
    return target


def enter(
    root: Path,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    binds: Mapping[Path, str] | None = None,
    seconds: float = 900,
) -> subprocess.CompletedProcess[str]:
    """Run a command in a root, with this machine's network, in mounts of its own."""
    handed = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    certificates = dict.fromkeys(CERTIFICATE_VARIABLES, INSIDE)
    settings = {**handed, **certificates, **(environment or {})}
    (root / "etc/resolv.conf").touch()
    return subprocess.run(
        [
            *("unshare", "--mount", "--fork", "--pid", "--kill-child", "sh", "-c", _ENTER, "sh"),
            *(str(root), *(f"{name}={value}" for name, value in settings.items()), *command),
        ],
        env={
            **os.environ,
            "CERTIFICATES": str(CERTIFICATES),
            "BINDS": " ".join(f"{here}:{there}" for here, there in (binds or {}).items()),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )


def make_disk(root: Path, disk: Path, size_gib: int) -> Path:
    """A disk image with the root on it."""
    with disk.open("wb") as file:
        file.truncate(size_gib * 1024**3)
    run(["mkfs.ext4", "-q", "-F", "-d", str(root), str(disk)], 300)
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
