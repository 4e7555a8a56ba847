"""The seam to what a manager is provisioned from: its package in the bucket, and its user data.

Owns which parameters the manager's script is given. Must not know what the script does.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Mapping

from ec2spawner.cloud import Gateway
from ec2spawner.model import Role

from . import bundle
from .bootstrap import render_bootstrap
from .bundle import Bundle
from .facts import PackageFacts
from .hosting import DATA_VOLUME, PARAMETER_MAX_BYTES
from .planning import StackChange
from .reporter import Reporter
from .request import UpRequest

IN_RELEASE = re.compile(r"ec2spawner-[^/]*\.whl|hub\.lock|(proxy|provision/manager)/.+")
"""What of a package is installed on managers."""


def manager_script(request: UpRequest, bucket: str, change: StackChange, made: Bundle) -> str:
    """The user data of a manager that is made now, of a package that is in the bucket.

    It holds no secret: anybody on the machine reads it. Where the id of the data volume belongs it
    says ``DATA_VOLUME``, once.
    """
    parameters = {
        "CLUSTER": request.cluster,
        "REGION": request.choices.REGION,
        "BUCKET": bucket,
        "DATA_VOLUME_ID": DATA_VOLUME,
        "DOMAIN": change.spec.parameters["Domain"],
        "EMAIL": change.spec.parameters["Email"],
    }
    return check_script(render_script(made, parameters))


async def put_package(
    gateway: Gateway, bucket: str, reporter: Reporter, clock: Callable[[], float]
) -> Bundle:
    """Have this package in the bucket."""
    return await bundle.put_bundle(gateway, bucket, bundle.find_sources(), reporter, clock)


async def look_at_package() -> PackageFacts:
    """This package, as a manager that has it knows it."""
    made = await asyncio.to_thread(bundle.make_bundle, bundle.find_sources())
    return PackageFacts(made.sha256, release_of(made.data))


def release_of(data: bytes) -> str:
    """What the hub says of itself that was installed from a package (provision.sh)."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [m for m in tar if m.isfile() and IN_RELEASE.fullmatch(m.name)]
        contents = {m.name: tar.extractfile(m) for m in members}
        lines = [
            f"{hashlib.sha256(file.read()).hexdigest()}  {name}\n"
            for name, file in contents.items()
            if file
        ]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()[:16]


def render_script(made: Bundle, parameters: Mapping[str, str]) -> str:
    """The bootstrap of a manager that is provisioned from a package."""
    package = made.package(parameters["BUCKET"], parameters["REGION"])
    return render_bootstrap(package, Role.MANAGER, parameters)


def check_script(script: str) -> str:
    """The script, if both of its halves fit into the stack's parameters; ValueError if not."""
    halves = script.split(DATA_VOLUME)
    if len(halves) != 2 or any(len(half.encode()) > PARAMETER_MAX_BYTES for half in halves):
        raise ValueError("the manager's script does not fit into the stack's parameters")
    return script
