"""What gives way in one session gives way in the sessions that it begins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bed import GIVING_WAY

AUTOGROUP = Path("/proc/self/autogroup")
BEGIN = (
    "import os\n"
    "from ec2spawner.localcloud.machine_tree import begin_session\n"
    "if os.fork():\n"
    "    raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    "begin_session()\n"
    "print(os.getsid(0) == os.getpid(), os.nice(0), open('/proc/self/autogroup').read())\n"
)


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel groups no processes by session")
@pytest.mark.parametrize(("before", "priority"), [(GIVING_WAY, 10), ((), 0)])
def test_a_lowered_priority_holds_for_a_session_that_is_begun(
    before: tuple[str, ...], priority: int
) -> None:
    begun = subprocess.run(
        [*before, sys.executable, "-c", BEGIN],
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,
    )
    leads, own, group = begun.stdout.split(maxsplit=2)
    assert (leads, own) == ("True", str(priority))
    assert group.strip().endswith(f"nice {priority}")
