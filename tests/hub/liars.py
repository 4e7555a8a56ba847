"""A worker on which an attacker is root: its HTTP port says what one likes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .hubs import Hub, User
from .processes import eventually

Say = Callable[[socket.socket], None]
GOOD = b"HTTP/1.1 200 OK\r\nX-JupyterHub-Version: 6.1.1\r\n"


class Liar:
    """Answers every connection to an address by a function; counts them, and the bytes it said."""

    def __init__(self, address: str, port: int, say: Say) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self._say = say
        self._listener = socket.create_server((address, port))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self.requests.append(connection.recv(65536))
            self._say(connection)

    def close(self) -> None:
        # A thread in accept() keeps a socket open that is only closed.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def text(answer: bytes) -> Say:
    """Say that."""
    return lambda connection: connection.sendall(answer)


def endlessly(head: bytes, more: bytes) -> Say:
    """Say something, and then the same again until nobody listens."""

    def say(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(more)

    return say


def silence(connection: socket.socket) -> None:
    """Take the request, and say nothing while the other side waits."""
    while connection.recv(4096):
        pass


@contextmanager
def taken_over(user: User, say: Say) -> Iterator[Liar]:
    """An attacker answers the notebook port of the user's machine, which is a stub."""
    hub: Hub = user.hub
    machine = user.worker()
    hub.cloud.on_worker(machine["id"], "kill-server")

    def listen() -> Liar | None:
        try:
            return Liar(machine["private_ip"], hub.cloud.notebook_port, say)
        except OSError:
            return None

    liar = eventually(listen, 5, "the port is free")
    try:
        yield liar
    finally:
        liar.close()
