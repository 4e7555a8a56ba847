"""Run Command as managers get it: who has an agent, and what the one script makes of a manager."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ec2spawner.localcloud.ec2.failures import EC2Error
from ec2spawner.localcloud.run_command import answer
from ec2spawner.localcloud.upgrades import (
    FILES,
    Command,
    Held,
    carry_out,
    read_held,
    release_of,
    set_up,
)


class Machines:
    """One with an agent, i-1, which notes what it is sent."""

    def __init__(self) -> None:
        self.sent: dict[str, str] = {}

    def has_agent(self, instance_id: str) -> bool:
        return instance_id == "i-1"

    def send(self, instance_id: str, command_id: str, script: str) -> None:
        self.sent[command_id] = script

    def command(self, instance_id: str, command_id: str) -> Mapping[str, Any] | None:
        if command_id not in self.sent:
            return None
        return {"status": "Failed", "code": 1, "output": "x" * 30_000}


def send(machines: Machines, instance_id: str = "i-1", document: str = "AWS-RunShellScript") -> str:
    params = {
        "DocumentName": document,
        "InstanceIds": [instance_id],
        "Parameters": {"commands": ["a", "b"]},
    }
    return str(answer("SendCommand", json.dumps(params), machines)["Command"]["CommandId"])


def test_a_command_is_sent_and_can_be_asked_for() -> None:
    machines = Machines()
    asked = {"CommandId": send(machines), "InstanceId": "i-1"}
    assert machines.sent == {asked["CommandId"]: "a\nb"}
    reply = answer("GetCommandInvocation", json.dumps(asked), machines)
    assert (reply["Status"], reply["ResponseCode"]) == ("Failed", 1)
    assert len(reply["StandardOutputContent"]) == 24_000


@pytest.mark.parametrize(
    ("given", "code"),
    [({"instance_id": "i-2"}, "InvalidInstanceId"), ({"document": "x"}, "InvalidDocument")],
)
def test_what_cannot_be_is_refused_as_by_ssm(given: dict[str, str], code: str) -> None:
    with pytest.raises(EC2Error) as refused:
        send(Machines(), **given)
    assert refused.value.code == code


def test_a_command_that_nobody_sent_is_not_known() -> None:
    asked = json.dumps({"CommandId": "c", "InstanceId": "i-1"})
    with pytest.raises(EC2Error) as refused:
        answer("GetCommandInvocation", asked, Machines())
    assert refused.value.code == "InvocationDoesNotExist"


# ---- the script


def package(wheel: bytes) -> bytes:
    """A package of one wheel: the same bytes whenever it is made, since its hash names tests."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        info = tarfile.TarInfo("ec2spawner-1-py3-none-any.whl")
        info.size = len(wheel)
        tar.addfile(info, io.BytesIO(wheel))
    return gzip.compress(plain.getvalue(), mtime=0)


OLD, NEW = package(b"old"), package(b"new")
NAME = hashlib.sha256(NEW).hexdigest()
CHOSEN = json.dumps({"DOMAIN": "hub.example.org"}).encode()


def bucket(**more: bytes) -> dict[str, bytes]:
    return {"old": OLD, f"package/{NAME}.tar.gz": NEW, FILES[0]: b"{}", **more}


def after(objects: dict[str, bytes], word: str, fault: str | None = None) -> tuple[Held, Command]:
    held = set_up("old", bucket().get)
    script = f"/opt/ec2spawner/upgrade.sh {word}"
    held = replace(held, commands={"c": Command(script, time.time())})
    done = carry_out(held, "c", objects.get, fault)
    return done, done.commands["c"]


def test_another_package_makes_another_release() -> None:
    held, command = after(bucket(), NAME)
    assert (held.release, command.status) == (release_of(NEW), "Success")
    assert f"done: {release_of(NEW)} is in use\n" in command.output


def test_a_hub_that_fails_leaves_all_as_it_was() -> None:
    held, command = after(bucket(**{FILES[1]: CHOSEN}), NAME, "fail")
    assert (held.release, held.domain) == (release_of(OLD), "")
    assert (command.status, command.code) == ("Failed", 1)


def test_a_refresh_takes_over_the_domain_and_keeps_the_release() -> None:
    held, command = after(bucket(**{FILES[1]: CHOSEN}), "refresh")
    assert (held.release, held.domain) == (release_of(OLD), "hub.example.org")
    assert command.status == "Success"


def test_where_nothing_is_new_nothing_is_done() -> None:
    held, command = after(bucket(), "refresh")
    assert held.release == release_of(OLD)
    assert "is in use already" in command.output


@pytest.mark.parametrize(
    ("objects", "word", "code"),
    [
        ({FILES[0]: b"{}"}, NAME, 1),  # no such package
        ({FILES[0]: b"{}", f"package/{NAME}.tar.gz": OLD}, NAME, 1),  # another one by that name
        (bucket(), "now; reboot", 127),
    ],
)
def test_what_it_cannot_do_fails(objects: dict[str, bytes], word: str, code: int) -> None:
    held, command = after(objects, word)
    assert held.release == release_of(OLD)
    assert (command.status, command.code) == ("Failed", code)


def test_a_machine_that_is_not_set_up_has_no_script() -> None:
    held = Held(commands={"c": Command(f"/opt/ec2spawner/upgrade.sh {NAME}", 0.0)})
    assert carry_out(held, "c", bucket().get, None).commands["c"].code == 127


def test_what_a_manager_holds_outlives_the_emulation(tmp_path: Path) -> None:
    held, _ = after(bucket(**{FILES[1]: CHOSEN}), NAME)
    held.write(tmp_path / "i-1" / "manager.json")
    assert read_held(tmp_path / "i-1" / "manager.json") == held
    assert read_held(tmp_path / "i-2" / "manager.json") is None
