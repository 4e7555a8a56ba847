"""What nobody wants is stopped, and in the end removed; everything else is left alone."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from core.builders import (
    ANN,
    BOB,
    NOW,
    PENDING,
    POLICY,
    RUNNING,
    SHUTTING_DOWN,
    STOPPED,
    STOPPING,
    TERMINATED,
    home,
    listing,
    planned,
    snapshot,
    unwanted_since,
    wants,
    worker,
)
from ec2spawner.actions import DeleteSnapshot, DeleteVolume, MakeSnapshot, Stop, Terminate
from ec2spawner.errors import Denied, Rejected
from ec2spawner.listing import Expectation
from ec2spawner.model import (
    TAG_CLUSTER,
    TAG_DELETED,
    TAG_EXPIRES,
    TAG_GENERATION,
    TAG_MOVED_FROM,
    TAG_OWNER,
    TAG_ROLE,
    DeletedMark,
    InstanceState,
    Origin,
    SnapshotState,
    Volume,
    VolumeState,
)
from ec2spawner.placement import Failure
from ec2spawner.reaping import FRESH_SECONDS, OUTLIVES_SECONDS, sightings
from ec2spawner.wishes import Memory, TagWrite, Wishes

GRACE = POLICY.reaper_grace_seconds
DAY = 86400.0
LONG_AGO = DeletedMark(NOW - 8 * DAY, "row")
LATELY = DeletedMark(NOW - 6 * DAY, "row")
EXPIRES = {TAG_EXPIRES: f"{NOW + 1000:.0f}"}
MARKED = {TAG_DELETED: LONG_AGO.to_tag()}
FINAL = {**EXPIRES, **MARKED}
OF_BEFORE = {**EXPIRES, TAG_DELETED: DeletedMark(NOW + 9 * DAY, "row").to_tag()}

# ---- stopping


def test_a_worker_that_nobody_wants_is_stopped_after_the_grace_time() -> None:
    view = listing(worker("i-1", RUNNING, ANN))
    assert planned(view, memory=unwanted_since(GRACE - 1, "i-1")) == []
    assert planned(view, memory=unwanted_since(GRACE, "i-1")) == [Stop(("i-1",), "nobody wants it")]


def test_one_sighting_is_not_enough() -> None:
    view = listing(worker("i-1", RUNNING, ANN))
    memory = unwanted_since(GRACE + 100, "i-1", listed_before=1)  # by this very listing
    assert planned(view, memory=memory) == []


def test_a_worker_that_was_never_seen_unwanted_is_left_alone() -> None:
    assert planned(listing(worker("i-1", RUNNING, ANN))) == []


def test_a_wanted_worker_is_never_stopped() -> None:
    view = listing(worker("i-1", RUNNING, ANN), home("vol-1", ANN, "i-1"))
    assert planned(view, wants(ANN), memory=unwanted_since(9999, "i-1", "vol-1")) == []


def test_a_released_worker_is_stopped_without_grace() -> None:
    view = listing(worker("i-1", RUNNING, ANN), worker("i-2", RUNNING, BOB))
    wishes = Wishes(released=frozenset({ANN.key}))
    assert planned(view, wishes) == [Stop(("i-1",), "its user is done")]


@pytest.mark.parametrize("state", [PENDING, STOPPING, STOPPED, SHUTTING_DOWN, TERMINATED])
def test_only_what_runs_is_stopped(state: InstanceState) -> None:
    view = listing(worker("i-1", state, ANN))
    wishes = Wishes(released=frozenset({ANN.key}))
    assert planned(view, wishes, memory=unwanted_since(9999, "i-1")) == []


@pytest.mark.parametrize("role", ["builder", "manager", "", "else"])
@pytest.mark.parametrize("state", [RUNNING, STOPPED])
def test_other_roles_are_nobodys_business(role: str, state: InstanceState) -> None:
    view = listing(
        worker("i-1", state, role=role),
        home("vol-1", None, role=role),
        home("vol-2", ANN, deleted=LONG_AGO, role=role),
        replace(
            snapshot("snap-1", "vol-9", tags={TAG_EXPIRES: "1"}),
            tags=MappingProxyType({TAG_ROLE: role, TAG_EXPIRES: "1"}),
        ),
    )
    memory = unwanted_since(9999, "i-1", "vol-1", "vol-2")
    assert planned(view, memory=memory) == []


def test_nothing_is_stopped_or_removed_on_an_old_listing() -> None:
    view = listing(
        worker("i-1", RUNNING, ANN),
        worker("i-2", STOPPED),
        home("vol-3", ANN, deleted=LONG_AGO),
        home("vol-4"),
        snapshot("snap-1", "vol-9", tags={TAG_EXPIRES: "1"}),
        full_at=NOW - FRESH_SECONDS - 1,
    )
    wishes = Wishes(released=frozenset({ANN.key}))
    memory = unwanted_since(9999, "i-1", "i-2", "vol-4", listed_before=5000)
    assert planned(view, wishes, memory=memory) == []
    fresh = replace(view, full_at=NOW - FRESH_SECONDS)
    assert len(planned(fresh, wishes, memory=memory)) == 5


def test_a_thousand_idle_workers_are_two_calls() -> None:
    ids = [f"i-{n}" for n in range(1000)]
    view = listing(*(worker(i, RUNNING, ANN) for i in ids))
    stops = planned(view, memory=unwanted_since(GRACE, *ids))
    assert [len(s.ids) for s in stops if isinstance(s, Stop)] == [500, 500]


@pytest.mark.parametrize(("kind", "state"), [("stop", RUNNING), ("terminate", STOPPED)])
def test_what_failed_a_moment_ago_waits(kind: str, state: InstanceState) -> None:
    view = listing(worker("i-1", state))
    holds = MappingProxyType({(kind, "i-1"): Failure(Denied("no"), NOW + 1)})
    memory = replace(unwanted_since(GRACE, "i-1"), holds=holds)
    assert planned(view, memory=memory) == []
    assert planned(view, memory=replace(memory, holds=MappingProxyType({}))) != []


# ---- ending


def test_a_stopped_spare_is_terminated_after_the_grace_time() -> None:
    view = listing(worker("i-1", STOPPED), home("vol-1", None, "i-1"))
    assert planned(view, memory=unwanted_since(GRACE - 1, "i-1")) == []
    assert planned(view, memory=unwanted_since(GRACE, "i-1")) == [
        Terminate(("i-1",), "given up, or nobody's")
    ]


def test_a_running_spare_is_stopped_before_it_is_terminated() -> None:
    view = listing(worker("i-1", RUNNING), home("vol-1", None, "i-1"))
    assert planned(view, memory=unwanted_since(GRACE, "i-1")) == [Stop(("i-1",), "nobody wants it")]


def test_a_spare_that_is_given_to_somebody_now_is_not_reaped() -> None:
    view = listing(worker("i-1", STOPPED), home("vol-1", None, "i-1"))
    actions = planned(view, wants(ANN), memory=unwanted_since(9999, "i-1"))
    assert not [a for a in actions if isinstance(a, (Stop, Terminate))]


def test_an_owned_worker_rests_stopped_for_ever() -> None:
    view = listing(worker("i-1", STOPPED, ANN), home("vol-1", ANN, "i-1"))
    assert planned(view, memory=unwanted_since(400 * DAY, "i-1", "vol-1")) == []


def test_a_given_up_worker_is_stopped_and_terminated_at_once() -> None:
    running = listing(worker("i-1", RUNNING, ANN, deleted=LATELY))
    assert planned(running) == [Stop(("i-1",), "its user is done")]
    stopped = listing(worker("i-1", STOPPED, ANN, deleted=LATELY))
    assert planned(stopped) == [Terminate(("i-1",), "given up, or nobody's")]


def test_a_mark_that_is_on_its_way_ends_nothing_yet() -> None:
    view = listing(worker("i-1", STOPPED, ANN))
    tags = {TAG_DELETED: LATELY.to_tag()}
    wishes = Wishes(writes=(TagWrite(("i-1",), tuple(tags.items()), "deleted"),))
    sent = Expectation(NOW - 1, tags={"i-1": tags})
    assert planned(view, wishes, expectations=[sent]) == []
    answered = replace(sent, settled_at=NOW - 0.5)
    assert planned(view, wishes, expectations=[answered]) == [
        Terminate(("i-1",), "given up, or nobody's")
    ]


# ---- homes


def test_a_given_up_home_is_saved_and_deleted_after_the_days_of_grace() -> None:
    given_up = home("vol-1", ANN, deleted=LONG_AGO, generation=2)
    assert planned(listing(home("vol-1", ANN, deleted=LATELY, generation=2))) == []
    (save,) = planned(listing(given_up))
    assert isinstance(save, MakeSnapshot)
    assert save.volume_id == "vol-1"
    tags = dict(save.tags)
    assert tags[TAG_OWNER] == ANN.key
    assert tags[TAG_CLUSTER] == "class"
    assert tags[TAG_ROLE] == "worker"
    assert tags[TAG_GENERATION] == "2"
    assert tags[TAG_DELETED] == LONG_AGO.to_tag()
    assert float(tags[TAG_EXPIRES]) == NOW + POLICY.snapshot_expire_seconds
    saved = snapshot("snap-1", "vol-1", started_at=NOW - 5, tags=tags)
    assert planned(listing(given_up, saved)) == [
        DeleteVolume("vol-1", "snap-1", "its snapshot is completed")
    ]


def test_a_given_up_home_that_was_never_mounted_goes_after_minutes_but_saved_as_long() -> None:
    lately = DeletedMark(NOW - GRACE, "row")
    given_up = home("vol-1", ANN, deleted=lately)
    assert planned(listing(given_up), now=NOW - 1) == []
    (save,) = planned(listing(given_up))
    assert isinstance(save, MakeSnapshot)
    kept_seconds = POLICY.delete_grace_seconds + POLICY.snapshot_expire_seconds
    assert float(dict(save.tags)[TAG_EXPIRES]) == lately.at + kept_seconds
    saved = snapshot("snap-1", "vol-1", started_at=NOW - 5, tags=dict(save.tags))
    assert [type(a) for a in planned(listing(given_up, saved))] == [DeleteVolume]


@pytest.mark.parametrize(
    ("given_up", "wishes"),
    [
        (home("vol-1", ANN, deleted=LATELY, generation=1), Wishes()),
        (home("vol-1", ANN, deleted=LATELY), Wishes(mounted=frozenset({"vol-1"}))),
        (
            home(
                "vol-1",
                ANN,
                deleted=LATELY,
                more={TAG_MOVED_FROM: Origin("vol-0", 1, "i").to_tag()},
            ),
            Wishes(),
        ),
    ],
    ids=["mounted", "mounted, not yet put down", "a copy"],
)
def test_a_given_up_home_that_may_hold_files_has_its_days(given_up: Volume, wishes: Wishes) -> None:
    removals = (MakeSnapshot, DeleteVolume)
    assert not [a for a in planned(listing(given_up), wishes) if isinstance(a, removals)]


@pytest.mark.parametrize(
    ("snapshots", "kind"),
    [
        ([snapshot("s", "vol-1", SnapshotState.PENDING, tags=FINAL)], None),
        ([snapshot("s", "vol-1", SnapshotState.ERROR, tags=FINAL)], MakeSnapshot),
        ([snapshot("s", "vol-1", SnapshotState.RECOVERABLE, tags=FINAL)], None),
        ([snapshot("s", "vol-1", tags=FINAL)], DeleteVolume),
        ([snapshot("s", "vol-1", started_at=NOW - 5, tags=EXPIRES)], MakeSnapshot),
        ([snapshot("s", "vol-1", started_at=NOW - 5, tags=OF_BEFORE)], MakeSnapshot),
        ([snapshot("s", "vol-1", tags=MARKED)], MakeSnapshot),
        ([snapshot("s", "vol-2", tags=FINAL)], MakeSnapshot),
    ],
    ids=[
        "pending",
        "failed",
        "in the bin",
        "saved",
        "not for this",
        "of a deletion before, by a clock that is ahead",
        "does not say for how long",
        "of another",
    ],
)
def test_a_home_goes_only_after_a_completed_snapshot_made_for_it(
    snapshots: list[object], kind: type | None
) -> None:
    view = listing(home("vol-1", ANN, deleted=LONG_AGO), *snapshots)  # type: ignore[arg-type]
    assert [type(a) for a in planned(view)] == ([kind] if kind else [])


def test_a_snapshot_that_goes_as_soon_as_the_home_does_is_none() -> None:
    given_up = home("vol-1", ANN, deleted=LONG_AGO)
    for seconds, kind in ((OUTLIVES_SECONDS, MakeSnapshot), (OUTLIVES_SECONDS + 1, DeleteVolume)):
        tags = {**MARKED, TAG_EXPIRES: f"{NOW + seconds:.0f}"}
        saved = snapshot("snap-1", "vol-1", started_at=NOW - 5, tags=tags)
        assert [type(a) for a in planned(listing(given_up, saved))] == [kind]


def test_a_hub_whose_clock_is_ahead_saves_a_home_once() -> None:
    given_up = home("vol-1", ANN, deleted=LONG_AGO)
    (save,) = planned(listing(given_up))
    assert isinstance(save, MakeSnapshot)
    by_ec2s_clock = LONG_AGO.at - 3600
    saved = snapshot("snap-1", "vol-1", started_at=by_ec2s_clock, tags=dict(save.tags))
    assert planned(listing(given_up, saved)) == [
        DeleteVolume("vol-1", "snap-1", "its snapshot is completed")
    ]


@pytest.mark.parametrize("state", [VolumeState.IN_USE, VolumeState.CREATING, VolumeState.ERROR])
def test_a_home_that_is_not_available_waits(state: VolumeState) -> None:
    view = listing(home("vol-1", ANN, "i-9", deleted=LONG_AGO, state=state))
    assert planned(view) == []


def test_a_mark_that_nobody_of_ours_wrote_removes_nothing() -> None:
    view = listing(home("vol-1", ANN, more={TAG_DELETED: "please"}))
    assert planned(view) == []


def test_an_orphaned_home_is_saved_after_the_grace_time() -> None:
    view = listing(home("vol-1"))
    assert planned(view, memory=unwanted_since(GRACE - 1, "vol-1")) == []
    (save,) = planned(view, memory=unwanted_since(GRACE, "vol-1"))
    assert isinstance(save, MakeSnapshot)


def test_a_home_without_a_worker_but_with_an_owner_is_kept_for_ever() -> None:
    view = listing(home("vol-1", ANN, generation=1))
    assert planned(view, memory=unwanted_since(400 * DAY, "vol-1")) == []


def test_a_root_volume_is_no_home() -> None:
    root = replace(home("vol-1", ANN, "i-1", deleted=LONG_AGO), device="/dev/sda1")
    assert planned(listing(root), memory=unwanted_since(9999, "vol-1")) == []


@pytest.mark.parametrize("what", ["vol-1", "snap-1"])
def test_a_removal_that_failed_waits(what: str) -> None:
    view = listing(
        home("vol-1", ANN, deleted=LONG_AGO),
        snapshot("snap-1", "vol-9", tags={TAG_EXPIRES: "1"}),
    )
    memory = Memory(holds=MappingProxyType({("retire", what): Failure(Rejected("no"), NOW + 1)}))
    assert len(planned(view)) == 2
    assert len(planned(view, memory=memory)) == 1


# ---- snapshots


@pytest.mark.parametrize(
    ("expires", "is_due"),
    [
        (f"{NOW - 1:.0f}", True),
        (f"{NOW + 1:.0f}", False),
        ("", False),
        ("never", False),
        ("-1", False),
        ("1e3", False),
        ("²", False),
        ("٣", False),
    ],
)
def test_a_snapshot_goes_when_its_time_is_over(expires: str, is_due: bool) -> None:
    view = listing(snapshot("snap-1", "vol-9", tags={TAG_EXPIRES: expires}))
    expected = [DeleteSnapshot("snap-1", "its time is over")] if is_due else []
    assert planned(view) == expected


def test_a_snapshot_without_a_time_stays() -> None:
    assert planned(listing(snapshot("snap-1", "vol-9"))) == []


def test_a_snapshot_under_way_stays() -> None:
    view = listing(snapshot("s", "v", SnapshotState.PENDING, tags={TAG_EXPIRES: "1"}))
    assert planned(view) == []


# ---- since when


def test_sightings_carry_on_and_forget_what_is_wanted_again() -> None:
    view = listing(worker("i-1", RUNNING, ANN), worker("i-2", RUNNING), home("vol-3"))
    first = sightings(view, Wishes(), {}, NOW)
    assert first == dict.fromkeys(("i-1", "i-2", "vol-3"), (NOW, view.full_at))
    later = sightings(view, wants(ANN), first, NOW + 100)
    assert later == dict.fromkeys(("i-2", "vol-3"), (NOW, view.full_at))
    again = sightings(view, Wishes(), later, NOW + 200)
    assert again["i-1"] == (NOW + 200, view.full_at)


def test_sightings_leave_out_other_roles_and_what_is_gone() -> None:
    view = listing(
        worker("i-1", RUNNING, role="builder"),
        worker("i-2", TERMINATED),
        home("vol-1", None, role="builder"),
        home("vol-2", None, "i-9"),
    )
    assert sightings(view, Wishes(), {}, NOW) == {}
