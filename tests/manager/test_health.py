"""Whether the hub answers: for a while, not for a moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ec2spawner.manager.health import NEEDED_IN_A_ROW, answers, await_hub


class Time:
    """A clock that goes on by sleeping only."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> float:
        return self.now


def ask(*said: bool) -> tuple[bool, float]:
    """The verdict on these answers, the last for ever, within a minute; and after how long."""
    time, left = Time(), list(said)

    def answer() -> bool:
        return left.pop(0) if len(left) > 1 else left[0]

    return await_hub(60, answer, time.sleep, time.clock), time.now


def test_a_hub_that_comes_up_is_well() -> None:
    assert ask(False, False, True) == (True, 2 + NEEDED_IN_A_ROW)


def test_one_that_dies_again_and_again_is_not() -> None:
    assert ask(*[True, True, False] * 40)[0] is False


def test_one_that_never_answers_is_not() -> None:
    verdict, seconds = ask(False)
    assert verdict is False
    assert 60 <= seconds < 63


@pytest.fixture
def status() -> Iterator[tuple[dict[str, int], int]]:
    """A server that answers with a status of one's choice, and its port."""
    chosen = {"status": 200}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(chosen["status"] if self.path == "/hub/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quietly."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield chosen, server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_only_the_hub_s_own_yes_counts(status: tuple[dict[str, int], int]) -> None:
    chosen, port = status
    assert answers(("127.0.0.1", port))
    for number in (302, 503):  # as the proxy says while the hub is away
        chosen["status"] = number
        assert not answers(("127.0.0.1", port))


def test_nobody_is_no() -> None:
    assert not answers(("127.0.0.1", 1))
