"""GitHub's way in, in a browser: who was added works, a stranger reads what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hub.providers import CLIENT_ID, CLIENT_SECRET, FakeGitHub
from playwright.sync_api import Browser, expect

from .conftest import Shoot
from .demos import Demo
from .visitors import Visitor

Come = Callable[[str], Visitor]


@pytest.fixture(scope="module")
def github() -> Iterator[FakeGitHub]:
    github = FakeGitHub()
    yield github
    github.close()


@pytest.fixture(scope="module")
def hub(
    chromium_path: str, tmp_path_factory: pytest.TempPathFactory, github: FakeGitHub
) -> Iterator[Demo]:
    choices = {
        "AUTHENTICATOR": "github",
        "ADMIN_USERS": ["prof"],
        "GITHUB_ORGANIZATIONS": ["uni-bio:lab"],
    }
    client = {"OAUTH_CLIENT_ID": CLIENT_ID, "OAUTH_CLIENT_SECRET": CLIENT_SECRET}
    folder = tmp_path_factory.mktemp("login-demo")
    hub = Demo(folder, choices, {**client, "GITHUB_URL": github.url})
    try:
        hub.until_ready()
        yield hub
    finally:
        hub.end()


@pytest.fixture
def come(hub: Demo, browser: Browser) -> Iterator[Come]:
    """Somebody comes with a browser of their own."""
    visitors = []

    def visit(name: str) -> Visitor:
        visitors.append(Visitor(browser, hub, name))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        visitor.close()


def log_in(visitor: Visitor, to: str) -> None:
    """Press the button, and say at GitHub who one is."""
    visitor.visit(f"/hub/login?next={to}")
    visitor.page.get_by_role("button", name="Sign in with GitHub").click()
    visitor.page.get_by_label("Username").fill(visitor.name)
    visitor.page.get_by_role("button", name="Authorize").click()


def test_whom_an_admin_adds_in_bulk_logs_in_and_works(come: Come, shoot: Shoot) -> None:
    prof = come("Prof")
    prof.visit("/hub/login")
    shoot(prof.page, "login", 400)
    log_in(prof, "/hub/admin")
    prof.page.get_by_role("button", name="Add Users").click()
    prof.page.get_by_role("textbox", name="usernames").fill("ann\nbea\ncem")
    prof.page.get_by_role("button", name="Add Users").click()
    expect(prof.page.get_by_role("button", name="Details of cem")).to_be_visible()

    ann = come("ann")
    log_in(ann, "/hub/spawn")
    assert ann.watch_start()[-1].percent == 100
    expect(ann.page.get_by_role("tab", name="Launcher")).to_be_visible()

    ann.visit("/hub/logout")
    ann.visit("/hub/home")
    assert "/hub/login" in ann.page.url


def test_a_stranger_is_told_what_to_do(come: Come, shoot: Shoot) -> None:
    stranger = come("stranger")
    log_in(stranger, "/hub/home")
    expect(stranger.page.get_by_text("says that you are stranger")).to_be_visible()
    shoot(stranger.page, "not-known", 400)


def test_a_member_of_the_team_comes_in(come: Come, github: FakeGitHub) -> None:
    github.members = {"uni-bio:lab": {"mia"}}
    mia = come("mia")
    log_in(mia, "/hub/home")
    expect(mia.page.get_by_role("button", name="Logout")).to_be_visible()


def test_who_says_no_reads_how_to_go_on(come: Come, shoot: Shoot) -> None:
    zoe = come("zoe")
    zoe.visit("/hub/login")
    zoe.page.get_by_role("button", name="Sign in with GitHub").click()
    zoe.page.get_by_role("button", name="Cancel").click()
    expect(zoe.page.get_by_text("was not allowed to tell this hub who you are")).to_be_visible()
    shoot(zoe.page, "denied", 400)
