"""One event a line in the hub's log, and nothing that a terminal obeys."""

from __future__ import annotations

import logging
import sys

import pytest

from ec2spawner.logform import MESSAGE_MAX, OneLine, shown

EVIL = "\x1b]0;x\x07\nFAKE LINE\u202e\x9b2J"


def record(message: str, *args: object, fails: str = "") -> logging.LogRecord:
    info = None
    if fails:
        try:
            raise ValueError(fails)
        except ValueError:
            info = sys.exc_info()
    return logging.LogRecord("hub", logging.INFO, __file__, 1, message, args, info)  # type: ignore[arg-type]


@pytest.mark.parametrize("args", [(), (EVIL,)], ids=["in the message", "as an argument"])
def test_a_message_is_one_line_without_control_characters(args: tuple[object, ...]) -> None:
    text = OneLine().format(record("named %s" if args else EVIL, *args))
    assert text.isprintable()
    assert "\\x1b]0;x\\x07\\nFAKE LINE\\u202e\\x9b2J" in text


def test_a_traceback_keeps_its_lines_and_none_begins_like_an_event() -> None:
    lines = OneLine().format(record("lost", fails=EVIL)).split("\n")
    assert all(line.isprintable() for line in lines)
    assert lines[0].endswith("lost")
    assert all(line.startswith("    ") for line in lines[1:])
    assert any("ValueError" in line for line in lines)


def test_what_is_printable_stays_as_it_is() -> None:
    assert shown("zoë müller's <b>lab</b> 実験") == "zoë müller's <b>lab</b> 実験"


def test_a_message_ends() -> None:
    text = shown("x" * (MESSAGE_MAX + 1))
    assert len(text) < MESSAGE_MAX + 40
    assert f"({MESSAGE_MAX + 1} characters)" in text


def test_other_handlers_get_the_record_as_it_was() -> None:
    said = record("a %s", "b\n")
    OneLine().format(said)
    assert said.getMessage() == "a b\n"
