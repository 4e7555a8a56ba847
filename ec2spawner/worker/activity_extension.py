"""Jupyter server extension: tell the hub when the user was last at work, by ``activity``'s rule.

Owns the looking: it notes requests, the end of executions and what is typed, and answers in place
of the server's own ``last_activity``, which JupyterHub's extension reports every
JUPYTERHUB_ACTIVITY_INTERVAL seconds (and once more, after a failure, at the next interval). Must
not decide: that is ``activity``. Nothing here may disturb the server it looks at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ec2spawner.worker import activity


class Observer:
    """Watches one ``ServerApp``; ``now`` is epoch seconds."""

    def __init__(self, serverapp: Any, now: Callable[[], float] = time.time) -> None:
        self._app = serverapp
        self._now = now
        self._started_at = self._requested_at = self._ended_at = self._typed_at = now()

    def install(self) -> None:
        """Begin to watch; after this the server reports by our rule."""
        web_app = self._app.web_app
        web_app.log_request = self._noting_requests(web_app.log_request)
        manager = self._app.kernel_manager
        manager.start_watching_activity = self._noting_ends(manager.start_watching_activity)
        web_app.last_activity = self.last_activity

    def last_activity(self) -> datetime:
        """What ``web_app.last_activity()`` promises: an aware time in UTC."""
        moment = activity.last_work(
            self._now(),
            self._started_at,
            self._requested_at,
            self._kernels(),
            self._terminals(),
        )
        return datetime.fromtimestamp(moment, tz=timezone.utc)

    # -- requests ----------------------------------------------------------------------------

    def _noting_requests(self, log_request: Callable[[Any], None]) -> Callable[[Any], None]:
        def note_and_log(handler: Any) -> None:
            self._note_request(handler)
            self._watch_typing()
            log_request(handler)

        return note_and_log

    def _note_request(self, handler: Any) -> None:
        request = handler.request
        base = self._app.base_url.rstrip("/")
        path = request.path[len(base) :] if request.path.startswith(base) else request.path
        headers = {name.lower(): value for name, value in request.headers.get_all()}
        authenticated = getattr(handler, "_jupyter_current_user", None)
        if authenticated and activity.is_persons_request(
            request.method, path, handler.get_status(), headers
        ):
            self._requested_at = self._now()

    # -- kernels -----------------------------------------------------------------------------

    def _noting_ends(self, start_watching: Callable[[str], None]) -> Callable[[str], None]:
        def start_and_note(kernel_id: str) -> None:
            start_watching(kernel_id)
            kernel = self._app.kernel_manager.get_kernel(kernel_id)
            kernel.observe(self._note_state, "execution_state")

        return start_and_note

    def _note_state(self, change: Any) -> None:
        """Jupyter sets this state by requests that work; asking a kernel who it is is none."""
        if change["old"] == "busy":
            self._ended_at = self._now()

    def _kernels(self) -> Iterator[activity.Kernel]:
        manager = self._app.kernel_manager
        yield activity.Kernel(busy=False, ended_at=self._ended_at)  # of those that are gone, too
        for kernel_id in list(manager.list_kernel_ids()):
            yield activity.Kernel(_is_busy(manager.get_kernel(kernel_id)), self._ended_at)

    # -- terminals ---------------------------------------------------------------------------

    def _open_terminals(self) -> list[Any]:
        manager = self._app.web_app.settings.get("terminal_manager")
        return [t.ptyproc for t in list(getattr(manager, "terminals", {}).values())]

    def _watch_typing(self) -> None:
        """Terminals are opened by requests: after each, the new ones are fitted with an ear."""
        for process in self._open_terminals():
            if "write" not in vars(process):
                process.write = self._noting_input(process.write)

    def _noting_input(self, write: Callable[[str], Any]) -> Callable[[str], Any]:
        def note_and_write(text: str) -> Any:
            if activity.is_typed(text):
                self._typed_at = self._now()
            return write(text)

        return note_and_write

    def _terminals(self) -> Iterator[activity.Terminal]:
        yield activity.Terminal(foreground_job=False, typed_at=self._typed_at)
        for process in self._open_terminals():
            yield activity.Terminal(_has_foreground_job(process), self._typed_at)


def _is_busy(kernel: Any) -> bool:
    """A kernel that died in mid-execution may be called busy for ever; its process decides."""
    if getattr(kernel, "execution_state", None) != "busy":
        return False
    pid = getattr(getattr(kernel, "provisioner", None), "pid", None)
    return pid is None or Path(f"/proc/{pid}").exists()


def _has_foreground_job(process: Any) -> bool:
    """Whether the terminal belongs to another process group than its shell's."""
    try:
        return os.tcgetpgrp(process.fd) not in (0, process.pid)
    except (OSError, ValueError):  # closed meanwhile
        return False


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(serverapp: Any) -> None:
    Observer(serverapp).install()
    serverapp.log.info("ec2spawner reports when the user was last at work")
