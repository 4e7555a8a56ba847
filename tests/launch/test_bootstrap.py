"""The user data of builder and manager: as text, and run for real against the emulated cloud."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import boto3
import pytest

from ec2spawner.model import Role
from launch_cluster.bootstrap import (
    BUILDER_MAX_MINUTES,
    CONSOLE_TAGS,
    USER_DATA_MAX_BYTES,
    Package,
    render_bootstrap,
)
from launch_cluster.building import BUILD_DEADLINE_SECONDS, POWER_OFF_SECONDS

PACKAGE = Package("bucket", "us-east-1", "package/x.tar.gz", "0" * 64)
ROLES = (Role.BUILDER, Role.MANAGER)


def archive(files: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return packed.getvalue()


@pytest.mark.parametrize("role", ROLES)
def test_a_shell_and_shellcheck_have_nothing_against_the_script(role: Role) -> None:
    parameters = {"WORKER_USERNAME": "jovyan", "OTHER": 'it\'s "$HOME"; `id`'}
    script = render_bootstrap(PACKAGE, role, parameters, course=PACKAGE)
    shellcheck = str(Path(sys.executable).with_name("shellcheck"))
    for command in (["sh", "-n"], [shellcheck, "--severity=warning", "-"]):
        result = subprocess.run(command, input=script, capture_output=True, text=True)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_user_data_leaves_room_in_ec2s_16_kib_for_parameters() -> None:
    script = render_bootstrap(PACKAGE, Role.MANAGER, {})
    assert len(script.encode()) < USER_DATA_MAX_BYTES / 4
    with pytest.raises(ValueError, match="EC2 takes 16384"):
        render_bootstrap(PACKAGE, Role.MANAGER, {"LONG": "x" * USER_DATA_MAX_BYTES})


@pytest.mark.parametrize("name", ["lower", "A B", "1A", "A;id", ""])
def test_a_parameter_that_no_environment_takes_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        render_bootstrap(PACKAGE, Role.MANAGER, {name: "1"})


class Machine:
    """A folder in which the script runs as it would on a machine that has booted."""

    def __init__(self, folder: Path, bucket: str) -> None:
        self.root = folder / "root"
        self.console = folder / "console"
        self.bucket = bucket
        self._s3 = boto3.client("s3")
        self._s3.create_bucket(Bucket=bucket)
        (self.root / "var/log").mkdir(parents=True)
        self._tools = folder / "tools"
        self._tools.mkdir()
        self._tool("poweroff", f"echo off >{folder}/off")
        self._tool("systemd-run", f"""printf '%s\\n' "$@" >>{folder}/timers""")
        self._tool("sleep", "exit 0")
        self._tool("apt-get", "exit 100")
        (self._tools / "python3").symlink_to(sys.executable)
        self._off = folder / "off"
        self.timers_file = folder / "timers"

    @property
    def _environment(self) -> dict[str, str]:
        """That of a boot; nothing that would switch this computer off can be found in it."""
        path = f"{self._tools}:{os.environ['PATH']}"
        for name in ("poweroff", "systemd-run"):
            assert shutil.which(name, path=path) == str(self._tools / name)
        return {
            **os.environ,
            "PATH": path,
            "EC2SPAWNER_ROOT": str(self.root),
            "EC2SPAWNER_CONSOLE": str(self.console),
        }

    def _tool(self, name: str, text: str) -> None:
        path = self._tools / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def put(self, key: str, files: Mapping[str, str]) -> Package:
        data = archive(files)
        self._s3.put_object(Bucket=self.bucket, Key=key, Body=data)
        return Package(self.bucket, "us-east-1", key, hashlib.sha256(data).hexdigest())

    def boot(self, script: str) -> list[str]:
        """What the machine wrote to its console."""
        self.console.write_text("")
        self._off.unlink(missing_ok=True)
        self._run(["sh"], script)
        return self.console.read_text().splitlines()

    def _run(self, command: list[str], text: str = "") -> None:
        result = subprocess.run(
            command, input=text, env=self._environment, capture_output=True, text=True
        )
        assert (result.stdout, result.stderr) == ("", "")

    @property
    def timers(self) -> list[str]:
        """What systemd was told to do later, word by word."""
        return self.timers_file.read_text().splitlines() if self.timers_file.exists() else []

    def has_no_systemd(self) -> None:
        self._tool("systemd-run", "exit 1")

    def time_passes(self) -> list[str]:
        """The timer elapses; what the machine wrote to its console."""
        self._off.unlink(missing_ok=True)
        self._run(self.timers[self.timers.index("sh") :])
        return self.console.read_text().splitlines()

    @property
    def is_off(self) -> bool:
        return self._off.exists()


@pytest.fixture
def machine(aws: Path, tmp_path: Path, cluster: str) -> Machine:
    assert shutil.which("sha256sum")
    return Machine(tmp_path, f"bootstrap-{cluster}")


WORKER = {
    "provision/worker/provision.sh": 'echo "user $WORKER_USERNAME, $BUNDLE, ${COURSE:-no course}"',
    "provision/worker/seal.sh": "echo sealed",
}


def test_a_builder_fetches_provisions_seals_says_so_and_switches_itself_off(
    machine: Machine,
) -> None:
    package = machine.put("package/x.tar.gz", WORKER)
    said = machine.boot(render_bootstrap(package, Role.BUILDER, {"WORKER_USERNAME": "it's me"}))
    assert said == [
        "ec2spawner-image: phase fetching the package",
        f"user it's me, {machine.root}/opt/ec2spawner-bundle, no course",
        "sealed",
        "ec2spawner-image: done",
    ]
    assert machine.is_off
    assert list((machine.root / "var/log").iterdir()) == []
    assert list((machine.root / "opt").iterdir()) == []


def test_a_builder_that_hangs_switches_itself_off_and_says_so(machine: Machine) -> None:
    files = {**WORKER, "provision/worker/provision.sh": f"cp {machine.timers_file} $BUNDLE/../seen"}
    package = machine.put("package/x.tar.gz", files)
    machine.boot(render_bootstrap(package, Role.BUILDER, {}))
    seen = (machine.root / "opt/seen").read_text().splitlines()  # while it worked
    assert f"--on-active={BUILDER_MAX_MINUTES}min" in seen
    said = machine.time_passes()
    assert said == [f"ec2spawner-image: failed: not done after {BUILDER_MAX_MINUTES} minutes"]
    assert machine.is_off
    assert BUILDER_MAX_MINUTES * 60 > BUILD_DEADLINE_SECONDS + POWER_OFF_SECONDS


def test_a_builder_that_cannot_be_bounded_does_nothing_and_switches_itself_off(
    machine: Machine,
) -> None:
    machine.has_no_systemd()
    package = machine.put("package/x.tar.gz", WORKER)
    (said,) = machine.boot(render_bootstrap(package, Role.BUILDER, {}))
    assert said.startswith("ec2spawner-image: failed to set the time after which")
    assert machine.is_off


def test_a_course_is_fetched_too_and_its_folder_named(machine: Machine) -> None:
    course = machine.put("course/y.tar.gz", {"apt.txt": "gdal-bin\n"})
    package = machine.put(
        "package/x.tar.gz", {**WORKER, "provision/worker/provision.sh": 'cat "$COURSE/apt.txt"'}
    )
    said = machine.boot(render_bootstrap(package, Role.BUILDER, {}, course))
    assert said[1:] == ["gdal-bin", "sealed", "ec2spawner-image: done"]


def test_a_manager_stays_on_and_keeps_a_log(machine: Machine) -> None:
    package = machine.put("package/x.tar.gz", {"provision/manager/provision.sh": "echo hello"})
    said = machine.boot(render_bootstrap(package, Role.MANAGER, {}))
    assert said[-2:] == ["hello", "ec2spawner-manager: done"]
    assert not machine.is_off
    assert machine.timers == []
    log = (machine.root / "var/log/ec2spawner-bootstrap.log").read_text()
    assert log.splitlines() == said


def test_a_package_that_is_another_is_refused_and_nothing_of_it_is_run(machine: Machine) -> None:
    machine.put("package/x.tar.gz", WORKER)
    wrong = Package(machine.bucket, "us-east-1", "package/x.tar.gz", "0" * 64)
    said = machine.boot(render_bootstrap(wrong, Role.BUILDER, {}))
    assert said[-1].startswith("ec2spawner-image: failed: package/x.tar.gz is not what was put")
    assert "sealed" not in said
    assert machine.is_off


@pytest.mark.parametrize("role", ROLES)
def test_a_package_that_cannot_be_fetched_is_tried_for_minutes_and_then_named(
    machine: Machine, role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch_cluster.bootstrap.TRIES", 3)
    absent = Package(machine.bucket, "us-east-1", "package/absent.tar.gz", "0" * 64)
    said = machine.boot(render_bootstrap(absent, role, {}))
    assert sum("s3://" in line and "404" in line for line in said) == 3
    assert said[-1] == f"{CONSOLE_TAGS[role]}: failed to fetch package/absent.tar.gz"
    assert machine.is_off is (role is Role.BUILDER)


@pytest.mark.parametrize("script", ["provision.sh", "seal.sh"])
def test_a_script_that_fails_is_named_with_its_exit_code(machine: Machine, script: str) -> None:
    files = {**WORKER, f"provision/worker/{script}": "exit 7"}
    package = machine.put("package/x.tar.gz", files)
    said = machine.boot(render_bootstrap(package, Role.BUILDER, {}))
    assert said[-1] == f"ec2spawner-image: failed in worker/{script} (exit code 7)"
    assert machine.is_off


def test_run_again_it_puts_the_package_in_the_place_of_the_old_one(machine: Machine) -> None:
    manager = {"provision/manager/provision.sh": "echo hello"}
    old = machine.put("package/x.tar.gz", {**manager, "provision/manager/old": ""})
    machine.boot(render_bootstrap(old, Role.MANAGER, {}))
    new = machine.put("package/y.tar.gz", manager)
    assert machine.boot(render_bootstrap(new, Role.MANAGER, {}))[-1].endswith("done")
    bundle = machine.root / "opt/ec2spawner-bundle/provision/manager"
    assert [path.name for path in bundle.iterdir()] == ["provision.sh"]
