"""A student at the hub's API, by cookie and by token: what is answered, route by route."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests

from ec2spawner import bounds

from . import routes
from .clouds import Cloud
from .hubs import Hub, User
from .processes import Nursery, eventually
from .routes import OTHERS, OTHERS_PAGES
from .visitors import Visitor, enter

PROFILES = [
    {"SLUG": "usual", "NAME": "Usual", "INSTANCE_TYPES": ["t3.medium"]},
    {"SLUG": "gpu", "NAME": "GPU", "INSTANCE_TYPES": ["g4dn.xlarge"], "GROUPS": ["ml"]},
]
REFUSED = (400, 403, 404, 405)
BODIES: dict[str, Any] = {"name": "x", "users": ["eve"], "usernames": ["y"], "admin": True}

NOTHING_OF_OTHERS = {"users": [], "groups": [], "services": {}}
"""What may be answered with 200, and then with nothing in it but oneself."""


@pytest.fixture(scope="module")
def hub(stub_cloud: Cloud, folder: Path, nursery: Nursery) -> Iterator[Hub]:
    hub = Hub(
        stub_cloud,
        folder / "safe-hub",
        nursery,
        PROFILES=PROFILES,
        NAMED_SERVERS_MAX=2,
        STARTS_PER_MINUTE=100,
    )
    hub.start()
    hub.api("POST", "groups/ml")
    hub.user("vic").start()
    yield hub
    hub.close()


@pytest.fixture
def eve(request: pytest.FixtureRequest, hub: Hub) -> Visitor:
    request.node.hubs = [hub]
    return enter(hub, "eve")


def by_token(hub: Hub, token: str, method: str, path: str, **more: Any) -> requests.Response:
    headers = {"Authorization": f"token {token}"}
    url = f"{hub.url}/hub/api/{path}"
    return requests.request(method, url, headers=headers, timeout=20, **more)


def assert_refused(answer: requests.Response, method: str, path: str) -> None:
    if method == "GET" and answer.status_code == 200 and path in NOTHING_OF_OTHERS:
        assert "vic" not in answer.text, answer.text
        assert "ml" not in answer.text, answer.text
    else:
        assert answer.status_code in REFUSED, (answer.status_code, answer.text)
        assert "g4dn" not in answer.text


@pytest.mark.parametrize(("method", "path"), OTHERS)
def test_a_students_cookie_and_token_are_refused_beyond_the_own_user(
    hub: Hub, eve: Visitor, method: str, path: str
) -> None:
    before = hub.api("GET", "users/vic").json()
    more = {} if method == "GET" else {"json": BODIES}
    assert_refused(eve.api(method, path, **more), method, path)
    assert_refused(by_token(hub, User(hub, "eve").token, method, path, **more), method, path)
    after = hub.api("GET", "users/vic").json()
    assert {k: after[k] for k in ("name", "admin", "groups")} == {
        k: before[k] for k in ("name", "admin", "groups")
    }
    assert after["servers"].keys() == before["servers"].keys()
    assert "eve" not in hub.api("GET", "groups/ml").json()["users"]


def test_the_list_of_routes_is_the_hubs() -> None:
    """A route, or a method of one, that a new JupyterHub or our own code brings must be judged."""
    from jupyterhub import apihandlers, handlers

    from ec2spawner.dashboard import pages

    ours = pages.handlers(lambda: None)  # type: ignore[arg-type, return-value]
    theirs = [*handlers.default_handlers, *apihandlers.default_handlers, *ours]
    assert routes.offered(theirs) == routes.judged(theirs)


def test_a_route_that_is_new_or_gone_is_noticed() -> None:
    from jupyterhub.apihandlers import APIHandler

    class New(APIHandler):  # type: ignore[misc]
        async def get(self) -> None: ...
        async def put(self) -> None: ...

    known = [(r"/api/users", New)]
    new = (r"/api/users/([^/]+)/secrets", New)
    assert routes.offered([*known, new]) - routes.judged([*known, new]) == {
        (r"/api/users", "PUT"),
        (r"/api/users/([^/]+)/secrets", "GET"),
        (r"/api/users/([^/]+)/secrets", "PUT"),
    }
    assert ("/api/groups", "GET") in routes.judged(known) - routes.offered(known)


@pytest.mark.parametrize(("method", "page"), OTHERS_PAGES)
def test_a_page_about_others_is_refused_to_a_student(
    hub: Hub, eve: Visitor, method: str, page: str
) -> None:
    before = hub.api("GET", "users/vic").json()["servers"].keys()
    url = f"{hub.url}/hub{page}"
    fields = {} if method == "GET" else {"data": {"_xsrf": eve.xsrf}}
    answer = eve.session.request(method, url, timeout=20, allow_redirects=False, **fields)
    assert answer.status_code in (403, 404), (answer.status_code, answer.text)
    assert "g4dn" not in answer.text
    assert hub.api("GET", "users/vic").json()["servers"].keys() == before


@pytest.mark.parametrize(
    "scopes",
    [
        ["admin:users"],
        ["list:users"],
        ["access:servers"],
        ["access:servers!user=vic"],
        ["read:users!user=vic"],
        ["admin:groups"],
        ["proxy"],
        ["tokens!user=vic"],
    ],
)
def test_a_student_makes_no_token_with_more_rights(eve: Visitor, scopes: list[str]) -> None:
    answer = eve.api("POST", "users/eve/tokens", json={"note": "x", "scopes": scopes})
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("body", [{"admin": True}, {"name": "vic"}, {"groups": ["ml"]}])
def test_a_student_does_not_change_the_own_rights(hub: Hub, eve: Visitor, body: Any) -> None:
    assert eve.api("PATCH", "users/eve", json=body).status_code in REFUSED
    model = hub.api("GET", "users/eve").json()
    assert (model["admin"], model["groups"], model["name"]) == (False, [], "eve")


def test_a_page_of_others_cannot_use_a_students_cookie(hub: Hub, eve: Visitor) -> None:
    answer = eve.session.post(f"{hub.url}/hub/api/users/eve/server", timeout=20)
    assert answer.status_code == 403, "without what protects it against pages of others"


# ---- kinds of machines


Asked = Callable[[Hub, User, str, Any], requests.Response]
"""A way to ask for a profile on a server; the answer to what starts it."""


def path_of(user: User, server: str) -> str:
    return f"users/{user.path}/servers/{server}" if server else f"users/{user.path}/server"


def as_body(hub: Hub, user: User, server: str, profile: Any) -> requests.Response:
    body = {"profile": profile, "INSTANCE_TYPES": ["g4dn.xlarge"]}
    return by_token(hub, user.token, "POST", path_of(user, server), json=body)


def as_options(hub: Hub, user: User, server: str, profile: Any) -> requests.Response:
    body = {"user_options": {"profile": profile, "INSTANCE_TYPES": ["g4dn.xlarge"]}}
    return by_token(hub, user.token, "POST", path_of(user, server), json=body)


def stored_before(method: str) -> Asked:
    def ask(hub: Hub, user: User, server: str, profile: Any) -> requests.Response:
        path, options = path_of(user, server), {"user_options": {"profile": profile}}
        if method == "PATCH" and server:
            assert by_token(hub, user.token, "PUT", path).status_code == 201
        stored = by_token(hub, user.token, method, path, json=options)
        assert stored.status_code in (200, 201), stored.text
        return by_token(hub, user.token, "POST", path)

    return ask


def by_form(hub: Hub, user: User, server: str, profile: Any) -> requests.Response:
    with enter(hub, user.name) as reader:
        path = f"/hub/spawn/{user.path}/{server}".rstrip("/")
        return reader.send(path, {"profile": profile}, allow_redirects=False)


def by_address(hub: Hub, user: User, server: str, profile: Any) -> requests.Response:
    with enter(hub, user.name) as reader:
        path = f"/hub/spawn/{user.path}/{server}".rstrip("/")
        return reader.go(f"{path}?{urlencode({'profile': profile}, doseq=True)}")


WAYS: dict[str, Asked] = {
    "body": as_body,
    "options": as_options,
    "PUT": stored_before("PUT"),
    "PATCH": stored_before("PATCH"),
    "form": by_form,
    "address": by_address,
}


PLACES = [(way, server) for way in WAYS for server in ("", "lab") if server or way != "PUT"]
"""JupyterHub makes no usual server by PUT."""
ASKED: list[tuple[str, str, Any]] = [
    *[(way, server, "gpu") for way, server in PLACES],
    *[
        (way, server, profile)
        for way, server in (("body", ""), ("body", "lab"), ("options", "lab"))
        for profile in (["gpu"], {"SLUG": "gpu"}, "GPU", "gpu\x00", 7)
    ],
]


@pytest.fixture
def fay(hub: Hub) -> Iterator[User]:
    """Somebody of no group, who is gone after the test."""
    fay = hub.user("fay")
    yield fay
    eventually(lambda: fay.workers() == [], 10, "nothing was started")
    for name in [*fay.model()["servers"], ""]:
        eventually(lambda name=name: fay.server_model(name) is None, 20, "it has ended")
    eventually(lambda: hub.api("DELETE", "users/fay").status_code in (204, 404), 20, "fay is gone")


@pytest.mark.parametrize(("way", "server", "profile"), ASKED)
def test_no_hand_made_request_starts_a_machine_of_another_group(
    hub: Hub, fay: User, way: str, server: str, profile: Any
) -> None:
    answer = WAYS[way](hub, fay, server, profile)
    told = answer.text
    if answer.status_code < 400 and "kind of machine" not in told:
        told = str(list(fay.progress(server))[-1]["message"])
    assert "kind of machine" in told
    assert [i for i in hub.view().alive if i["instance_type"] == "g4dn.xlarge"] == []
    assert fay.workers(server) == []


@pytest.mark.parametrize(("way", "server"), PLACES)
def test_each_of_these_ways_starts_what_is_allowed(hub: Hub, way: str, server: str) -> None:
    """Else what is refused might be so for another reason."""
    gil = hub.user(f"gil-{way.lower()}")
    hub.api("POST", "groups/ml/users", json={"users": [gil.name]})
    answer = WAYS[way](hub, gil, server, "gpu")
    assert answer.status_code < 400, answer.text
    gil.wait_ready(server)
    assert gil.worker(server)["instance_type"] == "g4dn.xlarge"
    gil.stop(server)
    hub.api("DELETE", "groups/ml/users", json={"users": [gil.name]})
    gone = lambda: gil.worker(server)["state"] == "stopped"  # noqa: E731
    eventually(gone, 20, "its machine is stopped")
    gil.delete()
    eventually(lambda: gil.workers(server) == [], 20, "its machine is gone")


def test_a_choice_that_was_stored_is_refused_once_the_group_is_left(hub: Hub) -> None:
    hub.user("gus")
    hub.api("POST", "groups/ml/users", json={"users": ["gus"]})
    gus = User(hub, "gus")
    hub.api("POST", "users/gus/server", json={"profile": "gpu"})
    gus.wait_ready()
    gus.stop()
    hub.api("DELETE", "groups/ml/users", json={"users": ["gus"]})
    gus.becomes("stopped")
    assert "kind of machine" in gus.fail_to_start()
    gus.start()
    assert gus.worker()["instance_type"] == "t3.medium"


# ---- floods


def test_a_student_has_no_more_named_servers_than_allowed(hub: Hub, eve: Visitor) -> None:
    answers = [eve.api("POST", f"users/eve/servers/n{n}") for n in range(6)]
    assert sum(answer.status_code in (201, 202) for answer in answers) <= 2
    assert answers[-1].status_code == 400
    assert hub.user("vic").is_ready()


def test_a_request_of_a_size_that_nobody_needs_is_refused_unread(hub: Hub) -> None:
    body = b" " * (bounds.MAX_BODY_BYTES + 1)
    url = f"http://127.0.0.1:{hub.api_port}/hub/api/users/vic/activity"
    try:
        answer = requests.post(url, data=body, timeout=20)
    except requests.ConnectionError:
        return  # closed before it was all sent
    assert answer.status_code in (400, 413), answer.text


# ---- reports of a compromised machine


@pytest.mark.parametrize(
    "when", ["2999-01-01T00:00:00Z", "NaN", float("nan"), [], {"a": 1}, "x" * 9999, "[" * 5000]
)
def test_an_activity_that_cannot_be_is_refused(hub: Hub, when: Any) -> None:
    before = hub.api("GET", "users/eve").json()["last_activity"]
    token = User(hub, "eve").token
    body = json.dumps({"last_activity": when})
    answer = by_token(hub, token, "POST", "users/eve/activity", data=body)
    assert answer.status_code == 400, answer.text
    after = hub.api("GET", "users/eve").json()["last_activity"]
    assert not str(after).startswith("2999"), before


def test_json_however_deep_is_refused(hub: Hub) -> None:
    token = User(hub, "eve").token
    for body in ("[" * 60_000, '{"a":' * 12_000, "9" * 60_000, "\x00"):
        answer = by_token(hub, token, "POST", "users/eve/activity", data=body)
        assert answer.status_code == 400, answer.text
    for body in ("[" * 200_000, '{"a":' * 100_000, "9" * 100_000):
        by_student = by_token(hub, token, "POST", "users/eve/activity", data=body)
        assert by_student.status_code == 413, by_student.text
        by_admin = hub.api("POST", "users", data=body)
        assert by_admin.status_code == 400, by_admin.text
