"""The hub's own admin panel: a class is added at once, and one of its servers is looked after."""

from __future__ import annotations

from playwright.sync_api import Locator, expect

from .conftest import Shoot, Visit
from .demos import Demo
from .visitors import START_SECONDS, Visitor

CLASS = ("grace", "alan", "barbara")


def row_of(admin: Visitor, user: str) -> Locator:
    details = admin.page.get_by_role("button", name=f"Details of {user}", exact=True)
    return admin.page.get_by_role("row").filter(has=details)


def test_an_admin_adds_three_names_at_once_and_starts_and_stops_one_of_their_servers(
    demo: Demo, visit: Visit, shoot: Shoot
) -> None:
    admin = visit("admin")
    admin.log_in("/hub/admin")
    admin.page.get_by_role("button", name="Add Users").click()
    admin.page.get_by_role("textbox", name="usernames").fill("\n".join(CLASS))
    admin.page.get_by_role("button", name="Add Users").click()
    for name in CLASS:
        expect(row_of(admin, name)).to_be_visible()

    row = row_of(admin, "grace")
    row.get_by_role("button", name="Start Server").click()
    stop = row.get_by_role("button", name="Stop Server")
    expect(stop).to_be_visible(timeout=START_SECONDS * 1000)
    shoot(admin.page, "admin", 560)
    (worker,) = demo.workers_of("grace")
    assert worker["state"] == "running"
    assert worker["machine_is_on"]
    assert demo.workers_of("alan") == demo.workers_of("barbara") == []

    stop.click()
    expect(row.get_by_role("button", name="Start Server")).to_be_visible()
    demo.becomes("stopped", "grace")
