"""What requests to the hub's API may hold, where JupyterHub 6.1 takes anything or stumbles.

Pure. Owns the table of routes, sizes and values, and the words of a refusal. Must not know who
asks, nor what becomes of a request: what passes here may still be refused by JupyterHub.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ec2spawner.names import normalize, user_fault

NAME_MAX = 255
"""Of users, groups, servers and their display names: the width of JupyterHub's columns."""
NOTE_MAX = 1023
"""Of a token's note, likewise."""
SERVER_BYTES_MAX = 4096
"""Of a request about a server. Its options are kept and shown, and name a kind of machine only."""
FORM_BYTES_MAX = 64 * 1024
LIST_ENTRIES_MAX = 50_000
"""Of names in one request."""
EXPIRES_MAX_SECONDS = 10 * 366 * 86400
"""Of a token: later than the year 9999 there is no date, and JupyterHub answers 500."""

NAMES_SHOWN, CHARACTERS_SHOWN = 10, 40
"""Of a list in which many names are bad."""

Check = Callable[[Any], str]
"""Why a value is refused; "" if it is not."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a request, and the status of the answer."""

    words: str
    status: int = 400


@dataclass(frozen=True)
class Rule:
    """What a request to one route may hold."""

    path: str
    methods: Collection[str]
    max_bytes: int = FORM_BYTES_MAX
    checks: Mapping[str, Check] = field(default_factory=dict)
    needed: Collection[str] = ()
    is_closed: bool = False
    """Whether nothing but what ``checks`` names may be there."""
    name: Check | None = None
    """What the path's last part must be: the name of something that is made."""
    lists_by: str = ""
    """The scope with which a request may be as long as any: it may hold the names of all users.
    JupyterHub looks at scopes only later, so of others no more is read than is read quickly."""


def is_plain(text: str) -> bool:
    """Whether there is no character in it that shows as nothing, or moves what is shown."""
    return not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text)


def _text(most: int) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            return "must be a text"
        if len(value) > most:
            return f"has {len(value)} characters; {most} are allowed"
        return "" if is_plain(value) else "has control characters"

    return check


def _list(value: Any) -> str:
    """By its length first: what is too long for anybody is not looked through."""
    if not isinstance(value, list):
        return "must be a list of texts"
    if len(value) > LIST_ENTRIES_MAX:
        return f"has {len(value)} entries; {LIST_ENTRIES_MAX} are allowed"
    return ""


def _texts(most: int) -> Check:
    one = _text(most)

    def check(value: Any) -> str:
        if unfit := _list(value):
            return unfit
        wrong = next((found for v in value if (found := one(v) or ("" if v else "is empty"))), "")
        return f"has an entry that {wrong}" if wrong else ""

    return check


def _user_names(value: Any) -> str:
    """Those of a class that an admin adds at once: which of them cannot be, and why."""
    if unfit := _list(value):
        return unfit
    if not all(isinstance(name, str) for name in value):
        return "must be a list of texts"
    faults = ((name, user_fault(normalize(name))) for name in value)
    bad = [f"{name[:CHARACTERS_SHOWN]!r} {fault}" for name, fault in faults if fault]
    more = [f"and {len(bad) - NAMES_SHOWN} more"] if len(bad) > NAMES_SHOWN else []
    listed = "; ".join([*bad[:NAMES_SHOWN], *more])
    return listed and f"are not all possible, so nobody was added: {listed}"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _object(value: Any) -> str:
    return "" if isinstance(value, dict) else "must be an object"


def _seconds(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return "must be a whole number of seconds"
    is_possible = 0 < value <= EXPIRES_MAX_SECONDS
    return "" if is_possible else f"must be between 1 and {EXPIRES_MAX_SECONDS} seconds"


def _or_null(check: Check) -> Check:
    return lambda value: "" if value is None else check(value)


_NAME, _NAMES = _text(NAME_MAX), _texts(NAME_MAX)
_SERVER: Mapping[str, Check] = {"display_name": _NAME, "user_options": _or_null(_object)}


def _user(value: Any) -> str:
    return _NAME(value) or ("has < or >" if "<" in value or ">" in value else "")


_USER: Mapping[str, Check] = {
    "name": _user,
    "admin": _flag,
    "auth_state": _or_null(_object),
}
_CHANGED_SERVER: Mapping[str, Check] = {
    "name": _NAME,
    "display_name": _NAME,
    "user_options": _object,
}
_SERVERS = r"users/[^/]+/(server|servers/[^/]*)"
_USUAL_SERVER = r"users/[^/]+/(server|servers/)"


def _no_name(value: Any) -> str:
    """Renamed, the usual server would leave room for a new one, which no bound on homes refuses."""
    return "cannot be given to the usual server; make a further server with that name instead"


_SHARE: Mapping[str, Check] = {
    "scopes": _or_null(_texts(NAME_MAX)),
    "user": _or_null(_NAME),
    "group": _or_null(_NAME),
    "code": _or_null(_NAME),
    "expires_in": _or_null(_seconds),
}
_TOKEN: Mapping[str, Check] = {
    "note": _or_null(_text(NOTE_MAX)),
    "expires_in": _or_null(_seconds),
    "roles": _or_null(_texts(NAME_MAX)),
    "scopes": _or_null(_texts(NOTE_MAX)),
}

RULES = (
    Rule(_SERVERS, ("PUT", "POST"), SERVER_BYTES_MAX, _SERVER),
    Rule(
        _USUAL_SERVER,
        ("PATCH",),
        SERVER_BYTES_MAX,
        {**_CHANGED_SERVER, "name": _no_name},
        is_closed=True,
    ),
    Rule(_SERVERS, ("PATCH",), SERVER_BYTES_MAX, _CHANGED_SERVER, is_closed=True),
    Rule(_SERVERS, ("DELETE",), SERVER_BYTES_MAX, {"remove": _flag}),
    Rule(
        "users",
        ("POST",),
        checks={"usernames": _user_names, "admin": _flag},
        needed=("usernames",),
        lists_by="admin:users",
    ),
    Rule("users/[^/]+", ("POST",), checks=_USER, is_closed=True, name=_user),
    Rule("users/[^/]+", ("PATCH",), checks=_USER, is_closed=True),
    Rule("users/[^/]+/tokens", ("POST",), checks=_TOKEN),
    Rule("users/[^/]+/activity", ("POST",)),
    Rule(
        "groups",
        ("POST",),
        checks={"groups": _NAMES, "users": _NAMES},
        needed=("groups",),
        lists_by="admin:groups",
    ),
    Rule("groups/[^/]+", ("POST",), checks={"users": _NAMES}, name=_NAME, lists_by="admin:groups"),
    Rule(
        "groups/[^/]+/users",
        ("POST", "DELETE"),
        checks={"users": _NAMES},
        needed=("users",),
        lists_by="groups",
    ),
    Rule("groups/[^/]+/properties", ("PUT",)),
    Rule("(shares|share-codes)/.*", ("POST", "PATCH"), checks=_SHARE),
)


GONE = (("POST", "authorizations/token/[^/]+"), ("GET", "authorizations/token"))
"""Routes whose handlers JupyterHub calls with other arguments than they take: it answered 500."""


def is_gone(method: str, path: str) -> bool:
    """Whether there is no such route, whoever asks; ``path`` is below ``/hub/api/``."""
    return any(method == known and re.fullmatch(pattern, path) for known, pattern in GONE)


def fault_in(
    method: str, path: str, body: bytes, name: str = "", scopes: Collection[str] = ()
) -> Fault | None:
    """Why a request is refused; None where there is no reason here.

    ``path`` is below ``/hub/api/``, as it was sent; ``name`` its last part, decoded; ``scopes``
    those of who asks, without what each is limited to.
    """
    for rule in RULES:
        if method in rule.methods and re.fullmatch(rule.path, path):
            return _fault_of_size(rule, body, scopes) or _fault(rule, body, name)
    return None


def _fault_of_size(rule: Rule, body: bytes, scopes: Collection[str]) -> Fault | None:
    if len(body) <= rule.max_bytes or rule.lists_by in scopes:
        return None
    return Fault(f"The request has {len(body)} bytes; {rule.max_bytes} are allowed.", 413)


def _fault(rule: Rule, body: bytes, name: str) -> Fault | None:
    if rule.name and (wrong := rule.name(name)):
        return Fault(f"The name {wrong}.")
    try:
        sent = json.loads(body) if body.strip() else None
    except (ValueError, RecursionError):
        return Fault("The request is no JSON.")
    if sent is None and not rule.needed:
        return None
    if not isinstance(sent, dict):
        return Fault("The request must be a JSON object.")
    return _fault_of_values(rule, sent)


def _fault_of_values(rule: Rule, sent: Mapping[str, Any]) -> Fault | None:
    for key in rule.needed:
        if not sent.get(key):
            return Fault(f"{key} is missing.")
    for key, value in sent.items():
        check = rule.checks.get(key)
        if check is None and rule.is_closed:
            return Fault(f"{key[:40]!r} cannot be set; only {', '.join(rule.checks)} can.")
        wrong = check(value) if check else ""
        if wrong:
            return Fault(f"{key} {wrong}.")
    return None
