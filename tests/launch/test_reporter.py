"""What is said while one waits: lines, or a bar on a terminal."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from ec2spawner.errors import EC2SpawnerError
from launch_cluster import reporter as module
from launch_cluster.reporter import PROGRESS_EVERY_SECONDS, Elapsed, Reporter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Terminal:
    """A terminal that remembers what was drawn."""

    def __init__(self) -> None:
        self.screen = io.StringIO()
        self.reporter = Reporter(
            terminal=Console(file=self.screen, force_terminal=True, width=100, color_system=None)
        )

    @property
    def drawn(self) -> str:
        return self.screen.getvalue()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.reporter.end_bar()


def test_without_a_terminal_a_wait_is_a_line_every_few_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    elapsed = Elapsed(Reporter(), clock, "Making it")
    for _ in range(25):
        clock.now += 1.0
        elapsed.tick("busy")
    elapsed.finish("done")
    every = PROGRESS_EVERY_SECONDS
    assert capsys.readouterr().err.splitlines() == [
        "Making it …",
        f"Making it: busy, {every:.0f} s",
        f"Making it: busy, {2 * every:.0f} s",
        "Making it: done, 25 s",
    ]


async def test_a_work_that_says_nothing_is_told_of_while_it_lasts_and_no_longer(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.0)

    async def work(seconds: int, error: Exception | None = None) -> int:
        for _ in range(seconds):
            clock.now += 1.0
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if error:
            raise error
        return seconds

    elapsed = Elapsed(Reporter(), clock, "Sending it")
    assert await elapsed.during(work(25), "9 MB") == 25
    with pytest.raises(EC2SpawnerError):
        await elapsed.during(work(1, EC2SpawnerError("no")), "9 MB")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Sending it …"
    assert [line.split(",")[0] for line in said[1:]] == ["Sending it: 9 MB"] * 2
    clock.now += 60.0
    await asyncio.sleep(0.01)
    assert capsys.readouterr().err == ""
    assert len(asyncio.all_tasks()) == 1


def test_what_is_said_is_not_said_again_by_the_next_tick(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    elapsed = Elapsed(Reporter(), clock, "Making it")
    clock.now += 9.0
    elapsed.say("phase two")
    clock.now += 9.0
    elapsed.tick("phase two")
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_on_a_terminal_a_bar_shows_the_time_and_where_it_stands(
    clock: Clock, terminal: Terminal
) -> None:
    elapsed = Elapsed(terminal.reporter, clock, "Making it")
    clock.now += 75.0
    elapsed.tick("installing packages")
    terminal.reporter.end_bar()
    assert "0:01:15" in terminal.drawn
    assert "installing packages" in terminal.drawn
    assert "\x1b[?25h" in terminal.drawn  # the cursor is back


def test_a_bar_goes_before_anything_else_is_said(
    clock: Clock, terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    for say in (
        lambda: terminal.reporter.progress("next"),
        lambda: terminal.reporter.show(["next"]),
        lambda: terminal.reporter.error(EC2SpawnerError("next")),
        lambda: terminal.reporter.result({}),
        lambda: Elapsed(terminal.reporter, clock, "next"),
    ):
        Elapsed(terminal.reporter, clock, "Making it")
        hidden = terminal.drawn.count("\x1b[?25l")
        shown = terminal.drawn.count("\x1b[?25h")
        assert hidden == shown + 1
        say()
        assert terminal.drawn.count("\x1b[?25h") >= hidden
        terminal.reporter.end_bar()


def test_a_line_that_stays_is_drawn_above_the_bar_which_goes_on(
    clock: Clock, terminal: Terminal
) -> None:
    elapsed = Elapsed(terminal.reporter, clock, "Making it")
    clock.now += 5.0
    elapsed.say("[phase] two")
    assert "Making it: [phase] two, 5 s" in terminal.drawn
    assert terminal.drawn.count("\x1b[?25h") == 0


def test_a_long_state_is_cut_and_its_brackets_are_no_markup(
    clock: Clock, terminal: Terminal
) -> None:
    elapsed = Elapsed(terminal.reporter, clock, "Making it")
    elapsed.tick(f"[bold]{'x' * 500}")
    terminal.reporter.end_bar()
    assert "[bold]xxx" in terminal.drawn
    assert "x" * 100 not in terminal.drawn
