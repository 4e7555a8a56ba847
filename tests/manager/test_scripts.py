"""The scripts, as a shell and its checker read them, and what they and the code must agree on."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ec2spawner.manager import fetching, place

from .packages import MANAGER
from .upgrading import Bench

SCRIPTS = ("provision.sh", "upgrade.sh")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_shell_without_extras_reads_them(name: str) -> None:
    for shell in (["dash"], ["bash", "--posix"]):
        done = subprocess.run(
            [*shell, "-n", str(MANAGER / name)], capture_output=True, text=True, timeout=20
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing(name: str) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run(
        [str(shellcheck), str(MANAGER / name)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def script(name: str) -> str:
    return (MANAGER / name).read_text()


def test_every_parameter_that_the_code_reads_is_written() -> None:
    written = set(re.findall(r"^(EC2SPAWNER_\w+)=", script("provision.sh"), re.M))
    manager = place.Manager.of({name: name.lower() for name in written})
    assert all(vars(manager).values())


def test_domain_and_address_have_one_form() -> None:
    for name, pattern in fetching.CHOICES.items():
        assert f"check {name} \"${{{name}:-}}\" '{pattern}'" in script("provision.sh")


def test_users_are_those_of_the_units() -> None:
    made = re.search(r"for name in (.*); do\n +getent", script("provision.sh"))
    assert made
    assert made[1].split() == [place.HUB_USER, place.PROXY_USER]


def test_no_secret_is_in_an_argument() -> None:
    for name in SCRIPTS:
        assert not re.search(r"token|secret|password", script(name), re.I)


def test_units_are_enabled_once_and_stay_disabled_if_somebody_wants_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    wanted = {
        unit.name for unit in (MANAGER / "units").iterdir() if "[Install]" in unit.read_text()
    }
    assert {"ec2spawner-hub.service", "ec2spawner-image.timer"} < wanted
    assert bench.enabled == sorted(wanted)
    assert bench.upgrade().code == 0
    assert bench.enabled == sorted(wanted)
