"""A day of somebody who has no mouse: each step by Tab, arrows and Enter, and the focus is seen."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from ec2spawner.model import TAG_PROFILE

from .conftest import Visit
from .demos import Demo


@pytest.fixture
def hub(demo: Demo) -> Demo:
    return demo


def test_by_keyboard_one_logs_in_chooses_a_size_starts_and_stops(demo: Demo, come: Visit) -> None:
    admin = come("admin")
    page, keys = admin.page, admin.page.keyboard
    admin.visit("/hub/login?next=/hub/home")
    expect(page.get_by_label("Username:")).to_be_focused()
    keys.type("admin")
    admin.tab_to(page.get_by_label("Password:", exact=True))
    keys.type(demo.password)
    admin.press(page.get_by_role("button", name="Sign in"))

    admin.press(page.get_by_role("button", name="Start My Server"))
    admin.tab_to(page.get_by_role("radio", checked=True))  # what was chosen the last time
    keys.press("ArrowDown")
    if page.get_by_role("radio", name="Usual").is_checked():
        keys.press("ArrowDown")
    expect(page.get_by_role("radio", name="Spot")).to_be_checked()
    admin.press(page.get_by_role("button", name="Start"))
    assert admin.watch_start()[-1].percent == 100
    (worker,) = demo.workers_of("admin")
    assert worker["tags"][TAG_PROFILE] == "spot"

    admin.go_home()
    admin.press(page.get_by_role("button", name="Stop My Server"))
    expect(page.get_by_role("button", name="Start My Server")).to_be_visible()
    demo.becomes("stopped", "admin")
