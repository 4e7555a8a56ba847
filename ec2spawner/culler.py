"""``python -m ec2spawner.culler``: jupyterhub-idle-culler, with a first look that comes late.

Owns when culling begins. After a hub was down, the activity that it knows of is as old as its
downtime; to cull at once would stop machines at work. So the first look waits until every server
has had two occasions to report. Must not know servers, the fleet or AWS; ends with the hub.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # linux/prctl.h
FIRST_AFTER = "--first-after="


def first_after_seconds(arguments: Sequence[str]) -> tuple[float, list[str]]:
    """The time before the first look, and the arguments that are the culler's own."""
    waits = [float(a[len(FIRST_AFTER) :]) for a in arguments if a.startswith(FIRST_AFTER)]
    rest = [a for a in arguments if not a.startswith(FIRST_AFTER)]
    return (waits[-1] if waits else 0.0), rest


def end_with_parent() -> None:
    """Have the kernel end this process when the hub is gone, also when it was killed."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Wait, then cull until the hub ends."""
    seconds, rest = first_after_seconds(sys.argv[1:] if arguments is None else arguments)
    end_with_parent()
    time.sleep(seconds)  # SIGTERM, the hub's way to end a service, ends this sleep too
    from jupyterhub_idle_culler import IdleCuller

    IdleCuller.launch_instance(rest)


if __name__ == "__main__":
    main()
