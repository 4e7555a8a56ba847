"""The templates over JupyterHub's own: what is shown of machines, as text, and how fast."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader

from ec2spawner import dashboard
from ec2spawner.dashboard.machines import Machine
from ec2spawner.dashboard.pages import Shown
from ec2spawner.logins import LoginProblem

JUPYTERHUBS = str(Path(sys.prefix) / "share/jupyterhub/templates")
EVIL = "<script>alert('x')</script>\" onload=\"x"
MANY = 500
SECONDS = 0.5
HEADINGS = {403: "You are not logged in", 404: "There is no such page", 429: "Not so fast"}


@pytest.fixture(scope="module")
def environment() -> Environment:
    """As JupyterHub sets it up (6.1, app.py, ``init_tornado_settings``)."""
    own = FileSystemLoader([str(dashboard.TEMPLATES), JUPYTERHUBS])
    theirs = PrefixLoader({"templates": FileSystemLoader([JUPYTERHUBS])}, "/")
    environment = Environment(loader=ChoiceLoader([theirs, own]), autoescape=True)
    environment.globals.update(
        static_url=lambda path, **_: path,
        base_url="/hub/",
        login_url="/hub/login",
        parsed_scopes={},
        ec2spawner=Shown(lambda: pytest.fail("nothing is to be asked")),
    )
    return environment


def machine(number: int, words: str) -> Machine:
    texts = [words] * 8
    return Machine(f"{words}{number:03}", *texts[:7], 1e9, 2e9, 3e9, words, words)


def render(environment: Environment, name: str, **context: Any) -> str:
    return environment.get_template(name).render(**context)


def test_nothing_that_a_machine_is_called_is_taken_for_markup(environment: Environment) -> None:
    page = render(environment, "machines.html", machines=[machine(1, EVIL)], listed_at=1.0)
    rows = page.partition("<tbody>")[2].partition("</tbody>")[0]
    assert rows.count("&lt;script&gt;") >= 8
    assert "<script" not in rows
    assert 'onload="' not in rows


def test_a_machine_of_which_aws_does_not_say_since_when_has_a_dash(
    environment: Environment,
) -> None:
    unsaid = '<span title="AWS does not say since when">-</span>'
    taken_back = replace(machine(1, "ann"), since=None)
    assert unsaid in render(environment, "machines.html", machines=[taken_back], listed_at=1.0)
    known = replace(machine(1, "ann"), since=5.0)
    assert unsaid not in render(environment, "machines.html", machines=[known], listed_at=1.0)


def test_five_hundred_machines_are_one_page_in_no_time(environment: Environment) -> None:
    many = [machine(number, "ann") for number in range(MANY)]
    took = []
    for _ in range(3):
        began = time.process_time()
        page = render(environment, "machines.html", machines=many, listed_at=1.0)
        took.append(time.process_time() - began)
    assert min(took) < SECONDS
    assert page.count("<tr data-words=") == MANY


@pytest.mark.parametrize(("status", "heading"), HEADINGS.items())
def test_an_error_page_says_what_happened_and_leads_on(
    environment: Environment, status: int, heading: str
) -> None:
    name = "404.html" if status == 404 else "error.html"
    page = render(environment, name, status_code=status, message=EVIL, user=None)
    assert f"{heading}</h1>" in page
    assert '<a class="btn btn-lg btn-primary" href="/hub/login">Log in again</a>' in page
    assert EVIL not in page


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_server_that_is_away_leads_home_though_nobody_says_who_asks(
    environment: Environment, status: int
) -> None:
    page = render(environment, "error.html", status_code=status, message_html="", user=None)
    assert 'href="/hub/home">Go to your home page</a>' in page


@pytest.mark.parametrize("status", [400, 403, 503])
def test_a_login_that_failed_leads_to_the_log_in_page(
    environment: Environment, status: int
) -> None:
    reason = LoginProblem(status, "", "").reason
    page = render(environment, "error.html", status_code=status, status_message=reason, user=None)
    assert "You are not logged in</h1>" in page
    assert 'href="/hub/login">Log in again</a>' in page


def test_scopes_are_no_word_for_a_student(environment: Environment) -> None:
    message = "Action is not authorized with current scopes; requires any of [admin-ui]"
    page = render(environment, "error.html", status_code=403, message=message, user=None)
    assert "This page is not for you." in page
    assert "scopes" not in page.partition('<div class="error">')[2]
