"""``python -m ec2spawner.localcloud.demo_child PID COMMAND...``: COMMAND, bound to PID, its parent.

Owns nothing. The hub starts its proxy in this way in the demo, so that the proxy is gone even
when the hub was killed.
"""

from __future__ import annotations

import os
import sys

from ec2spawner.localcloud.machine_tree import die_with_parent


def main(parent: int, command: list[str]) -> None:
    """Become ``command``; the kernel keeps the bond through the exec."""
    die_with_parent()
    if os.getppid() != parent:
        raise SystemExit(1)
    os.execvp(command[0], command)  # noqa: S606 - the demo's own words, no shell


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
