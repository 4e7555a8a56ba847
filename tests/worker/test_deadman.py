"""The rule of the dead-man switch: by table, and for all that can be seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2spawner.settings import InstanceConfig
from ec2spawner.worker import deadman
from ec2spawner.worker.deadman import GAP_SECONDS, Reason, Seen, Terms, Watch

LOST, IDLE = 1800.0, 3600.0
TERMS = Terms("http://10.0.0.5:8081/hub/api", LOST, IDLE)
NOW = 100_000.0
EVERY = 60.0


def seen(**changes: object) -> Seen:
    """A claimed worker, long up, whose hub answers and whose server says that nobody works."""
    usual = Seen(
        terms=TERMS,
        is_claimed=True,
        booted_at=0.0,
        commanded_at=10.0,
        is_hub_reached=True,
        is_serving=True,
        worked_at=20.0,
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def watched(now: float = NOW, **changes: object) -> Watch:
    """What was known at ``now``: the hub has been as it is since the boot."""
    usual = Watch(
        looked_at=now, awake_since=0.0, is_hub_reached=True, hub_since=0.0, served_at=None
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def verdict(watch: Watch, **changes: object) -> Reason | None:
    return deadman.reason_to_power_off(watch, seen(**changes), NOW)


def away(seconds: float) -> Watch:
    return watched(is_hub_reached=False, hub_since=NOW - seconds)


UNKNOWN = {"terms": None, "is_claimed": False, "is_serving": False, "worked_at": None}


@pytest.mark.parametrize(
    ("watch", "changes", "reason"),
    [
        # the hub is lost, and nobody works
        (away(LOST), {"worked_at": NOW - IDLE}, Reason.HUB_LOST),
        (away(LOST - 1), {"worked_at": NOW - IDLE}, None),
        (away(LOST), {"worked_at": NOW - IDLE + 1}, None),
        (away(LOST), {"worked_at": NOW}, None),
        (away(LOST * 50), {"worked_at": NOW}, None),
        (away(LOST), {"is_claimed": False, "is_serving": False}, Reason.HUB_LOST),
        # a server that says nothing, or what cannot be, counts from the command that started it
        (away(LOST), {"worked_at": None, "commanded_at": NOW - IDLE}, Reason.HUB_LOST),
        (away(LOST), {"worked_at": None, "commanded_at": NOW - IDLE + 1}, None),
        (away(LOST), {"worked_at": NOW + 1, "commanded_at": NOW - IDLE}, Reason.HUB_LOST),
        # no server: from when one was last seen
        (replace(away(LOST), served_at=NOW - IDLE), {"is_serving": False}, Reason.HUB_LOST),
        (replace(away(LOST), served_at=NOW - IDLE + 1), {"is_serving": False}, None),
        # a boot, a command and a gap begin the spans anew
        (away(LOST), {"booted_at": NOW - LOST + 1}, None),
        (away(LOST * 9), {"commanded_at": NOW - LOST + 1}, None),
        (away(LOST * 9), {"commanded_at": NOW - IDLE + 1}, None),
        (replace(away(LOST), awake_since=NOW - IDLE + 1), {}, None),
        # while the hub is in reach, the hub decides
        (watched(), {"worked_at": NOW - 4 * IDLE + 1}, None),
        (watched(), {"is_claimed": False, "is_serving": False, "commanded_at": None}, None),
        (watched(), {"worked_at": NOW - 4 * IDLE}, Reason.CULLER_FAILED),
        (watched(), {"is_serving": False, "worked_at": None}, Reason.CULLER_FAILED),
        (watched(hub_since=NOW - IDLE + 1), {"worked_at": NOW - 4 * IDLE}, None),
        (watched(hub_since=NOW - IDLE), {"worked_at": NOW - 4 * IDLE}, Reason.CULLER_FAILED),
        (away(LOST - 1), {"worked_at": NOW - 4 * IDLE}, None),
        # no hub ever said who it is
        (away(1), {**UNKNOWN, "commanded_at": None, "booted_at": NOW - LOST}, Reason.NO_HUB),
        (away(1), {**UNKNOWN, "commanded_at": None, "booted_at": NOW - LOST + 1}, None),
        (away(1), {**UNKNOWN, "commanded_at": NOW - LOST}, Reason.NO_HUB),
        (away(1), {**UNKNOWN, "commanded_at": NOW - LOST + 1}, None),
        # claimed by a hub that knows no switch
        (away(LOST), {"terms": None, "worked_at": NOW - 4 * IDLE + 1}, None),
        (away(1), {"terms": None, "worked_at": NOW - 4 * IDLE}, Reason.CULLER_FAILED),
    ],
)
def test_the_rule(watch: Watch, changes: dict[str, object], reason: Reason | None) -> None:
    assert verdict(watch, **changes) is reason


def test_the_hub_s_own_defaults_hold_where_no_hub_has_told_any() -> None:
    fields = InstanceConfig.model_fields
    assert fields["HUB_LOST_SECONDS"].default == deadman.DEFAULT_HUB_LOST_SECONDS
    assert fields["JUPYTER_NOTEBOOK_TIMEOUT"].default == deadman.DEFAULT_IDLE_SECONDS


def test_the_first_look_in_a_boot_does_not_know_for_how_long_the_hub_has_been_away() -> None:
    first = deadman.look(None, seen(is_hub_reached=False), NOW)
    assert (first.hub_since, first.awake_since) == (NOW, 0.0)
    assert deadman.reason_to_power_off(first, seen(is_hub_reached=False), NOW) is None


def test_looks_remember_since_when_the_hub_is_as_it_is() -> None:
    watch = deadman.look(watched(), seen(is_hub_reached=False), NOW + 60)
    assert watch.hub_since == NOW + 60
    watch = deadman.look(watch, seen(is_hub_reached=False), NOW + 120)
    assert watch.hub_since == NOW + 60
    watch = deadman.look(watch, seen(), NOW + 180)
    assert (watch.is_hub_reached, watch.hub_since) == (True, NOW + 180)


@pytest.mark.parametrize("step", [GAP_SECONDS + 1, 36_000.0, -1.0, -36_000.0])
def test_a_machine_that_slept_or_whose_clock_was_set_back_begins_anew(step: float) -> None:
    before = replace(away(LOST * 9), looked_at=NOW)
    gone = seen(is_hub_reached=False, is_serving=False)
    watch = deadman.look(before, gone, NOW + step)
    assert (watch.awake_since, watch.hub_since) == (NOW + step, NOW + step)
    assert deadman.reason_to_power_off(watch, gone, NOW + step) is None


def test_a_server_that_was_seen_is_remembered_after_its_end() -> None:
    watch = deadman.look(watched(), seen(), NOW + 60)
    watch = deadman.look(watch, seen(is_serving=False), NOW + 120)
    assert watch.served_at == NOW + 60


moments = st.floats(0, 1e7)
optional = st.none() | moments
terms = st.builds(Terms, st.just(TERMS.hub_url), st.floats(1, 604_800), st.floats(1, 2_592_000))


@st.composite
def looks(draw: st.DrawFn) -> tuple[Watch | None, Seen, float]:
    """Anything that can have been left, anything that can be seen, and now."""
    watch = st.builds(Watch, moments, moments, st.booleans(), moments, optional)
    anything = st.builds(
        Seen,
        st.none() | terms,
        st.booleans(),
        moments,
        optional,
        st.booleans(),
        st.booleans(),
        optional,
    )
    return draw(st.none() | watch), draw(anything), draw(moments)


@given(looks())
def test_nobody_at_work_is_switched_off(look: tuple[Watch | None, Seen, float]) -> None:
    before, what, now = look
    what = replace(what, is_claimed=True, is_serving=True, worked_at=now)
    watch = deadman.look(before, what, now)
    assert deadman.reason_to_power_off(watch, what, now) is None


@given(looks(), st.floats(0, 0.999))
def test_what_a_hub_has_just_commanded_stays(
    look: tuple[Watch | None, Seen, float], part: float
) -> None:
    before, what, now = look
    spans = [what.terms.hub_lost_seconds, what.terms.idle_seconds] if what.terms else [LOST]
    what = replace(what, commanded_at=now - part * min(spans))
    watch = deadman.look(before, what, now)
    assert deadman.reason_to_power_off(watch, what, now) is None


@given(looks())
def test_an_unclaimed_worker_whose_hub_is_in_reach_is_the_hub_s_business(
    look: tuple[Watch | None, Seen, float],
) -> None:
    before, what, now = look
    what = replace(what, terms=what.terms or TERMS, is_claimed=False, is_hub_reached=True)
    watch = deadman.look(before, what, now)
    assert deadman.reason_to_power_off(watch, what, now) is None


@given(
    what=looks().map(lambda look: look[1]),
    lost=st.floats(1, 20_000),
    idle=st.floats(1, 20_000),
    sleeps_at=st.integers(0, 100),
)
def test_without_hub_and_work_every_machine_goes_off_in_bounded_time(
    what: Seen, lost: float, idle: float, sleeps_at: int
) -> None:
    """Also one that slept, whatever its server says that cannot be."""
    began = max(what.booted_at, what.commanded_at or 0.0)
    known = Terms(TERMS.hub_url, lost, idle) if what.terms else None
    what = replace(what, terms=known, is_hub_reached=False)
    if what.worked_at is not None and what.worked_at > began:
        what = replace(what, worked_at=1e9)  # still to come, for as long as this lasts
    now, watch = began, None
    bound = max(lost, idle, 4 * IDLE) if known is None else max(lost, idle)
    while now <= began + 36_000 + 101 * EVERY + bound + 4 * EVERY:
        watch = deadman.look(watch, what, now)
        if deadman.reason_to_power_off(watch, what, now):
            return
        # A server that ends counts as work until it is seen to have ended.
        what = replace(what, is_serving=False)
        sleeps_at -= 1
        now += 36_000 if sleeps_at == 0 else EVERY
    raise AssertionError("it stays on for ever")


@given(looks(), st.floats(0, 1e6))
def test_only_spans_count(look: tuple[Watch | None, Seen, float], by: float) -> None:
    """The same later is the same; so no clock that is set, and no age of a boot, decides."""
    _, what, now = look
    by = float(round(by))
    now, lag = float(round(now)), float(round(now / 2))
    what = replace(what, booted_at=lag, commanded_at=lag, worked_at=lag, is_hub_reached=False)
    watch = Watch(now, lag, False, lag, lag)
    moved = replace(what, booted_at=lag + by, commanded_at=lag + by, worked_at=lag + by)
    later = Watch(now + by, lag + by, False, lag + by, lag + by)
    assert deadman.reason_to_power_off(watch, what, now) is deadman.reason_to_power_off(
        later, moved, now + by
    )
