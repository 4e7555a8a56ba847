"""Processes of the hub tests: started so that they end with the tests, whatever happens.

Owns starting, ending and the logs of processes. ``Nursery`` starts hubs by forking a process that
has imported JupyterHub already, which spares three seconds of processor time each.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def eventually(what: Callable[[], Any], seconds: float = 15.0, why: str = "") -> Any:
    """The first true answer of ``what``, asked again and again; fails the test at the bound."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {why or what}; last answer: {answer!r}")
        time.sleep(0.05)
    return answer


_given: set[int] = set()


def free_port(address: str = "127.0.0.1") -> int:
    """Below those that the system gives to connections and kernels, which would take it until it
    is used; below those of the browser tests; and none that a process of this run was given."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = set(range(10_000 + own, 20_000, processes)) - _given
    for port in random.sample(sorted(ports), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((address, port))
            _given.add(port)
            return port
    raise AssertionError("no free port")


def clean_environment(**more: str) -> dict[str, str]:
    """This account's environment without anything of AWS or JupyterHub, and ``more``."""
    foreign = ("AWS_", "JUPYTERHUB_", "CONFIGPROXY_", "EC2SPAWNER_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    no_proxy = "127.0.0.0/8,127.0.0.1,localhost"
    return {**kept, "NO_PROXY": no_proxy, "no_proxy": no_proxy, "PYTHONUNBUFFERED": "1", **more}


class Process:
    """A process known by its pid: signalled and awaited by descriptor, so never another's."""

    def __init__(self, pid: int, log: Path, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.log = log
        self._child = child
        self._descriptor = os.pidfd_open(pid)

    @property
    def is_alive(self) -> bool:
        return not self.wait(0.0)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        ended = bool(poll.poll(seconds * 1000))
        if ended and self._child:
            self._child.wait()
        return ended

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def end(self, seconds: float = 10.0) -> None:
        """SIGTERM, and SIGKILL at the bound."""
        self.signal(signal.SIGTERM)
        if not self.wait(seconds):
            self.kill()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.wait(10.0), f"process {self.pid} survived SIGKILL"

    def close(self) -> None:
        self.kill()
        os.close(self._descriptor)


def start_process(
    command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]
) -> Process:
    """Start a command that dies with the thread that calls this."""
    folder.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            preexec_fn=die_with_parent,
        )
    return Process(child.pid, log, child)


class Nursery:
    """Forks hubs; see ``nursery.py``. Safe to use from several threads."""

    def __init__(self, log: Path) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        with log.open("ab") as out:
            self._child = subprocess.Popen(
                [sys.executable, str(HERE / "nursery.py"), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=clean_environment(),
                preexec_fn=die_with_parent,
            )
        theirs.close()
        self._answers = self._socket.makefile("rb")

    def start(
        self, arguments: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]
    ) -> Process:
        """Run ``jupyterhub`` with arguments."""
        request = {
            "arguments": list(arguments),
            "folder": str(folder),
            "log": str(log),
            "environment": dict(environment),
        }
        with self._lock:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(self._answers.readline())
            process = Process(answer["pid"], log)
            self._socket.sendall(b"\n")  # only now may its end be forgotten by the nursery
        return process

    def close(self) -> None:
        self._socket.close()
        self._child.kill()
        self._child.wait()
        self._answers.close()
