"""Takes the packages' links for donations out of an npm lock: a lock of ours holds no address."""

import json
import sys
from pathlib import Path


def main(path: Path) -> None:
    """Rewrite the lock at ``path`` in place."""
    lock = json.loads(path.read_text(encoding="utf-8"))
    for package in lock["packages"].values():
        package.pop("funding", None)
    path.write_text(json.dumps(lock, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
