"""Which of the hub's groups somebody is in by a provider's word, and whom that lets in. Pure.

Owns the names of such groups: what the provider says is ``github:uni-bio``, so that it is never
taken for a group of the userlist, which nobody but an admin changes. Whoever came in by a
membership alone is in one more, the mark ``by-membership:github``, and comes in for as long as it
lasts; whom an admin then adds, or takes out of that group, comes in for good. Must not know how
providers are asked, nor the hub.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PROVIDERS = ("github", "google", "cilogon", "oidc")
BY_MEMBERSHIP = "by-membership:{}"
GROUP_NAME_MAX = 255  # characters that the hub's database has (JupyterHub 6.1, orm.py)
GROUPS_MAX = 200  # of one person; a provider's list is not ours to trust


@dataclass(frozen=True)
class Memberships:
    """What a provider says of one person, by the provider's own names."""

    groups: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    """Groups of which the provider did not say whether the person is in them."""
    admitting: frozenset[str] = frozenset()
    """Those of ``groups`` whose members may come in."""


@dataclass(frozen=True)
class Standing:
    """Where the hub knows somebody from, before this login."""

    is_known: bool = False
    is_by_membership: bool = False


def is_mark(group: str) -> bool:
    """Whether it is the group of those who came in by a membership alone."""
    return group.startswith(BY_MEMBERSHIP.format(""))


def is_provider_group(group: str) -> bool:
    """Whether logins alone change who is in this group of the hub."""
    return is_mark(group) or group.startswith(tuple(f"{name}:" for name in PROVIDERS))


def is_admitted(standing: Standing, memberships: Memberships) -> bool:
    """Whether somebody comes in: whom an admin has named, and whom a membership admits now."""
    return (standing.is_known and not standing.is_by_membership) or bool(memberships.admitting)


def standing_of(groups: Iterable[str] | None) -> Standing:
    """By the hub's groups of somebody; None for whom it does not know.

    A membership at an earlier provider is no admin's word either: its names may be other people's.
    """
    if groups is None:
        return Standing()
    return Standing(is_known=True, is_by_membership=any(is_mark(group) for group in groups))


def groups_after(
    provider: str, before: Iterable[str], standing: Standing, memberships: Memberships
) -> list[str]:
    """The hub's groups of somebody after this login, in order.

    What is not the provider's stays; what the provider did not say stays as it was.
    """
    prefix = f"{provider}:"
    kept = {group for group in before if not group.startswith(prefix)}
    unsaid = {f"{prefix}{name}" for name in memberships.unknown} & set(before)
    said = {f"{prefix}{name}" for name in sorted(memberships.groups)[:GROUPS_MAX]}
    mark = set() if standing.is_known else {BY_MEMBERSHIP.format(provider)}
    names = {name for name in said if len(name) <= GROUP_NAME_MAX and name.isprintable()}
    return sorted({*kept, *unsaid, *names, *mark})
