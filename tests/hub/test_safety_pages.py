"""Pages: what people named is shown as text, and a login leads nowhere else."""

from __future__ import annotations

import html
import json
import re

import pytest
import requests

from .hubs import Hub
from .test_admin_access import enter
from .visitors import Visitor

EVIL = "<img src=x onerror=alert(1)>"
ELSEWHERE = [
    "https://evil.example.org/",
    "//evil.example.org",
    "///evil.example.org",
    r"\\evil.example.org",
    "/\\evil.example.org",
    "/\t/evil.example.org",
    "http:evil.example.org",
    "javascript:alert(1)",
    "https://127.0.0.1@evil.example.org/",
]


@pytest.mark.parametrize("next_", ELSEWHERE)
def test_a_login_by_form_leads_nowhere_else(quick_hub: Hub, next_: str) -> None:
    visitor = Visitor(quick_hub)
    visitor.go("/hub/login")
    form = {"username": "nia", "password": quick_hub.password}
    answer = visitor.session.post(
        f"{quick_hub.url}/hub/login",
        params={"next": next_},
        data={**form, "_xsrf": visitor.session.cookies["_xsrf"]},
        allow_redirects=False,
        timeout=20,
    )
    assert answer.status_code == 302, answer.text
    assert re.match(r"/(?![/\\\t])", answer.headers["Location"]), answer.headers["Location"]
    again = visitor.session.get(
        f"{quick_hub.url}/hub/login", params={"next": next_}, allow_redirects=False, timeout=20
    )
    assert re.match(r"/(?![/\\\t])", again.headers["Location"]), again.headers["Location"]


@pytest.mark.parametrize(
    "path",
    [
        "/hub/{evil}",
        "/hub/login?next={evil}",
        "/hub/error/404?message={evil}",
        "/hub/spawn/{evil}",
        "/hub/spawn/nia/{evil}",
        "/hub/spawn-pending/nia/{evil}",
        "/hub/user/{evil}/lab",
        "/hub/token?note={evil}",
        "/hub/admin?name_filter={evil}",
        "/hub/accept-share?code={evil}",
        "/hub/api/oauth2/authorize?client_id={evil}&response_type=code&redirect_uri={evil}",
        "/hub/api/users/{evil}",
    ],
)
def test_markup_in_an_address_is_shown_as_text(quick_hub: Hub, path: str) -> None:
    visitor = enter(quick_hub, "nia")
    answer = visitor.go(path.format(evil=requests.utils.quote(EVIL, safe="")))
    if "html" in answer.headers["Content-Type"]:
        assert EVIL not in answer.text


@pytest.mark.parametrize("name", [EVIL, "</script><script>alert(1)//", "a\x1b[2jb", "a\nb<"])
def test_nobody_has_a_name_that_is_markup_or_terminal_codes(quick_hub: Hub, name: str) -> None:
    assert quick_hub.api("POST", "users", json={"usernames": [name]}).status_code == 400
    visitor = Visitor(quick_hub)
    visitor.go("/hub/login")
    form = {"username": name, "password": quick_hub.password}
    answer = visitor.session.post(
        f"{quick_hub.url}/hub/login",
        data={**form, "_xsrf": visitor.session.cookies["_xsrf"]},
        timeout=20,
    )
    assert name not in answer.text
    if visitor.is_in():  # tornado takes control characters out of a form
        assert visitor.api("GET", "user").json()["name"] == name.replace("\x1b", " ")
        assert "<" not in name


@pytest.mark.parametrize("name", ["o'brien", 'q"uote', "a&amp;b", "zoë müller", "a\\b"])
def test_what_a_name_may_hold_is_shown_as_text(quick_hub: Hub, name: str) -> None:
    page = enter(quick_hub, name).go("/hub/token").content.decode()
    written = re.search(r'user: "(.*)",', page)
    assert written
    assert json.loads(f'"{written[1]}"') == name
    outside = page.replace(written[0], "")
    assert html.escape(name, quote=False).replace('"', "&#34;").replace("'", "&#39;") in outside


def test_markup_in_the_note_of_a_token_is_shown_as_text(quick_hub: Hub) -> None:
    visitor = enter(quick_hub, "nia")
    assert visitor.api("POST", "users/nia/tokens", json={"note": EVIL}).status_code == 201
    page = visitor.go("/hub/token").text
    assert EVIL not in page
    assert "&lt;img src=x" in page


@pytest.mark.parametrize("name", [EVIL, "../vic", "..", "a/b", "%2e%2e", 'x" onclick="y'])
def test_a_server_has_no_name_that_is_markup_or_a_path(quick_hub: Hub, name: str) -> None:
    visitor = enter(quick_hub, "nia")
    quoted = requests.utils.quote(name, safe="")
    answer = visitor.api("POST", f"users/nia/servers/{quoted}")
    assert answer.status_code in (400, 404), answer.text
    assert EVIL not in visitor.go("/hub/home").text
