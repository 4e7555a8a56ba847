"""EC2 takes a spot machine back: who works on it reads so in JupyterLab, in time and in full."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from .conftest import Shoot, Visit
from .demos import Demo


def test_whoever_works_on_a_spot_machine_is_warned_before_it_is_taken_back(
    demo: Demo, visit: Visit, shoot: Shoot
) -> None:
    admin = visit("admin")
    admin.start_as("Spot")
    admin.until_lab()
    admin.decline_news()
    (worker,) = demo.workers_of("admin")
    demo.control("POST", f"workers/{worker['id']}/interrupt", {"seconds": 120})

    toast = admin.toast().filter(has_text="Amazon takes this machine back")
    expect(toast).to_contain_text(re.compile(r"in about (2 minutes|a minute)\. Save now: files in"))
    expect(toast).to_contain_text("Then start again from the hub.")
    button = toast.get_by_role("button", name="Hub's page")
    toast.evaluate("it => Promise.all(it.getAnimations().map(a => a.finished))")  # it slides in
    shoot(admin.page, "interruption")
    with admin.page.expect_popup() as home:
        button.click()
    expect(home.value.get_by_role("button", name="Stop My Server")).to_be_visible()
    home.value.goto(home.value.url.replace("/hub/home", "/hub/admin"))
    entries = home.value.get_by_role("button", name="Access Server")
    expect(entries).to_have_count(1)  # one's own
    home.value.close()

    # No test after this one meets it.
    demo.control("POST", f"workers/{worker['id']}/interrupt", {"seconds": 0.1})
    demo.becomes("stopped", "admin")
    admin.until_let_go()
