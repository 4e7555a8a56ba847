"""Which workers are broken, and what becomes of them and of the homes that they hold."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from core.builders import (
    ANN,
    BOB,
    NOW,
    PENDING,
    POLICY,
    RUNNING,
    STOPPED,
    STOPPING,
    home,
    listing,
    planned,
    unwanted_since,
    wants,
    worker,
)
from ec2spawner.actions import Attach, Claim, Detach, Launch, Refuse, Start, Stop, Tag, Terminate
from ec2spawner.errors import Denied
from ec2spawner.listing import Expectation, Listing
from ec2spawner.model import (
    TAG_BROKEN,
    TAG_DELETED,
    TAG_REPLACED,
    DeletedMark,
    InstanceState,
    Mark,
    Worker,
)
from ec2spawner.placement import Failure
from ec2spawner.replacing import (
    BOOT_BOUND_SECONDS,
    CUT_OFF_IMPAIRED_SECONDS,
    CUT_OFF_SECONDS,
    EPIDEMIC_WORKERS,
    FORCE_AFTER_SECONDS,
    FRESH_SECONDS,
    IMPAIRED_BOUND_SECONDS,
    REPLACEMENTS_SECONDS,
    SHORTEST_BOOT_SECONDS,
    STOP_BOUND_SECONDS,
    STUCK_SECONDS,
    boot_bound,
    is_cut_off,
    is_epidemic,
)
from ec2spawner.wishes import Memory, Wishes

HOUR = 3600.0


def retired(one: Worker, tag: str = TAG_BROKEN, at: float = NOW - 10) -> Worker:
    """The same worker with a mark."""
    tags = {**one.tags, tag: Mark(at, "silent").to_tag()}
    return replace(one, tags=MappingProxyType(tags))


def seen(**more: Any) -> Memory:
    return Memory(**{k: MappingProxyType(v) if isinstance(v, dict) else v for k, v in more.items()})


def anns(state: InstanceState = RUNNING) -> Listing:
    return listing(worker("i-1", state, ANN), home("vol-1", ANN, "i-1", generation=1))


def marked(actions: list[Any]) -> list[tuple[tuple[str, ...], str]]:
    return [(a.ids, a.reason) for a in actions if isinstance(a, Tag) and TAG_BROKEN in a.changes]


# ---- what is broken


@pytest.mark.parametrize(
    ("silent", "impaired", "reason"),
    [
        (BOOT_BOUND_SECONDS - 1, (), None),
        (BOOT_BOUND_SECONDS, (), "silent"),
        (IMPAIRED_BOUND_SECONDS - 1, ("i-1",), None),
        (IMPAIRED_BOUND_SECONDS, ("i-1",), "impaired"),
        (IMPAIRED_BOUND_SECONDS, ("i-2",), None),
    ],
)
def test_a_running_worker_that_is_silent_past_its_bound_is_marked_with_time_and_reason(
    silent: float, impaired: tuple[str, ...], reason: str | None
) -> None:
    memory = seen(silent={"i-1": silent}, impaired=frozenset(impaired))
    actions = planned(anns(), wants(ANN), memory=memory)
    if reason is None:
        assert actions == []
    else:
        mark = ((TAG_BROKEN, f"{NOW:.0f} {reason}"),)
        assert actions == [Tag(("i-1",), mark, reason)]


def test_who_gave_up_waiting_finds_another_worker_the_next_time() -> None:
    memory = seen(silent={"i-1": BOOT_BOUND_SECONDS})
    assert marked(planned(anns(), memory=memory)) == [(("i-1",), "silent")]


def test_a_worker_on_which_somebody_works_is_not_marked() -> None:
    wishes = wants(ANN)
    demand = replace(wishes.wanted[ANN.key], is_waiting=False, instance_id="i-1")
    works = replace(wishes, wanted=MappingProxyType({ANN.key: demand}))
    assert planned(anns(), works, memory=seen(silent={"i-1": 9999.0})) == []


@pytest.mark.parametrize("state", [PENDING, STOPPING, STOPPED])
def test_only_what_runs_can_be_silent(state: InstanceState) -> None:
    memory = seen(silent={"i-1": 9999.0}, impaired=frozenset({"i-1"}))
    assert marked(planned(anns(state), wants(ANN), memory=memory)) == []


def test_nobody_is_called_broken_by_an_old_listing() -> None:
    memory = seen(silent={"i-1": 9999.0})
    old = replace(anns(), full_at=NOW - FRESH_SECONDS - 1)
    assert marked(planned(old, wants(ANN), memory=memory)) == []
    fresh = replace(anns(), full_at=NOW - FRESH_SECONDS)
    assert len(marked(planned(fresh, wants(ANN), memory=memory))) == 1


def test_a_mark_that_could_not_be_written_is_written_later() -> None:
    held = {("tag", "i-1"): Failure(Denied("no"), NOW + 1)}
    memory = seen(silent={"i-1": 9999.0}, holds=held)
    assert planned(anns(), wants(ANN), memory=memory) == []
    assert len(marked(planned(anns(), wants(ANN), memory=memory, now=NOW + 1))) == 1


@pytest.mark.parametrize("seconds", [STOP_BOUND_SECONDS - 1, STOP_BOUND_SECONDS])
def test_a_stop_that_does_not_end_while_its_user_waits_makes_its_worker_broken(
    seconds: float,
) -> None:
    memory = seen(stopping={"i-1": NOW - seconds})
    is_over = seconds == STOP_BOUND_SECONDS
    expected = [(("i-1",), "stuck")] if is_over else []
    assert marked(planned(anns(STOPPING), wants(ANN), memory=memory)) == expected
    assert marked(planned(anns(STOPPING), memory=memory)) == []


def broken_ones(number: int, at: float) -> list[Worker]:
    return [retired(worker(f"i-old{n}", STOPPED, ANN, home=None), at=at) for n in range(number)]


@pytest.mark.parametrize(
    ("number", "at", "is_marked"),
    [(1, NOW - 60, True), (2, NOW - 60, False), (2, NOW - REPLACEMENTS_SECONDS, True)],
)
def test_after_two_in_an_hour_the_user_is_told_instead_of_given_another_one(
    number: int, at: float, is_marked: bool
) -> None:
    view = listing(
        worker("i-1", RUNNING, ANN),
        home("vol-1", ANN, "i-1", generation=1),
        *broken_ones(number, at),
    )
    actions = planned(view, wants(ANN), memory=seen(silent={"i-1": 9999.0}))
    assert (len(marked(actions)) == 1) is is_marked
    told = [a.error.for_user() for a in actions if isinstance(a, Refuse)]
    assert len(told) == (not is_marked)
    assert all("Your files are safe" in words for words in told)


@pytest.mark.parametrize(
    ("start_timeout", "bound"),
    [
        (600, BOOT_BOUND_SECONDS),
        (7200, BOOT_BOUND_SECONDS),
        (400, 200.0),
        (10, SHORTEST_BOOT_SECONDS),
    ],
)
def test_a_replacement_fits_into_the_same_start(start_timeout: int, bound: float) -> None:
    assert boot_bound(start_timeout) == bound


@pytest.mark.parametrize(
    ("silent", "answering", "is_one"),
    [
        (EPIDEMIC_WORKERS, 0, True),
        (EPIDEMIC_WORKERS - 1, 0, False),
        (EPIDEMIC_WORKERS, EPIDEMIC_WORKERS, False),
        (100, 99, True),
    ],
)
def test_if_most_machines_are_silent_they_are_not_to_blame(
    silent: int, answering: int, is_one: bool
) -> None:
    assert is_epidemic(silent, answering) is is_one


@pytest.mark.parametrize(
    ("seconds", "impaired", "silent", "answering", "expected"),
    [
        (CUT_OFF_SECONDS - 1, False, 1, 0, False),
        (CUT_OFF_SECONDS, False, 1, 0, True),
        (CUT_OFF_IMPAIRED_SECONDS - 1, True, 1, 0, False),
        (CUT_OFF_IMPAIRED_SECONDS, True, 1, 0, True),
        (CUT_OFF_SECONDS, False, 2, 1, False),  # the network's fault
        (CUT_OFF_SECONDS, True, 2, 1, False),
        (CUT_OFF_SECONDS, False, 2, 2, True),
    ],
)
def test_who_works_is_given_up_after_a_long_silence_unless_most_are_silent(
    seconds: float, impaired: bool, silent: int, answering: int, expected: bool
) -> None:
    assert is_cut_off(seconds, silent, answering, is_impaired=impaired) is expected


# ---- what becomes of it


def test_another_worker_is_launched_for_the_home_while_the_broken_one_stops() -> None:
    view = listing(
        retired(worker("i-1", RUNNING, ANN, zone="b")),
        home("vol-1", ANN, "i-1", generation=1, zone="b"),
    )
    actions = planned(view, wants(ANN))
    launches = [a for a in actions if isinstance(a, Launch)]
    assert [(a.offering.zone, a.home_gib, a.count) for a in launches] == [("b", 0, 1)]
    assert [a.ids for a in actions if isinstance(a, Stop)] == [("i-1",)]
    assert not [a for a in actions if isinstance(a, (Detach, Start))]


def test_a_spare_without_home_is_claimed_at_once_and_gets_the_home_when_it_is_free() -> None:
    broken = retired(worker("i-1", STOPPING, ANN))
    held = home("vol-1", ANN, "i-1", generation=1)
    spare = worker("i-2", RUNNING, home=None)
    assert planned(listing(broken, held, spare), wants(ANN)) == [
        Claim(ANN, "i-2", None, "the owner's worker is gone, the home is there")
    ]
    claimed = worker("i-2", RUNNING, ANN, home=None)
    assert planned(listing(broken, held, claimed), wants(ANN)) == []
    stopped = replace(broken, state=STOPPED)
    assert planned(listing(stopped, held, claimed), wants(ANN)) == [
        Detach("vol-1", "i-1", "its worker is retired")
    ]
    free = home("vol-1", ANN, generation=1)
    bare = retired(worker("i-1", STOPPED, ANN, home=None))
    assert planned(listing(bare, free, claimed), wants(ANN)) == [
        Attach("vol-1", "i-2", "its owner's home")
    ]


@pytest.mark.parametrize("state", [PENDING, RUNNING, STOPPING])
def test_no_home_is_detached_from_what_is_not_stopped(state: InstanceState) -> None:
    view = listing(retired(worker("i-1", state, ANN)), home("vol-1", ANN, "i-1", generation=1))
    assert not [a for a in planned(view, wants(ANN)) if isinstance(a, Detach)]


def test_no_home_is_detached_from_a_worker_that_is_not_retired() -> None:
    view = anns(STOPPED)
    assert planned(view, wants(ANN)) == [Start(("i-1",), "its user wants it")]


def test_nobody_gets_another_worker_before_the_mark_is_known_to_stand() -> None:
    marking = Expectation(NOW - 1, tags={"i-1": {TAG_BROKEN: Mark(NOW - 1, "silent").to_tag()}})
    view = listing(
        worker("i-1", STOPPED, ANN),
        home("vol-1", ANN, "i-1", generation=1),
        worker("i-2", RUNNING, home=None),
    )
    assert planned(view, wants(ANN), expectations=[marking]) == []
    stands = replace(marking, settled_at=NOW - 0.5)
    kinds = {type(a) for a in planned(view, wants(ANN), expectations=[stands])}
    assert kinds == {Claim, Detach}


def test_a_blank_home_that_was_never_mounted_goes_along() -> None:
    view = listing(retired(worker("i-1", RUNNING, ANN)), home("vol-1", ANN, "i-1"))
    launches = [a for a in planned(view, wants(ANN)) if isinstance(a, Launch)]
    assert [a.home_gib for a in launches] == [0]


def test_a_home_that_is_not_listed_yet_is_waited_for() -> None:
    view = listing(retired(worker("i-1", RUNNING, ANN)))
    assert not [a for a in planned(view, wants(ANN)) if isinstance(a, (Launch, Claim))]


def test_a_retired_worker_is_never_given_to_anybody_nor_started() -> None:
    view = listing(
        retired(worker("i-1", STOPPED, ANN, home=None)),
        retired(worker("i-2", STOPPED)),
        retired(worker("i-3", RUNNING, home=None), TAG_REPLACED),
        home("vol-2", None, "i-2"),
        home("vol-9", ANN, generation=1),
    )
    actions = planned(view, replace(wants(ANN, BOB), expected=frozenset({ANN.key})))
    assert not [a for a in actions if isinstance(a, (Start, Claim, Attach))]
    assert sum(a.count for a in actions if isinstance(a, Launch)) == 2


def test_a_retired_worker_is_stopped_without_grace_unless_somebody_works_on_it() -> None:
    view = listing(retired(worker("i-1", RUNNING, ANN)), home("vol-1", ANN, "i-1", generation=1))
    assert planned(view) == [Stop(("i-1",), "retired")]
    demand = replace(wants(BOB).wanted[BOB.key], is_waiting=False, instance_id="i-1")
    works = Wishes(wanted=MappingProxyType({BOB.key: demand}))  # renamed meanwhile
    assert planned(view, works) == []


def test_a_stop_that_does_not_end_is_forced_and_not_of_somebody_who_works() -> None:
    view = listing(retired(worker("i-1", STOPPING, ANN)), home("vol-1", ANN, "i-1", generation=1))
    forced = Stop(("i-1",), "its stop does not end", is_forced=True)
    early = seen(stopping={"i-1": NOW - FORCE_AFTER_SECONDS + 1})
    late = seen(stopping={"i-1": NOW - FORCE_AFTER_SECONDS})
    assert planned(view, memory=early) == []
    assert planned(view, memory=late) == [forced]
    demand = replace(wants(ANN).wanted[ANN.key], is_waiting=False, instance_id="i-1")
    works = Wishes(wanted=MappingProxyType({ANN.key: demand}))
    assert planned(view, works, memory=late) == []
    sound = listing(worker("i-1", STOPPING, ANN), home("vol-1", ANN, "i-1", generation=1))
    assert planned(sound, memory=late) == []


@pytest.mark.parametrize(
    "stuck",
    [worker("i-1", STOPPING), worker("i-1", STOPPING, ANN, deleted=DeletedMark(NOW - 999, "row"))],
    ids=["spare", "given up"],
)
def test_what_nobody_will_use_again_is_forced_later(stuck: Worker) -> None:
    for seconds, count in ((STOP_BOUND_SECONDS - 1, 0), (STOP_BOUND_SECONDS, 1)):
        actions = planned(listing(stuck), memory=seen(stopping={"i-1": NOW - seconds}))
        assert [a.is_forced for a in actions if isinstance(a, Stop)] == [True] * count


def test_of_a_machine_that_is_stuck_its_user_is_told_and_nothing_is_detached() -> None:
    view = listing(
        retired(worker("i-1", STOPPING, ANN)),
        home("vol-1", ANN, "i-1", generation=1),
        worker("i-2", RUNNING, ANN, home=None),
    )
    memory = seen(stopping={"i-1": NOW - STUCK_SECONDS})
    told = [a for a in planned(view, wants(ANN), memory=memory) if isinstance(a, Refuse)]
    assert "Nothing is lost" in told[0].error.for_user()
    assert "i-1" in told[0].error.for_operator()
    actions = planned(view, wants(ANN), memory=memory)
    assert {type(a) for a in actions} == {Refuse, Stop}


@pytest.mark.parametrize(
    ("age", "is_due"), [(24 * HOUR - 1, False), (24 * HOUR, True)], ids=["kept", "over"]
)
def test_a_broken_worker_is_kept_for_inspection_and_then_removed(age: float, is_due: bool) -> None:
    view = listing(retired(worker("i-1", STOPPED, ANN, home=None), at=NOW - age))
    expected = [Terminate(("i-1",), "given up, or nobody's")] if is_due else []
    assert planned(view, memory=unwanted_since(9999, "i-1")) == expected
    assert planned(view) == [], "not at the first sight"


def test_a_mark_without_a_time_keeps_a_broken_worker_for_good() -> None:
    one = worker("i-1", STOPPED, ANN, home=None)
    odd = replace(one, tags=MappingProxyType({**one.tags, TAG_BROKEN: "yesterday"}))
    assert planned(listing(odd), memory=unwanted_since(9e9, "i-1")) == []


def test_a_broken_worker_of_a_deleted_user_need_not_be_kept() -> None:
    one = retired(worker("i-1", STOPPED, ANN, home=None))
    gone = replace(one, tags=MappingProxyType({**one.tags, TAG_DELETED: f"{NOW:.0f} row"}))
    assert [type(a) for a in planned(listing(gone))] == [Terminate]


def test_keeping_none_is_a_choice() -> None:
    view = listing(retired(worker("i-1", STOPPED, ANN, home=None), at=NOW))
    policy = replace(POLICY, keep_broken_seconds=0.0)
    actions = planned(view, memory=unwanted_since(9999, "i-1"), policy=policy)
    assert [type(a) for a in actions] == [Terminate]
