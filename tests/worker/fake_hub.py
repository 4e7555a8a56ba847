"""A hub as a worker's watchdog sees it: something that answers, by the hub's name."""

from __future__ import annotations

import http.server
import threading

from .machines import ADDRESS


class FakeHub:
    """Answers everything until it is closed, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                self.send_response(200)
                self.send_header("X-JupyterHub-Version", "6.1.1")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer((ADDRESS, 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """Be gone; again is no harm."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
