"""Who comes in by a provider's word, and which groups follow it."""

from __future__ import annotations

import pytest

from ec2spawner.memberships import (
    GROUPS_MAX,
    PROVIDERS,
    Memberships,
    Standing,
    groups_after,
    is_admitted,
    is_provider_group,
    standing_of,
)
from ec2spawner.people import OAUTH_AUTHENTICATORS

KNOWN = Standing(is_known=True)
BY_MEMBERSHIP = Standing(is_known=True, is_by_membership=True)
STRANGER = Standing()


def said(*groups: str, unknown: tuple[str, ...] = (), admitting: bool = True) -> Memberships:
    names = frozenset(groups)
    return Memberships(names, frozenset(unknown), names if admitting else frozenset())


@pytest.mark.parametrize(
    ("standing", "memberships", "is_in"),
    [
        (STRANGER, said(), False),
        (STRANGER, said("lab"), True),
        (STRANGER, said("lab", admitting=False), False),
        (STRANGER, said(unknown=("lab",)), False),
        (KNOWN, said(), True),
        (KNOWN, said(unknown=("lab",)), True),
        (BY_MEMBERSHIP, said(), False),
        (BY_MEMBERSHIP, said(unknown=("lab",)), False),
        (BY_MEMBERSHIP, said("lab"), True),
    ],
)
def test_who_comes_in(standing: Standing, memberships: Memberships, is_in: bool) -> None:
    assert is_admitted(standing, memberships) is is_in


def test_where_somebody_stands_is_in_the_hub_s_groups() -> None:
    assert standing_of(None) == STRANGER
    assert standing_of([]) == KNOWN
    assert standing_of(["biology101", "github:lab"]) == KNOWN
    assert standing_of(["github:lab", "by-membership:github"]) == BY_MEMBERSHIP


def test_a_membership_at_an_earlier_provider_lets_nobody_in_at_the_next() -> None:
    before = ["by-membership:github", "github:lab"]
    assert not is_admitted(standing_of(before), said())
    assert is_admitted(standing_of(before), said("staff"))
    after = groups_after("oidc", before, BY_MEMBERSHIP, said("staff"))
    assert not is_admitted(standing_of(after), said())


def test_a_group_of_the_userlist_is_never_the_provider_s() -> None:
    before = ["biology101", "github:lab", "lab", "google:x"]
    assert groups_after("github", before, KNOWN, said("lab2")) == [
        *("biology101", "github:lab2", "google:x", "lab")
    ]


def test_what_was_not_said_stays_as_it_was() -> None:
    memberships = said("new", unknown=("old", "never"))
    assert groups_after("github", ["github:old", "github:gone"], KNOWN, memberships) == [
        *("github:new", "github:old")
    ]


def test_who_came_by_a_membership_alone_stays_marked() -> None:
    first = groups_after("github", [], STRANGER, said("lab"))
    assert first == ["by-membership:github", "github:lab"]
    assert groups_after("github", first, BY_MEMBERSHIP, said("lab")) == first


def test_a_provider_cannot_flood_the_hub_with_groups() -> None:
    many = said(*(f"g{n:05}" for n in range(10_000)), "x" * 300, "un\x1bseen")
    groups = groups_after("oidc", [], KNOWN, many)
    assert 0 < len(groups) <= GROUPS_MAX
    assert all(len(group) <= 255 and group.isprintable() for group in groups)


def test_a_group_named_like_the_mark_marks_nobody_known() -> None:
    # A provider that has a group "by-membership" takes nobody's right away that an admin gave.
    before = groups_after("oidc", [], KNOWN, said("by-membership"))
    assert is_admitted(standing_of(before), said())


def test_the_groups_of_every_provider_and_the_marks_are_known_from_those_of_lists() -> None:
    assert set(PROVIDERS) == set(OAUTH_AUTHENTICATORS)
    for group in ("github:uni", "oidc:/staff", "cilogon:https://x.org/idp", "by-membership:oidc"):
        assert is_provider_group(group)
    for group in ("biology101", "github", "section:a", "by-membership"):
        assert not is_provider_group(group)
