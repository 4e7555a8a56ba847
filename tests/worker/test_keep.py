"""``ec2spawner-worker keep`` on an emulated machine, and the file that it leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ec2spawner.worker import activity_file, keep_file
from ec2spawner.worker.activity_extension import Observer
from ec2spawner.worker.clock import boot_seconds

from .documents import raw_document
from .machines import Machine

CLAIM = str(raw_document()["claim"])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    machine.boot()
    yield machine
    machine.kill()


def keep(machine: Machine, seconds: float | None, claim: str = CLAIM) -> dict[str, Any]:
    document = {"version": 1, "claim": claim, "at_work_seconds": seconds}
    return machine.worker("keep", json.dumps(document).encode())[-1]


def left(machine: Machine) -> float | None:
    """For how many seconds from now, as the server reads it."""
    until = keep_file.read(machine.directory / "run" / "notices")
    return None if until is None else until - boot_seconds()


def test_it_is_left_for_the_server_and_ends_with_it(machine: Machine) -> None:
    machine.start()
    assert left(machine) is None
    assert keep(machine, 600)["event"] == "kept"
    assert left(machine) == pytest.approx(600, abs=30)
    assert keep(machine, -60)["event"] == "kept"
    assert left(machine) == pytest.approx(-60, abs=30)
    assert keep(machine, None)["event"] == "kept"
    assert left(machine) is None

    keep(machine, 600)
    assert machine.start()["reused"] is True
    assert left(machine) is not None, "the same server goes on"
    machine.worker("stop")
    assert left(machine) is None
    machine.start()
    keep(machine, 600)
    machine.start(args=["--another"])
    assert left(machine) is None, "it was said of the server before"


def test_it_is_refused_without_a_server_or_by_another_claim(machine: Machine) -> None:
    assert keep(machine, 600)["code"] == "owner-mismatch"
    machine.start()
    assert keep(machine, 600, "f" * 16)["code"] == "owner-mismatch"
    machine.worker("stop")
    assert keep(machine, 600)["code"] == "server-died"
    assert left(machine) is None


@pytest.mark.parametrize(
    "content", [b"", b"no", b"[]", b'{"at_work_until": "1"}', b'{"at_work_until": NaN}', b"9" * 300]
)
def test_what_is_no_such_file_keeps_nothing_up(tmp_path: Path, content: bytes) -> None:
    assert keep_file.read(tmp_path) is None
    (tmp_path / keep_file.FILE_NAME).write_bytes(content)
    assert keep_file.read(tmp_path) is None


def test_the_server_s_report_follows_the_file_and_not_a_wall_clock_that_is_set(
    tmp_path: Path,
) -> None:
    wall, steady = [1e9], [500.0]
    kernels = SimpleNamespace(list_kernel_ids=lambda: [])
    app = SimpleNamespace(
        kernel_manager=kernels,
        web_app=SimpleNamespace(settings={}),
        io_loop=SimpleNamespace(call_later=lambda *again: None),
    )
    observer = Observer(app, lambda: wall[0], lambda: steady[0], tmp_path)
    keep_file.write(tmp_path, 600.0)

    def idle(passed: float) -> float:
        wall[0] += passed
        steady[0] += passed
        return wall[0] - observer.last_activity().timestamp()

    assert idle(90) == 0
    wall[0] += 3e6
    assert idle(0) == 0
    assert idle(70) == 60
    observer.keep_file(tmp_path, 15.0)  # what the dead-man switch reads
    assert activity_file.read(tmp_path / activity_file.FILE_NAME, os.getuid()) == 600.0
    keep_file.remove(tmp_path)
    wall[0] -= 3e6
    assert idle(0) == 160
