"""AWS out of reach for ten minutes: who works goes on working, and pages say what is wrong.

The ten minutes pass on the fleet's clock (``Hub.advance``), so that everything that grows old does;
and calls are given up and made again sooner (``SHORT_CALLS``).
"""

from __future__ import annotations

import time

from .beside import Stage
from .hubs import ANNOUNCED, SHORT_CALLS, at_once
from .processes import eventually
from .words import assert_fit_for_a_user


def test_an_outage_of_ten_minutes_ends_nobodys_work(stage: Stage) -> None:
    hub = stage.hub(stage.stub_cloud, proxy=stage.proxy(), REAPER_GRACE_SECONDS=1)
    hub.constants.update(SHORT_CALLS)
    hub.start()
    works, stops, comes = (hub.user(name) for name in ("works", "stops", "comes"))
    at_once(works.start, stops.start, comes.start)
    comes.stop()
    comes.becomes("stopped")
    assert works.ask("GET", "api").status_code == 200
    machines = [user.worker()["id"] for user in (works, stops, comes)]
    assert ANNOUNCED not in hub.page()

    hub.cloud.outage(on=True)
    eventually(lambda: ANNOUNCED in hub.page(), 15, "the page says so")
    hub.advance(300)
    began = time.monotonic()
    stops.stop()
    assert time.monotonic() - began < 10
    assert stops.ask("GET", "api").status_code != 200
    hub.kill()
    assert works.ask("GET", "api").status_code == 200
    hub.config["Spawner"]["start_timeout"] = 8  # the spawner's own limit is 5 s less
    hub.start()
    hub.advance(300)
    message = comes.fail_to_start()
    assert ANNOUNCED in message
    assert_fit_for_a_user(message)
    time.sleep(2.5)  # two polls
    assert works.is_ready()
    assert works.ask("GET", "api").status_code == 200
    eventually(lambda: ANNOUNCED in hub.page(), 15, "the page says so")

    hub.cloud.outage(on=False)
    eventually(lambda: ANNOUNCED not in hub.page(), 20, "the page says no more of it")
    stops.becomes("stopped", seconds=20)
    comes.start()
    assert works.is_ready()
    assert works.worker()["state"] == "running"
    assert [user.worker()["id"] for user in (works, stops, comes)] == machines
