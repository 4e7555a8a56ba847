"""The hub's pages about machines: who sees what, by keyboard, on a phone, in the dark, by ear."""

from __future__ import annotations

import re

from playwright.sync_api import Browser, expect

from .conftest import Shoot, Visit
from .demos import Demo
from .looks import faults
from .visitors import Visitor


def test_a_machine_is_kept_up_by_keyboard_and_an_admin_sees_who_did(
    demo: Demo, visit: Visit, shoot: Shoot
) -> None:
    student = visit("iris")
    student.be_running()
    student.go_home()
    page = student.page
    card = page.get_by_role("region", name="Your machine")
    expect(card).to_contain_text("t3.medium")
    expect(card).to_contain_text("running since")
    expect(card).to_contain_text("Stops by itself")
    student.tab_to(page.get_by_role("combobox", name="Keep it up, also while nobody works, for"))
    page.keyboard.press("ArrowDown")
    student.press(page.get_by_role("button", name="Keep it up"))
    expect(card).to_contain_text(re.compile(r"until \d\d:\d\d.*, as iris asked"))
    found = faults(page, "home")
    shoot(page, "home", 460)

    admin = visit("admin")
    admin.log_in("/hub/machines")
    page = admin.page
    admin.tab_to(page.get_by_role("searchbox", name="Show only those with these words"))
    page.keyboard.type("IRIS running")
    rows = page.locator("#machine-table tbody tr:visible")
    expect(rows).to_have_count(1)
    (worker,) = demo.workers_of("iris")
    expect(rows).to_contain_text(worker["id"])
    expect(rows).to_contain_text("(iris)")
    expect(page.get_by_role("status")).to_contain_text("1 of ")
    page.keyboard.type(" and what nobody is called")
    expect(rows).to_have_count(0)
    page.get_by_role("searchbox").fill("")
    found += faults(page, "machines")
    shoot(page, "machines", 460)
    assert found == []


def test_the_pages_of_the_hub_are_fit_for_everybody(
    demo: Demo, browser: Browser, visit: Visit, shoot: Shoot
) -> None:
    stranger = Visitor(browser, demo, "stranger")
    stranger.visit("/hub/login")
    found = faults(stranger.page, "login")
    stranger.visit("/hub/error/503")
    found += faults(stranger.page, "server away")
    stranger.close()

    student, admin = visit("iris"), visit("admin")
    for path, name in (("/hub/machines", "refused"), ("/hub/nothing", "not found")):
        student.log_in("/hub/home")
        student.visit(path)
        found += faults(student.page, name)
        home = student.page.get_by_role("link", name="Go to your home page")
        assert home.get_attribute("href") == "/hub/home"
    expect(student.page.get_by_role("heading", level=1)).to_have_text("There is no such page")
    shoot(student.page, "not-found", 320)

    admin.log_in("/hub/admin")
    admin.page.get_by_role("button", name="Add Users").wait_for()
    found += faults(admin.page, "admin")
    for name in ("Add Users", "Manage Groups"):
        admin.page.get_by_role("button", name=name).click()
        found += faults(admin.page, name)
        admin.page.get_by_role("button", name="Back").click()
    admin.visit("/hub/spawn/admin/choice")
    admin.page.get_by_role("radio", name="Usual").wait_for()
    expect(admin.page.locator("body")).to_contain_text("$0.042 an hour.")
    found += faults(admin.page, "choice")
    shoot(admin.page, "choice", 420)
    assert found == []
