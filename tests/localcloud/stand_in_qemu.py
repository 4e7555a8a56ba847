"""Stands in for qemu: keeps what its monitor was told, and goes off when its button is pressed.

As when its system shuts down by itself, it ends with code 0 at SIGTERM, too.
"""

import json
import signal
import sys
from pathlib import Path

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
Path("command.json").write_text(json.dumps(sys.argv[1:]))
with Path("told.jsonl").open("a") as told:
    for line in sys.stdin:
        told.write(line)
        told.flush()
        if json.loads(line)["execute"] == "system_powerdown":
            break
