"""The unit files, read by systemd's own parser against a root that holds the binaries."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ec2spawner.worker import systemd
from ec2spawner.worker.records import SERVER_FILE
from ec2spawner.worker.systemd_host import SystemdHost

FOLDER = Path(systemd.__file__).parent
SERVER = "ec2spawner-server@.service"
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
    shutil.copy(FOLDER / SERVER, units)
    interpreter = tmp_path / "opt/ec2spawner/bin/python"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text("#!/bin/sh\n")
    interpreter.chmod(0o755)
    return tmp_path


def verify(root: Path) -> tuple[int, str]:
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", "ec2spawner-server@jovyan.service"],
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


def test_the_unit_reads_the_document_that_a_start_writes() -> None:
    document = SystemdHost().runtime_directory / SERVER_FILE
    assert f"LoadCredential={SERVER_FILE}:{document}\n" in (FOLDER / SERVER).read_text()
