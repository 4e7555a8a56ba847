"""Tests that are broken off leave no emulated cloud, whose addresses the next run needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hub.processes import Process

TESTS = Path(__file__).resolve().parents[1]
BEGIN = {
    "launch": """
        from launch.clouds import served
        with served(folder) as (_, pid):
            print(pid, flush=True)
            time.sleep(600)
    """,
    "localcloud": """
        from localcloud.serving import Serving
        with Serving(folder / "state") as serving:
            print(serving.process.pid, flush=True)
            time.sleep(600)
    """,
}
HEAD = """
        import sys, time
        from pathlib import Path
        folder = Path(sys.argv[1])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("tests", BEGIN)
def test_the_clouds_of_tests_end_with_the_run(
    tests: str, number: signal.Signals, tmp_path: Path
) -> None:
    lines = (HEAD + BEGIN[tests]).splitlines()
    program = "\n".join(line.removeprefix(" " * 8) for line in lines)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"},
    ) as run:
        assert run.stdout
        pid = int(run.stdout.readline())
        cloud = Process(pid, tmp_path / "log")
        run.send_signal(number)
        run.wait(10)
        assert cloud.wait(10), "the cloud goes on"
