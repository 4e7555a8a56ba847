"""Which process certainly lives, and which is gone: in doubt nobody can tell."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ec2spawner import identity
from ec2spawner.identity import Process, is_running, lives, this_process

ME = Process("here", "i-0123456789abcdef0", "boot-1", "pid:[1]", 100, 5)


@pytest.mark.parametrize(
    ("other", "runs", "known"),
    [
        (replace(ME, pid=90), False, False),
        (replace(ME, pid=90), True, True),
        (replace(ME, pid=90, pid_namespace="pid:[2]"), False, None),  # cannot be seen
        (replace(ME, pid=90, boot_id="boot-0"), True, False),  # before the last boot
        (replace(ME, boot_id="boot-0", instance_id=""), False, None),
        (replace(ME, boot_id="boot-0", instance_id="i-0123456789abcdef1"), False, None),
        (replace(ME, boot_id=""), False, None),
        (replace(ME, boot_id="", instance_id=""), False, None),
    ],
)
def test_of_whom_it_is_known_whether_it_lives(
    other: Process, runs: bool, known: bool | None
) -> None:
    assert lives(other, ME, lambda process: runs) is known


def test_without_a_boot_id_or_a_namespace_nothing_is_known_of_anybody() -> None:
    me = replace(ME, boot_id="", instance_id="")
    assert lives(me, me, lambda process: False) is None
    me = replace(ME, pid_namespace="")
    assert lives(me, me, lambda process: False) is None


def test_this_process_runs_and_is_told_from_one_that_had_its_pid() -> None:
    me = this_process()
    assert me.pid == os.getpid()
    assert me.boot_id
    assert me.pid_namespace.startswith("pid:[")
    assert is_running(me)
    assert not is_running(replace(me, started=me.started - 1))
    assert lives(me, me) is True


def test_a_child_is_gone_once_it_was_killed_whether_or_not_anybody_has_noticed() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        state, started = identity._state_and_start(child.pid)
        process = replace(this_process(), pid=child.pid, started=started)
        assert state in "RSD"
        assert lives(process, this_process()) is True
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie
        assert lives(process, this_process()) is False
    finally:
        child.communicate()
    assert lives(process, this_process()) is False


def test_a_process_that_proc_hides_is_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(pid: int) -> tuple[str, int]:
        raise PermissionError

    def another_accounts(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(identity, "_state_and_start", hidden)
    assert is_running(replace(ME, pid=os.getpid()))
    monkeypatch.setattr(os, "kill", another_accounts)
    assert is_running(ME)


@pytest.mark.parametrize(
    ("tag", "instance_id"),
    [
        ("i-0123456789abcdef0\n", "i-0123456789abcdef0"),
        ("i-01234567\n", "i-01234567"),
        ("Not Specified\n", ""),
        ("\n", ""),
    ],
)
def test_the_instances_id_is_what_the_board_says_if_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str, instance_id: str
) -> None:
    (tmp_path / "tag").write_text(tag)
    monkeypatch.setattr(identity, "ASSET_TAG", str(tmp_path / "tag"))
    assert this_process().instance_id == instance_id


def test_a_machine_that_says_nothing_of_itself_is_no_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "ASSET_TAG", str(tmp_path / "absent"))
    monkeypatch.setattr(identity, "BOOT_ID", str(tmp_path / "absent"))
    assert this_process().instance_id == this_process().boot_id == ""
