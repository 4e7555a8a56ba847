"""Two students at once, each in a browser of their own: neither gets at the other's files."""

from __future__ import annotations

from .conftest import Visit
from .demos import Demo


def test_two_students_at_once_neither_see_nor_reach_each_others_files(
    demo: Demo, visit: Visit
) -> None:
    ada, ben = visit("ada"), visit("ben")
    for student in (ada, ben):
        student.log_in()
    for student in (ada, ben):
        student.watch_start()
        student.until_lab()
    for student in (ada, ben):
        student.upload(f"of-{student.name}.txt", f"secret of {student.name}")
    for student in (ada, ben):
        assert student.files() == [f"of-{student.name}.txt"]
    assert demo.workers_of("ada")[0]["id"] != demo.workers_of("ben")[0]["id"]

    file_of_ada = "/user/ada/files/of-ada.txt"
    assert ada.visit(file_of_ada) == 200
    assert "secret of ada" in ada.page.content()
    for path in (file_of_ada, "/user/ada/lab", "/user/ada/api/contents/of-ada.txt"):
        assert ben.visit(path) == 403
        assert "secret" not in ben.page.content()
