"""What a command says: results on stdout, progress and errors on stderr.

Owns the form of output, for people and as JSON: on a terminal a wait is a bar with the time that it
has taken, elsewhere plain lines. Must not decide anything.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ec2spawner.errors import EC2SpawnerError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Result = TypeVar("Result")

PROGRESS_EVERY_SECONDS = 10.0
TICK_SECONDS = 1.0
BAR_WIDTH = 30
STATE_MAX_CHARS = 60


class Reporter:
    """Writes for people or, with ``as_json``, one JSON document at the end."""

    def __init__(self, *, as_json: bool = False, terminal: Console | None = None) -> None:
        """``terminal``: one to draw on, instead of stderr if that is one."""
        self.as_json = as_json
        self._terminal = terminal
        self._bar: Progress | None = None

    def progress(self, text: str) -> None:
        """One line on what is going on."""
        self.end_bar()
        click.echo(text, err=True)

    def above_bar(self, text: str) -> None:
        """One line on what is going on, while the bar goes on."""
        if self._bar is None:
            self.progress(text)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def bar(self, state: str, clock: Callable[[], float]) -> Callable[[str], None] | None:
        """Draw a bar until something else is said, and give what changes its text.

        None where there is no terminal.
        """
        if self._terminal is None and not sys.stderr.isatty():
            return None
        self.end_bar()
        bar = self._bar = _make_bar(self._terminal, clock)
        task = bar.add_task(state, total=None)
        bar.start()
        return lambda text: bar.update(task, description=_short(text))

    def end_bar(self) -> None:
        """Take the bar away, if there is one."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def show(self, lines: Iterable[str]) -> None:
        """Lines of a result; on stderr if stdout is for JSON."""
        self.end_bar()
        for line in lines:
            click.echo(line, err=self.as_json)

    def result(self, document: dict[str, Any]) -> None:
        """The result as JSON, if that was asked for."""
        self.end_bar()
        if self.as_json:
            click.echo(json.dumps(document, indent=2, ensure_ascii=False))

    def error(self, error: EC2SpawnerError) -> None:
        """An expected failure: what, why, next step; never a traceback."""
        self.end_bar()
        click.echo(f"error: {error.what}", err=True)
        for line in _reasons(error):
            click.echo(f"  {line}", err=True)
        if error.next_step:
            click.echo(f"  Next: {error.next_step}", err=True)
        self.result(
            {
                "error": {
                    "code": error.code,
                    "what": error.what,
                    "why": error.why,
                    "next_step": error.next_step,
                }
            }
        )


def _reasons(error: EC2SpawnerError) -> list[str]:
    faults = getattr(error, "faults", None)
    if faults:
        return [f"- {fault}" for fault in faults]
    return [f"Why: {error.why}"] if error.why else []


def _make_bar(terminal: Console | None, clock: Callable[[], float]) -> Progress:
    # Here, since its import takes a tenth of a second, which most calls need not wait for.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        BarColumn(BAR_WIDTH),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=terminal or Console(stderr=True),
        get_time=clock,
        transient=True,
    )


def _short(text: str) -> str:
    return text if len(text) <= STATE_MAX_CHARS else f"{text[: STATE_MAX_CHARS - 1]}…"


class Elapsed:
    """Shows how long a wait has taken: a bar on a terminal, else a line every few seconds."""

    def __init__(self, reporter: Reporter, clock: Callable[[], float], text: str) -> None:
        self._reporter, self._clock, self._text = reporter, clock, text
        self._begun = self._said = clock()
        reporter.progress(f"{text} …")
        self._update = reporter.bar("", clock)

    @property
    def seconds(self) -> float:
        """Seconds since the wait began."""
        return self._clock() - self._begun

    def tick(self, state: str) -> None:
        """Say where it stands, unless that was said a moment ago."""
        now = self._clock()
        if self._update:
            self._update(state)
        elif now - self._said >= PROGRESS_EVERY_SECONDS:
            self.say(state)

    async def during(self, work: Awaitable[Result], state: str) -> Result:
        """What comes of a work that says nothing of itself until it ends."""
        ticking = asyncio.ensure_future(self._tick(state))
        try:
            return await work
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)

    async def _tick(self, state: str) -> None:
        while True:
            self.tick(state)
            await asyncio.sleep(TICK_SECONDS)

    def say(self, state: str) -> None:
        """Say where it stands, in a line that stays."""
        self._said = self._clock()
        self._reporter.above_bar(f"{self._text}: {state}, {self.seconds:.0f} s")

    def finish(self, state: str) -> None:
        """Say how it ended, and take the bar away."""
        self._reporter.progress(f"{self._text}: {state}, {self.seconds:.0f} s")
