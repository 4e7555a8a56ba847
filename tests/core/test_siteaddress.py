"""The hub's address in the browser, names of users' servers below it, and its cookies."""

from __future__ import annotations

from typing import Any

import pytest

from ec2spawner import siteaddress
from ec2spawner.errors import ConfigError
from ec2spawner.people import PeopleChoices

HERE = "https://hub.uni.example"


def settings(domain: str = "", **choices: Any) -> dict[str, Any]:
    return siteaddress.hub_settings(PeopleChoices(**choices), {"EC2SPAWNER_DOMAIN": domain})


def test_a_managers_domain_comes_before_the_address_that_was_written_down() -> None:
    assert settings()["public_url"] == ""
    assert settings(PUBLIC_URL=HERE)["public_url"] == HERE
    assert settings("other.example", PUBLIC_URL=HERE)["public_url"] == "https://other.example"


@pytest.mark.parametrize(("domain", "url"), [("", HERE), ("hub.uni.example", "")])
def test_users_have_names_below_it_where_that_is_chosen(domain: str, url: str) -> None:
    given = settings(domain, PUBLIC_URL=url, SUBDOMAINS=True)
    assert given["subdomain_host"] == HERE
    assert given["cookie_host_prefix_enabled"] is True
    assert "subdomain_host" not in settings(domain, PUBLIC_URL=url)
    assert "cookie_host_prefix_enabled" not in settings(domain, PUBLIC_URL=url)  # it is for "/"


def test_a_browser_would_not_take_such_cookies_by_plain_http() -> None:
    given = settings(PUBLIC_URL="http://hub.localhost:8000", SUBDOMAINS=True)
    assert given["cookie_host_prefix_enabled"] is False


@pytest.mark.parametrize("url", ["", "https://192.0.2.7", "http://127.0.0.1:8000", "http://[::1]"])
def test_names_below_no_name_are_refused_and_not_left_out(url: str) -> None:
    with pytest.raises(ConfigError, match="SUBDOMAINS needs a host name") as error:
        settings(PUBLIC_URL=url, SUBDOMAINS=True)
    assert (url or "does not know") in error.value.why
    assert "--domain" in error.value.next_step


def test_cookies_come_with_no_request_of_another_site() -> None:
    given = settings()["tornado_settings"]
    assert given["cookie_options"] == {"samesite": "Lax"}
    assert given["xsrf_cookie_kwargs"] == {"samesite": "Lax", "httponly": True}
