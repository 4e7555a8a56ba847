"""HTTPS through all of it: Caddy, proxy, hub, and a user's real server with a kernel.

Once with all users below one host, and once with a host for each (SUBDOMAINS).
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import websocket
from browser import chromium
from hub.clouds import Cloud, Network
from hub.kernels import run_cell
from hub.processes import Nursery
from playwright.sync_api import Page, sync_playwright

from .fronted import PATIENCE_SECONDS, Person, Site, served

HUB_LOGIN = "jupyterhub-hub-login"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    network = Network()
    cloud = Cloud(tmp_path_factory.mktemp("https") / "cloud", "process", 10)
    try:
        cloud.start()
        cloud.launch_cluster(network.cidr)
        yield cloud
    finally:
        cloud.close()
        network.close()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("nursery") / "log")
    yield nursery
    nursery.close()


@pytest.fixture(scope="module", params=["one host", "a host each"])
def site(
    request: pytest.FixtureRequest,
    cloud: Cloud,
    nursery: Nursery,
    caddy: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    names = request.param == "a host each"
    folder = tmp_path_factory.mktemp("site")
    with served(cloud, nursery, caddy, folder, names=names) as site:
        site.hub.user("ada").start(seconds=PATIENCE_SECONDS)
        yield site


@pytest.fixture(scope="module")
def ada(site: Site) -> Iterator[Person]:
    """Logged in, with JupyterLab's page before her."""
    ada = Person(site, "ada")
    ada.log_in()
    page = ada.open_lab()
    assert page.status_code == 200, page.text
    assert 'id="jupyter-config-data"' in page.text
    yield ada
    ada.close()


def test_by_plain_http_it_is_told_whether_the_hub_is_well_and_nothing_else(site: Site) -> None:
    """By the address, which is known before the name leads there."""
    url = f"http://127.0.0.1:{site.front.http}"
    secrets = {"Cookie": f"{HUB_LOGIN}=x", "Authorization": "token x"}
    http = requests.Session()
    http.trust_env = False
    well = http.get(f"{url}/hub/health", headers=secrets, allow_redirects=False, timeout=30)
    assert well.status_code == 200
    assert "Set-Cookie" not in well.headers
    for method, path in (("GET", "/hub/api"), ("GET", "/hub/health/x"), ("POST", "/hub/health")):
        answer = http.request(method, url + path, allow_redirects=False, timeout=30)
        assert answer.status_code == 308
        assert answer.headers["Location"].startswith("https://")


def cookies_of(person: Person) -> list[tuple[str, str, list[str]]]:
    """Each cookie that was set on the way: where it came from and its name, value, attributes."""
    found = []
    for answer in person.answers:
        source = "server" if "/user/" in answer.url else "hub"
        for line in answer.raw.headers.getlist("Set-Cookie"):
            cookie, *attributes = (part.strip() for part in line.split(";"))
            name, _, value = cookie.partition("=")
            found.append((f"{source} {name}", value.strip('"'), attributes))
    return found


def test_every_cookie_is_secure_and_comes_from_no_other_site(ada: Person) -> None:
    cookies = cookies_of(ada)
    given = {name for name, value, _ in cookies if value}
    assert {"hub _xsrf", "server _xsrf", "hub jupyterhub-session-id"} <= given
    assert len(given) == 6, given  # also who it is, to hub and server, and a state on the way there
    for name, value, attributes in cookies:
        assert attributes.count("Secure") == 1, (name, attributes)
        if value:
            assert attributes.count("SameSite=Lax") == 1, (name, attributes)
        if value and name != "server _xsrf":  # JupyterLab's own script reads that one
            assert "HttpOnly" in attributes, (name, attributes)


def test_pages_of_hub_and_server_bear_their_policies(site: Site, ada: Person) -> None:
    home = ada.ask("GET", f"{site.url}/hub/home").headers
    lab = ada.ask("GET", f"{ada.server}/lab").headers
    for headers in (home, lab):
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "SAMEORIGIN"
        assert "Strict-Transport-Security" not in headers  # it is a loopback name
        policy = headers["Content-Security-Policy"]
        assert policy.count("frame-ancestors 'none'") == 1
        assert policy.count("base-uri 'self'") == 1
    assert "report-uri /hub/security/csp-report" in home["Content-Security-Policy"]
    assert "object-src 'none'" in home["Content-Security-Policy"]
    assert "object-src" not in lab["Content-Security-Policy"]  # a PDF in JupyterLab is one


def test_a_kernel_answers_by_websocket_through_all_of_it(site: Site, ada: Person) -> None:
    kernel = ada.api("POST", "kernels")
    assert kernel.status_code == 201, kernel.text
    connection = ada.open_kernel(kernel.json()["id"], site.of("ada"))
    try:
        assert run_cell(connection, "print(6 * 7)") == "42\n"
    finally:
        connection.close()


def test_a_websocket_from_another_s_page_is_refused(site: Site, ada: Person) -> None:
    kernel = ada.api("POST", "kernels").json()["id"]
    for origin in ("https://elsewhere.example", f"https://bob.{site.host}:{site.front.https}"):
        with pytest.raises(websocket.WebSocketBadStatusException) as error:
            ada.open_kernel(kernel, origin)
        assert error.value.status_code == 403


def test_another_s_page_can_neither_read_nor_change_by_ada_s_cookies(
    site: Site, ada: Person
) -> None:
    """Subdomains are one site to a browser: it sends the cookies, so the server must refuse."""
    mine = {"Origin": site.of("ada"), "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    theirs = {"Origin": site.of("bob"), "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}
    if not site.front.users_below:  # then another's page is of the same origin
        theirs["Origin"] = f"https://bob.{site.host}:{site.front.https}"
    assert ada.api("GET", "contents", headers=mine).status_code == 200
    read = ada.ask("GET", f"{ada.server}/api/contents", headers=theirs)
    posted = {**theirs, "Sec-Fetch-Mode": "no-cors", "Content-Type": "text/plain"}
    write = ada.ask("POST", f"{ada.server}/api/contents", headers=posted, data="{}")
    for answer in (read, write):
        assert answer.status_code in (403, 404), answer.text
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_hub_s_cookie_stays_with_the_hub(site: Site, ada: Person) -> None:
    to_hub = ada.cookies_for(f"{site.url}/hub/home")
    to_server = ada.cookies_for(f"{ada.server}/lab")
    prefix = "__Host-" if site.front.users_below else ""
    assert f"{prefix}{HUB_LOGIN}" in to_hub
    assert not [name for name in to_server if HUB_LOGIN in name]
    assert [name for name in to_server if name.startswith(f"{prefix}jupyterhub-user-")]
    if site.front.users_below:
        to_bob = ada.cookies_for(f"{site.of('bob')}/user/bob/lab")
        assert set(to_bob) == {"jupyterhub-session-id"}  # no way in by itself


def test_whoever_has_logged_out_is_out(site: Site) -> None:
    eve = Person(site, "eve")
    try:
        eve.log_in()
        assert eve.ask("GET", f"{site.url}/hub/home").url == f"{site.url}/hub/home"
        eve.log_out()
        assert not [n for n in eve.cookies_for(f"{site.url}/hub/home") if HUB_LOGIN in n]
        assert "/hub/login" in eve.ask("GET", f"{site.url}/hub/home").url
    finally:
        eve.close()


PDF = b"""%PDF-1.1
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]>>endobj
trailer<</Root 1 0 R>>
"""
SAVE = """async ([url, content]) => {
  const token = document.cookie.match(/_xsrf=([^;]+)/)[1];
  const body = JSON.stringify({type: 'file', format: 'base64', content});
  return (await fetch(url, {method: 'PUT', headers: {'X-XSRFToken': token}, body})).status;
}"""
ATTACK = """async ([contents, socket]) => {
  const all = {credentials: 'include'};
  const read = await fetch(contents, all).then(r => 'read: ' + r.status, () => 'refused');
  await fetch(contents, {...all, mode: 'no-cors', method: 'POST', body: '{"type": "file"}'});
  const opened = await new Promise(resolve => {
    const one = new WebSocket(socket);
    one.onopen = () => resolve('open');
    one.onerror = () => resolve('refused');
  });
  document.cookie = '__Host-jupyterhub-hub-login=mine; domain=hub.localhost; path=/; secure';
  document.cookie = 'jupyterhub-hub-login=mine; domain=hub.localhost; path=/hub/; secure';
  return [read, opened];
}"""


@pytest.fixture
def page() -> Iterator[Page]:
    path = chromium.find(os.environ)
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright, path)
        context = browser.new_context(ignore_https_errors=True)
        context.set_default_timeout(PATIENCE_SECONDS * 1000)
        yield context.new_page()
        browser.close()


@pytest.mark.parametrize("site", ["a host each"], indirect=True)
def test_in_a_real_browser_jupyterlab_works_and_another_s_page_cannot_reach_it(
    site: Site, ada: Person, page: Page
) -> None:
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if "Policy" in m.text else None)
    page.goto(f"{site.url}/hub/login")
    page.fill("#username_input", "ada")
    page.fill("#password_input", site.hub.password)
    page.click("#login_submit")
    page.wait_for_url(re.compile(re.escape(ada.server)))
    page.wait_for_selector("#jp-main-dock-panel")
    contents = f"{ada.server}/api/contents"
    content = base64.b64encode(PDF).decode()
    assert page.evaluate(SAVE, [f"{contents}/x.pdf", content]) == 201
    page.goto(f"{ada.server}/lab/tree/x.pdf")
    page.wait_for_selector(".jp-PDFContainer")
    page.wait_for_timeout(500)
    assert complaints == []

    before = ada.api("GET", "contents").json()["content"]
    page.goto(f"{site.of('bob')}/hub/login")
    socket = f"{ada.server}/api/events/subscribe".replace("https:", "wss:")
    assert page.evaluate(ATTACK, [contents, socket]) == ["refused", "refused"]
    after = ada.api("GET", "contents").json()["content"]
    assert [entry["name"] for entry in after] == [entry["name"] for entry in before]
    held = {
        cookie["name"]: (cookie["domain"], cookie["value"])
        for cookie in page.context.cookies()
        if cookie["name"].startswith("__Host-")
    }
    assert held[f"__Host-{HUB_LOGIN}"][0] == "hub.localhost"  # without a dot: for no other host
    assert held[f"__Host-{HUB_LOGIN}"][1] != "mine"
    page.goto(f"{site.url}/hub/home")
    assert page.locator("#start, #stop").first.is_visible()  # still ada's
