"""The lease: of all hubs of a cluster one may write, whatever gets lost, and soon one may again."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.buckets import TROUBLES, Bucket, Door
from core.virtual import in_virtual_time, run, until
from ec2spawner import metrics
from ec2spawner.errors import (
    AnotherHub,
    CloudError,
    Denied,
    NotFound,
    NotTheHolder,
    Rejected,
    Unreachable,
)
from ec2spawner.identity import Process
from ec2spawner.lease import LOOK_SECONDS, RENEW_SECONDS, Lease, monotonic
from ec2spawner.s3 import Stored
from ec2spawner.tenancy import (
    LEASE_SECONDS,
    MARGIN_SECONDS,
    Record,
    Seen,
    Standing,
    Step,
    another_hub,
    decide,
    held_until,
    is_final,
    key_of,
    look,
    read_record,
)

KEY = key_of("class")
HERE = Process("here", "i-0123456789abcdef0", "boot-1", "pid:[1]", 100, 5)
THERE = Process("there", "i-0123456789abcdef1", "boot-2", "pid:[1]", 200, 6)
MINE = Record("mine", 3, "2026-01-01", HERE)
OTHERS = Record("other", 7, "2026-01-01", THERE)


# ---- what is decided

NOW = 1000.0
JUST = NOW - 0.1
LONG_AGO = NOW - LEASE_SECONDS


@pytest.mark.parametrize(
    ("seen", "is_dead", "step"),
    [
        (None, False, Step.CREATE),
        (Seen("e", MINE, JUST), False, Step.RENEW),
        (Seen("e", MINE, LONG_AGO), False, Step.RENEW),
        (Seen("e", MINE, JUST), True, Step.RENEW),
        (Seen("e", OTHERS, JUST), False, Step.WAIT),
        (Seen("e", OTHERS, LONG_AGO + 0.01), False, Step.WAIT),
        (Seen("e", OTHERS, LONG_AGO), False, Step.TAKE),
        (Seen("e", OTHERS, LONG_AGO, is_alive=True), False, Step.TAKE),
        (Seen("e", OTHERS, JUST), True, Step.TAKE),
        (Seen("e", replace(OTHERS, is_ended=True), JUST), False, Step.TAKE),
        (Seen("e", None, JUST), False, Step.WAIT),
        (Seen("e", None, LONG_AGO), False, Step.TAKE),
    ],
)
def test_step_by_step(seen: Seen | None, is_dead: bool, step: Step) -> None:
    assert decide(seen, "mine", is_dead, NOW) is step


def test_the_holder_stops_before_a_challenger_begins() -> None:
    sent_at = 100.0
    seen = look(None, Stored("e", OTHERS.to_bytes()), sent_at)  # at the earliest
    assert decide(seen, "mine", False, held_until(sent_at) + MARGIN_SECONDS - 0.1) is Step.WAIT
    assert held_until(sent_at) <= sent_at + LEASE_SECONDS - MARGIN_SECONDS
    assert RENEW_SECONDS * 2 < LEASE_SECONDS - MARGIN_SECONDS, "one renewal may fail"


def test_what_is_seen_unchanged_counts_from_the_first_sight() -> None:
    first = look(None, Stored("e", OTHERS.to_bytes()), 1.0)
    assert first == Seen("e", OTHERS, 1.0)
    assert look(first, Stored("e", OTHERS.to_bytes()), 9.0) == first


def test_a_holder_that_was_seen_to_write_lives() -> None:
    first = look(None, Stored("e", OTHERS.to_bytes()), 1.0)
    again = replace(OTHERS, beat=8)
    assert look(first, Stored("f", again.to_bytes()), 9.0) == Seen("f", again, 9.0, is_alive=True)
    third = replace(OTHERS, holder="third")
    assert look(first, Stored("g", third.to_bytes()), 9.0) == Seen("g", third, 9.0)
    assert look(first, None, 9.0) is None


def test_what_is_written_is_what_is_read() -> None:
    assert read_record(OTHERS.to_bytes()) == OTHERS
    ended = replace(MINE, is_ended=True)
    assert read_record(ended.to_bytes()) == ended


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        json.dumps({**json.loads(OTHERS.to_bytes()), "holder": 5}).encode(),
        json.dumps({**json.loads(OTHERS.to_bytes()), "beat": "7"}).encode(),
        json.dumps({**json.loads(OTHERS.to_bytes()), "is_ended": "no"}).encode(),
        json.dumps({**json.loads(OTHERS.to_bytes()), "process": {}}).encode(),
        replace(OTHERS, process=replace(THERE, pid=0)).to_bytes(),
        replace(OTHERS, process=replace(THERE, pid=-1)).to_bytes(),
    ],
)
def test_what_no_hub_has_written_is_nobodys(body: bytes) -> None:
    assert read_record(body) is None


def test_the_error_names_the_other_hub_and_what_to_do() -> None:
    error = another_hub(Seen("e", OTHERS, NOW), "s3://bucket/key", was_ours=False)
    for word in ("there", "i-0123456789abcdef1", "200", "2026-01-01", "s3://bucket/key"):
        assert word in error.for_operator()
    assert "Stop one of both" in error.next_step
    assert "restarted" not in error.next_step
    assert "restarted" in another_hub(Seen("e", OTHERS, NOW), "p", was_ours=True).next_step
    assert "no hub has written" in another_hub(Seen("e", None, NOW), "p", was_ours=False).why
    assert "is held by" in error.why
    ended = Seen("e", replace(OTHERS, is_ended=True), NOW)
    assert "was held by" in another_hub(ended, "p", was_ours=True).why
    assert "there" not in error.for_user()
    assert error.for_user().startswith("Another hub serves this cluster. Tell ")


@pytest.mark.parametrize(
    ("problem", "final"),
    [
        (None, False),
        (Unreachable("x"), False),
        (NotTheHolder("x"), False),
        (AnotherHub("x"), True),
        (Denied("x"), True),
        (NotFound("x", aws_code="NoSuchBucket"), True),
        (Rejected("x"), True),
    ],
)
def test_which_problems_waiting_does_not_mend(problem: CloudError | None, final: bool) -> None:
    assert is_final(problem) is final


def test_the_clock_goes_on_while_the_machine_is_suspended() -> None:
    assert monotonic() >= 0.0
    assert monotonic() <= monotonic()


# ---- one lease and another, in virtual time


class Town:
    """A bucket, and hubs that want the lease of the one cluster."""

    def __init__(self) -> None:
        self.bucket = Bucket()
        self.hubs: list[Hub] = []

    def hub(self, process: Process = HERE, **options: Any) -> Hub:
        hub = Hub(self, process, **options)
        self.hubs.append(hub)
        return hub

    def holders(self) -> list[Hub]:
        return [hub for hub in self.hubs if hub.may_write()]


class Hub:
    """A lease that is kept by a process which can be killed; its clock may be off, and go wrong."""

    def __init__(
        self,
        town: Town,
        process: Process,
        *,
        rate: float = 1.0,
        offset: float = 0.0,
        troubles: Iterator[str] | None = None,
    ) -> None:
        self.process = process
        self.door = Door(town.bucket, troubles)
        self._town = town
        self.is_dead = False
        self.lease = Lease(
            self.door,
            "class",
            process,
            clock=lambda: offset + rate * asyncio.get_running_loop().time(),
            lives=self._knows_to_live,
        )
        self.task = asyncio.ensure_future(self.lease.run())

    def _knows_to_live(self, other: Process, me: Process) -> bool | None:
        """Only of its own machine."""
        ours = [h for h in self._town.hubs if h.process == other and other.boot_id == me.boot_id]
        return not ours[0].is_dead if ours else None

    def may_write(self) -> bool:
        return self.lease.is_held() and not self.is_dead

    @property
    def standing(self) -> Standing:
        return self.lease.standing

    def kill(self) -> None:
        """SIGKILL: not even what it has begun is ended in order."""
        self.is_dead = self.door.is_dead = True
        self.task.cancel()

    async def stop(self) -> None:
        """SIGTERM."""
        self.task.cancel()
        await asyncio.wait({self.task})


@in_virtual_time
async def test_the_first_hub_has_the_lease_after_one_call() -> None:
    town = Town()
    hub = town.hub()
    assert hub.standing is Standing.UNKNOWN
    permit = hub.lease.permit()
    assert isinstance(permit, NotTheHolder)
    await until(hub.may_write, 0.2, 0.01)
    assert hub.door.calls == {"put": 1}
    assert hub.lease.permit() is None
    assert hub.lease.problem is None
    await asyncio.sleep(3600)
    assert hub.may_write()
    assert hub.door.calls["get"] == 0
    assert 360 <= hub.door.calls["put"] <= 452, "every 8 to 10 s"


@in_virtual_time
async def test_a_second_hub_waits_as_long_as_the_first_lives_and_says_who_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    town = Town()
    first = town.hub(HERE)
    await until(first.may_write)
    second = town.hub(THERE)
    await until(lambda: second.standing is Standing.ANOTHERS, RENEW_SECONDS + 2 * LOOK_SECONDS)
    await asyncio.sleep(600)
    assert town.holders() == [first]
    assert second.door.calls["put"] == 1, "it only asked whether nobody is there"
    assert isinstance(second.lease.problem, AnotherHub)
    assert isinstance(second.lease.permit(), AnotherHub)
    assert "on here" in second.lease.problem.why
    told = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(told) == 1, "once"
    assert "Stop one of both" in told[0].getMessage()


@in_virtual_time
async def test_a_second_hub_on_the_same_machine_knows_at_once() -> None:
    town = Town()
    first = town.hub(HERE)
    await until(first.may_write)
    second = town.hub(replace(HERE, pid=101))
    await until(lambda: second.standing is Standing.ANOTHERS, 0.5)
    await asyncio.sleep(600)
    assert town.holders() == [first]


@in_virtual_time
async def test_a_hub_killed_and_restarted_on_its_machine_takes_over_at_once() -> None:
    town = Town()
    first = town.hub(HERE)
    await until(first.may_write)
    await asyncio.sleep(33)
    first.kill()
    again = town.hub(replace(HERE, pid=101))
    assert await until(again.may_write, 1, 0.01) < 0.4, "three round trips"


@in_virtual_time
async def test_a_hub_killed_on_another_machine_is_waited_for() -> None:
    town = Town()
    first = town.hub(HERE)
    await until(first.may_write)
    await asyncio.sleep(33)
    first.kill()
    second = town.hub(THERE)
    took = await until(second.may_write, 100)
    assert LEASE_SECONDS <= took < LEASE_SECONDS + LOOK_SECONDS + 1
    assert second.lease.problem is None


@in_virtual_time
async def test_while_it_is_not_known_whether_the_other_lives_nobody_is_told_so() -> None:
    town = Town()
    town.hub(HERE).kill()
    first = town.hub(HERE)
    await until(first.may_write)
    first.kill()
    second = town.hub(THERE)
    await asyncio.sleep(LEASE_SECONDS - 1)
    assert second.standing is Standing.UNKNOWN
    assert second.lease.problem is None


@in_virtual_time
async def test_a_hub_that_ends_in_order_gives_the_lease_back() -> None:
    town = Town()
    first = town.hub(HERE)
    await until(first.may_write)
    second = town.hub(THERE)
    await asyncio.sleep(20)
    await first.stop()
    assert not first.may_write()
    assert await until(second.may_write, 100) < LOOK_SECONDS + 0.5
    third = town.hub(HERE)
    await second.stop()
    assert await until(third.may_write, 100) < LOOK_SECONDS + 0.5


@pytest.mark.parametrize("trouble", ["lost-after", "late"])
@in_virtual_time
async def test_a_hub_gives_the_lease_back_also_while_a_renewal_is_not_answered(
    trouble: str,
) -> None:
    town = Town()
    first = town.hub(HERE, troubles=iter(["ok", trouble]))
    await until(lambda: first.door.calls["put"] == 2, 20)
    await asyncio.sleep(0.06)
    await first.stop()
    record = read_record(town.bucket.objects[KEY].body)
    assert record is not None
    assert record.is_ended
    await asyncio.sleep(30)
    assert read_record(town.bucket.objects[KEY].body) == record, "a late write changes nothing"


@in_virtual_time
async def test_a_hub_that_never_had_the_lease_gives_nothing_back() -> None:
    town = Town()
    first = town.hub(HERE)
    await until(first.may_write)
    second = town.hub(THERE)
    await asyncio.sleep(20)
    await second.stop()
    assert second.door.calls["put"] == 1
    await asyncio.sleep(60)
    assert town.holders() == [first]


@in_virtual_time
async def test_an_end_without_aws_is_not_held_up_for_long(
    caplog: pytest.LogCaptureFixture,
) -> None:
    town = Town()
    hub = town.hub(HERE, troubles=iter(["ok", *["silent"] * 9]))
    await until(hub.may_write)
    begun = asyncio.get_running_loop().time()
    await hub.stop()
    assert asyncio.get_running_loop().time() - begun < 4
    assert "not given back" in caplog.text


@pytest.mark.parametrize("trouble", TROUBLES)
@in_virtual_time
async def test_one_renewal_that_goes_wrong_costs_nothing(trouble: str) -> None:
    town = Town()
    hub = town.hub(HERE, troubles=iter(["ok", trouble]))
    await until(hub.may_write)
    for _ in range(600):
        await asyncio.sleep(0.1)
        assert hub.may_write()


@pytest.mark.parametrize("trouble", TROUBLES)
@in_virtual_time
async def test_a_first_write_that_goes_wrong_is_made_good(trouble: str) -> None:
    town = Town()
    hub = town.hub(HERE, troubles=iter([trouble]))
    await until(hub.may_write, 8)
    await asyncio.sleep(60)
    assert hub.may_write()


@in_virtual_time
async def test_aws_away_ends_the_hold_before_anybody_else_may_have_it_and_then_it_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    town = Town()
    hub = town.hub(HERE)
    await until(hub.may_write)
    hub.door.is_away = True
    took = await until(lambda: not hub.may_write(), 60)
    assert took <= LEASE_SECONDS - MARGIN_SECONDS
    assert hub.standing is Standing.LAPSED
    assert isinstance(hub.lease.permit(), NotTheHolder)
    assert isinstance(hub.lease.problem, Unreachable)
    await asyncio.sleep(600)
    assert caplog.text.count("could not be renewed in time") == 1
    hub.door.is_away = False
    assert await until(hub.may_write, 60) < 5
    assert "holds the lease" in caplog.text
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


@in_virtual_time
async def test_a_hold_counts_from_the_moment_at_which_the_renewal_was_sent() -> None:
    town = Town()
    hub = town.hub(HERE, troubles=iter(["ok", "slow-after"]))
    await until(lambda: hub.door.calls["put"] == 2, 20, 0.01)
    await asyncio.sleep(1)
    hub.door.is_away = True
    left = LEASE_SECONDS - MARGIN_SECONDS - 1
    assert await until(lambda: not hub.may_write(), 60, 0.01) == pytest.approx(left, abs=0.1)


@in_virtual_time
async def test_a_hub_that_has_lost_the_lease_never_takes_it_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    town = Town()
    first = town.hub(HERE)
    await until(first.may_write)
    first.door.is_away = True
    second = town.hub(THERE)
    await until(second.may_write, 60)
    assert town.holders() == [second]
    first.door.is_away = False
    await until(lambda: first.standing is Standing.ANOTHERS, 60)
    assert isinstance(first.lease.permit(), AnotherHub)
    assert "restarted" in first.lease.problem.next_step  # type: ignore[union-attr]
    assert caplog.text.count("Another hub serves this cluster") == 1
    await second.stop()
    await asyncio.sleep(600)
    assert town.holders() == []
    assert first.task.done()
    again = town.hub(replace(HERE, pid=101))
    await until(again.may_write, 2)


@in_virtual_time
async def test_of_many_challengers_one_takes_over() -> None:
    town = Town()
    first = town.hub(HERE)
    await until(first.may_write)
    for number in range(8):
        town.hub(replace(THERE, boot_id=f"boot-{10 + number}"))
    await asyncio.sleep(5)
    first.kill()
    await until(town.holders, 60)
    for _ in range(600):
        await asyncio.sleep(0.1)
        assert len(town.holders()) == 1


@pytest.mark.parametrize("may_list", [True, False])
@in_virtual_time
async def test_an_object_that_was_removed_is_made_anew(may_list: bool) -> None:
    town = Town()
    hub = town.hub(HERE)
    hub.door.may_list = may_list
    await until(hub.may_write)
    town.bucket.objects.clear()
    for _ in range(600):
        await asyncio.sleep(0.1)
        assert hub.may_write()
    assert KEY in town.bucket.objects


@in_virtual_time
async def test_a_challenger_that_may_not_list_finds_an_object_gone() -> None:
    town = Town()
    first = town.hub(HERE)
    await until(first.may_write)
    second = town.hub(THERE)
    second.door.may_list = False
    await asyncio.sleep(5)
    first.kill()
    town.bucket.objects.clear()
    await until(second.may_write, LOOK_SECONDS + 3)


@in_virtual_time
async def test_an_object_that_is_no_hubs_is_taken_over_after_a_while() -> None:
    town = Town()
    town.bucket.put(KEY, b"hello", None)
    hub = town.hub(HERE)
    assert await until(hub.may_write, 60) >= LEASE_SECONDS


@in_virtual_time
async def test_what_can_only_be_mended_by_hand_is_known_and_mended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    town = Town()
    put = Door.put

    async def denied(*_: Any, **__: Any) -> str:
        raise Denied("You may not.")

    monkeypatch.setattr(Door, "put", denied)
    hub = town.hub(HERE)
    await asyncio.sleep(5)
    assert isinstance(hub.lease.problem, Denied)
    monkeypatch.setattr(Door, "put", put)
    assert await until(hub.may_write, 60) < 5


@in_virtual_time
async def test_a_defect_is_logged_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    town = Town()
    put = Door.put

    async def broken(*_: Any, **__: Any) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(Door, "put", broken)
    hub = town.hub(HERE)
    await asyncio.sleep(5)
    assert isinstance(hub.lease.problem, Rejected)
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.setattr(Door, "put", put)
    await until(hub.may_write, 5)


@in_virtual_time
async def test_renewals_are_counted_apart() -> None:
    def counted(outcome: str) -> float:
        return metrics.LEASE_RENEWALS.labels(outcome)._value.get()

    before = counted("ok"), counted("outcome-unknown")
    town = Town()
    hub = town.hub(HERE, troubles=iter(["ok", "lost-after"]))
    await until(lambda: hub.door.calls["put"] == 3, 60)
    await asyncio.sleep(1)
    assert (counted("ok") - before[0], counted("outcome-unknown") - before[1]) == (2, 1)
    assert metrics.LEASE_HELD._value.get() == 1
    await hub.stop()
    assert metrics.LEASE_HELD._value.get() == 0


@in_virtual_time
async def test_whoever_waits_for_the_lease_is_woken_when_it_comes_and_goes() -> None:
    town = Town()
    hub = town.hub(HERE)
    seen: list[Standing] = []
    hub.lease.on_change = lambda: seen.append(hub.standing)
    await asyncio.sleep(30)
    assert seen == [Standing.HELD]
    hub.door.is_away = True
    await asyncio.sleep(60)
    assert seen[-1] is Standing.LAPSED


# ---- whatever happens

HAPPENINGS = ("wait", "wait", "start", "start-there", "kill", "stop", "away", "back")
story = st.lists(
    st.tuples(st.sampled_from(HAPPENINGS), st.floats(0.0, 40.0)), min_size=3, max_size=25
)
luck = st.lists(st.sampled_from(TROUBLES), max_size=80)


async def live(happenings: list[tuple[str, float]], troubles: list[str], skew: float) -> None:
    town = Town()
    lucks = iter(troubles)
    numbers = iter(range(1000))

    def check() -> None:
        holders = town.holders()
        assert len(holders) <= 1, [h.process for h in holders]

    town.bucket.on_write = check

    def start(boot: str) -> None:
        n = next(numbers)
        process = Process("h", "", boot, "pid:[1]", 100 + n, n)
        rate = 1.0 + (skew if n % 2 else -skew)
        town.hub(process, rate=rate, offset=1000.0 * n, troubles=lucks)

    async def watch(seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            check()
            await asyncio.sleep(0.2)

    def living() -> list[Hub]:
        return [hub for hub in town.hubs if not hub.is_dead and not hub.task.done()]

    start("boot-1")
    for what, seconds in happenings:
        alive = living()
        if what == "start":
            start("boot-1")
        elif what == "start-there":
            start(f"boot-{seconds:.0f}")
        elif what in ("kill", "stop", "away", "back") and alive:
            hub = alive[int(seconds) % len(alive)]
            if what == "kill":
                hub.kill()
            elif what == "stop":
                await hub.stop()
            else:
                hub.door.is_away = what == "away"
        await watch(seconds)
    for hub in living():
        hub.door.is_away = False
    town.hub(THERE)  # and in the end there is one that has not lost it
    await watch(40 + len(troubles) * 20)
    assert len(town.holders()) == 1, "all is well, and somebody serves"


@settings(max_examples=150, deadline=None)
@given(happenings=story, troubles=luck, skew=st.floats(0.0, 0.05))
def test_two_hubs_never_hold_the_lease_at_once_and_in_the_end_one_does(
    happenings: list[tuple[str, float]], troubles: list[str], skew: float
) -> None:
    run(live(happenings, troubles, skew))
