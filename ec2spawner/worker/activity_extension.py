"""Jupyter server extension: tell the hub when the user was last at work, by ``activity``'s rule.

Owns the looking: it notes requests, the end of executions and what is typed, and answers in place
of the server's own ``last_activity``, which JupyterHub's extension reports every
JUPYTERHUB_ACTIVITY_INTERVAL seconds (and once more, after a failure, at the next interval). The
same is left in a file (``activity_file``) for the worker's own watchdog, which cannot ask a server
while the hub is away. Must not decide: that is ``activity``. Nothing here may disturb the server it
looks at. What a hub has left about keeping the machine up (``keep_file``) is looked for each time.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ec2spawner.worker import activity, activity_file, keep_file
from ec2spawner.worker.clock import boot_seconds
from ec2spawner.worker.notice_file import VARIABLE as NOTICES

SETTING = "ec2spawner_observer"
"""Where the server's other extensions find the observer, among the settings of its web app."""


class Marks:
    """When each thing last happened, by one clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.started_at = self.requested_at = self.ended_at = self.typed_at = now()


class Observer:
    """Watches one ``ServerApp``; ``now`` is epoch seconds, ``steady`` a clock that nobody sets.

    ``word`` is the directory in which a hub leaves word of keeping the machine up, if any.
    The hub, on another machine, is told by the first, and the watchdog on this one by the second.
    """

    def __init__(
        self,
        serverapp: Any,
        now: Callable[[], float] = time.time,
        steady: Callable[[], float] = boot_seconds,
        word: Path | None = None,
    ) -> None:
        self._app = serverapp
        self._steady = steady
        self._word = word
        self._by_wall = Marks(now)
        self._by_steady = Marks(steady)

    def install(self) -> None:
        """Begin to watch; after this the server reports by our rule."""
        web_app = self._app.web_app
        web_app.log_request = self._noting_requests(web_app.log_request)
        manager = self._app.kernel_manager
        manager.start_watching_activity = self._noting_ends(manager.start_watching_activity)
        web_app.last_activity = self.last_activity
        web_app.settings[SETTING] = self

    def last_activity(self) -> datetime:
        """What ``web_app.last_activity()`` promises: an aware time in UTC."""
        return datetime.fromtimestamp(self._last_work(self._by_wall), tz=timezone.utc)

    def keep_file(self, directory: Path, every_seconds: float) -> None:
        """Leave it in ``directory``, now and then again and again."""
        # A disk that is full is not this server's trouble.
        with contextlib.suppress(OSError):
            activity_file.write(directory, self._last_work(self._by_steady))
        self._app.io_loop.call_later(every_seconds, self.keep_file, directory, every_seconds)

    def _last_work(self, marks: Marks) -> float:
        return activity.last_work(
            marks.now(),
            marks.started_at,
            marks.requested_at,
            self._kernels(marks),
            self._terminals(marks),
            self._kept_until(marks),
        )

    def _kept_until(self, marks: Marks) -> float | None:
        """By the clock of ``marks``; the file's is the steady one."""
        until = keep_file.read(self._word) if self._word else None
        # To the second: what is told must not differ from look to look.
        return None if until is None else until + round(marks.now() - self._steady())

    def _note(self, what: str) -> None:
        for marks in (self._by_wall, self._by_steady):
            setattr(marks, what, marks.now())

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
            self._note("requested_at")

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
            self._note("ended_at")

    def _kernels(self, marks: Marks) -> Iterator[activity.Kernel]:
        manager = self._app.kernel_manager
        yield activity.Kernel(busy=False, ended_at=marks.ended_at)  # of those that are gone, too
        for kernel_id in list(manager.list_kernel_ids()):
            yield activity.Kernel(_is_busy(manager.get_kernel(kernel_id)), marks.ended_at)

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
                self._note("typed_at")
            return write(text)

        return note_and_write

    def _terminals(self, marks: Marks) -> Iterator[activity.Terminal]:
        yield activity.Terminal(foreground_job=False, typed_at=marks.typed_at)
        for process in self._open_terminals():
            yield activity.Terminal(_has_foreground_job(process), marks.typed_at)


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


def file_seconds(environ: Mapping[str, str]) -> float:
    """How often the file is written: as often as the hub wants reports, if that is more often."""
    try:
        wanted = float(environ["JUPYTERHUB_ACTIVITY_INTERVAL"])
    except (KeyError, ValueError):
        return activity_file.WRITE_SECONDS
    return min(activity_file.WRITE_SECONDS, max(1.0, wanted))


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(serverapp: Any) -> None:
    word = os.environ.get(NOTICES)
    observer = Observer(serverapp, word=Path(word) if word else None)
    observer.install()
    if directory := os.environ.get("RUNTIME_DIRECTORY"):
        observer.keep_file(Path(directory), file_seconds(os.environ))
    serverapp.log.info("ec2spawner reports when the user was last at work")
