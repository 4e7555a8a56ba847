"""What an emulated manager holds, and what ``upgrade.sh`` makes of it; plain functions of both.

Owns the release that is in use, the configuration that was taken over, and the script's words. Must
not know HTTP, moto, or when something happens.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

FILES = ("config/server_config.json", "config/manager.json")
"""What a manager takes over of the bucket, beside its package."""
FAULTS = ("fail", "hang")
PART = re.compile(r"ec2spawner-[^/]*\.whl|hub\.lock|(proxy|provision/manager)/.+")
"""What of a package makes a release (provision.sh)."""
_SCRIPT = re.compile(r"/opt/ec2spawner/upgrade\.sh ([0-9a-f]{64}|refresh)")

Read = Callable[[str], bytes | None]
"""An object of the cluster's bucket; None if it is not there."""


@dataclass(frozen=True)
class Command:
    """One that was sent, and how it stands."""

    script: str
    due_at: float  # seconds since the epoch
    status: str = "InProgress"
    code: int = -1
    output: str = ""


@dataclass(frozen=True)
class Held:
    """What lies on a manager's disk."""

    release: str = ""
    taken: dict[str, str] = field(default_factory=dict)  # text by key
    commands: dict[str, Command] = field(default_factory=dict)  # by id

    @property
    def domain(self) -> str:
        """The name that the manager was told."""
        try:
            return str(json.loads(self.taken.get(FILES[1], "{}")).get("DOMAIN", ""))
        except (ValueError, AttributeError):
            return ""

    def write(self, path: Path) -> None:
        """Keep it in a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self)), encoding="utf-8")
        fresh.replace(path)


def read_held(path: Path) -> Held | None:
    """What a file holds; None where there is none."""
    if not path.exists():
        return None
    raw = json.loads(path.read_text(encoding="utf-8"))
    commands = {key: Command(**value) for key, value in raw.pop("commands").items()}
    return Held(**raw, commands=commands)


def set_up(package_key: str, read: Read) -> Held:
    """What a machine holds when it is set up from a package."""
    package = read(package_key)
    return Held(release_of(package) if package else "", _texts(read))


def _texts(read: Read) -> dict[str, str]:
    found = {key: read(key) for key in FILES}
    return {key: body.decode(errors="replace") for key, body in found.items() if body is not None}


def release_of(package: bytes) -> str:
    """What the hub says of itself that is installed from a package; "" of what is none."""
    try:
        with tarfile.open(fileobj=io.BytesIO(package)) as tar:
            members = [m for m in tar if m.isfile() and PART.fullmatch(m.name)]
            read = {m.name: tar.extractfile(m) for m in members}
            digests = {
                name: hashlib.sha256(file.read()).hexdigest() for name, file in read.items() if file
            }
    except tarfile.TarError:
        return ""
    lines = sorted(f"{digest}  {name}\n" for name, digest in digests.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def carry_out(held: Held, command_id: str, read: Read, fault: str | None) -> Held:
    """What is held after a command, which has ended then."""
    command = held.commands[command_id]
    after, code, words = _run(held, command.script, read, fault)
    output = "".join(f"ec2spawner-upgrade: {word}\n" for word in words)
    status = "Failed" if code else "Success"
    ended = replace(command, status=status, code=code, output=output)
    return replace(after, commands={**held.commands, command_id: ended})


def _run(
    held: Held, script: str, read: Read, fault: str | None
) -> tuple[Held, int, tuple[str, ...]]:
    found = _SCRIPT.fullmatch(script)
    if found is None or not held.taken:  # a machine that is still being set up has no such script
        return held, 127, ("not found",)
    to = held.release
    if found[1] != "refresh":
        package = read(f"package/{found[1]}.tar.gz")
        if package is None or hashlib.sha256(package).hexdigest() != found[1]:
            return held, 1, ("phase fetching the package", "it is not what it is called")
        to = release_of(package)
    saving = "phase saving the database"
    taken = {**held.taken, **_texts(read)}
    if (to, taken) == (held.release, held.taken):
        return held, 0, (saving, "nothing new in the bucket", f"done: {to} is in use already")
    changing = f"phase changing from {held.release} to {to}"
    if fault == "fail":
        back = f"failed: back at {held.release}"
        return held, 1, (saving, changing, "the hub does not answer", back)
    return replace(held, release=to, taken=taken), 0, (saving, changing, f"done: {to} is in use")
