"""What a waiting user reads: true at every moment of a start, and never going back."""

from __future__ import annotations

import pytest

from ec2spawner import story


def test_the_estimate_stays_in_sight_while_it_holds() -> None:
    assert "usually takes 20 s" in story.line("booting", 0, 20)
    assert "usually takes 20 s" in story.line("server", 25, 20)


def test_a_start_that_takes_long_says_so_instead_of_its_estimate() -> None:
    words = story.line("server", 31, 20)
    assert "longer than usual" in words
    assert "20 s" not in words


def test_a_few_seconds_more_are_not_long() -> None:
    assert "usually takes 4 s" in story.line("server", 13, 4)
    assert "longer than usual" in story.line("server", 15, 4)


@pytest.mark.parametrize("elapsed_seconds", [0, 1000])
def test_no_estimate_is_given_while_aws_does_not_answer(elapsed_seconds: float) -> None:
    words = story.line("aws-away", elapsed_seconds, 20)
    assert words == story.STAGE_WORDS["aws-away"]


def test_an_unknown_stage_has_no_words() -> None:
    assert story.line("", 1, 20) == ""


def test_the_percentage_never_goes_back_and_is_never_done() -> None:
    shown = [story.percent(second, 20) for second in range(600)]
    assert shown == sorted(shown)
    assert shown[0] >= 1
    assert shown[-1] == story.MAX_PERCENT


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (7.4, "7 s"), (43, "45 s"), (89, "90 s"), (150, "2 min")]
)
def test_durations_read_as_people_say_them(seconds: float, words: str) -> None:
    assert story.duration(seconds) == words
