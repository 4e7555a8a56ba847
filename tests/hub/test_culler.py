"""Who is idle: a silent cell is at work, an open tab is not, and a hub's downtime says nothing.

With a time-out of 6 s a server reports each second, and the culler looks each second.
"""

from __future__ import annotations

import threading
import time

from .beside import Beside, Stage, Step
from .hubs import User, at_once
from .processes import eventually

TIMEOUT_SECONDS = 6


class OpenTab(threading.Thread):
    """What JupyterLab asks by itself while nobody looks at it."""

    def __init__(self, user: User) -> None:
        super().__init__(daemon=True)
        self._user = user
        self._closed = threading.Event()
        self.asked = 0

    def run(self) -> None:
        paths = ("api/kernels", "api/terminals", "api/sessions", "api/contents", "lab/api/settings")
        while not self._closed.wait(0.3):
            self.asked += self._user.ask("GET", paths[self.asked % len(paths)]).status_code == 200

    def close(self) -> None:
        self._closed.set()
        self.join(25)


@Beside
def scenario(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.cloud, proxy=stage.proxy(), JUPYTER_NOTEBOOK_TIMEOUT=TIMEOUT_SECONDS)
    hub.start()
    busy, open_tab = hub.user("busy"), hub.user("tab")
    tab = OpenTab(open_tab)
    at_once(busy.start, lambda: (open_tab.start(), tab.start()))
    connection, _ = busy.kernel().begin("import time; time.sleep(600)")
    connection.close()
    with step("open tab"):
        eventually(lambda: open_tab.server_model() is None, 30, "its server is culled")
        tab.close()
        assert tab.asked >= 5
        open_tab.becomes("stopped")
    with step("silent cell"):
        assert busy.is_ready()
        assert busy.worker()["state"] == "running"
    with step("hub down"):
        hub.kill()
        time.sleep(TIMEOUT_SECONDS + 0.5)
        hub.start()
        began = time.monotonic()
        while time.monotonic() < began + TIMEOUT_SECONDS:
            assert busy.is_ready(), "somebody at work was culled"
            time.sleep(0.2)
        assert busy.worker()["state"] == "running"


def test_an_open_tab_does_not_keep_a_machine() -> None:
    scenario.outcome("open tab")


def test_a_silent_cell_keeps_a_machine() -> None:
    scenario.outcome("silent cell")


def test_a_hub_that_was_down_as_long_as_the_time_out_culls_nobody_at_work() -> None:
    scenario.outcome("hub down")
