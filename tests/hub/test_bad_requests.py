"""Requests that cannot be, form by form and field by field: words, no 500, and nothing changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ec2spawner import bodies

from .clouds import Cloud
from .hubs import Hub, User
from .processes import Nursery
from .visitors import Visitor, enter

ESCAPE = "\x1b]0;x\x07\nFAKE LINE"
LONG = "x" * 300
PROFILES = [
    {"SLUG": "usual", "NAME": "Usual", "INSTANCE_TYPES": ["t3.medium"]},
    {"SLUG": "big", "NAME": "Big", "INSTANCE_TYPES": ["m5.large"]},
]
LAB = "users/eve/servers/lab"
LAST = "last_activity"


@pytest.fixture(scope="module")
def hub(stub_cloud: Cloud, folder: Path, nursery: Nursery) -> Iterator[Hub]:
    choices = {"ADMIN_USERS": ["prof"], "STARTS_PER_MINUTE": 100}
    hub = Hub(stub_cloud, folder / "bad-requests-hub", nursery, PROFILES=PROFILES, **choices)
    hub.config["JupyterHub"] = {"log_level": "DEBUG"}
    hub.start()
    eve = hub.user("eve")
    assert hub.api("PUT", LAB, json={"display_name": "Lab"}).status_code == 201
    assert hub.api("POST", "groups/ml", json={"users": ["eve"]}).status_code == 201
    eve.start()
    yield hub
    hub.close()


@pytest.fixture
def prof(request: pytest.FixtureRequest, hub: Hub) -> Visitor:
    request.node.hubs = [hub]
    return enter(hub, "prof")


def state_of(hub: Hub) -> Any:
    """What there is, without the moments at which somebody was seen."""
    users = hub.api("GET", "users?include_stopped_servers").json()
    groups = hub.api("GET", "groups").json()
    tokens = hub.api("GET", "users/eve/tokens").json()
    text = json.dumps([users, groups, tokens], sort_keys=True)
    return re.sub(r'"(last_activity|started)": "[^"]*"', "", text)


def assert_no_harm(hub: Hub, since: int) -> None:
    lines = hub.story()[since:].split("\n")
    told = "\n".join(line for line in lines if "[ConfigProxy]" not in line)  # in colours
    assert "Traceback" not in told
    assert " 500 " not in told
    assert not re.search(r"^FAKE LINE", told, re.MULTILINE)
    assert "\x1b" not in told
    assert LONG * 20 not in told


BY_ADMIN: list[tuple[str, str, Any]] = [
    *[("POST", "users", {"usernames": names}) for names in ("ann", 7, [], [7], [None], [""])],
    *[("POST", "users", {"usernames": [name]}) for name in (LONG, ESCAPE, "<b>", "a/b", [])],
    *[("POST", "users", {"usernames": ["kim"], "admin": admin}) for admin in ("yes", 1, [], None)],
    *[("POST", "users", body) for body in ([], "x", 7, None)],
    *[("POST", f"users/{name}", None) for name in (LONG, "%1b%5b2J", "a%0ab", "%3Cb%3E")],
    *[("PATCH", "users/eve", {"name": name}) for name in (7, None, [], "", LONG, ESCAPE, "prof")],
    *[("PATCH", "users/eve", {"admin": admin}) for admin in ("yes", 1, [])],
    *[("PATCH", "users/eve", body) for body in ([], "x", 7, {"groups": ["ml"]}, {"id": 1})],
    *[("POST", f"groups/{name}", None) for name in (LONG, "%1b%5b2J", "a%0ab")],
    *[("POST", "groups", {"groups": names}) for names in ("ab", 7, [7], [LONG], [ESCAPE], [[]])],
    *[("POST", "groups/new", {"users": users}) for users in ("eve", 7, [7], ["nobody"], [LONG])],
    *[("POST", "groups/ml/users", {"users": u}) for u in ("eve", 7, [7], ["nobody"], {}, None)],
    *[("DELETE", "groups/ml/users", {"users": u}) for u in ("eve", 7, [7], ["nobody"], None)],
    *[(method, "groups/ml/users", body) for method in ("POST", "DELETE") for body in ([], 7, {})],
    *[("PUT", "groups/ml/properties", body) for body in ([], "x", 7)],
    ("GET", "users?limit=x", None),
    ("GET", "users?offset=x", None),
    ("GET", "users?state=x", None),
    ("GET", "users?sort=x", None),
]
BY_STUDENT: list[tuple[str, str, Any]] = [
    *[
        (m, LAB, {"display_name": n})
        for m in ("POST", "PATCH")
        for n in (7, None, [], LONG, ESCAPE)
    ],
    *[("PUT", "users/eve/servers/new", {"display_name": n}) for n in (7, [], LONG, ESCAPE)],
    *[
        (m, LAB, {"user_options": o})
        for m in ("POST", "PATCH")
        for o in ("x", 7, [], {"a": LONG * 20})
    ],
    *[("POST", LAB, body) for body in ([], "x", 7, {"a": LONG * 20})],
    *[("PATCH", LAB, {"name": name}) for name in (7, None, [], "", LONG, ESCAPE, "<b>", "A B")],
    *[("PATCH", LAB, body) for body in ([], "x", 7, {}, {"state": {}}, {"name": "x", "a": 1})],
    *[("DELETE", LAB, body) for body in ([], "x", 7, {"remove": "no"}, {"remove": 1})],
    *[
        ("POST", "users/eve/tokens", {"expires_in": s})
        for s in ("1", 1.5, [], -1, 0, 10**10, 10**40)
    ],
    *[("POST", "users/eve/tokens", {"note": note}) for note in (7, [], {}, LONG * 4, ESCAPE)],
    *[
        ("POST", "users/eve/tokens", {"scopes": s})
        for s in ("self", 7, [7], [ESCAPE], ["!"], ["x!y=z"])
    ],
    *[("POST", "users/eve/tokens", {"roles": r}) for r in ("user", 7, [7], ["no-such-role"])],
    *[("POST", "users/eve/tokens", body) for body in ([1], "x", 7)],
    *[("POST", "users/eve/activity", {"servers": s}) for s in ("x", 7, [1], {"": 7}, {"": {}})],
    *[
        ("POST", "users/eve/activity", {"servers": {n: {LAST: "2020-01-01T00:00Z"}}})
        for n in ("no", ESCAPE)
    ],
    *[
        ("POST", "users/eve/activity", {"servers": {"": {LAST: t}}})
        for t in (7, "x", ESCAPE, [], None)
    ],
    *[("POST", "users/eve/activity", body) for body in ([], {}, 7, {LAST: 7}, {LAST: ESCAPE})],
    *[
        ("POST", "shares/eve/lab", body)
        for body in ([1], 7, {"user": 7}, {"user": "a", "group": "b"})
    ],
]


def name_of(row: Any) -> str:
    return re.sub(r"[^\w.]+", "-", ascii(row))[:60]


@pytest.mark.parametrize(("method", "path", "body"), BY_ADMIN, ids=map(name_of, BY_ADMIN))
def test_what_an_admin_cannot_mean_is_refused_with_words(
    hub: Hub, prof: Visitor, method: str, path: str, body: Any
) -> None:
    before, since = state_of(hub), len(hub.story())
    answer = prof.api(method, path, json=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert len(answer.json()["message"]) > 5, answer.text
    assert state_of(hub) == before
    assert_no_harm(hub, since)


@pytest.mark.parametrize(("method", "path", "body"), BY_STUDENT, ids=map(name_of, BY_STUDENT))
def test_what_a_student_cannot_mean_is_refused_with_words(
    request: pytest.FixtureRequest, hub: Hub, method: str, path: str, body: Any
) -> None:
    request.node.hubs = [hub]
    eve = enter(hub, "eve")
    before, since = state_of(hub), len(hub.story())
    answer = eve.api(method, path, json=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert len(answer.json()["message"]) > 5, answer.text
    assert state_of(hub) == before
    assert_no_harm(hub, since)


LOGINS = [
    {},
    {"username": ""},
    {"username": "ann", "password": ""},
    {"username": "ann", "password": "wrong"},
    {"username": "ann", "password": "x" * 100_000},
    {"username": LONG, "password": "RIGHT"},
    {"username": "<b>", "password": "RIGHT"},
    {"username": "a/b", "password": "RIGHT"},
    {"username": "   ", "password": "RIGHT"},
    {"username": "a\nFAKE LINE", "password": "wrong"},
]


@pytest.mark.parametrize("fields", LOGINS, ids=map(name_of, LOGINS))
def test_a_log_in_that_cannot_be_is_refused_with_words(
    request: pytest.FixtureRequest, hub: Hub, fields: dict[str, str]
) -> None:
    request.node.hubs = [hub]
    before, since = state_of(hub), len(hub.story())
    visitor = Visitor(hub)
    visitor.go("/hub/login")
    sent = {k: hub.password if v == "RIGHT" else v for k, v in fields.items()}
    answer = visitor.send("/hub/login", sent)
    assert 400 <= answer.status_code < 500
    told = "nvalid username or password", "user name is missing"
    assert any(words in answer.text for words in told), "no words"
    assert not visitor.is_in()
    assert state_of(hub) == before
    assert_no_harm(hub, since)


@pytest.mark.parametrize("profile", ["", "gpu", LONG, ESCAPE, "USUAL", "usual\x00"])
def test_a_spawn_form_with_no_such_profile_is_refused_with_words(
    request: pytest.FixtureRequest, hub: Hub, profile: str
) -> None:
    request.node.hubs = [hub]
    since, machines = len(hub.story()), len(hub.view().alive)
    with enter(hub, "eve") as eve:
        answer = eve.send("/hub/spawn/eve/lab", {"profile": profile})
        told = answer.text
        if answer.status_code < 400:  # the start is under way: its page tells
            told = str(list(User(hub, "eve").progress("lab"))[-1]["message"])
    assert "kind of machine" in told
    assert len(hub.view().alive) == machines
    assert_no_harm(hub, since)


@pytest.mark.parametrize("hours", ["", "x", "nan", "-1", "1e9", LONG])
def test_a_keep_form_that_cannot_be_is_refused_with_words(
    request: pytest.FixtureRequest, hub: Hub, hours: str
) -> None:
    request.node.hubs = [hub]
    since = len(hub.story())
    with enter(hub, "eve") as eve:
        answer = eve.send("/hub/keep", {"server": "", "hours": hours})
        assert eve.send("/hub/keep", {"server": ESCAPE, "hours": "1"}).status_code == 404
    assert answer.status_code == 400, answer.text
    assert_no_harm(hub, since)


# ---- what is kept


@pytest.mark.parametrize("method", ["PUT", "PATCH", "POST"])
def test_of_a_servers_options_only_its_kind_of_machine_is_kept(
    request: pytest.FixtureRequest, hub: Hub, method: str
) -> None:
    request.node.hubs = [hub]
    fay = hub.user(f"fay-{method.lower()}")
    path = f"users/{fay.path}/servers/lab"
    if method != "PUT":
        hub.api("PUT", path)
    filler = {f"k{n}": "f" * 100 for n in range(30)}
    sent = {"profile": "usual", **filler}
    answer = hub.api(method, path, json={"user_options": sent})
    assert answer.status_code < 300, answer.text
    if method == "POST":
        fay.wait_ready("lab")
    listing = hub.api("GET", "users?include_stopped_servers")
    [shown] = [user for user in listing.json() if user["name"] == fay.name]
    options = shown["servers"]["lab"]["user_options"]
    assert options in ({"profile": "usual"}, {}), "of a PATCH, JupyterHub shows nothing yet"
    assert "ffff" not in listing.text
    if method != "POST":
        fay.start("lab")
    listing = hub.api("GET", "users?include_stopped_servers").text
    assert '"user_options": {"profile": "usual"}' in listing
    assert "ffff" not in listing
    assert len(listing) < 2500 * len(json.loads(listing)), "what an admin's page loads"


def test_options_of_megabytes_are_refused_and_neither_kept_nor_logged(
    request: pytest.FixtureRequest, hub: Hub
) -> None:
    request.node.hubs = [hub]
    eve, since = enter(hub, "eve"), len(hub.story())
    for method in ("POST", "PUT", "PATCH"):
        sent = {"user_options": {"profile": "usual", "x": "f" * 3_000_000}}
        answer = eve.api(method, LAB, json=sent)
        assert answer.status_code == 413, answer.text
        assert str(bodies.SERVER_BYTES_MAX) in answer.json()["message"]
    assert len(hub.story()) - since < 20_000
    assert "ffff" not in hub.api("GET", "users?include_stopped_servers").text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "users"),
        ("POST", "groups"),
        ("POST", "groups/ml"),
        ("POST", "groups/ml/users"),
        ("DELETE", "groups/ml/users"),
        ("POST", "users/eve/activity"),
    ],
)
def test_a_long_list_of_who_may_send_none_is_refused_unread(
    request: pytest.FixtureRequest, hub: Hub, method: str, path: str
) -> None:
    request.node.hubs = [hub]
    since = len(hub.story())
    names = [f"u{number}" for number in range(bodies.LIST_ENTRIES_MAX)]
    sent = {"usernames": names, "users": names, "groups": names}
    with enter(hub, "eve") as eve:
        answer = eve.api(method, path, json=sent)
    assert answer.status_code == 413, answer.text
    assert str(bodies.FORM_BYTES_MAX) in answer.json()["message"]
    assert_no_harm(hub, since)


def test_a_long_list_of_an_admin_is_read_to_the_end(hub: Hub) -> None:
    names = [*(f"u{number}" for number in range(bodies.LIST_ENTRIES_MAX - 1)), "a/b"]
    answer = hub.api("POST", "users", json={"usernames": names})
    assert answer.status_code == 400
    assert "'a/b' has a / in it" in answer.json()["message"]
    answer = hub.api("POST", "users", json={"usernames": [*names, "one"]})
    assert answer.status_code == 400
    assert "50001 entries; 50000 are allowed" in answer.json()["message"]
