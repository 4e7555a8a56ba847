"""What the command writes: bounded lines, no secrets, and no failure when nobody reads."""

from __future__ import annotations

import io
import json

import pytest

from ec2spawner.worker.protocol import LINE_MAX_BYTES, Code, Events, Fault, clean


@pytest.mark.parametrize(
    "detail", ["x" * 100_000, "\U0001f600" * 10_000, "\x00" * 10_000, "\ud800" * 5000, '"\\' * 5000]
)
def test_an_error_is_one_short_line_whatever_the_detail(detail: str) -> None:
    out = io.BytesIO()
    Events(out).error(Fault(Code.SERVER_DIED, detail))
    assert out.getvalue().count(b"\n") == 1
    assert len(out.getvalue()) <= LINE_MAX_BYTES
    told = json.loads(out.getvalue())
    assert told["code"] == "server-died"
    assert len(told["detail"]) <= 500


@pytest.mark.parametrize(
    "text",
    [
        "value s3cr3t-value here",
        "http://127.0.0.1/lab?token=abcdef0123",
        "Authorization: token abcdef0123",
        "'token': 'abcdef0123'",
        "JUPYTERHUB_API_TOKEN=abcdef0123",
    ],
)
def test_secrets_are_removed(text: str) -> None:
    cleaned = clean(text, ["s3cr3t-value"])
    assert "[removed]" in cleaned
    assert "abcdef0123" not in cleaned
    assert "s3cr3t-value" not in cleaned


def test_a_short_value_is_no_secret_to_search_for() -> None:
    assert clean("one is 1", ["1", ""]) == "one is 1"


def test_colours_and_control_characters_are_removed_and_the_end_is_kept() -> None:
    assert clean("\x1b[31mred\x1b[0m\r\x07") == "red"
    assert clean("a" * 600 + "THE END").endswith("THE END")


def test_a_reader_that_is_gone_does_not_stop_the_work() -> None:
    class Gone(io.BytesIO):
        def write(self, data: object) -> int:
            raise BrokenPipeError

    events = Events(Gone())
    events.progress("home")
    events.progress("mount")


def test_seconds_count_from_the_command_s_start() -> None:
    times = iter([10.0, 12.5])
    out = io.BytesIO()
    Events(out, lambda: next(times)).progress("home")
    assert json.loads(out.getvalue()) == {"event": "progress", "step": "home", "seconds": 2.5}
