#!/usr/bin/env python3
"""The same as ``launch-cluster up``, from a checkout."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # As a script, the folder of this file is on the path; the checkout's must be, instead.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from launch_cluster.script import run

    run("up")
