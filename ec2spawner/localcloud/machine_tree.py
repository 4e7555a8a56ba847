"""Process trees on Linux: who descends from whom, and how to end them all.

Owns the few kernel calls that Python's library lacks. Must not know what the processes are for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SWEEP_PAUSE_SECONDS = 0.005


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent dies."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def begin_session() -> None:
    """Have this process lead a session; PermissionError where it leads a group already.

    A lowered priority holds for the session as well, which Linux would weigh as any other (see
    "The autogroup feature" in sched(7)).
    """
    os.setsid()
    if (lowered := os.nice(0)) > 0:
        with contextlib.suppress(OSError):  # no such feature, or asked for too often
            Path("/proc/self/autogroup").write_text(str(lowered))


def parent_of(pid: int) -> int | None:
    """The parent's pid, or None where ``pid`` is gone or dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent = stat.rpartition(")")[2].split()[:2]
    return None if state in "ZX" else int(parent)


def descendants(root: int, but_not: Collection[int] = ()) -> list[int]:
    """Living processes below ``root``, without those in and below ``but_not``."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names only, ten times faster
        if entry.isdecimal() and (parent := parent_of(int(entry))) is not None:
            children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    todo = list(children.get(root, ()))
    while todo:
        pid = todo.pop()
        if pid not in but_not:
            found.append(pid)
            todo.extend(children.get(pid, ()))
    return found


def send_signal(pids: Iterable[int], number: int) -> None:
    """Signal each; those that are gone, or another user's, are passed over."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def kill_below(
    root: int,
    but_not: Callable[[], Collection[int]],
    reap: Callable[[], None],
    bound_seconds: float = 3.0,
) -> bool:
    """Kill all below ``root`` until none is left; False where some are at the bound.

    Whatever is forked meanwhile is found in the next round; ``reap`` collects what has died.
    """
    deadline = time.monotonic() + bound_seconds
    while victims := descendants(root, but_not()):
        send_signal(victims, signal.SIGKILL)
        reap()
        if time.monotonic() > deadline:
            return False
        time.sleep(_SWEEP_PAUSE_SECONDS)
    reap()
    return True
