"""Two students at once, each in a browser of their own: neither gets at the other's files."""

from __future__ import annotations

from .conftest import Shoot, Visit
from .demos import Demo


def test_two_students_at_once_see_their_own_files_only(
    demo: Demo, visit: Visit, shoot: Shoot
) -> None:
    ada, ben = visit("ada"), visit("ben")
    for student in (ada, ben):
        student.log_in()
    for student in (ada, ben):
        student.watch_start()
        student.until_lab()
    for student in (ada, ben):
        student.upload(f"of-{student.name}.txt", "mine")
    for student in (ada, ben):
        assert student.files() == [f"of-{student.name}.txt"]
    assert demo.workers_of("ada")[0]["id"] != demo.workers_of("ben")[0]["id"]


def test_a_students_address_is_refused_to_another_one(visit: Visit, shoot: Shoot) -> None:
    ben = visit("ben")
    for path in ("/user/ada/lab", "/user/ada/files/of-ada.txt", "/user/ada/api/contents"):
        assert ben.visit(path) == 403
        assert "mine" not in ben.page.content()
    ben.visit("/user/ada/lab")
    shoot(ben.page, "refused", 300)
