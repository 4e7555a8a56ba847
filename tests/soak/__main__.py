"""``python -m soak``: stories with other seeds, for an hour or as long as you like.

Prints the seed of each batch, and figures. A story that fails is printed, and the exit code is 1;
``--seed`` tells the same batch again (with the same PYTHONHASHSEED), and ``--shrink`` cuts a story
that fails down to its shortest form, which takes minutes.
"""

from __future__ import annotations

import argparse
import os
import resource
import secrets
import sys
import time
import traceback

from hypothesis import seed
from hypothesis.stateful import run_state_machine_as_test

from soak.runs import settings_for
from soak.story import Story, told

STORIES, STEPS = 20, 100


def figures(begun: float) -> str:
    """How far it is."""
    rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    counted = ", ".join(f"{number:,} {what}" for what, number in sorted(told.items()))
    return f"[{time.monotonic() - begun:7.1f} s] {counted}; at most {rss_mib:.0f} MiB"


class _Story(Story):
    """Says at once that it fails."""

    found = False

    def spoil(self, error: BaseException) -> None:
        if not self.found:
            type(self).found = True
            print(f"found: {error}", flush=True)
        super().spoil(error)


def run_batch(number: int, *, shrink: bool) -> bool:
    """Whether all stories of this seed hold."""
    story = seed(number)(type("Story", (_Story,), {}))
    how = settings_for(STORIES, STEPS, derandomize=False, shrink=shrink)
    try:
        run_state_machine_as_test(story, settings=how)
    except Exception:  # noqa: BLE001 - whatever it found, it is told
        traceback.print_exc(file=sys.stdout)
        return False
    return True


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long (3600)")
    parser.add_argument("--seed", type=int, help="one batch only, of this seed")
    parser.add_argument("--shrink", action="store_true", help="cut a story that fails down")
    options = parser.parse_args()
    if "PYTHONHASHSEED" not in os.environ:  # the order of sets is part of a story
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "soak", *sys.argv[1:]])
    begun = time.monotonic()
    while True:
        number = secrets.randbits(32) if options.seed is None else options.seed
        print(f"seed {number}", flush=True)
        if not run_batch(number, shrink=options.shrink):
            print(f"failed: --seed {number}; {figures(begun)}", flush=True)
            return 1
        print(figures(begun), flush=True)
        if options.seed is not None or time.monotonic() - begun >= options.seconds:
            return 0


if __name__ == "__main__":
    sys.exit(main())
