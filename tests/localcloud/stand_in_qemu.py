"""Stands in for qemu: keeps what its monitor was told, and goes off when its button is pressed."""

import json
import sys
from pathlib import Path

Path("command.json").write_text(json.dumps(sys.argv[1:]))
with Path("told.jsonl").open("a") as told:
    for line in sys.stdin:
        told.write(line)
        told.flush()
        if json.loads(line)["execute"] == "system_powerdown":
            break
