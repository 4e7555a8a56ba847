"""``ec2spawner-worker notices`` on a model of a real worker: what it leaves and writes back."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ec2spawner.worker import notice_file, notices
from ec2spawner.worker.metadata import Interruption
from ec2spawner.worker.notice_file import LONGEST_WHEN, TEXT_MAX_CHARS, WHEN
from ec2spawner.worker.notices import World, notice_of
from ec2spawner.worker.process_host import ProcessHost
from ec2spawner.worker.protocol import Code, Events, Fault
from ec2spawner.worker.runner import Completed
from ec2spawner.worker.systemd_host import SystemdHost

SYNC = ("sync",)
BEGUN = 1_767_323_000.0
END = Interruption("stop", BEGUN + 150)


class PowerOff(BaseException):
    """The end of the watch."""


class Machine:
    """A real worker's host whose metadata are here; each look begins with a word of EC2's."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[tuple[str, ...]] = []
        self.sync = Completed(0)
        self.metadata: Any = None
        self.host = SystemdHost(self._run, root)
        self.directory = root / "run/ec2spawner-notices"
        monkeypatch.setattr("ec2spawner.worker.systemd_host.interruption_notice", self._notice)
        monkeypatch.setattr("ec2spawner.worker.systemd_host.is_spot", lambda: True)

    def _run(self, argv: Any, **_: Any) -> Completed:
        self.ran.append(tuple(argv))
        return self.sync

    def _notice(self) -> Interruption | None:
        if isinstance(self.metadata, Exception):
            raise self.metadata
        found: Interruption | None = self.metadata
        return found

    def watch(self, *metadata: Any) -> list[dict[str, Any]]:
        """One look for each; what was said. 5 s pass between two."""
        out, coming, now = io.BytesIO(), list(metadata), [BEGUN]
        self.metadata = coming.pop(0)

        def sleep(seconds: float) -> None:
            assert seconds == 5
            now[0] += seconds
            if not coming:
                raise PowerOff
            self.metadata = coming.pop(0)

        with pytest.raises(PowerOff):
            notices.watch(self.host, Events(out), World(lambda: now[0], sleep))
        said = [json.loads(line) for line in out.getvalue().splitlines()]
        assert said.pop(0) == {"event": "notices", "spot": True}
        return said

    def left(self) -> list[notice_file.Notice]:
        return notice_file.read_all(self.directory)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_the_user_reads_in_full_what_happens_when_and_what_to_do() -> None:
    words = notice_of(END).text(END.at - 118)
    assert words.startswith("Amazon takes this machine back in about 2 minutes. Save now: files in")
    assert "start again from the hub" in words
    assert len(notice_of(END).words.replace(WHEN, LONGEST_WHEN)) <= TEXT_MAX_CHARS


def test_without_a_notice_nothing_is_left_said_or_written_back(machine: Machine) -> None:
    assert machine.watch(None, None, None) == []
    assert machine.left() == machine.ran == []


def test_a_notice_is_left_and_said_once_and_files_are_written_back(machine: Machine) -> None:
    told = {"event": "interruption", "action": "stop", "in_seconds": 145}
    assert machine.watch(None, END, END, END) == [told]
    assert machine.left() == [notice_of(END)]
    assert machine.ran == [SYNC]


def test_files_are_written_back_again_shortly_before_the_end(machine: Machine) -> None:
    machine.watch(*[END] * 24)
    assert machine.ran == [SYNC]  # the last of these looks is 35 s before
    machine.ran.clear()
    machine.watch(*[END] * 31)
    assert machine.ran == [SYNC] * 8  # at the notice, and from 30 s before on


def test_a_notice_that_ec2_takes_back_is_taken_away(machine: Machine) -> None:
    assert [event["action"] for event in machine.watch(END, None)] == ["stop", None]
    assert machine.left() == []


def test_so_is_one_that_an_earlier_run_left(machine: Machine) -> None:
    machine.watch(END)
    machine.watch(None)
    assert machine.left() == []


def test_another_time_is_another_notice(machine: Machine) -> None:
    later = Interruption("terminate", END.at + 60)
    machine.watch(END, later)
    assert machine.left() == [notice_of(later)]
    assert machine.ran == [SYNC, SYNC]


def test_metadata_that_fail_are_said_once_and_asked_again(machine: Machine) -> None:
    fault = Fault(Code.INTERNAL, "the instance metadata answers 503")
    said = machine.watch(fault, fault, END, fault, END)
    assert [event["event"] for event in said] == ["trouble", "interruption", "trouble"]
    assert said[0]["detail"] == "the instance metadata answers 503"
    assert machine.left() == [notice_of(END)]


def test_word_that_cannot_be_left_is_left_by_the_next_look(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, full = notice_file.write, [OSError("no space left on device")]

    def once_full(*arguments: Any) -> None:
        if full:
            raise full.pop()
        write(*arguments)

    monkeypatch.setattr(notice_file, "write", once_full)
    assert [e["event"] for e in machine.watch(END, END)] == ["trouble", "interruption"]
    assert machine.left() == [notice_of(END)]


def test_a_disk_that_cannot_be_written_back_does_not_keep_the_word_back(machine: Machine) -> None:
    machine.sync = Completed(1, "", "Input/output error")
    assert [e["event"] for e in machine.watch(END)] == ["interruption", "trouble"]
    assert machine.left() == [notice_of(END)]


def test_on_demand_nothing_is_looked_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ec2spawner.worker.systemd_host.is_spot", lambda: False)
    out = io.BytesIO()
    notices.watch(machine.host, Events(out))
    assert json.loads(out.getvalue()) == {"event": "notices", "spot": False}


def test_where_the_market_cannot_be_learned_the_command_fails(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent() -> bool:
        raise Fault(Code.INTERNAL, "the instance metadata does not answer")

    monkeypatch.setattr("ec2spawner.worker.systemd_host.is_spot", silent)
    with pytest.raises(Fault, match="does not answer"):
        notices.watch(machine.host, Events(io.BytesIO()))


def test_the_directory_is_roots_to_write_and_everybodys_to_read(machine: Machine) -> None:
    before = os.umask(0o022)  # as systemd and sudo have it
    try:
        assert machine.host.notice_directory() == machine.host.notice_directory()
    finally:
        os.umask(before)
    assert machine.directory.stat().st_mode & 0o777 == 0o755


def test_an_emulated_machine_knows_by_its_disk_whether_it_is_spot(tmp_path: Path) -> None:
    for settings, is_spot in (({}, False), ({"is_spot": True}, True), ({"is_spot": False}, False)):
        (tmp_path / "machine.json").write_text(json.dumps(settings))
        assert ProcessHost(tmp_path).is_spot() is is_spot
    (tmp_path / "machine.json").unlink()
    with pytest.raises(Fault):
        ProcessHost(tmp_path).is_spot()
