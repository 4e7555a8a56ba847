"""``python -m ec2spawner.culler``: jupyterhub-idle-culler, with a first look that comes late.

Owns when culling begins. After a hub was down, the activity that it knows of is as old as its
downtime; to cull at once would stop machines at work. So the first look waits until every server
has had two occasions to report. Must not know servers, the fleet or AWS; ends with the hub.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What is this module's own (``first_after`` in seconds, ``hub_pid``), and the culler's."""
    parser = argparse.ArgumentParser(prog="python -m ec2spawner.culler", add_help=False)
    parser.add_argument("--first-after", type=float, default=0.0)
    parser.add_argument("--hub-pid", type=int, default=None)
    return parser.parse_known_args(arguments)


def end_with_hub(hub_pid: int | None) -> None:
    """Have the kernel end this process when the hub is gone, also when it was killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if hub_pid is not None and os.getppid() != hub_pid:
        raise SystemExit(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Wait, then cull until the hub ends."""
    ours, rest = parse(sys.argv[1:] if arguments is None else arguments)
    end_with_hub(ours.hub_pid)
    # The hub ends its services by SIGINT. A hub that a script started in the background hands
    # down an ignored SIGINT, and would wait for half a minute before it tries SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    time.sleep(ours.first_after)
    from jupyterhub_idle_culler import IdleCuller

    IdleCuller.launch_instance(rest)


if __name__ == "__main__":
    main()
