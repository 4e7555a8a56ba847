"""How often each of many may do a thing within a minute."""

from __future__ import annotations

from ec2spawner.often import Often


def test_what_is_too_much_for_one_leaves_others_alone() -> None:
    often = Often(2)
    assert [often.wait_seconds("ann", moment) for moment in (100.0, 110.0, 120.0)] == [0, 0, 40]
    assert often.wait_seconds("bob", 120.0) == 0


def test_after_the_wait_that_was_told_it_is_let_through() -> None:
    often = Often(1)
    assert often.wait_seconds("ann", 100.0) == 0
    wait = often.wait_seconds("ann", 130.0)
    assert often.wait_seconds("ann", 130.0 + wait - 0.1) > 0
    assert often.wait_seconds("ann", 130.0 + wait) == 0


def test_asking_in_vain_does_not_make_the_wait_longer() -> None:
    often = Often(1)
    often.wait_seconds("ann", 100.0)
    assert all(often.wait_seconds("ann", 100.0 + n) for n in range(1, 60))
    assert often.wait_seconds("ann", 160.0) == 0


def test_whoever_has_done_nothing_for_a_minute_takes_no_memory() -> None:
    often = Often(1)
    for number in range(1000):
        often.wait_seconds(number, 100.0)
    often.wait_seconds("ann", 161.0)
    assert list(often._done) == ["ann"]
