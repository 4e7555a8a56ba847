"""The manager's unit files, read by systemd's own parser against a root that holds the binaries."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ec2spawner.manager import place
from ec2spawner.settings import SYSTEM_CONFIG

from .packages import MANAGER

UNITS = sorted(path.name for path in (MANAGER / "units").iterdir())
VERIFIED = [name.replace("@.", f"@{'a' * 64}.") for name in UNITS]
SYSTEM_UNITS = Path("/usr/lib/systemd/system")
PROGRAMS = (
    "bin/sh",
    "opt/ec2spawner/current/bin/python",
    "opt/ec2spawner/current/bin/launch-cluster",
    "opt/ec2spawner/proxy/bin/node",
    "opt/ec2spawner/upgrade.sh",
    "usr/bin/caddy",
    "usr/bin/systemctl",
    "usr/sbin/nft",
    "usr/sbin/resize2fs",
)
EXPOSED_AT_MOST = {  # systemd-analyze security; 10 is a service without any restriction
    "ec2spawner-hub.service": 2.5,
    "ec2spawner-proxy.service": 2.5,
    "ec2spawner-caddy.service": 2.5,
    "ec2spawner-config.service": 2.5,
    "ec2spawner-backup.service": 2.5,
    "ec2spawner-image.service": 2.5,
    "ec2spawner-volume.service": 2.5,
    "ec2spawner-data.service": 2.5,
    "ec2spawner-metadata.service": 4.0,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What a manager holds, as far as systemd looks at it."""
    if shutil.which("systemd-analyze") is None:
        reason = "systemd-analyze is not installed (Debian: apt-get install systemd)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    units = tmp_path / "etc/systemd/system"
    shutil.copytree(SYSTEM_UNITS, tmp_path / "usr/lib/systemd/system", symlinks=True)
    shutil.copytree(MANAGER / "units", units)
    for name in PROGRAMS:
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    return tmp_path


def verify(root: Path, *units: str) -> tuple[int, str]:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=yes", f"--root={root}", *units],
        capture_output=True,
        text=True,
        timeout=60,
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if line]
    return done.returncode, "\n".join(ours)


def test_systemd_has_nothing_to_say_about_the_units(root: Path) -> None:
    assert verify(root, *VERIFIED) == (0, "")


@pytest.mark.parametrize(
    ("unit", "good", "bad"),
    [
        ("ec2spawner-hub.service", "KillMode=mixed", "KillMood=mixed"),
        ("ec2spawner-proxy.service", "/opt/ec2spawner/proxy/bin/node", "/opt/elsewhere/node"),
        ("ec2spawner-caddy.service", "Type=notify", "Type=notifies"),
        ("ec2spawner-backup.timer", "OnCalendar=*-*-* 03:00:00", "OnCalendar=at three"),
        ("var-lib-jupyterhub.mount", "Where=/var/lib/jupyterhub", "Where=/var/lib/hub"),
        ("ec2spawner-volume.service", "Type=oneshot", "Type=simple\nExecStart=/bin/none"),
    ],
)
def test_this_test_sees_mistakes(root: Path, unit: str, good: str, bad: str) -> None:
    file = root / "etc/systemd/system" / unit
    text = file.read_text()
    assert good in text
    file.write_text(text.replace(good, bad))
    assert verify(root, unit) != (0, "")


@pytest.mark.parametrize("unit", EXPOSED_AT_MOST)
def test_services_are_shut_in(root: Path, unit: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", f"--root={root}", "--no-pager", unit],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSED_AT_MOST[unit], done.stdout


def text_of(unit: str) -> str:
    return (MANAGER / "units" / unit).read_text()


def test_hub_proxy_and_caddy_are_three_users_and_none_is_root() -> None:
    users = [
        re.search(r"^User=(.*)$", text_of(f"ec2spawner-{name}.service"), re.M)[1]  # type: ignore[index]
        for name in ("hub", "proxy", "caddy")
    ]
    assert users == [place.HUB_USER, place.PROXY_USER, place.CADDY_USER]


@pytest.mark.parametrize("name", ["proxy", "caddy"])
def test_metadata_are_refused_to_whom_they_do_not_concern(name: str) -> None:
    assert "IPAddressDeny=169.254.169.254 fd00:ec2::254\n" in text_of(f"ec2spawner-{name}.service")


def test_firewall_lets_only_root_and_the_hub_ask_them() -> None:
    rules = (MANAGER / "files/metadata.nft").read_text()
    for address in ("ip daddr 169.254.169.254", "ip6 daddr fd00:ec2::254"):
        assert f"{address} meta skuid != {{ root, {place.HUB_USER} }} reject" in rules


@pytest.mark.parametrize("name", ["hub", "proxy", "caddy", "backup"])
def test_nothing_starts_without_the_data_volume(name: str) -> None:
    for word in ("Requires", "After"):
        assert re.search(
            rf"^{word}=.*ec2spawner-data\.service", text_of(f"ec2spawner-{name}.service"), re.M
        )
    data = text_of("ec2spawner-data.service")
    assert f"RequiresMountsFor={place.DATA}\n" in data
    assert f"AssertPathIsMountPoint={place.DATA}\n" in data


def test_a_missing_volume_does_not_hold_up_the_boot() -> None:
    mount = text_of("var-lib-jupyterhub.mount")
    assert re.search(r"^Options=nofail,", mount, re.M)
    assert f"Where={place.DATA}\n" in mount


def test_proxy_listens_where_hub_and_caddy_look_for_it() -> None:
    words = text_of("ec2spawner-proxy.service").split()
    host, port = place.PUBLIC_PROXY
    assert {f"--ip={host}", f"--port={port}"} <= set(words)
    assert place.PROXY_API_URL == "http://127.0.0.1:8001"
    assert {"--api-ip=127.0.0.1", "--api-port=8001"} <= set(words)


def test_proxy_is_told_by_the_configuration_how_servers_are_told_apart() -> None:
    text = text_of("ec2spawner-proxy.service")
    told = "/run/ec2spawner-proxy/routing.env"
    assert f"EnvironmentFile=-{told}\n" in text
    assert f">{told}'\n" in text
    assert "    $PROXY_OPTIONS\n" in text  # without braces: no word where it is empty
    assert re.search(r"^After=.*ec2spawner-config\.service", text, re.M)


def test_caddy_learns_of_a_configuration_that_came_after_it() -> None:
    line = "ExecStartPost=+-/usr/bin/systemctl --no-block try-reload-or-restart"
    assert f"{line} ec2spawner-caddy.service\n" in text_of("ec2spawner-config.service")


@pytest.mark.parametrize("name", ["hub", "proxy"])
def test_hub_and_proxy_have_the_same_token_from_the_same_file(name: str) -> None:
    line = f"EnvironmentFile={place.DATA / place.PROXY_SECRET}\n"
    assert line in text_of(f"ec2spawner-{name}.service")


def test_a_hub_that_ends_for_want_of_its_oauth_client_is_started_again_without_end() -> None:
    text = text_of("ec2spawner-hub.service")
    assert "\nRestart=always\n" in text
    assert "\nStartLimitIntervalSec=0\n" in text.split("[Service]")[0]
    pause = re.search(r"^RestartSec=(\d+)$", text, re.M)
    assert pause
    assert 5 <= int(pause[1]) <= 30
    assert "RestartPreventExitStatus" not in text


def test_hub_reads_the_configuration_that_is_fetched() -> None:
    assert f"Environment=EC2SPAWNER_CONFIG={SYSTEM_CONFIG}\n" in text_of("ec2spawner-hub.service")
