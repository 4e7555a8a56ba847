"""Running the system's programs: argument lists only, with bounds.

Owns the one place from which a worker starts another program. Must not know what for.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ec2spawner.worker.protocol import Code, Fault

DEFAULT_TIMEOUT_SECONDS = 30.0
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Completed:
    """How a program ended, and what it wrote."""

    exit_code: int
    stdout: str = ""
    stderr: str = ""

    @property
    def words(self) -> str:
        """For a Fault's detail: what it complained of."""
        return self.stderr.strip() or self.stdout.strip() or f"exit code {self.exit_code}"


class Runner(Protocol):
    """Runs one program to its end; ``inherit`` are descriptors that it keeps open."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        inherit: Sequence[int] = (),
    ) -> Completed:
        """Raises Fault(internal) for a program that is missing or outlasts its bound."""


def run_program(
    argv: Sequence[str],
    *,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    inherit: Sequence[int] = (),
) -> Completed:
    """The real Runner: no shell, no input, a fixed PATH, messages in English."""
    try:
        done = subprocess.run(  # noqa: S603 - a list, and its words are checked by their owner
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=timeout_seconds,
            pass_fds=tuple(inherit),
            env={"PATH": _PATH, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        detail = f"{argv[0]} took longer than {timeout_seconds:g} s"
        raise Fault(Code.INTERNAL, detail) from None
    except FileNotFoundError:
        raise Fault(Code.INTERNAL, f"{argv[0]} is not installed") from None
    out, err = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
    return Completed(done.returncode, out, err)
