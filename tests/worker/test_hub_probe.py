"""Whether a hub is in reach: what counts as its answer, and that asking takes bounded time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ec2spawner.worker import hub_probe
from ec2spawner.worker.hub_probe import HubAddress, parse, reaches

ADDRESS = "127.77.250.3"
NAMED = b"X-JupyterHub-Version: 6.1.1\r\n"


class Listener:
    """Answers every connection with some bytes, and notes what it was asked."""

    def __init__(self, answer: bytes | None, host: str = ADDRESS) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.create_server((host, 0), family=family)
        self.port = self.socket.getsockname()[1]
        self.asked: list[bytes] = []
        self._answer = answer
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self._open.append(connection)
            with contextlib.suppress(OSError):
                self.asked.append(connection.recv(4096))
                if self._answer is not None:
                    connection.sendall(self._answer)
                    connection.close()

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self._thread.join()
        for connection in self._open:
            connection.close()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def make(answer: bytes | None, host: str = ADDRESS) -> Listener:
        made.append(Listener(answer, host))
        return made[-1]

    yield make
    for listener in made:
        listener.close()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://10.0.0.5:8081/hub/api", HubAddress("http", "10.0.0.5", 8081, "/hub/api")),
        ("http://hub.example/x/hub/api/", HubAddress("http", "hub.example", 80, "/x/hub/api")),
        ("https://h", HubAddress("https", "h", 443, "")),
        ("http://[fd00::5]:81/hub/api", HubAddress("http", "fd00::5", 81, "/hub/api")),
    ],
)
def test_an_address_is_read(url: str, address: HubAddress) -> None:
    assert parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hub",
        "ftp://h/hub/api",
        "file:///etc/shadow",
        "http:///hub/api",
        "http://user:secret@h/hub/api",
        "http://h:0/",
        "http://h:65536/",
        "http://h:99999999999/",
        "http://h/?token=x",
        "http://h/#x",
        "http://h/a b",
        "http://h/\r\nX: y",
        "http://h/hub/api\n",
        "http://h\u00fc/",
        "http://[::1/",
        "http://h/" + "a" * 2048,
    ],
)
def test_what_is_no_address_of_a_hub(url: str) -> None:
    assert parse(url) is None
    assert not reaches(url)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n" + NAMED + b"\r\n",
        b"HTTP/1.1 403 Forbidden\r\n" + NAMED + b"\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n" + NAMED + b"\r\n",
        b"HTTP/1.1 500 Internal Server Error\r\nA: b\r\nx-jupyterhub-version: 7\r\n\r\n",
        b"HTTP/1.0 503\r\n" + NAMED + b"\r\n",
    ],
)
def test_any_answer_of_a_jupyterhub_counts(listen: Callable[..., Listener], answer: bytes) -> None:
    hub = listen(answer)
    assert reaches(f"http://{ADDRESS}:{hub.port}/hub/api")
    (asked,) = hub.asked
    assert asked.split(b"\r\n")[0] == b"GET /hub/api/health HTTP/1.1"
    assert b"authorization" not in asked.lower()
    assert b"cookie" not in asked.lower()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 502 Bad Gateway\r\nServer: proxy\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + NAMED,
        b"SSH-2.0-x\r\n" + NAMED + b"\r\n",
        b"HTTP/1.1 999 What\r\n" + NAMED + b"\r\n",
        b"x" * 100_000,
    ],
)
def test_another_s_answer_does_not(listen: Callable[..., Listener], answer: bytes) -> None:
    hub = listen(answer)
    assert not reaches(f"http://{ADDRESS}:{hub.port}/hub/api")


def test_it_is_asked_by_ipv6_too(listen: Callable[..., Listener]) -> None:
    try:
        hub = listen(b"HTTP/1.1 200 OK\r\n" + NAMED + b"\r\n", "::1")
    except OSError:
        pytest.skip("this computer has no IPv6")
    assert reaches(f"http://[::1]:{hub.port}/hub/api")
    assert b"\r\nHost: [::1]:" in hub.asked[0]


def test_a_port_on_which_nothing_listens(listen: Callable[..., Listener]) -> None:
    with socket.create_server((ADDRESS, 0)) as closed:
        port = closed.getsockname()[1]
    assert not reaches(f"http://{ADDRESS}:{port}/hub/api")


def test_a_hub_that_says_nothing_is_waited_for_in_bounds(
    listen: Callable[..., Listener],
) -> None:
    hub = listen(None)
    began = time.monotonic()
    assert not reaches(f"http://{ADDRESS}:{hub.port}/hub/api", deadline_seconds=0.2)
    assert time.monotonic() - began < 2


def test_a_name_that_is_never_found_is_given_up_in_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(hub_probe, "_answers", lambda address: ended.wait(10))
    began = time.monotonic()
    assert not reaches("http://hub.invalid/hub/api", deadline_seconds=0.1)
    assert time.monotonic() - began < 2
    ended.set()
