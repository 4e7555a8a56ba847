"""User data of builder and manager: one small script that fetches the package and lets it work.

Owns the script's rendering; the script itself is ``bootstrap.sh``. Anyone on the machine can read
user data, so no secret may be given to it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ec2spawner.model import Role

USER_DATA_MAX_BYTES = 16_384  # raw; EC2 user guide, "Instance user data", 2026
TRIES = 60  # five seconds apart
BUILDER_MAX_MINUTES = 90
"""A builder switches itself off then, whatever happens; later than who follows it gives up
(``building.BUILD_DEADLINE_SECONDS``), who says more of it."""
NAME = re.compile(r"[A-Z][A-Z0-9_]*")

CONSOLE_TAGS = {Role.BUILDER: "ec2spawner-image", Role.MANAGER: "ec2spawner-manager"}
"""What the script's lines on the console begin with: ``TAG: phase TEXT``, ``TAG: done``,
``TAG: failed TEXT``."""

_SCRIPTS = {
    Role.BUILDER: "worker/provision.sh worker/seal.sh",
    Role.MANAGER: "manager/provision.sh",
}
_LOGS = {
    Role.BUILDER: "",  # the image is to hold none
    Role.MANAGER: "/var/log/ec2spawner-bootstrap.log",
}


@dataclass(frozen=True)
class Package:
    """A tar.gz in the cluster's bucket, and what it must hold."""

    bucket: str
    region: str
    key: str
    sha256: str


def render_bootstrap(
    package: Package,
    role: Role,
    parameters: Mapping[str, str],
    course: Package | None = None,
) -> str:
    """The script for a builder or manager; ``parameters`` are its provisioning's environment.

    A builder switches itself off at the end, however that is, or after ``BUILDER_MAX_MINUTES``.
    ValueError for a parameter whose name no environment takes, or if EC2 would refuse the script
    for its size.
    """
    for name in parameters:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a parameter")
    settings = {
        "tag": CONSOLE_TAGS[role],
        "region": package.region,
        "bucket": package.bucket,
        "package": package.key,
        "sha256": package.sha256,
        "course": course.key if course else "",
        "course_sha256": course.sha256 if course else "",
        "tries": str(TRIES),
        "scripts": _SCRIPTS[role],
        "log": _LOGS[role],
        "minutes": str(BUILDER_MAX_MINUTES) if role is Role.BUILDER else "",
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in parameters.items()]
    template = Path(__file__).with_name("bootstrap.sh").read_text(encoding="utf-8")
    script = template.replace("@SETTINGS@", "\n".join(lines))
    size = len(script.encode())
    if size > USER_DATA_MAX_BYTES:
        raise ValueError(f"the user data would have {size} bytes; EC2 takes {USER_DATA_MAX_BYTES}")
    return script
