"""What people read while AWS is away, and when there is no machine for them."""

from __future__ import annotations

from playwright.sync_api import expect

from .conftest import Shoot, Visit
from .demos import STOP_SECONDS, Demo
from .looks import faults

INTERNALS = ("i-0", "Insufficient", "RunInstances", "Traceback", "t3.", "us-east", "subnet")


def test_the_home_page_says_so_while_aws_is_out_of_reach(
    demo: Demo, visit: Visit, shoot: Shoot
) -> None:
    ben = visit("ben")
    ben.be_running()
    # While a machine is in transition the hub looks every second, so this need not wait 30 s.
    demo.control("POST", "timings", {"stopping_seconds": 60})
    ben.stop()
    ben.until_announced("", 1)
    demo.control("POST", "outage", {"on": True})
    try:
        ben.until_announced("The Amazon cloud does not answer at the moment", 60)
        shoot(ben.page, "announcement", 460)
    finally:
        demo.control("DELETE", "faults")
        demo.control("POST", "timings", {"stopping_seconds": STOP_SECONDS})
    ben.until_announced("", 20)


def test_without_capacity_a_student_reads_what_to_do(
    demo: Demo, visit: Visit, shoot: Shoot
) -> None:
    # The last test that launches: for three minutes the hub does not ask again what was refused.
    late = visit("late")
    slow = {"action": "RunInstances", "fault": "delay", "seconds": 4, "count": None}
    demo.control("POST", "faults", slow)
    demo.control("POST", "capacity", {"rules": [{"max_running": 0}]})
    try:
        late.log_in()
        late.page.get_by_role("progressbar", name="How far the start is").wait_for()
        found = faults(late.page, "starting")
        last = late.watch_start()[-1]
        heading = late.page.get_by_role("heading", level=1)
        expect(heading).to_have_text("Your server did not start")
        again = late.page.get_by_role("link", name="Start it again")
        expect(again).to_have_attribute("href", "/hub/spawn/late")
        found += faults(late.page, "failed")
        shoot(late.page, "no-capacity", 460)
        late.press(again)
        # Refused within a second it is the hub's error page, else the progress page.
        late.page.locator("body", has_text="no machine of this kind").wait_for()
    finally:
        demo.control("DELETE", "faults")
        demo.control("POST", "capacity", {})
    for page in (last.words, late.page.inner_text("body")):
        assert "no machine of this kind free at the moment" in page
        assert "again in a few minutes" in page
        assert not [word for word in INTERNALS if word in page]
    assert last.failed
    assert found == []
