"""Pages: what people named is shown as text, and a login leads nowhere else."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from .clouds import Cloud
from .hubs import Hub
from .processes import Nursery
from .visitors import Visitor, enter


@pytest.fixture(scope="module")
def named_hub(stub_cloud: Cloud, folder: Path, nursery: Nursery) -> Iterator[Hub]:
    """One with SUBDOMAINS."""
    hub = Hub(stub_cloud, folder / "named-hub", nursery, SUBDOMAINS=True)
    hub.choices["PUBLIC_URL"] = f"http://hub.localhost:{hub.port}"
    yield hub.start()
    hub.close()


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

ANOTHERS = [
    "/user/eve/x",
    "/user/eve",
    "/user/%65ve/x",
    "///user/eve/x",
    "{url}/user/eve/x",
    "{host}/user/eve/x",
    "/user\\eve\\x",
    "/hub/../user/eve/x",
    "/hub/%2e%2e/user/eve/x",
    "/hub/..%2fuser/eve/x",
    "/hub/.\t./user/eve/x",
    "/hub\\..\\user/eve/x",
    "/user/nia/../eve/x",
    "/user/nia/%2E./eve/x",
    "/user/nia\\..\\eve",
]
"""Written in some way, it is a page of somebody else's server."""


def places_after_login(hub: Hub, next_: str) -> list[str]:
    """Where the form leads, and where the log-in page leads whoever is logged in."""
    visitor = Visitor(hub)
    visitor.go("/hub/login")
    form = {"username": "nia", "password": hub.password}
    answer = visitor.send("/hub/login", form, params={"next": next_}, allow_redirects=False)
    assert answer.status_code == 302, answer.text
    again = visitor.session.get(
        f"{hub.url}/hub/login", params={"next": next_}, allow_redirects=False, timeout=20
    )
    return [answer.headers["Location"], again.headers["Location"]]


@pytest.mark.parametrize("next_", ELSEWHERE)
def test_a_login_by_form_leads_nowhere_else(quick_hub: Hub, next_: str) -> None:
    for place in places_after_login(quick_hub, next_):
        assert re.match(r"/(?![/\\\t])", place), place


@pytest.mark.parametrize("next_", ANOTHERS)
def test_a_login_by_form_leads_to_no_server_of_another_s(quick_hub: Hub, next_: str) -> None:
    host = quick_hub.url.removeprefix("http:")
    places = places_after_login(
        quick_hub, next_.replace("{url}", quick_hub.url).replace("{host}", host)
    )
    assert places == ["/hub/spawn", "/hub/spawn"]


@pytest.mark.parametrize(
    "next_", ["/user/nia/lab/tree/a%20b?reset", "/user/nia/", "/hub/token", "/hub/user/eve/x"]
)
def test_a_login_by_form_leads_where_it_should(quick_hub: Hub, next_: str) -> None:
    assert places_after_login(quick_hub, next_) == [next_, next_]
    assert places_after_login(quick_hub, quick_hub.url + next_) == [next_, next_]


def run(hub: Hub, *names: str) -> None:
    """Have servers of these users run."""
    for name in names:
        if not hub.user(name).is_ready():
            hub.user(name).start()


@pytest.mark.parametrize("page", ["spawn", "spawn-pending/nia", ""])
def test_no_other_page_leads_there_either(quick_hub: Hub, page: str) -> None:
    visitor = enter(quick_hub, "nia")
    run(quick_hub, "nia", "eve")
    answer = visitor.go(f"/hub/{page}", params={"next": "/user/eve/x"}, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/user/nia/")
    quick_hub.user("nia").stop()


def test_the_hub_itself_leads_to_a_server_only_who_may_enter_it(quick_hub: Hub) -> None:
    visitor = enter(quick_hub, "nia")
    run(quick_hub, "eve")
    assert visitor.go("/hub/user/eve/x", allow_redirects=False).status_code == 404


def place_by_name(hub: Hub, next_: str) -> str:
    """Where the form leads a browser that came by the hub's name."""
    headers = {"Host": f"hub.localhost:{hub.port}"}
    page = requests.get(f"{hub.url}/hub/login", headers=headers, timeout=20)
    found = re.search(r'name="_xsrf" value="([^"]+)"', page.text)
    assert found, page.text
    headers["Cookie"] = f"_xsrf={found[1]}"
    answer = requests.post(
        f"{hub.url}/hub/login",
        params={"next": next_},
        data={"username": "nia", "password": hub.password, "_xsrf": found[1]},
        headers=headers,
        allow_redirects=False,
        timeout=20,
    )
    assert answer.status_code == 302, answer.text
    return answer.headers["Location"]


@pytest.mark.parametrize("next_", [*ANOTHERS, "http://eve.{name}/user/eve/x", "//eve.{name}/x"])
def test_nor_where_each_user_has_a_host_name(named_hub: Hub, next_: str) -> None:
    name = f"hub.localhost:{named_hub.port}"
    next_ = next_.replace("{name}", name).replace("{url}", f"http://{name}")
    assert place_by_name(named_hub, next_.replace("{host}", f"//{name}")) == "/hub/spawn"


@pytest.mark.parametrize("to", ["http://nia.{name}/user/nia/lab", "/user/nia/lab"])
def test_one_s_own_host_name_is_one_s_own(named_hub: Hub, to: str) -> None:
    name = f"hub.localhost:{named_hub.port}"
    assert place_by_name(named_hub, to.replace("{name}", name)) == "/user/nia/lab"


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
    answer = visitor.send("/hub/login", form)
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
