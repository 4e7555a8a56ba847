"""The hub's own admin panel: a class is added at once, and one of its servers is looked after."""

from __future__ import annotations

from hub.processes import eventually
from playwright.sync_api import expect

from .conftest import Shoot, Visit
from .demos import Demo
from .visitors import START_SECONDS

CLASS = ("grace", "alan", "barbara")


def test_an_admin_adds_three_names_at_once_and_starts_and_stops_one_of_their_servers(
    demo: Demo, visit: Visit, shoot: Shoot
) -> None:
    admin = visit("admin")
    admin.log_in("/hub/admin")
    admin.add_users(CLASS)
    for name in CLASS:
        expect(admin.row_of(name)).to_be_visible()

    row = admin.row_of("grace")
    row.get_by_role("button", name="Start Server").click()
    stop = row.get_by_role("button", name="Stop Server")
    # Of a start that takes over ten seconds, the panel tells the end only when it is opened anew.
    pending = row.get_by_role("button", name="Server is pending")
    expect(stop.or_(pending)).to_be_visible(timeout=START_SECONDS * 1000)
    eventually(lambda: admin.sees_in_panel(stop), START_SECONDS, "the server runs")
    expect(row.get_by_text("Access Server")).to_be_attached()
    expect(row.get_by_text("Access Server")).to_be_hidden()  # without ADMIN_ACCESS: it led to a 404
    shoot(admin.page, "admin", 560)
    (worker,) = demo.workers_of("grace")
    assert worker["state"] == "running"
    assert worker["machine_is_on"]
    assert demo.workers_of("alan") == demo.workers_of("barbara") == []

    stop.click()
    expect(row.get_by_role("button", name="Start Server")).to_be_visible()
    demo.becomes("stopped", "grace")
