"""A name that is more than letters, and a server with a name of its own."""

from __future__ import annotations

from hub.processes import eventually

from .conftest import Shoot, Visit
from .demos import Demo


def test_a_user_with_a_space_and_an_umlaut_has_a_machine_for_each_server(
    demo: Demo, visit: Visit, shoot: Shoot
) -> None:
    zoe = visit("Zoë Müller")
    zoe.log_in()
    zoe.start_named("thesis")
    zoe.until_lab()
    zoe.upload("größe.txt", "1,72 m")

    zoe.visit("/user/zoë müller/lab")  # the hub writes names in small letters
    zoe.watch_start()
    zoe.until_lab()
    assert zoe.files() == []

    workers = [w for s in ("", "thesis") for w in demo.workers_of("zoë müller", s)]
    assert [w["state"] for w in workers] == ["running", "running"]
    assert workers[0]["id"] != workers[1]["id"]
    zoe.go_home()
    shoot(zoe.page, "named-servers", 620)

    # The button on the page of a starting server stops that one, and no other.
    slow = {"action": "RunInstances", "fault": "delay", "seconds": 15, "count": 1}
    demo.control("POST", "faults", slow)
    zoe.begin_named("essay")
    zoe.page.get_by_role("button", name="Stop Server").click()
    zoe.page.wait_for_url(lambda url: url.endswith("/hub/home"))
    demo.control("DELETE", "faults")
    eventually(lambda: zoe.can_start("essay"), 20, "the start is broken off")
    workers = [w for s in ("", "thesis") for w in demo.workers_of("zoë müller", s)]
    assert [w["state"] for w in workers] == ["running", "running"]
