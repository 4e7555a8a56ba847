"""When the user is told that the machine stops for want of work, and in what words."""

from __future__ import annotations

import pytest

from ec2spawner.worker import idle_notice, notice_file
from ec2spawner.worker.notice_extension import notification_of
from ec2spawner.worker.notice_file import Notice

WORKED_AT = 1_000_000.0
HOUR = 3600.0


def stands(seconds: float, timeout: float = HOUR) -> Notice | None:
    """What stands so long after the last work."""
    return idle_notice.notice(WORKED_AT + seconds, WORKED_AT, timeout)


@pytest.mark.parametrize(("timeout", "warned"), [(HOUR, 600), (1200, 600), (1199, 599.5), (60, 30)])
def test_ten_minutes_before_the_stop_or_half_of_a_short_time_out(
    timeout: float, warned: float
) -> None:
    assert stands(timeout - warned - 1, timeout) is None
    assert stands(timeout - warned, timeout) is not None


def test_it_is_shown_anew_until_the_stop_and_closes_by_itself_each_time() -> None:
    seen = [stands(HOUR - 600 + n) for n in range(700)]
    shown = {notice.turn: notice for notice in seen if notice}
    assert list(shown) == [0, 1, 2, 3, 4]
    for notice in shown.values():
        toast = notification_of(notice, WORKED_AT + HOUR - 600)
        assert toast["autoClose"] == 120_000
    ids = {notification_of(notice, 0.0)["id"] for notice in shown.values()}
    assert len(ids) == len(shown)


def test_it_says_how_much_time_is_left() -> None:
    notice = stands(HOUR - 600)
    assert notice
    assert "stops in about 10 minutes." in notice.text(WORKED_AT + HOUR - 600)
    longest = notice.words.replace(notice_file.WHEN, notice_file.LONGEST_WHEN)
    assert len(longest) <= notice_file.TEXT_MAX_CHARS


@pytest.mark.parametrize(
    ("said", "known"), [("", None), ("x", None), ("0", None), ("nan", None), ("60", 60.0)]
)
def test_without_a_hubs_word_nothing_is_known(said: str, known: float | None) -> None:
    assert idle_notice.idle_seconds({idle_notice.VARIABLE: said}) == known
    assert idle_notice.idle_seconds({}) is None
