"""The instance metadata of a real machine: the program that qemu starts for each connection."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ec2spawner.localcloud import metadata_cmd
from ec2spawner.localcloud.machines import NOTICE_FILE, MachineSpec

TOKEN = "X-aws-ec2-metadata-token"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    MachineSpec(
        "i-0123456789abcdef0",
        tmp_path,
        "127.77.1.5",
        2222,
        ("ssh-ed25519 AAAA cluster",),
        0.0,
        mac="02:00:00:00:00:05",
        zone="us-east-1a",
        image_id="ami-1",
        instance_type="t3.medium",
    ).write()
    return tmp_path


def ask(machine: Path, method: str, path: str, *headers: str) -> tuple[int, str]:
    """One request, as a connection that qemu leads to the program."""
    head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 169.254.169.254", *headers, "", ""])
    done = subprocess.run(
        [sys.executable, "-I", "-S", metadata_cmd.__file__, "."],
        cwd=machine,
        input=head.encode(),
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == b""
    answer, _, body = done.stdout.decode().partition("\r\n\r\n")
    assert f"Content-Length: {len(body)}\r\n" in answer + "\r\n"
    return int(answer.split()[1]), body


def get(machine: Path, path: str) -> tuple[int, str]:
    status, token = ask(machine, "PUT", "/latest/api/token", f"{TOKEN}-ttl-seconds: 60")
    assert status == 200
    return ask(machine, "GET", path, f"{TOKEN}: {token}")


@pytest.mark.parametrize("headers", [(), (f"{TOKEN}: guessed",)])
def test_nothing_is_said_without_a_token(machine: Path, headers: tuple[str, ...]) -> None:
    assert ask(machine, "GET", "/latest/meta-data/instance-id", *headers) == (401, "")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/latest/meta-data/instance-id", "i-0123456789abcdef0"),
        ("/2021-03-23/meta-data/instance-id", "i-0123456789abcdef0"),
        ("/latest/meta-data/local-ipv4", "127.77.1.5"),
        ("/latest/meta-data/placement/availability-zone", "us-east-1a"),
        ("/latest/meta-data/instance-life-cycle", "on-demand"),
        ("/latest/meta-data/public-keys/", "0=key"),
        ("/latest/meta-data/public-keys/0/", "openssh-key"),
        ("/latest/meta-data/public-keys/0/openssh-key", "ssh-ed25519 AAAA cluster"),
        ("/latest/meta-data/network/interfaces/macs/", "02:00:00:00:00:05/"),
        ("/latest/meta-data/network/interfaces/macs/02:00:00:00:00:05/device-number", "0"),
    ],
)
def test_it_says_what_ec2_says(machine: Path, path: str, value: str) -> None:
    assert get(machine, path) == (200, value)


@pytest.mark.parametrize("path", ["/latest/user-data", "/latest/meta-data/spot/instance-action"])
def test_what_is_not_there_is_not_found(machine: Path, path: str) -> None:
    assert get(machine, path) == (404, "")


def test_an_interruption_is_announced(machine: Path) -> None:
    notice = json.dumps({"action": "stop", "time": "2026-01-01T00:00:00Z"})
    (machine / NOTICE_FILE).write_text(notice)
    assert get(machine, "/latest/meta-data/spot/instance-action") == (200, notice)
