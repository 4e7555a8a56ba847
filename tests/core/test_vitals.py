"""What the hub sees of its workers' health: silences, answers, and stops that last."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from core.builders import ANN, RUNNING, STOPPED, STOPPING, listing, worker
from ec2spawner.model import InstanceState
from ec2spawner.replacing import EPIDEMIC_WORKERS, STUCK_SECONDS
from ec2spawner.vitals import ASK_AFTER_SECONDS, UNSEEN_SECONDS, Vitals

ONE = worker("i-1", RUNNING, ANN)


class Ward:
    """Vitals with a clock of their own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.vitals = Vitals(lambda: self.now)

    def silent_for(self, seconds: float, instance_id: str = "i-1", step: float = 10.0) -> None:
        end = self.now + seconds
        one = replace(ONE, instance_id=instance_id)
        self.vitals.note_silence(one)
        while self.now < end:
            self.now += step
            self.vitals.note_silence(one)


def test_a_silence_lasts_as_long_as_it_was_looked_at() -> None:
    ward = Ward()
    ward.silent_for(50)
    ward.now += 100  # nobody looks
    assert ward.vitals.silent_seconds("i-1") == 50


def test_a_sign_of_life_ends_it() -> None:
    ward = Ward()
    ward.silent_for(50)
    ward.vitals.note_answer("i-1")
    assert ward.vitals.silent_seconds("i-1") == 0
    ward.silent_for(20)
    assert ward.vitals.silent_seconds("i-1") == 20


def test_what_nobody_looked_at_for_long_begins_anew() -> None:
    ward = Ward()
    ward.silent_for(50)
    ward.now += UNSEEN_SECONDS
    ward.vitals.look(listing(ONE))
    assert ward.vitals.silent() == {}
    ward.silent_for(20)
    assert ward.vitals.silent() == {"i-1": 20}


@pytest.mark.parametrize("state", [InstanceState.PENDING, STOPPING, STOPPED])
def test_what_does_not_run_is_not_silent(state: InstanceState) -> None:
    ward = Ward()
    ward.vitals.note_silence(replace(ONE, state=state))
    assert ward.vitals.silent() == {}
    ward.silent_for(50)
    ward.vitals.look(listing(replace(ONE, state=state)))
    assert ward.vitals.silent() == {}


def test_another_boot_is_another_chance() -> None:
    ward = Ward()
    ward.silent_for(50)
    again = replace(ONE, launched_at=ONE.launched_at + 1)
    ward.vitals.note_silence(again)
    assert ward.vitals.silent_seconds("i-1") == 0
    ward.silent_for(50)
    ward.vitals.look(listing(again))
    assert ward.vitals.silent() == {}


def test_status_checks_are_asked_for_when_a_boot_would_be_over() -> None:
    ward = Ward()
    assert not ward.vitals.is_in_doubt
    ward.silent_for(ASK_AFTER_SECONDS - 10)
    assert not ward.vitals.is_in_doubt
    ward.silent_for(10)
    assert ward.vitals.is_in_doubt
    ward.vitals.note_answer("i-1")
    assert not ward.vitals.is_in_doubt


def test_if_most_are_silent_none_is_and_the_operator_reads_it_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ward = Ward()
    for n in range(EPIDEMIC_WORKERS):
        ward.silent_for(ASK_AFTER_SECONDS, f"i-{n}")
    assert [dict(ward.vitals.silent()) for _ in range(3)] == [{}] * 3
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    for n in range(EPIDEMIC_WORKERS):
        ward.vitals.note_answer(f"i-ok{n}")
    assert len(ward.vitals.silent()) == EPIDEMIC_WORKERS


def test_a_stop_is_timed_and_reported_once_when_it_is_stuck(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ward = Ward()
    stopping = listing(replace(ONE, state=STOPPING))
    ward.vitals.look(stopping)
    ward.now += STUCK_SECONDS - 1
    ward.vitals.look(stopping)
    assert dict(ward.vitals.stopping) == {"i-1": 1000.0}
    assert caplog.records == []
    ward.now += 1
    for _ in range(3):
        ward.vitals.look(stopping)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().endswith(": i-1")
    ward.vitals.look(listing(replace(ONE, state=STOPPED)))
    assert dict(ward.vitals.stopping) == {}
