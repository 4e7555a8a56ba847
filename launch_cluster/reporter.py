"""What a command says: results on stdout, progress and errors on stderr.

Owns the form of output, for people and as JSON. Must not decide anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import click

from ec2spawner.errors import EC2SpawnerError

PROGRESS_EVERY_SECONDS = 10.0


class HasFaults(Protocol):
    """An error that lists what was found."""

    faults: tuple[Any, ...]


class Reporter:
    """Writes for people or, with ``as_json``, one JSON document at the end."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def progress(self, text: str) -> None:
        """One line on what is going on."""
        click.echo(text, err=True)

    def show(self, lines: Iterable[str]) -> None:
        """Lines of a result; on stderr if stdout is for JSON."""
        for line in lines:
            click.echo(line, err=self.as_json)

    def result(self, document: dict[str, Any]) -> None:
        """The result as JSON, if that was asked for."""
        if self.as_json:
            click.echo(json.dumps(document, indent=2, ensure_ascii=False))

    def error(self, error: EC2SpawnerError) -> None:
        """An expected failure: what, why, next step; never a traceback."""
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


class Elapsed:
    """Says every few seconds how long a wait has taken."""

    def __init__(self, reporter: Reporter, clock: Callable[[], float], text: str) -> None:
        self._reporter, self._clock, self._text = reporter, clock, text
        self._begun = self._said = clock()
        reporter.progress(f"{text} …")

    @property
    def seconds(self) -> float:
        """Seconds since the wait began."""
        return self._clock() - self._begun

    def tick(self, state: str) -> None:
        """Say where it stands, unless that was said a moment ago."""
        now = self._clock()
        if now - self._said >= PROGRESS_EVERY_SECONDS:
            self._said = now
            self._reporter.progress(f"{self._text}: {state}, {self.seconds:.0f} s")
