"""The notices that root leaves: what they say, and that only what is one is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ec2spawner.worker import notice_file
from ec2spawner.worker.notice_file import Level, Notice

NOTICE = Notice("idle-stop", Level.INFO, "It stops {when}. Type {something}.", 1000.5)


def test_what_is_left_is_read_by_everybody_and_goes_when_it_is_taken_away(tmp_path: Path) -> None:
    other = Notice("interruption", Level.WARNING, "Amazon.", 7.0)
    assert notice_file.read_all(tmp_path / "missing") == []
    notice_file.write(tmp_path, other)
    notice_file.write(tmp_path, NOTICE)
    assert notice_file.read_all(tmp_path) == [NOTICE, other]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}
    later = Notice("idle-stop", Level.ERROR, "It stops now.", 2000.0)
    notice_file.write(tmp_path, later)
    notice_file.remove(tmp_path, "interruption")
    notice_file.remove(tmp_path, "interruption")
    assert notice_file.read_all(tmp_path) == [later]


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (-5, "in less than a minute"),
        (29, "in less than a minute"),
        (31, "in about a minute"),
        (89, "in about a minute"),
        (91, "in about 2 minutes"),
        (120, "in about 2 minutes"),
        (600, "in about 10 minutes"),
    ],
)
def test_the_time_that_is_left_is_said_as_people_do(left: float, words: str) -> None:
    assert NOTICE.text(NOTICE.at - left) == f"It stops {words}. Type {{something}}."
    assert len(words) <= len(notice_file.LONGEST_WHEN)


GOOD: dict[str, Any] = {"level": "warning", "words": "x", "at": 1.0}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"[" * 1500,
        b"\xff",
        json.dumps({**GOOD, "level": "loud"}).encode(),
        json.dumps({**GOOD, "words": ["x"]}).encode(),
        json.dumps({**GOOD, "words": ""}).encode(),
        json.dumps({**GOOD, "words": "x" * 3000}).encode(),
        json.dumps({**GOOD, "at": "soon"}).encode(),
        json.dumps({**GOOD, "at": float("inf")}).encode(),
        json.dumps({"level": "info", "at": 1}).encode(),
    ],
)
def test_what_is_no_notice_is_passed_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.json").write_bytes(content)
    (tmp_path / "good.json").write_text(json.dumps(GOOD))
    assert [notice.kind for notice in notice_file.read_all(tmp_path)] == ["good"]


def test_a_kind_is_a_slug(tmp_path: Path) -> None:
    (tmp_path / "Not A Kind.json").write_text(json.dumps(GOOD))
    assert notice_file.read_all(tmp_path) == []
