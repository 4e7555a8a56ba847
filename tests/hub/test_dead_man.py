"""The hub is killed and stays away: who is idle is switched off by its own machine, nobody at work.

The machines look each half second here, and a hub is lost after 2 s, a user idle after 5 s. The
hub's culler comes too late, so that it is not the one that stops them.
"""

from __future__ import annotations

import json
import time

from .beside import Beside, Stage, Step
from .hubs import at_once
from .processes import eventually

LOST_SECONDS = 2
IDLE_SECONDS = 5


@Beside
def scenario(stage: Stage, step: Step) -> None:
    hub = stage.hub(
        stage.cloud,
        proxy=stage.proxy(),
        HUB_LOST_SECONDS=LOST_SECONDS,
        JUPYTER_NOTEBOOK_TIMEOUT=IDLE_SECONDS,
    )
    hub.constants["ec2spawner.hubconfig:REPORT_RETRY_SECONDS"] = 600
    hub.start()
    timings = hub.cloud.control("GET", "timings")
    hub.cloud.control("POST", "timings", {"watchdog_seconds": 0.5})
    try:
        idle, busy = hub.user("idle"), hub.user("busy")
        at_once(idle.start, busy.start)
    finally:
        usual = {"watchdog_seconds": timings["watchdog_seconds"]}
        hub.cloud.control("POST", "timings", usual)
    connection, _ = busy.kernel().begin("import time; time.sleep(600)")
    connection.close()
    idle.write("notes.txt", "kept")
    machine = idle.worker()["id"]
    with step("idle"):
        hub.kill()
        killed_at = time.monotonic()
        idle.becomes("stopped", seconds=15)
        assert time.monotonic() - killed_at > LOST_SECONDS
        assert idle.worker()["reason_code"] == "Client.InstanceInitiatedShutdown"
        log = hub.cloud.folder / "state" / "instances" / machine / "machine.log"
        said = [json.loads(line) for line in log.read_text().splitlines() if line[0] == "{"]
        told = [event.get("reason") or event["hub"] for event in said]
        assert told[: told.index("hub-lost")][-2:] == ["reached", "away"]
        assert "/hub/api/health" not in hub.story()  # a class of them would fill the log
    with step("busy"):
        time.sleep(max(0.0, killed_at + IDLE_SECONDS + LOST_SECONDS - time.monotonic()))
        assert busy.worker()["state"] == "running"
        assert busy.ask("GET", "api").status_code == 200
    with step("back"):
        hub.start()
        eventually(lambda: not idle.is_ready(), 10, "the hub sees that the server is gone")
        idle.start()
        assert idle.worker()["id"] == machine
        assert idle.read("notes.txt") == "kept"
        assert busy.is_ready()


def test_an_idle_machine_whose_hub_was_killed_stops_by_itself() -> None:
    scenario.outcome("idle")


def test_a_silent_cell_keeps_its_machine_without_a_hub() -> None:
    scenario.outcome("busy")


def test_the_hub_that_comes_back_starts_the_machine_with_its_files() -> None:
    scenario.outcome("back")
    scenario.outcome()
