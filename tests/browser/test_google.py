"""Google's way in, in a browser, and a hub in which admins enter servers that soon are idle."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hub.providers import OIDCProvider
from playwright.sync_api import Browser, expect

from .conftest import Shoot, Visit
from .demos import Demo
from .looks import faults
from .visitors import Visitor

IDLE_SECONDS = 40  # half of it is the warning's
CLASS = [f"student{number:03}@uni.example" for number in range(500)]
CHOICES = {
    "AUTHENTICATOR": "google",
    "GOOGLE_HOSTED_DOMAINS": ["uni.example"],
    "ADMIN_USERS": ["prof@uni.example"],
    "ADMIN_ACCESS": True,
    "JUPYTER_NOTEBOOK_TIMEOUT": IDLE_SECONDS,
}


@pytest.fixture(scope="module")
def google(chromium_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OIDCProvider]:
    provider = OIDCProvider(tmp_path_factory.mktemp("google"))
    for name in ("ann", "bea", "prof"):
        email = f"{name}@uni.example"
        provider.says(name, email=email, verified_email=True, hd="uni.example")
    provider.says("eve", email="eve@mail.example", verified_email=True)
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, google: OIDCProvider) -> Iterator[Demo]:
    client = {"OAUTH_CLIENT_ID": "client", "OAUTH_CLIENT_SECRET": "secret"}
    urls = {"authorize": "oauth2/authorize", "token": "oauth2/token", "userdata": "userinfo"}
    config = [f"c.GoogleLogin.{name}_url = '{google.url}/{path}'\n" for name, path in urls.items()]
    hub = Demo(tmp_path_factory.mktemp("google-demo"), CHOICES, client, "".join(config))
    try:
        hub.until_ready()
        yield hub
    finally:
        hub.end()


def log_in(visitor: Visitor, to: str) -> None:
    """Press the button, and say at Google who one is."""
    visitor.visit(f"/hub/login?next={to}")
    visitor.page.get_by_role("button", name="Sign in with Google").click()
    visitor.page.get_by_placeholder("sub").fill(visitor.name)
    visitor.page.get_by_role("button", name="Authorize").click()


@pytest.fixture(scope="module")
def ann(hub: Demo, browser: Browser) -> Iterator[Visitor]:
    """Of the domain; her tab stays open."""
    ann = Visitor(browser, hub, "ann")
    yield ann
    ann.close()


def test_an_account_of_the_domain_comes_in_and_works(ann: Visitor) -> None:
    log_in(ann, "/hub/spawn")
    assert ann.watch_start()[-1].percent == 100
    ann.until_lab()
    ann.decline_news()
    assert "/user/ann@uni.example/lab" in ann.page.url


def test_with_admin_access_an_admin_enters_a_server(
    ann: Visitor, come: Visit, shoot: Shoot
) -> None:
    prof = come("prof")
    log_in(prof, "/hub/admin")
    prof.row_of("ann@uni.example").get_by_role("button", name="Access Server").click()
    # JupyterHub asks, so that no student's page gets an admin to come in unawares.
    prof.page.get_by_role("button", name="Authorize").wait_for()
    found = faults(prof.page, "may it know you")
    shoot(prof.page, "authorize", 560)
    prof.page.get_by_role("button", name="Authorize").click()
    prof.until_lab()
    assert "/user/ann@uni.example/" in prof.page.url
    assert found == []


def test_an_account_of_another_domain_reads_whom_to_ask(come: Visit) -> None:
    eve = come("eve")
    log_in(eve, "/hub/home")
    expect(eve.page.get_by_text("Google says that you are eve@mail.example")).to_be_visible()
    expect(eve.page.get_by_text("Ask the people who run this hub to add it")).to_be_visible()


def test_an_admin_deletes_a_user_and_a_student_is_refused(come: Visit) -> None:
    prof, bea = come("prof"), come("bea")
    log_in(bea, "/hub/home")
    assert bea.visit("/hub/admin") == 403
    expect(bea.page.get_by_role("heading", level=1)).to_have_text("You may not do that")
    log_in(prof, "/hub/admin")
    row = prof.row_of("bea@uni.example")
    row.get_by_role("button", name="Edit User").click()
    prof.page.get_by_role("button", name="Delete user").click()
    expect(row).to_have_count(0)
    bea.visit("/hub/home")
    assert "/hub/login" in bea.page.url


def test_who_does_not_work_is_warned_in_jupyterlab(ann: Visitor, shoot: Shoot) -> None:
    toast = ann.toast().filter(has_text="Nobody works here: this machine stops in")
    expect(toast.first).to_be_visible(timeout=IDLE_SECONDS * 1000)
    expect(toast.first).to_contain_text("Save a file or run a cell to go on.")
    toast.first.evaluate("it => Promise.all(it.getAnimations().map(a => a.finished))")
    shoot(ann.page, "idle")


def test_five_hundred_names_are_added_at_once_and_a_bad_one_is_named(
    come: Visit, shoot: Shoot
) -> None:
    prof = come("prof")
    log_in(prof, "/hub/admin")
    prof.page.get_by_role("button", name="Add Users").wait_for()
    prof.add_users(["good@uni.example", "a<b", "x/y"])
    why = prof.page.get_by_role("alert").filter(has_text="nobody was added")
    expect(why).to_contain_text("'a<b' has a < or > in it; 'x/y' has a / in it")
    assert faults(prof.page, "bad name") == []
    shoot(prof.page, "bad-name", 460)

    prof.add_users(CLASS)
    expect(prof.page.get_by_text("The hub is at it.")).to_be_visible()
    everybody = prof.page.get_by_text(f"of {len(CLASS) + 2}")  # ann and prof, too
    expect(everybody).to_be_visible(timeout=90_000)
