"""The data volume: formatted only when blank, mended, filled with what is made once."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from ec2spawner.manager import place, volume
from ec2spawner.manager.volume import VolumeUnusable, prepare_folders, prepare_volume
from ec2spawner.worker.home import Ownership
from ec2spawner.worker.host import Contents, Filesystem
from ec2spawner.worker.runner import Completed

from .packages import MANAGER

VOLUME = "vol-0123456789abcdef0"
TEMPLATES = MANAGER / "files"


class Disks:
    """A machine with one volume, which may be attached late."""

    def __init__(self, contents: Contents, looks_before: int = 0) -> None:
        self.contents = contents
        self.looks_before = looks_before

    def find_device(self, volume_id: str) -> str | None:
        assert volume_id == VOLUME
        self.looks_before -= 1
        return "/dev/nvme1n1" if self.looks_before < 0 else None

    def inspect(self, device: str) -> Contents:
        assert device == "/dev/nvme1n1"
        return self.contents


class Programs:
    """Programs that are only noted down; ``exit_codes`` by name."""

    def __init__(self, **exit_codes: int) -> None:
        self.run: list[str] = []
        self.exit_codes = exit_codes

    def __call__(
        self, argv: Sequence[str], *, timeout_seconds: float = 30, inherit: Sequence[int] = ()
    ) -> Completed:
        self.run.append(argv[0])
        return Completed(self.exit_codes.get(argv[0].partition(".")[0], 0), "", "it says why")


def no_sleep(_: float) -> None:
    """Time flies."""


def test_a_blank_volume_is_formatted(tmp_path: Path) -> None:
    programs, link = Programs(), tmp_path / "device"
    done = prepare_volume(Disks(Contents(Filesystem.BLANK)), VOLUME, link, programs)
    assert programs.run == ["mkfs.ext4"]
    assert link.readlink() == Path("/dev/nvme1n1")
    assert done.startswith("formatted")


def test_one_with_a_file_system_is_only_mended(tmp_path: Path) -> None:
    programs, link = Programs(), tmp_path / "device"
    link.symlink_to("/dev/nvme7n1")  # names change from boot to boot
    prepare_volume(Disks(Contents(Filesystem.EXT4)), VOLUME, link, programs)
    assert programs.run == ["e2fsck"]
    assert link.readlink() == Path("/dev/nvme1n1")


def test_anything_else_is_left_alone(tmp_path: Path) -> None:
    programs, link = Programs(), tmp_path / "device"
    disks = Disks(Contents(Filesystem.FOREIGN, "blkid: xfs"))
    with pytest.raises(VolumeUnusable, match="blkid: xfs"):
        prepare_volume(disks, VOLUME, link, programs)
    assert programs.run == []
    assert not link.is_symlink()


@pytest.mark.parametrize(
    ("contents", "programs"),
    [
        (Filesystem.BLANK, Programs(mkfs=1)),
        (Filesystem.EXT4, Programs(e2fsck=4)),
        (Filesystem.EXT4, Programs(e2fsck=-9)),
    ],
)
def test_what_could_not_be_made_ready_is_not_mounted(
    tmp_path: Path, contents: Filesystem, programs: Programs
) -> None:
    link = tmp_path / "device"
    with pytest.raises(VolumeUnusable, match="it says why"):
        prepare_volume(Disks(Contents(contents)), VOLUME, link, programs)
    assert not link.is_symlink()


def test_errors_that_were_mended_are_none(tmp_path: Path) -> None:
    link = tmp_path / "device"
    prepare_volume(Disks(Contents(Filesystem.EXT4)), VOLUME, link, Programs(e2fsck=1))
    assert link.is_symlink()


def test_a_volume_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    disks = Disks(Contents(Filesystem.EXT4), looks_before=100)
    prepare_volume(disks, VOLUME, tmp_path / "device", Programs(), no_sleep)
    assert (tmp_path / "device").is_symlink()


def test_one_that_never_comes_is_said_so(tmp_path: Path) -> None:
    disks = Disks(Contents(Filesystem.EXT4), looks_before=10**6)
    with pytest.raises(VolumeUnusable, match="not attached after 15 minutes"):
        prepare_volume(disks, VOLUME, tmp_path / "device", Programs(), no_sleep)


# ---- folders and secrets


def me(_: str) -> pwd.struct_passwd:
    return pwd.getpwuid(os.geteuid())


class NotedOwnership(Ownership):
    """Changes nothing, and remembers."""

    def __init__(self) -> None:
        self.given: list[tuple[Path, int]] = []

    def give(self, path: Path, uid: int, gid: int) -> None:
        self.given.append((path, uid))


SECRETS = (f"{place.HUB_FOLDER}/{place.COOKIE_SECRET}", place.PROXY_SECRET)


def test_secrets_are_nobody_else_s(tmp_path: Path) -> None:
    prepare_folders(tmp_path, TEMPLATES, me)
    for name in SECRETS:
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / name).parent.stat().st_mode) == 0o700
    assert len((tmp_path / SECRETS[0]).read_text().strip()) == 64
    assert (tmp_path / SECRETS[1]).read_text().startswith("CONFIGPROXY_AUTH_TOKEN=")


def test_secrets_are_made_once(tmp_path: Path) -> None:
    prepare_folders(tmp_path, TEMPLATES, me)
    first = [(tmp_path / name).read_text() for name in SECRETS]
    prepare_folders(tmp_path, TEMPLATES, me)
    assert first == [(tmp_path / name).read_text() for name in SECRETS]
    other = tmp_path / "other"
    other.mkdir()
    prepare_folders(other, TEMPLATES, me)
    assert first[0] != (other / SECRETS[0]).read_text()


def test_one_that_was_broken_off_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / place.HUB_FOLDER
    folder.mkdir()
    (folder / f".{place.COOKIE_SECRET}.new").write_text("hal")
    prepare_folders(tmp_path, TEMPLATES, me)
    assert len((tmp_path / SECRETS[0]).read_text().strip()) == 64


def test_another_image_s_users_get_what_was_theirs(tmp_path: Path) -> None:
    prepare_folders(tmp_path, TEMPLATES, me)
    (tmp_path / "hub/jupyterhub.sqlite").touch()

    def somebody_else(name: str) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", 4711, 4711, "", "/", "/"))

    ownership = NotedOwnership()
    prepare_folders(tmp_path, TEMPLATES, somebody_else, ownership)
    given = [path for path, uid in ownership.given if uid == 4711]
    assert tmp_path / "hub/jupyterhub.sqlite" in given
    assert given.index(tmp_path / "hub") > given.index(tmp_path / "hub/jupyterhub.sqlite")


def test_the_operator_s_files_are_made_once(tmp_path: Path) -> None:
    prepare_folders(tmp_path, TEMPLATES, me)
    own = tmp_path / "etc"
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in own.iterdir()}
    assert modes == {"jupyterhub_config.py": 0o644, "hub.env": 0o600, "ssl": 0o700}
    assert "load_subconfig(HUB_CONFIG)" in (own / "jupyterhub_config.py").read_text()
    (own / "jupyterhub_config.py").write_text("mine")
    (own / "hub.env").write_text("HUB_DB_URL=x")
    prepare_folders(tmp_path, TEMPLATES, me)
    assert (own / "jupyterhub_config.py").read_text() == "mine"
    assert (own / "hub.env").read_text() == "HUB_DB_URL=x"


def test_label_fits_ext4() -> None:
    assert len(volume.LABEL) <= 16
