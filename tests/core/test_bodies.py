"""What a request to the hub's API may hold: one row for each value of each route."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from ec2spawner import bodies
from ec2spawner.bodies import (
    FORM_BYTES_MAX,
    LIST_ENTRIES_MAX,
    NAME_MAX,
    NOTE_MAX,
    RULES,
    SERVER_BYTES_MAX,
    fault_in,
)

ESCAPE = "\x1b]0;x\x07\nFAKE LINE"
LONG = "x" * (NAME_MAX + 1)
LAB = "users/ann/servers/lab"
NO_TEXTS: list[Any] = [
    7,
    None,
    [],
    {},
    True,
    LONG,
    ESCAPE,
    "a\u202eb",
    "a\u2028b",
    "a\x85b",
    "\ud800",
]
NO_NAMES: list[Any] = ["ann", 7, None, {}, True, [7], [None], [LONG], [ESCAPE], [["ann"]], [""]]
NO_FLAGS: list[Any] = ["yes", 1, None, [], {}]
NO_OBJECTS: list[Any] = ["x", 7, [], True]
NO_SECONDS: list[Any] = ["1", 1.5, True, [], 0, -1, 10**10, 10**30]

BAD: dict[tuple[str, str, str], list[Any]] = {
    ("POST", LAB, "display_name"): NO_TEXTS,
    ("PUT", LAB, "display_name"): NO_TEXTS,
    ("PATCH", LAB, "display_name"): NO_TEXTS,
    ("POST", LAB, "user_options"): NO_OBJECTS,
    ("PUT", LAB, "user_options"): NO_OBJECTS,
    ("PATCH", LAB, "user_options"): [*NO_OBJECTS, None],
    ("PATCH", LAB, "name"): NO_TEXTS,
    ("PATCH", LAB, "state"): [{}, 1],
    ("DELETE", LAB, "remove"): NO_FLAGS,
    ("POST", "users/ann/server", "user_options"): NO_OBJECTS,
    ("PATCH", "users/ann/server", "name"): [*NO_TEXTS, "n1", ""],
    ("PATCH", "users/ann/servers/", "name"): [*NO_TEXTS, "n1", ""],
    ("PATCH", "users/%61nn/server", "name"): ["n1"],
    ("PATCH", "users/ann/server", "display_name"): NO_TEXTS,
    ("PATCH", "users/ann/servers/", "user_options"): NO_OBJECTS,
    ("POST", "users", "usernames"): [*NO_NAMES, []],
    ("POST", "users", "admin"): NO_FLAGS,
    ("POST", "users/ann", "admin"): NO_FLAGS,
    ("PATCH", "users/ann", "admin"): NO_FLAGS,
    ("PATCH", "users/ann", "name"): NO_TEXTS,
    ("PATCH", "users/ann", "groups"): [["ml"], "ml"],
    ("PATCH", "users/ann", "auth_state"): NO_OBJECTS,
    ("POST", "users/ann/tokens", "note"): [7, [], {}, True, "x" * (NOTE_MAX + 1), ESCAPE],
    ("POST", "users/ann/tokens", "expires_in"): NO_SECONDS,
    ("POST", "users/ann/tokens", "roles"): ["user", 7, [7], [LONG]],
    ("POST", "users/ann/tokens", "scopes"): ["self", 7, [7], [ESCAPE]],
    ("POST", "groups", "groups"): [*NO_NAMES, []],
    ("POST", "groups", "users"): NO_NAMES,
    ("POST", "groups/ml", "users"): NO_NAMES,
    ("POST", "groups/ml/users", "users"): [*NO_NAMES, []],
    ("DELETE", "groups/ml/users", "users"): [*NO_NAMES, []],
    ("POST", "shares/ann/lab", "user"): [7, LONG, ESCAPE, []],
    ("POST", "shares/ann/lab", "group"): [7, LONG, ESCAPE, []],
    ("PATCH", "shares/ann/lab", "scopes"): ["self", [7]],
    ("POST", "share-codes/ann/lab", "expires_in"): NO_SECONDS,
    ("POST", "shares/ann/lab", "code"): [7],
}
ROWS = [(*place, value) for place, values in BAD.items() for value in values]
GOOD: list[tuple[str, str, Any]] = [
    ("POST", LAB, {"display_name": "Zoë's lab <1>", "user_options": {"profile": "gpu"}}),
    ("POST", LAB, {"profile": "gpu", "anything": [1]}),
    ("POST", "users/ann/server", {"user_options": None}),
    ("PATCH", LAB, {"name": "new", "display_name": "New", "user_options": {}}),
    ("PATCH", "users/ann/server", {"display_name": "Mine", "user_options": {"profile": "gpu"}}),
    ("PATCH", "users/ann/servers/", {"display_name": "Mine", "user_options": {}}),
    ("DELETE", LAB, {"remove": True}),
    ("POST", "users", {"usernames": ["ann", "zoë müller"], "admin": False}),
    ("PATCH", "users/ann", {"name": "bob", "admin": True}),
    ("POST", "users/ann/tokens", {"note": "mine", "expires_in": 3600, "scopes": ["self"]}),
    ("POST", "users/ann/tokens", {"note": None, "expires_in": None, "roles": None}),
    ("POST", "groups", {"groups": ["<b>"], "users": []}),
    ("POST", "groups/ml/users", {"users": ["ann"]}),
    ("POST", "shares/ann/lab", {"user": "bob", "scopes": None}),
]


@pytest.mark.parametrize(("method", "path", "key", "value"), ROWS)
def test_a_value_that_cannot_be_is_refused_with_its_key(
    method: str, path: str, key: str, value: Any
) -> None:
    needed = {k: ["x"] for rule in RULES if method in rule.methods for k in rule.needed}
    fault = fault_in(method, path, json.dumps({**needed, key: value}).encode())
    assert fault is not None
    assert key in fault.words
    assert fault.status == 400
    assert bodies.is_plain(fault.words)
    assert len(fault.words) < 300


def test_names_that_cannot_be_are_named_with_the_reason() -> None:
    names = ["ann", "a<b", "x/y", "Zoë Müller", *(f"{n}/" for n in range(1000))]
    fault = fault_in("POST", "users", json.dumps({"usernames": names}).encode())
    assert fault is not None
    assert "'a<b' has a < or > in it; 'x/y' has a / in it; '0/' has a / in it" in fault.words
    assert fault.words.endswith("; and 992 more.")
    assert "'ann'" not in fault.words
    assert len(fault.words) < 400


def test_every_value_of_every_route_has_a_row() -> None:
    wanted = {(rule.path, key) for rule in RULES for key in rule.checks}
    known = {
        (rule.path, key)
        for rule in RULES
        for method, path, key in BAD
        if method in rule.methods and re.fullmatch(rule.path, path)
    }
    assert wanted - known == set()


@pytest.mark.parametrize(("method", "path", "body"), GOOD)
def test_what_pages_and_programs_send_passes(method: str, path: str, body: Any) -> None:
    assert fault_in(method, path, json.dumps(body).encode()) is None


@pytest.mark.parametrize("body", [b"", b"  ", b"null", b"{}"])
def test_a_start_needs_no_body(body: bytes) -> None:
    assert fault_in("POST", "users/ann/server", body) is None


@pytest.mark.parametrize("body", [b"[]", b"7", b'"x"', b"{", b"\xff", b"[" * 4000, b"NaN,"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", LAB), ("PATCH", LAB), ("POST", "users"), ("DELETE", LAB)]
)
def test_a_body_that_is_no_object_is_refused(method: str, path: str, body: bytes) -> None:
    assert fault_in(method, path, body) is not None


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_request_about_a_server_has_some_kilobytes(method: str) -> None:
    sent = json.dumps({"user_options": {"profile": "x" * SERVER_BYTES_MAX}}).encode()
    fault = fault_in(method, LAB, sent)
    assert fault is not None
    assert fault.status == 413
    assert str(SERVER_BYTES_MAX) in fault.words


LISTS = [
    ("POST", "users", "usernames", "admin:users"),
    ("POST", "groups", "groups", "admin:groups"),
    ("POST", "groups/ml", "users", "admin:groups"),
    ("POST", "groups/ml/users", "users", "groups"),
    ("DELETE", "groups/ml/users", "users", "groups"),
]
OWN_SCOPES = {"users:activity", "servers", "tokens", "read:users", "access:servers"}


@pytest.mark.parametrize(("method", "path", "key", "scope"), LISTS)
def test_a_long_list_is_read_only_for_who_may_send_it(
    method: str, path: str, key: str, scope: str
) -> None:
    body = json.dumps({key: [f"user-{n}" for n in range(LIST_ENTRIES_MAX)]}).encode()
    assert fault_in(method, path, body, scopes={*OWN_SCOPES, scope}) is None
    fault = fault_in(method, path, body, scopes=OWN_SCOPES)
    assert fault is not None
    assert fault.status == 413
    assert str(FORM_BYTES_MAX) in fault.words


@pytest.mark.parametrize(
    ("method", "path"),
    [(m, p) for m, p, _, _ in LISTS]
    + [
        ("POST", "users/ann"),
        ("PATCH", "users/ann"),
        ("POST", "users/ann/activity"),
        ("POST", "users/ann/tokens"),
        ("PUT", "groups/ml/properties"),
        ("POST", "shares/ann/lab"),
    ],
)
def test_what_is_too_long_is_refused_before_it_is_parsed(method: str, path: str) -> None:
    fault = fault_in(method, path, b"[" * (FORM_BYTES_MAX + 1), scopes=OWN_SCOPES)
    assert fault is not None
    assert fault.status == 413


@pytest.mark.parametrize("path", ["users/ann/activity", "users/ann/tokens", "users/ann/server"])
def test_an_admins_request_without_a_list_has_the_same_bound(path: str) -> None:
    scopes = {"admin:users", "admin:groups", "groups"}
    fault = fault_in("POST", path, b" " * (FORM_BYTES_MAX + 1), scopes=scopes)
    assert fault is not None
    assert fault.status == 413


class Unread(list[str]):
    """A list of which only the length may be asked."""

    def __iter__(self) -> Iterator[str]:
        pytest.fail("it was looked through")


@pytest.mark.parametrize(("method", "path", "key", "scope"), LISTS)
def test_a_list_of_too_many_is_refused_by_its_length(
    monkeypatch: pytest.MonkeyPatch, method: str, path: str, key: str, scope: str
) -> None:
    too_many = Unread(["x"] * (LIST_ENTRIES_MAX + 1))
    monkeypatch.setattr(bodies.json, "loads", lambda body: {key: too_many})
    fault = fault_in(method, path, b"{}", scopes={scope})
    assert fault is not None
    assert fault.status == 400
    assert fault.words == f"{key} has 50001 entries; 50000 are allowed."


@pytest.mark.parametrize("name", [LONG, ESCAPE])
def test_a_group_has_no_name_that_moves_what_is_shown(name: str) -> None:
    assert fault_in("POST", "groups/x", b"", name) is not None
    assert fault_in("POST", "users/x", b"", name) is not None
    assert fault_in("POST", "groups/x", b"", "<b>ml</b>") is None


def test_what_the_hub_stumbles_over_is_gone() -> None:
    assert bodies.is_gone("POST", "authorizations/token/x")
    assert bodies.is_gone("GET", "authorizations/token")
    assert not bodies.is_gone("GET", "authorizations/token/x")
    assert not bodies.is_gone("POST", "users/ann/tokens")


def test_other_requests_are_nobodys_business_here() -> None:
    assert fault_in("GET", LAB, b"[" * 9999) is None
    assert fault_in("POST", "shutdown", b"[]") is None
