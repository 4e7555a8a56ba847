"""Which process is certainly gone: of this machine only, and in doubt none."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ec2spawner import identity
from ec2spawner.identity import Process, is_gone, is_running, this_process

ME = Process("here", "i-0123456789abcdef0", "boot-1", "pid:[1]", 100, 5)


@pytest.mark.parametrize(
    ("other", "runs", "gone"),
    [
        (replace(ME, pid=90), False, True),
        (replace(ME, pid=90), True, False),
        (replace(ME, pid=90, pid_namespace="pid:[2]"), False, False),  # cannot be seen
        (replace(ME, pid=90, boot_id="boot-0"), True, True),  # before the last boot
        (replace(ME, boot_id="boot-0", instance_id=""), False, False),
        (replace(ME, boot_id="boot-0", instance_id="i-0123456789abcdef1"), False, False),
        (replace(ME, boot_id="", instance_id=""), False, False),
    ],
)
def test_who_is_gone(other: Process, runs: bool, gone: bool) -> None:
    assert is_gone(other, ME, lambda process: runs) is gone


def test_without_a_boot_id_or_a_namespace_nobody_is_known_to_be_gone() -> None:
    me = replace(ME, boot_id="", instance_id="")
    assert not is_gone(me, me, lambda process: False)
    me = replace(ME, pid_namespace="")
    assert not is_gone(me, me, lambda process: False)


def test_this_process_runs_and_is_told_from_one_that_had_its_pid() -> None:
    me = this_process()
    assert me.pid == os.getpid()
    assert me.boot_id
    assert me.pid_namespace.startswith("pid:[")
    assert is_running(me)
    assert not is_running(replace(me, started=me.started - 1))
    assert not is_gone(me, me)


def test_a_child_is_gone_once_it_was_killed_whether_or_not_anybody_has_noticed() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        state, started = identity._state_and_start(child.pid)
        process = replace(this_process(), pid=child.pid, started=started)
        assert state in "RSD"
        assert not is_gone(process, this_process())
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie
        assert is_gone(process, this_process())
    finally:
        child.communicate()
    assert is_gone(process, this_process())


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
