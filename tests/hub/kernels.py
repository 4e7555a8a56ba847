"""A kernel of a user's server, used as a browser uses it: cells over its websocket."""

from __future__ import annotations

import json
import uuid

import websocket


def send(connection: websocket.WebSocket, code: str) -> str:
    """Have a cell run; the id of the request."""
    request_id = uuid.uuid4().hex
    header = {
        "msg_id": request_id,
        "msg_type": "execute_request",
        "username": "",
        "session": uuid.uuid4().hex,
        "version": "5.3",
        "date": "",
    }
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
    connection.send(json.dumps({**message, "channel": "shell", "buffers": []}))
    return request_id


def run_cell(connection: websocket.WebSocket, code: str) -> str:
    """What a cell prints; its traceback is an AssertionError."""
    request_id, printed = send(connection, code), ""
    while True:
        message = json.loads(connection.recv())
        kind, content = message["header"]["msg_type"], message["content"]
        if message["parent_header"].get("msg_id") != request_id:
            continue
        if kind == "stream":
            printed += content["text"]
        elif kind == "error":
            raise AssertionError("\n".join(content["traceback"]))
        elif kind == "status" and content["execution_state"] == "idle":
            return printed


class Kernel:
    """A kernel with the URL of its websocket, and its user's token."""

    def __init__(self, kernel_id: str, url: str, token: str, patience_seconds: float) -> None:
        self.kernel_id = kernel_id
        self._url, self._token, self._patience_seconds = url, token, patience_seconds

    def _connect(self) -> websocket.WebSocket:
        connection: websocket.WebSocket = websocket.create_connection(
            self._url,
            header=[f"Authorization: token {self._token}"],
            timeout=self._patience_seconds,
            http_no_proxy=["127.0.0.1"],
        )
        return connection

    def begin(self, code: str) -> tuple[websocket.WebSocket, str]:
        """Send a cell; the connection on which its output comes, and the request's id."""
        connection = self._connect()
        return connection, send(connection, code)

    def run(self, code: str) -> str:
        """Run a cell and return what it printed."""
        connection = self._connect()
        try:
            return run_cell(connection, code)
        finally:
            connection.close()
