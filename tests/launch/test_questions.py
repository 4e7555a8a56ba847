"""The question before a change: from where it is answered, and that Ctrl-C is never missed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from launch_cluster.commands import common

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["pipe", "file"])
def answers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[TextIO, TextIO]]:
    """Where somebody writes, and stdin."""
    path = tmp_path / "answers"
    path.touch()
    reads, writes = os.pipe() if request.param == "pipe" else (os.open(path, os.O_RDONLY), None)
    writer = path.open("w") if writes is None else os.fdopen(writes, "w")
    with writer, os.fdopen(reads) as reader:
        yield writer, reader


def test_an_answer_is_one_line(
    answers: tuple[TextIO, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = answers
    monkeypatch.setattr("sys.stdin", reader)
    writer.write("jä\nno\n")
    writer.close()
    assert asyncio.run(common._answer("Go on?")) == "jä\n"
    assert asyncio.run(common._answer("Go on?")) == "no\n"
    assert asyncio.run(common._answer("Go on?")) == ""


INTERRUPTED = """
import asyncio, os, signal
from launch_cluster.commands import common

async def ask():
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
    return await common._answer("Go on?")

try:
    asyncio.run(ask())
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_a_question_that_nobody_answers() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
        assert process.stdout
        assert process.stdout.read() == "interrupted\n"
