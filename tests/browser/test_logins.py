"""GitHub's way in, in a browser: who was added works, a stranger reads what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub.processes import clean_environment
from hub.providers import CLIENT_ID, CLIENT_SECRET, FakeGitHub
from playwright.sync_api import Page, expect

from .conftest import Shoot, Visit
from .demos import Demo
from .looks import faults
from .visitors import Visitor

REQUEST_SECONDS = 2.0  # for which GitHub is waited here
HUB_CONFIG = f"""
seconds = {REQUEST_SECONDS}
c.GitHubLogin.http_request_kwargs = {{"connect_timeout": seconds, "request_timeout": seconds}}
"""


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
    hub = Demo(folder, choices, {**client, "GITHUB_URL": github.url}, HUB_CONFIG)
    try:
        hub.until_ready()
        yield hub
    finally:
        hub.end()


@pytest.fixture(autouse=True)
def well_github(github: FakeGitHub) -> Iterator[None]:
    """All is well with GitHub again after a test."""
    yield
    github.faults.clear()


def log_in(visitor: Visitor, to: str) -> None:
    """Press the button, and say at GitHub who one is."""
    visitor.visit(f"/hub/login?next={to}")
    visitor.page.get_by_role("button", name="Sign in with GitHub").click()
    visitor.page.get_by_label("Username").fill(visitor.name)
    visitor.page.get_by_role("button", name="Authorize").click()


def test_whom_an_admin_adds_in_bulk_logs_in_and_works(come: Visit, shoot: Shoot) -> None:
    prof = come("Prof")
    prof.visit("/hub/login")
    shoot(prof.page, "login", 400)
    log_in(prof, "/hub/admin")
    prof.page.get_by_role("button", name="Add Users").wait_for()
    prof.add_users(["ann", "bea", "cem"])
    expect(prof.row_of("cem")).to_be_visible()

    ann = come("ann")
    log_in(ann, "/hub/spawn")
    assert ann.watch_start()[-1].percent == 100
    expect(ann.page.get_by_role("tab", name="Launcher")).to_be_visible()

    # Logged out, no page of the hub and none of the server, which goes on, is theirs any more.
    ann.visit("/hub/logout")
    for path in ("/hub/home", "/user/ann/lab"):
        ann.visit(path)
        assert "/hub/login" in ann.page.url
        expect(ann.page.get_by_role("button", name="Sign in with GitHub")).to_be_visible()


def test_a_stranger_is_told_what_to_do(come: Visit, shoot: Shoot) -> None:
    stranger = come("stranger")
    log_in(stranger, "/hub/home")
    expect(stranger.page.get_by_text("says that you are stranger")).to_be_visible()
    shoot(stranger.page, "not-known", 400)


def test_a_member_of_the_team_comes_in(come: Visit, github: FakeGitHub) -> None:
    github.members = {"uni-bio:lab": {"mia"}}
    mia = come("mia")
    log_in(mia, "/hub/home")
    expect(mia.page.get_by_role("button", name="Logout")).to_be_visible()


def test_who_says_no_reads_how_to_go_on(come: Visit, shoot: Shoot) -> None:
    zoe = come("zoe")
    zoe.visit("/hub/login")
    zoe.page.get_by_role("button", name="Sign in with GitHub").click()
    zoe.page.get_by_role("button", name="Cancel").click()
    expect(zoe.page.get_by_text("was not allowed to tell this hub who you are")).to_be_visible()
    shoot(zoe.page, "denied", 400)


def import_users(url: str, token: str, listed: Path) -> None:
    """``launch-cluster users import``, as the documentation says."""
    command = [sys.executable, "-c", "from launch_cluster.cli import main; main()"]
    subprocess.run(
        [*command, "users", "import", str(listed), "--yes"],
        env={**clean_environment(), "JUPYTERHUB_URL": url, "JUPYTERHUB_API_TOKEN": token},
        check=True,
        timeout=60,
    )


def test_who_is_an_admin_by_a_userlist_has_the_panel(
    come: Visit, hub: Demo, tmp_path: Path
) -> None:
    prof, helper = come("Prof"), come("Helper")
    log_in(prof, "/hub/token")
    prof.page.wait_for_url("**/hub/token")
    prof.until_buttons_work()
    prof.page.get_by_role("button", name="Request new API token").click()
    token = prof.page.locator("#token-result")
    expect(token).not_to_be_empty()
    assert faults(prof.page, "new token") == []

    log_in(helper, "/hub/admin")
    expect(helper.page.get_by_text("says that you are helper")).to_be_visible()
    (tmp_path / "class.txt").write_text("helper admin group=staff\ncarl\n")
    import_users(hub.url, token.inner_text(), tmp_path / "class.txt")
    log_in(helper, "/hub/admin")
    expect(helper.row_of("carl")).to_be_visible()
    carl = come("carl")
    log_in(carl, "/hub/home")
    expect(carl.page.get_by_role("link", name="Admin")).to_have_count(0)
    assert carl.visit("/hub/admin") == 403


def check_next_step(page: Page) -> None:
    """The page of a login that failed says so, and leads to the log-in page."""
    expect(page.get_by_role("heading", level=1)).to_have_text("You are not logged in")
    page.get_by_role("link", name="Log in again").click()
    expect(page.get_by_role("button", name="Sign in with GitHub")).to_be_visible()


def test_who_comes_back_too_late_reads_how_to_go_on(come: Visit, shoot: Shoot) -> None:
    mia = come("mia")
    mia.visit("/hub/login?next=/hub/home")
    mia.page.get_by_role("button", name="Sign in with GitHub").click()
    mia.page.get_by_label("Username").fill("mia")
    mia.forget_cookies()
    mia.page.get_by_role("button", name="Authorize").click()
    expect(mia.page.get_by_text("begun in another window or too long ago")).to_be_visible()
    assert faults(mia.page, "expired") == []
    shoot(mia.page, "login-expired", 400)
    check_next_step(mia.page)


@pytest.mark.parametrize("fault", ["hangup", "never"])
def test_where_github_is_away_or_slow_people_read_how_to_go_on(
    come: Visit, github: FakeGitHub, shoot: Shoot, fault: str
) -> None:
    github.faults["/api/v3/user"] = fault
    mia = come("mia")
    log_in(mia, "/hub/home")
    expect(mia.page.get_by_text("GitHub could not tell this hub who you are")).to_be_visible()
    if fault == "never":
        assert faults(mia.page, fault) == []
        shoot(mia.page, "login-provider-away", 400)
    check_next_step(mia.page)
