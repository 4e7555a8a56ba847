"""Google's way in, in a browser, and a hub in which admins enter servers that soon are idle."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hub.providers import OIDCProvider
from playwright.sync_api import expect

from .conftest import Shoot, Visit
from .demos import Demo
from .looks import faults
from .visitors import Visitor

IDLE_SECONDS = 60
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


def test_an_account_of_the_domain_comes_in_and_works(come: Visit) -> None:
    ann = come("ann")
    log_in(ann, "/hub/spawn")
    assert ann.watch_start()[-1].percent == 100
    ann.until_lab()
    assert "/user/ann@uni.example/lab" in ann.page.url


def test_an_account_of_another_domain_reads_whom_to_ask(come: Visit) -> None:
    eve = come("eve")
    log_in(eve, "/hub/home")
    expect(eve.page.get_by_text("Google says that you are eve@mail.example")).to_be_visible()
    expect(eve.page.get_by_text("Ask the people who run this hub to add it")).to_be_visible()
    assert faults(eve.page, "another domain") == []
