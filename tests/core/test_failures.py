"""Images that make nothing fit: when the pool does without, for how long, and what ends it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.builders import RUNNING, worker
from ec2spawner.failures import (
    IMAGE_HOLD_SECONDS,
    MAX_UNFIT,
    UNFIT_SECONDS,
    Failures,
    lately_unfit,
)
from ec2spawner.model import Worker
from ec2spawner.wishes import POOL_LAUNCH


class Times:
    """What became of spares, and when."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.failures = Failures(lambda: self.now)

    def unfit(self, image: str, count: int = 1, apart: float = 0.0) -> None:
        for _ in range(count):
            self.failures.note_unfit(spare(image))
            self.now += apart

    @property
    def held(self) -> set[str]:
        return {i for kind, i in self.failures.memory({}).holds if kind == POOL_LAUNCH}


def spare(image: str) -> Worker:
    return replace(worker("i-1", RUNNING), image_id=image)


def test_what_was_an_hour_ago_does_not_count() -> None:
    times = (0.0, 1.0, UNFIT_SECONDS)
    assert lately_unfit(times, UNFIT_SECONDS) == (1.0, UNFIT_SECONDS)


def test_an_image_of_which_three_do_not_come_up_within_an_hour_rests_for_an_hour() -> None:
    times = Times()
    times.unfit("ami-1", MAX_UNFIT - 1)
    assert times.held == set()
    times.now += UNFIT_SECONDS - 1
    times.unfit("ami-1")
    times.unfit("ami-2")
    assert times.held == {"ami-1"}
    assert times.failures.next_retry_at() == times.now + IMAGE_HOLD_SECONDS
    times.now += IMAGE_HOLD_SECONDS - 1
    assert times.held == {"ami-1"}
    times.now += 1
    assert times.held == set()


def test_three_that_are_far_apart_say_nothing_of_their_image() -> None:
    times = Times()
    times.unfit("ami-1", 6, apart=UNFIT_SECONDS / 2)
    assert times.held == set()


def test_one_that_comes_up_says_that_its_image_is_not_to_blame() -> None:
    times = Times()
    times.unfit("ami-1", MAX_UNFIT - 1)
    times.failures.note_fit(spare("ami-1"))
    times.unfit("ami-1")
    assert times.held == set()
    times.unfit("ami-1", MAX_UNFIT)
    assert times.held == {"ami-1"}
    times.failures.note_fit(spare("ami-1"))
    assert times.held == set()


def test_it_is_said_once_a_hold(caplog: pytest.LogCaptureFixture) -> None:
    times = Times()
    times.unfit("ami-1", 20)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "ami-1" in record.getMessage()
    times.now += IMAGE_HOLD_SECONDS
    times.unfit("ami-1", MAX_UNFIT)
    assert len(caplog.records) == 2
