"""The unit files, read by systemd's own parser against a root that holds the binaries."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from ec2spawner.worker import image, notice_file, systemd
from ec2spawner.worker.records import SERVER_FILE
from ec2spawner.worker.systemd_host import SystemdHost

FOLDER = Path(systemd.__file__).parent
SERVER = "ec2spawner-server@.service"
WATCHDOG = ("ec2spawner-watchdog.service", "ec2spawner-watchdog.timer")
NOTICES = ("ec2spawner-notices.service",)
IMAGE = Path(image.__file__).parent
FIREWALL, HOST_KEY = "ec2spawner-firewall.service", "ec2spawner-hostkey.service"
IMAGE_UNITS = (FIREWALL, HOST_KEY, "ec2spawner-settled.service")
SYSTEM_UNITS = Path("/usr/lib/systemd/system")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What a worker's image holds, as far as systemd looks at it."""
    if shutil.which("systemd-analyze") is None:
        reason = "systemd-analyze is not installed (Debian: apt-get install systemd)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    shutil.copytree(SYSTEM_UNITS, tmp_path / "usr/lib/systemd/system", symlinks=True)
    for unit in (SERVER, *WATCHDOG, *NOTICES):
        shutil.copy(FOLDER / unit, units)
    interpreter = tmp_path / "opt/ec2spawner/bin/python"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text("#!/bin/sh\n")
    interpreter.chmod(0o755)
    return tmp_path


def verify(
    root: Path, units: tuple[str, ...] = ("ec2spawner-server@jovyan.service",)
) -> tuple[int, str]:
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", *units],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_systemd_has_nothing_to_say_about_the_server_s_unit(root: Path) -> None:
    assert verify(root) == (0, "")


def test_nor_about_it_with_sudo_allowed(root: Path) -> None:
    folder = root / "etc/systemd/system" / f"{SERVER}.d"
    folder.mkdir()
    shutil.copy(FOLDER / "sudo.conf", folder)
    assert verify(root) == (0, "")


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("KillMode=mixed", "KillMood=mixed"),
        ("RestrictRealtime=yes", "RestrictRealtime=perhaps"),
        ("/opt/ec2spawner/bin/python", "/opt/elsewhere/python"),
    ],
)
def test_this_test_sees_mistakes(root: Path, good: str, bad: str) -> None:
    unit = root / "etc/systemd/system" / SERVER
    unit.write_text(unit.read_text().replace(good, bad))
    assert verify(root) != (0, "")


def test_systemd_has_nothing_to_say_about_the_watchdog_s_units(root: Path) -> None:
    assert verify(root, WATCHDOG) == (0, "")


@pytest.mark.parametrize(
    ("unit", "good", "bad"),
    [
        (WATCHDOG[0], "/opt/ec2spawner/bin/python", "/opt/elsewhere/python"),
        (WATCHDOG[0], "Type=oneshot", "Type=once"),
        (WATCHDOG[1], "OnBootSec=60", "OnBootSec=soon"),
        (WATCHDOG[1], "OnUnitActiveSec=60", "OnUnitActiveSecs=60"),
    ],
)
def test_this_test_sees_mistakes_in_them(root: Path, unit: str, good: str, bad: str) -> None:
    file = root / "etc/systemd/system" / unit
    file.write_text(file.read_text().replace(good, bad))
    assert verify(root, WATCHDOG) != (0, "")


def test_systemd_has_nothing_to_say_about_the_notices_unit(root: Path) -> None:
    assert verify(root, NOTICES) == (0, "")


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("/opt/ec2spawner/bin/python", "/opt/elsewhere/python"),
        ("IPAddressAllow=169.254.169.254", "IPAddressAllow=everybody"),
        ("Restart=on-failure", "Restarts=on-failure"),
    ],
)
def test_this_test_sees_mistakes_in_it(root: Path, good: str, bad: str) -> None:
    file = root / "etc/systemd/system" / NOTICES[0]
    file.write_text(file.read_text().replace(good, bad))
    assert verify(root, NOTICES) != (0, "")


@pytest.fixture
def image_root(root: Path) -> Path:
    """The same with what the image adds."""
    for program in ("usr/sbin/nft", "usr/bin/ssh-keygen", "usr/bin/touch", "usr/bin/sync"):
        (root / program).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "opt/ec2spawner/bin/python", root / program)
    for program in ("usr/bin/rm", "usr/bin/mv"):
        shutil.copy(root / "opt/ec2spawner/bin/python", root / program)
    units = root / "etc/systemd/system"
    for unit in IMAGE_UNITS:
        shutil.copy(IMAGE / unit, units)
    (units / f"{SERVER}.d").mkdir()
    shutil.copy(IMAGE / "server.conf", units / f"{SERVER}.d/image.conf")
    return root


def test_systemd_has_nothing_to_say_about_the_image_s_units(image_root: Path) -> None:
    assert verify(image_root, (*IMAGE_UNITS, "ec2spawner-server@jovyan.service")) == (0, "")


@pytest.mark.parametrize(
    ("unit", "good", "bad"),
    [
        (FIREWALL, "/usr/sbin/nft", "/usr/sbin/nft-elsewhere"),
        (HOST_KEY, "/usr/bin/mv /etc", "/usr/bin/move /etc"),
        (HOST_KEY, "Type=oneshot", "Type=onceshot"),
        (IMAGE_UNITS[2], "ConditionFileNotEmpty=", "ConditionFileFull="),
    ],
)
def test_this_test_sees_mistakes_in_the_image_s(
    image_root: Path, unit: str, good: str, bad: str
) -> None:
    file = image_root / "etc/systemd/system" / unit
    assert good in file.read_text()
    file.write_text(file.read_text().replace(good, bad))
    assert verify(image_root, IMAGE_UNITS) != (0, "")


def test_notices_are_left_where_the_server_looks(tmp_path: Path) -> None:
    directory = SystemdHost(root=tmp_path).notice_directory().relative_to(tmp_path / "run")
    assert f"RuntimeDirectory={directory}\n" in (FOLDER / NOTICES[0]).read_text()
    server = (FOLDER / SERVER).read_text()
    assert f"Environment={notice_file.VARIABLE}=/run/{directory}\n" in server
    assert f"RuntimeDirectory={directory}\n" not in server  # root writes nowhere in the user's own


def test_a_look_keeps_what_commands_and_looks_leave_for_each_other() -> None:
    unit, host = (FOLDER / WATCHDOG[0]).read_text(), SystemdHost()
    assert f"RuntimeDirectory={host.runtime_directory.relative_to('/run')}\n" in unit
    assert "RuntimeDirectoryPreserve=yes\n" in unit
    assert f"StateDirectory={host.state_directory.relative_to('/var/lib')}\n" in unit


def test_the_server_leaves_its_file_where_the_watchdog_looks() -> None:
    host = SystemdHost(look_up=lambda name: pwd.getpwnam("nobody"))
    path, uid = host.activity_file("jovyan")
    assert f"RuntimeDirectory={path.parent.relative_to('/run')}\n" in (FOLDER / SERVER).read_text()
    assert uid == pwd.getpwnam("nobody").pw_uid


def test_the_unit_reads_the_document_that_a_start_writes() -> None:
    document = SystemdHost().runtime_directory / SERVER_FILE
    assert f"LoadCredential={SERVER_FILE}:{document}\n" in (FOLDER / SERVER).read_text()
