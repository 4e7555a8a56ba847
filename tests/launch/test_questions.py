"""The question before a change: from where it is answered, and that Ctrl-C is never missed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from launch_cluster import cli


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
    assert asyncio.run(cli._answer("Go on?")) == "jä\n"
    assert asyncio.run(cli._answer("Go on?")) == "no\n"
    assert asyncio.run(cli._answer("Go on?")) == ""


def test_ctrl_c_ends_a_question_that_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()

    async def ask() -> str:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
        return await cli._answer("Go on?")

    with os.fdopen(reads) as reader, os.fdopen(writes, "w"):
        monkeypatch.setattr("sys.stdin", reader)
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(ask())
