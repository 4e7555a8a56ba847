"""Jupyter server extension: show the notices that root leaves (``notice_file``) in JupyterLab.

Owns the looking for them, and for the word that the machine stops for want of work, and how they
are handed to ``jupyterlab_notifications_extension``, whose half in the browser shows them as toasts
and in JupyterLab's notification center. That extension has no Python interface and its HTTP one
would need the hub to vouch for a token, which may be away just then; so its queue is used directly,
in this process, and in this module only.

Its queue is emptied by the first tab that asks. So a notice lies in it for as long as it stands:
each tab asks for the queue when it is opened and every 30 s, and shows an id once. Tabs that are
open are told at once, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ec2spawner.worker import activity_extension, idle_notice, notice_file
from ec2spawner.worker.notice_file import Notice

LOOK_SECONDS = 1.0
ID_PREFIX = "ec2spawner-"
HUB_BUTTON = {
    "label": "Hub's page",
    "caption": "Where this machine is started again",
    "displayType": "accent",
    "commandId": "hub:control-panel",  # JupyterLab's own; it knows where its hub is
    "args": {},
}
Notification = dict[str, Any]


class Queue:
    """The queue of ``jupyterlab_notifications_extension``, and the tabs that listen."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def hold(self, notifications: Sequence[Notification]) -> None:
        """Have these in the queue, and none of ours beside them."""
        from jupyterlab_notifications_extension import routes

        others = [n for n in routes._notification_store if not n["id"].startswith(ID_PREFIX)]
        routes._notification_store[:] = [*others, *notifications]

    def push(self, notification: Notification) -> None:
        """Tell all tabs that are open."""
        from jupyterlab_notifications_extension import routes

        routes._push_immediate(notification, self._log)


class Herald:
    """Looks into one directory, and tells each notice once; and what ``idle`` says."""

    def __init__(
        self,
        directory: Path | None,
        queue: Queue,
        log: Any,
        now: Callable[[], float] = time.time,
        idle: Callable[[], Notice | None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._idle = idle
        self._queue = queue
        self._log = log
        self._now = now
        self._told: set[Notice] = set()
        self._held: list[Notification] = []

    def keep_looking(self, io_loop: Any, every_seconds: float) -> None:
        """Now, and then again and again."""
        try:
            self.look()
        except Exception:  # noqa: BLE001 - the edge of a loop, and it is logged
            self._log.exception("ec2spawner cannot show a notice")
        io_loop.call_later(every_seconds, self.keep_looking, io_loop, every_seconds)

    def look(self) -> None:
        """One look. While there is nothing, nothing is imported and nothing touched."""
        standing = notice_file.read_all(self._directory) if self._directory else []
        standing += [notice for notice in [self._idle()] if notice]
        shown = [notification_of(notice, self._now()) for notice in standing]
        fresh = [(n, s) for n, s in zip(standing, shown, strict=True) if n not in self._told]
        self._told |= set(standing)  # told once, even where it cannot be shown
        if shown or self._held:
            self._held = shown
            self._queue.hold(shown)
        for notice, notification in fresh:
            self._log.warning("The user is told: %s", notice.text(self._now()))
            self._queue.push(notification)


def notification_of(notice: Notice, now: float) -> Notification:
    """As the other extension's half in the browser wants it."""
    turn = f"-{notice.turn}" if notice.turn else ""
    seconds = notice.shown_seconds
    return {
        "id": f"{ID_PREFIX}{notice.kind}-{notice.at:.0f}{turn}",
        "message": notice.text(now),
        "type": notice.level.value,
        "autoClose": False if seconds is None else int(seconds * 1000),
        "createdAt": int(now * 1000),
        "actions": [HUB_BUTTON],
        "data": None,
    }


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(serverapp: Any) -> None:
    directory = os.environ.get(notice_file.VARIABLE)
    timeout = idle_notice.idle_seconds(os.environ)
    if not directory and timeout is None:
        return
    herald = Herald(
        Path(directory) if directory else None,
        Queue(serverapp.log),
        serverapp.log,
        idle=lambda: _idle_notice(serverapp.web_app.settings, timeout, time.time()),
    )
    herald.keep_looking(serverapp.io_loop, LOOK_SECONDS)


def _idle_notice(settings: Mapping[str, Any], timeout: float | None, now: float) -> Notice | None:
    """Whether its user is to be told that it stops; by the same rule as it will be stopped."""
    observer = settings.get(activity_extension.SETTING)
    if observer is None or timeout is None:
        return None
    return idle_notice.notice(now, observer.last_activity().timestamp(), timeout)
