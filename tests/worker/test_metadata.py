"""The notice that EC2 takes a spot instance back: asked of IMDSv2, read strictly, within bounds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ec2spawner.worker import metadata
from ec2spawner.worker.metadata import (
    Interruption,
    interruption_notice,
    is_spot,
    parse_interruption,
)
from ec2spawner.worker.process_host import ProcessHost
from ec2spawner.worker.protocol import Fault

NOTICE = '{"action": "stop", "time": "2026-01-02T03:04:05Z"}'
AT = 1767323045.0


class Service(HTTPServer):
    """IMDSv2 with one token; ``notice`` is what it answers, with its status."""

    notice: tuple[int, bytes] = (404, b"")
    token_status = 200
    asked: list[tuple[str, str]]


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_PUT(self) -> None:
        self.server.asked.append(("PUT", self.path))
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "60"
        self._say(self.server.token_status, b"secret-token")

    def do_GET(self) -> None:
        self.server.asked.append(("GET", self.path))
        is_known = self.headers["X-aws-ec2-metadata-token"] == "secret-token"
        self._say(*(self.server.notice if is_known else (401, b"")))

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service(("127.0.0.1", 0), Handler) as service:
        service.asked = []
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield service
        service.shutdown()
        thread.join()


@pytest.fixture
def ask(service: Service) -> Callable[[], Interruption | None]:
    return lambda: interruption_notice(("127.0.0.1", service.server_address[1]))


def test_no_notice_is_none(service: Service, ask: Callable[[], Any]) -> None:
    assert ask() is None
    assert service.asked == [
        ("PUT", "/latest/api/token"),
        ("GET", "/latest/meta-data/spot/instance-action"),
    ]


def test_a_notice_says_what_and_when(service: Service, ask: Callable[[], Any]) -> None:
    service.notice = (200, NOTICE.encode())
    assert ask() == Interruption("stop", AT)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b"x" * 100_000),
        (200, b'{"action": "explode", "time": "2026-01-02T03:04:05Z"}'),
        (200, b'{"action": ["stop"], "time": "2026-01-02T03:04:05Z"}'),
        (200, b'{"action": "stop", "time": "soon"}'),
        (200, b'{"action": "stop", "time": 1767323045}'),
        (200, b'{"action": "stop"}'),
        (200, b"\xff\xfe"),
    ],
)
def test_any_other_answer_is_a_fault(
    service: Service, ask: Callable[[], Any], status: int, body: bytes
) -> None:
    service.notice = (status, body)
    with pytest.raises(Fault):
        ask()


@pytest.mark.parametrize(
    ("answer", "known"), [(b"spot", True), (b"on-demand", False), (b"capacity-block", False)]
)
def test_the_life_cycle_says_whether_it_may_be_taken_back(
    service: Service, answer: bytes, known: bool
) -> None:
    service.notice = (200, answer)
    assert is_spot(("127.0.0.1", service.server_address[1])) is known
    assert service.asked[-1] == ("GET", "/latest/meta-data/instance-life-cycle")


@pytest.mark.parametrize("answer", [(404, b""), (200, b""), (200, b"spotted"), (500, b"spot")])
def test_a_life_cycle_that_is_none_is_a_fault(service: Service, answer: tuple[int, bytes]) -> None:
    service.notice = answer
    with pytest.raises(Fault):
        is_spot(("127.0.0.1", service.server_address[1]))


def test_without_a_token_nothing_is_asked(service: Service, ask: Callable[[], Any]) -> None:
    service.token_status = 403
    with pytest.raises(Fault, match="answers 403"):
        ask()
    assert [method for method, _ in service.asked] == ["PUT"]


def test_a_service_that_is_not_there_is_a_fault(
    service: Service, ask: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "TIMEOUT_SECONDS", 0.05)
    service.shutdown()  # it takes connections, and never answers
    with pytest.raises(Fault, match="does not answer"):
        ask()


def test_an_emulated_machine_reads_its_file(tmp_path: Path) -> None:
    host = ProcessHost(tmp_path)
    assert host.interruption_notice() is None
    (tmp_path / "instance-action.json").write_text(NOTICE)
    assert host.interruption_notice() == parse_interruption(NOTICE) == Interruption("stop", AT)
    (tmp_path / "instance-action.json").write_text("x" * 100_000)
    with pytest.raises(Fault):
        host.interruption_notice()
