"""Stands in for the emulated machine: notes its boots, ends as told.

SIGTERM ends it with 0; a file ``poweroff`` on its disk too; a file ``crash`` with 1.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
_, parent, disk = sys.argv[-3:]
if os.getppid() != int(parent):
    os._exit(1)
directory = Path(disk)
with (directory / "boots").open("a") as boots:
    boots.write(f"{os.getpid()}\n")
print("booted", flush=True)
while True:
    if (directory / "poweroff").exists():
        (directory / "poweroff").unlink()
        os._exit(0)
    if (directory / "crash").exists():
        os._exit(1)
    time.sleep(0.02)
