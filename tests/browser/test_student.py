"""A student's day: the first login, a notebook, a stop, and everything there again."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from .conftest import Film, Shoot, Visit
from .demos import Demo
from .visitors import Progress


def test_a_notebook_is_there_again_with_its_output_after_the_machine_was_stopped(
    demo: Demo, visit: Visit, shoot: Shoot, film: Film
) -> None:
    student = visit("student")
    student.log_in()
    check_progress(student.watch_start(film(student, "starting")))
    first = demo.workers_of("student")

    student.until_lab()
    student.decline_news()
    student.new_notebook()
    student.run("print(6*7)")
    expect(student.output("42")).to_be_visible()
    student.save_as("answer.ipynb")
    shoot(student.page, "jupyterlab")

    student.stop()
    demo.becomes("stopped", "student")

    student.start()
    student.until_lab()
    student.file("answer.ipynb").dblclick()
    expect(student.output("42")).to_be_visible()
    assert [w["id"] for w in demo.workers_of("student")] == [w["id"] for w in first]


def check_progress(shown: list[Progress]) -> None:
    """A waiting student reads what happens and how long it takes, and sees the bar move."""
    words = [now.words for now in shown]
    assert any(re.search(r"usually \d+ s", w) for w in words), words
    assert any("Starting the notebook server" in w for w in words), words
    assert len(set(words)) >= 3, words
    widths = [now.width for now in shown]
    assert widths == sorted(widths), widths
    assert len({round(w, 2) for w in widths}) >= 3, widths
