"""When the idle culler begins, and that it never outlives the hub."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import jupyterhub_idle_culler
import psutil
import pytest

from ec2spawner import culler

COMMAND = [sys.executable, "-m", "ec2spawner.culler", "--timeout=9", "--first-after=600"]


def test_first_look_comes_after_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[object] = []
    monkeypatch.setattr(culler, "end_with_hub", lambda _: None)
    monkeypatch.setattr(culler.signal, "signal", lambda *_: None)
    monkeypatch.setattr(time, "sleep", events.append)
    monkeypatch.setattr(jupyterhub_idle_culler.IdleCuller, "launch_instance", events.append)
    culler.main(["--timeout=3600", "--first-after=600", "--cull-every=300"])
    assert events == [600.0, ["--timeout=3600", "--cull-every=300"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ends_at_once_when_the_hub_ends_it(number: int) -> None:
    """Also where the hub itself was started with SIGINT ignored, as by a script with ``&``."""
    process = subprocess.Popen(COMMAND, preexec_fn=lambda: signal.signal(signal.SIGINT, 1))
    wait_until_waiting(process.pid)
    process.send_signal(number)
    assert process.wait(5) == -number


def test_ends_with_a_hub_that_was_killed() -> None:
    script = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "p = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "print(p.pid, flush=True)\n"
        "p.wait()"
    )
    hub = subprocess.Popen(
        [sys.executable, "-c", script, *COMMAND], stdout=subprocess.PIPE, text=True
    )
    assert hub.stdout
    process = psutil.Process(int(hub.stdout.readline()))
    wait_until_waiting(process.pid)
    hub.kill()
    hub.communicate()
    deadline = time.monotonic() + 5
    while process.is_running() and process.status() != "zombie":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_does_not_begin_where_the_hub_is_gone_already() -> None:
    process = subprocess.Popen([*COMMAND, "--hub-pid=1"])
    assert process.wait(5) == 0


def wait_until_waiting(pid: int) -> None:
    """Until the culler, started with SIGINT ignored, has set it to its default."""
    deadline = time.monotonic() + 10
    while not has_default_interrupt(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_default_interrupt(pid: int) -> bool:
    text = Path(f"/proc/{pid}/status").read_text()
    status = dict(line.split(":\t", 1) for line in text.splitlines())
    ignored_or_caught = int(status["SigIgn"], 16) | int(status["SigCgt"], 16)
    return not ignored_or_caught & 1 << signal.SIGINT - 1
