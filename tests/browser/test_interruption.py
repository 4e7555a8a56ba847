"""EC2 takes a student's spot machine back: they read it in JupyterLab, in time and in full."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from .conftest import Shoot, Visit
from .demos import Demo


def test_a_student_is_warned_before_a_spot_machine_is_taken_back(
    demo: Demo, visit: Visit, shoot: Shoot
) -> None:
    admin, student = visit("admin"), visit("finn")
    student.log_in("/hub/home")
    admin.log_in("/hub/home")
    admin.ask("POST", "groups/frugal")
    admin.ask("POST", "groups/frugal/users", {"users": ["finn"]})
    student.start_as("Spot")
    student.until_lab()
    student.upload("thesis.txt", "all of it")

    (worker,) = demo.workers_of("finn")
    demo.control("POST", f"workers/{worker['id']}/interrupt", {"seconds": 120})
    toast = student.toast().filter(has_text="Amazon takes this machine back")
    expect(toast).to_contain_text(re.compile(r"in about (2 minutes|a minute)\. Save now: files in"))
    expect(toast).to_contain_text("Then start again from the hub.")
    shoot(student.page, "interruption")

    student.page.reload()  # who comes later reads it, too
    expect(toast).to_have_count(1)
    with student.page.expect_popup() as home:
        toast.get_by_role("button", name="Hub's page").click()
    expect(home.value.get_by_role("button", name="Stop My Server")).to_be_visible()
    home.value.close()
    demo.control("POST", f"workers/{worker['id']}/interrupt", {"seconds": 0.1})
    demo.becomes("stopped", "finn")
