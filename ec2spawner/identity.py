"""Which process on which machine this is, and whether another one that was there still lives.

Owns what Linux tells of processes, boots and machines. No clock of a machine is ever compared with
another's.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ASSET_TAG = "/sys/devices/virtual/dmi/id/board_asset_tag"
"""Holds the instance's id on every Nitro instance (EC2 user guide, "Detect whether a host is an EC2
instance", read 2026); what it holds elsewhere does not look like one."""
BOOT_ID = "/proc/sys/kernel/random/boot_id"
"""Random, made anew at each boot of a kernel."""


@dataclass(frozen=True)
class Process:
    """A process, told from every other one of any machine and time."""

    host: str
    """For people only: two machines may have one name."""
    instance_id: str  # of EC2; "" elsewhere
    boot_id: str
    pid_namespace: str
    """Within which ``pid`` means something: another container's processes cannot be seen."""
    pid: int
    started: int  # clock ticks after the boot: a pid is used again, but not from the same moment


def this_process() -> Process:
    """The one that asks."""
    return Process(
        socket.gethostname(),
        _instance_id(),
        _first_line(BOOT_ID),
        _pid_namespace(),
        os.getpid(),
        _state_and_start(os.getpid())[1],
    )


def is_running(process: Process) -> bool:
    """Whether this pid of our own machine and namespace is still that process; in doubt it is."""
    try:
        state, started = _state_and_start(process.pid)
    except (OSError, ValueError):  # gone, or /proc hides other accounts' processes (hidepid)
        return _is_taken(process.pid)
    return state not in "ZX" and started == process.started


def lives(other: Process, me: Process, runs: Callable[[Process], bool] = is_running) -> bool | None:
    """Whether another process lives, as far as it is certain; None: nobody here can tell.

    Certain is it of a process that this one can see; and of one of before this machine's last
    boot, where EC2 says that it is the same machine (a copy of a disk is another machine).
    """
    if other.boot_id and other.boot_id == me.boot_id:
        is_visible = bool(me.pid_namespace) and other.pid_namespace == me.pid_namespace
        return runs(other) if is_visible else None
    is_same_machine = bool(other.instance_id) and other.instance_id == me.instance_id
    return False if is_same_machine and other.boot_id and me.boot_id else None


def _state_and_start(pid: int) -> tuple[str, int]:
    """proc(5), "/proc/pid/stat": fields 3 and 22; the name before them may hold anything."""
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    if len(fields) < 20:
        raise ValueError(f"/proc/{pid}/stat cannot be read")
    return fields[0], int(fields[19])


def _is_taken(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another account's
        return True
    return True


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - no path: "pid:[4026531836]"
    except OSError:
        return ""


def _instance_id() -> str:
    tag = _first_line(ASSET_TAG)
    return tag if re.fullmatch(r"i-[0-9a-f]{8,17}", tag) else ""


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""
