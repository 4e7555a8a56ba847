"""Starts a command from a checkout, with the checkout's own virtual environment if need be.

Standard library only: it runs before anything is known to be installed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

CHECKOUT = Path(__file__).resolve().parent.parent
EXIT_USAGE = 2


def run(command: str) -> NoReturn:
    """Run ``launch-cluster COMMAND`` with this process's arguments; does not return."""
    try:
        from launch_cluster.cli import main
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in ("ec2spawner", "launch_cluster"):
            raise
        _use_own_environment(error)
    main.commands[command].main(args=sys.argv[1:], prog_name=Path(sys.argv[0]).name)
    sys.exit(0)


def _use_own_environment(error: ModuleNotFoundError) -> NoReturn:
    own = CHECKOUT / ".venv" / "bin" / "python"
    if own.exists() and Path(sys.prefix) != CHECKOUT / ".venv":
        os.execv(own, [str(own), *sys.argv])  # noqa: S606 - our own interpreter, no shell
    print(
        f"error: {error.name} is not installed.\n"
        "  Next: run `make setup` in the checkout, or pip install ec2spawner.",
        file=sys.stderr,
    )
    sys.exit(EXIT_USAGE)
