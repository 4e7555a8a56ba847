"""``python -m ec2spawner.localcloud.demo_hub``: JupyterHub as it is, but quicker to start.

Owns nothing. jsonschema looks for ``rfc3987_syntax`` to check two formats that the hub does not
use, and does without where it is absent; importing it takes half of the time that a hub takes to
start.
"""

from __future__ import annotations

import runpy
import sys

SLOW_OPTIONAL_IMPORT = "rfc3987_syntax"


def main() -> None:
    """Run ``python -m jupyterhub`` with the arguments given."""
    sys.modules[SLOW_OPTIONAL_IMPORT] = None  # type: ignore[assignment]  # Python: not importable
    runpy.run_module("jupyterhub", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
