"""Which names users and groups of the hub can have: one rule for hub, userlists and settings. Pure.

Owns that rule, as words for whoever writes a name and as the pattern that the hub is given. Must
not know the hub.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from urllib.parse import unquote

NAME_MAX = 255  # characters that the hub's database has for a name (JupyterHub 6.1, orm.py)
MARKUP = "<>"
"""JupyterHub's page.html writes the name of whoever looks into a script, where ``</script>`` ends
it. No provider has names with these characters."""


def normalize(name: str) -> str:
    """A name as JupyterHub writes it (``Authenticator.normalize_username``)."""
    return name.lower()


def user_fault(name: str) -> str | None:
    """Why the hub does not take a user of this normalised name; None if it does."""
    if any(character in MARKUP for character in name):
        return "has a < or > in it"
    return name_fault(name)


def name_fault(name: str) -> str | None:
    """Why neither user nor group has such a name (``Authenticator.validate_username``)."""
    if not name:
        return "has no name"
    if "/" in name:
        return "has a / in it"
    if set(name) == {"."} or set(unquote(name)) == {"."}:
        return "has nothing but dots"
    if name != name.strip():
        return "begins or ends with a space"
    if not name.isprintable():
        return "has a character that cannot be seen"
    if len(name) > NAME_MAX:
        return f"has more than {NAME_MAX} characters"
    return None


def username_pattern() -> str:
    """What ``user_fault`` asks beyond JupyterHub's own rule, for ``Authenticator``'s trait."""
    return rf"[^{MARKUP}{''.join(_unseen_ranges())}]{{1,{NAME_MAX}}}\Z"


def _unseen_ranges() -> Iterator[str]:
    for is_seen, codes in groupby(range(sys.maxunicode + 1), lambda c: chr(c).isprintable()):
        if not is_seen:
            first, *rest = codes
            yield f"\\U{first:08x}-\\U{rest[-1] if rest else first:08x}"
