"""Whether a JupyterHub answers at its address.

Owns the form of that address and one small request. Sends no token and follows no redirect: that
something answers as a JupyterHub is all that is asked, so no certificate is checked either.
"""

from __future__ import annotations

import re
import socket
import threading
from dataclasses import dataclass

URL_MAX_CHARS = 2048
STEP_SECONDS = 3.0
DEADLINE_SECONDS = 10.0
"""For the name, all its addresses and the answer; a hub that starts a class may be slow."""
HEAD_MAX_BYTES = 16 * 1024
_URL = re.compile(
    r"(https?)://(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?(/[!\"$->@-~]*)?"
)
_STATUS = re.compile(rb"HTTP/1\.[01] [1-5]\d\d(?: |$)")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class HubAddress:
    """Where a hub's API is."""

    scheme: str
    host: str
    port: int
    path: str  # without a slash at its end


def parse(url: str) -> HubAddress | None:
    """The parts of an ``http://HOST[:PORT]/hub/api``; None for anything else."""
    found = _URL.fullmatch(url) if len(url) <= URL_MAX_CHARS else None
    if found is None:
        return None
    scheme, host, given, path = found.groups()
    port = int(given) if given else _DEFAULT_PORTS[scheme]
    if not 1 <= port <= 65535:
        return None
    return HubAddress(scheme, host.strip("[]"), port, (path or "").rstrip("/"))


def reaches(url: str, deadline_seconds: float = DEADLINE_SECONDS) -> bool:
    """Whether a JupyterHub answers there, in any way, within the bound."""
    address = parse(url)
    answers: list[bool] = []
    if address is None:
        return False
    # In a thread: looking a name up has no bound of its own.
    thread = threading.Thread(target=lambda: answers.append(_answers(address)), daemon=True)
    thread.start()
    thread.join(deadline_seconds)
    return answers == [True]


def _answers(address: HubAddress) -> bool:
    try:
        with _connected(address) as connection:
            connection.sendall(_request(address))
            return is_hub(_read_head(connection))
    except (OSError, ValueError):  # ValueError: a name that no resolver takes
        return False


def _connected(address: HubAddress) -> socket.socket:
    connection = socket.create_connection((address.host, address.port), timeout=STEP_SECONDS)
    if address.scheme == "http":
        return connection
    import ssl  # for such hubs only

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        return context.wrap_socket(connection, server_hostname=address.host)
    except BaseException:
        connection.close()
        raise


def _request(address: HubAddress) -> bytes:
    """JupyterHub answers it at little cost, and keeps it out of its log."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    lines = (
        f"GET {address.path}/health HTTP/1.1",
        f"Host: {host}:{address.port}",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode("ascii")


def is_hub(head: bytes) -> bool:
    """Whether a response's head is a JupyterHub's, whatever it says; a proxy's is not."""
    status, _, headers = head.partition(b"\r\n")
    is_named = b"\r\nx-jupyterhub-version:" in b"\r\n" + headers.lower()
    return bool(_STATUS.match(status)) and is_named


def _read_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < HEAD_MAX_BYTES:
        data = connection.recv(4096)
        if not data:
            break
        head += data
    return head.partition(b"\r\n\r\n")[0]
