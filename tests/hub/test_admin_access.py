"""What an admin may not do unless ADMIN_ACCESS says so: enter another's server, by any way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from .clouds import Cloud
from .hubs import Hub
from .processes import Nursery
from .visitors import Visitor, enter


@pytest.fixture(scope="module")
def hub(stub_cloud: Cloud, folder: Path, nursery: Nursery) -> Iterator[Hub]:
    hub = Hub(stub_cloud, folder / "admin-hub", nursery, ADMIN_USERS=["prof"])
    yield hub.start()
    hub.close()


@pytest.fixture
def prof(request: pytest.FixtureRequest, hub: Hub) -> Visitor:
    request.node.hubs = [hub]
    return enter(hub, "prof")


def test_an_admin_adds_starts_and_stops(hub: Hub, prof: Visitor) -> None:
    assert prof.api("POST", "users", json={"usernames": ["ann", "bea"]}).status_code == 201
    assert prof.api("POST", "users/ann/server").status_code in (201, 202)
    ann = hub.user("ann")
    ann.wait_ready()
    assert prof.api("DELETE", "users/ann/server").status_code in (202, 204)
    assert prof.api("DELETE", "users/bea").status_code == 204


def test_an_admin_does_not_enter_a_server(hub: Hub, prof: Visitor) -> None:
    ann = hub.user("cem")
    ann.start()
    # By the browser: the hub does not let a server of another's know who this is.
    client = hub.api("GET", "users/cem?include_stopped_servers").json()
    assert client["servers"][""]["ready"]
    answer = prof.go("/hub/user/cem/lab", allow_redirects=False)
    assert answer.status_code == 404
    # By a token of the admin's own: it says that its owner may not enter there.
    made = prof.api("POST", "users/prof/tokens", json={"note": "mine"})
    assert made.status_code == 201, made.text
    headers = {"Authorization": f"token {made.json()['token']}"}
    who = requests.get(f"{hub.url}/hub/api/user", headers=headers, timeout=20).json()
    assert who["admin"]
    assert [scope for scope in who["scopes"] if scope.startswith("access:servers")] == [
        "access:servers!user=prof"
    ]


def test_an_admin_makes_no_token_in_another_s_name(hub: Hub, prof: Visitor) -> None:
    hub.user("dora")
    assert prof.api("POST", "users/dora/tokens", json={"note": "x"}).status_code in (403, 404)


def test_an_admin_shares_no_server_with_oneself(hub: Hub, prof: Visitor) -> None:
    hub.user("eli").start()
    answer = prof.api("POST", "shares/eli/", json={"user": "prof"})
    assert answer.status_code in (403, 404), answer.text


@pytest.mark.parametrize("scopes", [["access:servers"], ["tokens"], ["shares"], ["proxy"]])
def test_no_token_of_an_admin_s_has_more(prof: Visitor, scopes: list[str]) -> None:
    answer = prof.api("POST", "users/prof/tokens", json={"note": "x", "scopes": scopes})
    assert answer.status_code == 400, answer.text


def test_an_admin_makes_no_service_that_has_more(prof: Visitor) -> None:
    body = {"oauth_client_allowed_scopes": ["access:servers"]}
    assert prof.api("POST", "services/mine", json=body).status_code in (403, 404)


def test_an_admin_gives_no_machine_to_another_account_by_its_name(hub: Hub, prof: Visitor) -> None:
    fay = hub.user("fay")
    fay.start()
    worker = fay.worker()["id"]
    token = prof.api("POST", "users/prof/tokens", json={"note": "mine"}).json()["token"]
    headers = {"Authorization": f"token {token}"}
    body = {"name": "prof-2", "admin": False}
    renames = [
        prof.api("PATCH", "users/fay", json=body),
        requests.patch(f"{hub.url}/hub/api/users/fay", json=body, headers=headers, timeout=20),
        prof.api("PATCH", "users/fay", json={"name": ["prof-2"]}),
        prof.api("PATCH", "users/prof", json={"name": "prof-2"}),
    ]
    # What is no name at all is refused before anybody asks who sends it.
    assert [answer.status_code for answer in renames] == [403, 403, 400, 403]
    assert hub.api("GET", "users/prof-2").status_code == 404
    assert fay.worker()["id"] == worker
    # All the rest of a user can be changed.
    assert prof.api("PATCH", "users/fay", json={"admin": True}).status_code == 200
    assert fay.model()["admin"]


def test_an_admin_does_not_touch_the_proxy(prof: Visitor) -> None:
    assert prof.api("GET", "proxy").status_code == 403
    changed = prof.api("PATCH", "proxy", json={"api_url": "http://127.0.0.1:9", "auth_token": "x"})
    assert changed.status_code == 403


def test_with_admin_access_an_admin_enters(
    stub_cloud: Cloud, folder: Path, nursery: Nursery
) -> None:
    choices = {"ADMIN_USERS": ["prof"], "ADMIN_ACCESS": True}
    hub = Hub(stub_cloud, folder / "open-hub", nursery, **choices)
    try:
        hub.start()
        prof = enter(hub, "prof")
        made = prof.api("POST", "users/prof/tokens", json={"note": "mine"}).json()
        headers = {"Authorization": f"token {made['token']}"}
        who = requests.get(f"{hub.url}/hub/api/user", headers=headers, timeout=20).json()
        assert "access:servers" in who["scopes"]
        assert prof.api("POST", "users/ann").status_code == 201
        assert prof.api("PATCH", "users/ann", json={"name": "anna"}).status_code == 200
        assert prof.api("GET", "proxy").status_code == 200
        hub.choices["ADMIN_ACCESS"] = False
        hub.restart()  # what was given is taken back
        who = requests.get(f"{hub.url}/hub/api/user", headers=headers, timeout=20).json()
        assert "access:servers" not in who["scopes"]
    finally:
        hub.close()
