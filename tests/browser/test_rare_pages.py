"""Pages that few people see: each is fit for everybody, and says how to go on.

Error pages are one template, which ``test_pages`` asks axe about, too.
"""

from __future__ import annotations

from playwright.sync_api import Page, Route, expect

from ec2spawner.wiring import KEEPS_PER_MINUTE

from .conftest import Shoot, Visit
from .demos import Demo
from .looks import faults


def show(page: Page, heading: str) -> None:
    """Wait for a page that is about this, and leads home."""
    expect(page.get_by_role("heading", level=1)).to_have_text(heading)
    expect(page.get_by_role("link", name="Go to your home page")).to_be_visible()


def test_what_fails_about_a_running_machine_is_told_with_a_next_step(
    demo: Demo, visit: Visit, shoot: Shoot
) -> None:
    iris = visit("iris")
    iris.be_running()
    page = iris.page
    iris.visit("/hub/token")
    found = faults(page, "token")
    shoot(page, "token", 510)

    assert iris.visit("/hub/admin") == 403
    show(page, "You may not do that")
    shoot(page, "refused", 320)

    (worker,) = demo.workers_of("iris")
    machine = f"workers/{worker['id']}"
    demo.control("POST", f"{machine}/fault", {"command": "fail"})
    iris.keep_up()
    show(page, "Not at the moment")
    shoot(page, "machine-away", 320)

    demo.control("POST", f"{machine}/fault", {"command": None})
    for _ in range(KEEPS_PER_MINUTE):  # one was asked for before
        iris.keep_up()
    show(page, "Not so fast")
    found += faults(page, "too often")
    shoot(page, "too-often", 320)

    demo.control("POST", f"{machine}/fault", {"command": "hang"})
    iris.begin_stop()
    show(page, "Your server is stopping")
    looks_again: list[Route] = []
    page.route("**/hub/spawn-pending/*", lambda route: looks_again.append(route))  # waits here
    found += faults(page, "stopping")
    shoot(page, "stopping", 360)

    demo.control("POST", f"{machine}/power-off")  # so that the hub waits no longer for it
    page.unroute("**/hub/spawn-pending/*")
    for route in looks_again:
        route.continue_()
    show(page, "Server not running")  # nobody has touched the page
    demo.control("POST", f"{machine}/fault", {"command": None})
    found += faults(page, "stopped")
    shoot(page, "not-running", 320)
    launch = page.get_by_role("button", name="Launch Server")
    expect(launch).to_have_attribute("href", "/hub/spawn/iris")
    assert found == []
