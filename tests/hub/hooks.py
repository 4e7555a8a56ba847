"""What a test does to its hub from inside: deaths at named points, and a clock that jumps.

Loaded by ``hub_config.py`` in the hub's process, before anything of the cluster is built.

- The file ``die``, written while the hub runs: {"at": POINT, "when": "before" | "after", "nth": 1}.
  When that call is about to be made (or has returned) for the nth time, the hub notes it in the
  file ``reached`` and kills itself with SIGKILL.
- ``options["constants"]``: {"module:NAME": value}; a value for a mapping is merged into it.
- ``options["clock"]``: a file with the number of seconds by which the fleet's clock is ahead.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ec2spawner.model import TAG_DELETED, TAG_GENERATION, TAG_OWNER

Test = Callable[..., bool]


def _sets(tag: str) -> Test:
    return lambda self, ids, tags, *_: tag in tags


def _step(name: str) -> Test:
    return lambda self, step, *_: step == name


POINTS: dict[str, tuple[str, Test | None]] = {
    # a login
    "spawn": ("jupyterhub.user:User.spawn", None),
    "save": ("ec2spawner.spawner:EC2Spawner._save_state", None),
    "launch": ("ec2spawner.ec2:EC2.launch", None),
    "start-instances": ("ec2spawner.ec2:EC2.start", None),
    "claim": ("ec2spawner.ec2:EC2.tag", _sets(TAG_OWNER)),
    "connected": ("ec2spawner.spawner:EC2Spawner._on_step", _step("connected")),
    "home": ("ec2spawner.spawner:EC2Spawner._on_step", _step("home")),
    "mount": ("ec2spawner.spawner:EC2Spawner._on_step", _step("mount")),
    "server": ("ec2spawner.spawner:EC2Spawner._on_step", _step("server")),
    "ready": ("ec2spawner.remote:WorkerLink.start", None),
    "generation": ("ec2spawner.ec2:EC2.tag", _sets(TAG_GENERATION)),
    "polling": ("jupyterhub.spawner:Spawner.start_polling", None),
    "wait-up": ("jupyterhub.user:User._wait_up", None),
    "route": ("jupyterhub.proxy:Proxy.add_user", None),
    # a deletion
    "stop": ("ec2spawner.spawner:EC2Spawner.stop", None),
    "delete-forever": ("ec2spawner.spawner:EC2Spawner.delete_forever", None),
    "promise": ("ec2spawner.journal:Journal.promise", None),
    "mark": ("ec2spawner.ec2:EC2.tag", _sets(TAG_DELETED)),
    "delete-user": ("jupyterhub.user:UserDict.delete", None),
}


def install(options: dict[str, Any]) -> None:
    """Do all of it."""
    for name, value in options["constants"].items():
        holder, attribute = _find(name)
        known = getattr(holder, attribute)
        if isinstance(known, dict):
            known.update(value)
        else:
            setattr(holder, attribute, value)
    folder = Path(options["folder"])
    for at in POINTS:
        _watch(folder, at)
    _move_clock(Path(options["clock"]))


def _find(target: str) -> tuple[Any, str]:
    module, _, path = target.partition(":")
    holder: Any = importlib.import_module(module)
    *outer, attribute = path.split(".")
    for name in outer:
        holder = getattr(holder, name)
    assert hasattr(holder, attribute), f"there is no {target}"
    return holder, attribute


def _watch(folder: Path, at: str) -> None:
    target, applies = POINTS[at]
    holder, attribute = _find(target)
    original = getattr(holder, attribute)

    def is_due(arguments: tuple[Any, ...]) -> str:
        """ "before", "after" or "": when to die."""
        if applies is not None and not applies(*arguments):
            return ""
        return _due(folder / "die", at)

    def die(when: str) -> None:
        (folder / "die").unlink()
        (folder / "reached").write_text(f"{when} {at}\n")
        os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(original)
    async def in_coroutine(*arguments: Any, **named: Any) -> Any:
        due = is_due(arguments)
        if due == "before":
            die(due)
        result = await original(*arguments, **named)
        if due:
            die(due)
        return result

    @functools.wraps(original)
    def in_function(*arguments: Any, **named: Any) -> Any:
        due = is_due(arguments)
        if due == "before":
            die(due)
        result = original(*arguments, **named)
        if due:
            die(due)
        return result

    is_async = inspect.iscoroutinefunction(original)
    setattr(holder, attribute, in_coroutine if is_async else in_function)


def _due(file: Path, at: str) -> str:
    if not file.exists():
        return ""
    death = json.loads(file.read_text())
    if death["at"] != at:
        return ""
    if death["nth"] > 1:
        file.write_text(json.dumps({**death, "nth": death["nth"] - 1}))
        return ""
    return str(death["when"])


def _move_clock(file: Path) -> None:
    """The fleet's clock is this computer's, and what the file says ahead of it."""
    from ec2spawner.fleet import Fleet

    original = Fleet.__init__

    def now() -> float:
        try:
            return time.time() + float(file.read_text())
        except (FileNotFoundError, ValueError):
            return time.time()

    @functools.wraps(original)
    def with_clock(*arguments: Any, **named: Any) -> None:
        original(*arguments, **{"clock": now, **named})

    Fleet.__init__ = with_clock  # type: ignore[method-assign]
