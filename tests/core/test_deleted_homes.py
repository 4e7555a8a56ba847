"""Who removes server after server is bounded, and nobody else is."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from core.builders import NOW, POLICY, home, listing, planned, worker
from ec2spawner.actions import Action, Claim, Launch, Refuse
from ec2spawner.errors import TooManyDeleted
from ec2spawner.model import TAG_USER, DeletedMark, InstanceState, Owner, Volume, VolumeState
from ec2spawner.refusals import DAY_SECONDS, DELETED_HOMES_MAX
from ec2spawner.wishes import Demand, Wishes

EVE = Owner("eve", "again")


def removed(number: int, user: str = "eve", days_ago: float = 0.0) -> Volume:
    """A home whose server a user has removed."""
    owner, mark = Owner(user, f"n{number}"), DeletedMark(NOW - days_ago * DAY_SECONDS, "row")
    label = {TAG_USER: owner.label}
    return home(f"vol-9{number}", owner, deleted=mark, generation=1, more=label)


MANY = tuple(removed(n, days_ago=n / 4) for n in range(DELETED_HOMES_MAX))


def asks(owner: Owner, *, is_bounded: bool = True) -> Wishes:
    demand = Demand(owner, "default", "row", NOW - 1, is_bounded=is_bounded)
    return Wishes(wanted=MappingProxyType({owner.key: demand}))


def kinds(actions: list[Action]) -> list[type]:
    return [type(action) for action in actions]


def test_a_user_with_too_many_removed_homes_gets_no_further_one_and_reads_when() -> None:
    assert kinds(planned(listing(*MANY[1:]), asks(EVE))) == [Launch]
    (refusal,) = planned(listing(*MANY), asks(EVE))
    assert isinstance(refusal, Refuse)
    assert refusal.owner_key == EVE.key
    assert isinstance(refusal.error, TooManyDeleted)
    words = refusal.error.for_user()
    assert f"removed {DELETED_HOMES_MAX} servers" in words
    assert "in 5 days, when the oldest" in words  # it went 2.25 days ago


def test_no_spare_is_given_to_who_is_refused() -> None:
    spare = (worker("i-1"), home("vol-1", on="i-1"))
    assert kinds(planned(listing(*spare), asks(EVE))) == [Claim]
    assert kinds(planned(listing(*spare, *MANY), asks(EVE))) == [Refuse]


@pytest.mark.parametrize(
    "wishes",
    [
        asks(Owner("eve")),
        asks(EVE, is_bounded=False),
        asks(Owner("bob", "lab")),
        asks(Owner("ev", "e")),
        asks(Owner("eve2", "lab")),
    ],
    ids=["the usual server", "an admin asks", "another", "a beginning", "a longer name"],
)
def test_others_the_usual_server_and_admins_are_not_refused(wishes: Wishes) -> None:
    assert kinds(planned(listing(*MANY), wishes)) == [Launch]


def test_who_has_a_home_or_a_machine_for_it_is_not_refused() -> None:
    assert kinds(planned(listing(*MANY, home("vol-1", EVE, generation=1)), asks(EVE))) == [Launch]
    claimed = worker("i-1", InstanceState.PENDING, EVE), home("vol-1", EVE, "i-1")
    assert planned(listing(*MANY, *claimed), asks(EVE)) == []


def test_what_is_gone_and_what_is_no_home_of_theirs_does_not_count() -> None:
    gone = replace(MANY[0], state=VolumeState.DELETING)
    assert kinds(planned(listing(gone, *MANY[1:]), asks(EVE))) == [Launch]
    kept = home("vol-5", Owner("eve", "lab"), generation=1, more={TAG_USER: "eve/lab"})
    assert kinds(planned(listing(kept, *MANY[1:]), asks(EVE))) == [Launch]


def test_the_moment_at_which_it_ends_is_never_past() -> None:
    view = listing(*(removed(n, days_ago=6.999) for n in range(DELETED_HOMES_MAX)))
    (refusal,) = planned(view, asks(EVE), policy=POLICY)
    assert isinstance(refusal, Refuse)
    assert "in a day, when" in refusal.error.for_user()
