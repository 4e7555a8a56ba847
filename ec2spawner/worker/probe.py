"""Whether a single-user server answers HTTP at an address.

Owns one small request. Must not know who asks or how the server was started.
"""

from __future__ import annotations

import re
import socket

RESPONSE_MAX_BYTES = 16 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-4]\d\d) ")


def answers(address: str, port: int, prefix: str, timeout_seconds: float = 1.0) -> bool:
    """True once JupyterHub's single-user server answers below ``prefix``.

    It names itself in every response; another program on the port does not.
    """
    try:
        with socket.create_connection((address, port), timeout=timeout_seconds) as connection:
            request = f"GET {prefix}api HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            connection.sendall(request.encode("ascii"))
            return is_server(_read_head(connection))
    except OSError:
        return False


def is_server(head: bytes) -> bool:
    """Whether a response's head is that of a single-user server that works."""
    status, _, headers = head.partition(b"\r\n")
    return bool(_STATUS.match(status)) and b"\r\nx-jupyterhub-version:" in b"\r\n" + headers.lower()


def _read_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < RESPONSE_MAX_BYTES:
        data = connection.recv(4096)
        if not data:
            break
        head += data
    return head.partition(b"\r\n\r\n")[0]
