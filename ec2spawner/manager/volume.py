"""The manager's data volume: found by its serial, formatted only when blank, mended before use.

Owns what happens before systemd mounts it, and the folders and secrets that are made on it once.
What a volume holds is judged as on a worker (``systemd_host``): one that any witness knows
something about is never formatted. Standard library only.
"""

from __future__ import annotations

import os
import pwd
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ec2spawner.errors import EC2SpawnerError
from ec2spawner.manager import place
from ec2spawner.worker.home import Ownership
from ec2spawner.worker.host import Contents, Filesystem
from ec2spawner.worker.runner import Completed, Runner, run_program

LABEL = "ec2spawner-data"  # ext4 takes 16 characters
WAIT_SECONDS = 900.0  # CloudFormation attaches the volume after the instance has booted
LOOK_SECONDS = 2.0
MKFS_TIMEOUT_SECONDS = 300.0
FSCK_TIMEOUT_SECONDS = 1200.0  # only after a crash
OWN_FILES = {
    "jupyterhub_config.py": ("jupyterhub_config.py.template", 0o644),
    "hub.env": ("hub.env", 0o600),
}
"""The operator's own: template and mode by name."""
_FSCK_GIVES_UP = 4


class VolumeUnusable(EC2SpawnerError):
    """The data volume is missing, or holds what is not the hub's."""

    code = "volume-unusable"


class Disks(Protocol):
    """What is asked of ``SystemdHost``."""

    def find_device(self, volume_id: str) -> str | None:
        """The device of a volume."""

    def inspect(self, device: str) -> Contents:
        """What it holds."""


def prepare_volume(
    disks: Disks,
    volume_id: str,
    link: Path,
    run: Runner = run_program,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Have ``link`` point to the volume's device, with a sound ext4 on it; what was done."""
    device = _await_device(disks, volume_id, sleep)
    contents = disks.inspect(device)
    if contents.filesystem is Filesystem.FOREIGN:
        raise VolumeUnusable(
            f"The data volume {volume_id} ({device}) holds something else; it was left alone.",
            why=contents.detail,
            next_step="Look at it. A volume that may be erased is blank after `wipefs --all` and"
            " `blkdiscard --zeroout`.",
        )
    if contents.filesystem is Filesystem.BLANK:
        mkfs = ("mkfs.ext4", "-q", "-L", LABEL, "-E", "nodiscard", device)
        _must(run(mkfs, timeout_seconds=MKFS_TIMEOUT_SECONDS), 1, volume_id)
        done = f"formatted {volume_id} ({device})"
    else:
        check = run(("e2fsck", "-p", device), timeout_seconds=FSCK_TIMEOUT_SECONDS)
        _must(check, _FSCK_GIVES_UP, volume_id)
        done = f"found {volume_id} ({device})"
    _point(link, device)
    return done


def _await_device(disks: Disks, volume_id: str, sleep: Callable[[float], None]) -> str:
    for _ in range(round(WAIT_SECONDS / LOOK_SECONDS)):
        if device := disks.find_device(volume_id):
            return device
        sleep(LOOK_SECONDS)
    raise VolumeUnusable(
        f"The data volume {volume_id} is not attached after {WAIT_SECONDS / 60:.0f} minutes.",
        next_step="Attach it, then: systemctl restart ec2spawner-volume && systemctl start"
        " ec2spawner-hub ec2spawner-caddy",
    )


def _must(done: Completed, bad_from: int, volume_id: str) -> None:
    if not 0 <= done.exit_code < bad_from:
        raise VolumeUnusable(
            f"The data volume {volume_id} could not be made ready.",
            why=done.words,
            next_step="Make a snapshot of it before you try anything.",
        )


def _point(link: Path, device: str) -> None:
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(device)
    fresh.replace(link)


# ---- what is on it


def prepare_folders(
    root: Path,
    templates: Path = Path(sys.prefix, "manager/files"),
    look_up: Callable[[str], pwd.struct_passwd] = pwd.getpwnam,
    ownership: Ownership | None = None,
) -> None:
    """Folders, each its user's; cookie secret, proxy token and the operator's files, made once.

    ``templates``: what the operator's files are at first, as the release holds them.
    """
    owners = {
        place.HUB_FOLDER: place.HUB_USER,
        place.BACKUP_FOLDER: place.HUB_USER,
        place.CADDY_FOLDER: place.CADDY_USER,
        Path(place.PROXY_SECRET).parent.name: "root",
    }
    _make_own_files(root / place.ETC_FOLDER, templates)
    for name, owner in owners.items():
        user = look_up(owner)
        folder = root / name
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
        _make_once(root, name)
        if folder.lstat().st_uid != user.pw_uid:
            # Made here, or by another image, whose users have other numbers; the top comes last.
            _give_all(folder, user, ownership or Ownership())


def _make_own_files(folder: Path, templates: Path) -> None:
    folder.mkdir(mode=0o755, exist_ok=True)
    folder.chmod(0o755)  # the hub reads its configuration there
    (folder / place.SSL.name).mkdir(mode=0o700, exist_ok=True)
    for name, (template, mode) in OWN_FILES.items():
        if not (folder / name).exists():
            text = (templates / template).read_text(encoding="utf-8")
            _write_once(folder / name, text, mode)


def _make_once(root: Path, folder: str) -> None:
    made = {
        f"{place.HUB_FOLDER}/{place.COOKIE_SECRET}": "{}\n",
        place.PROXY_SECRET: "CONFIGPROXY_AUTH_TOKEN={}\n",
    }
    for name, text in made.items():
        path = root / name
        if Path(name).parent.name == folder and not path.exists():
            _write_once(path, text.format(secrets.token_hex(32)), 0o600)


def _write_once(path: Path, text: str, mode: int) -> None:
    """Whole or not at all, and of this mode at any time; its folder's owner's."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    owner = path.parent.lstat()
    if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(fresh, owner.st_uid, owner.st_gid)
    fresh.replace(path)


def _give_all(top: Path, user: pwd.struct_passwd, ownership: Ownership) -> None:
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            ownership.give(Path(folder) / name, user.pw_uid, user.pw_gid)
    ownership.give(top, user.pw_uid, user.pw_gid)
