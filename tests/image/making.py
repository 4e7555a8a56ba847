"""Images of workers, made by the real provisioning scripts in a root of Debian 12.

Owns what an image is made of, and its place in the cache by a hash of that.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ec2spawner.localcloud.vm_options import INITRD, KERNEL, ROOT
from launch_cluster.bundle import find_sources, worker_digest

from . import leavings, roots

DISK_GIB = 4
BEFORE_SEALING, AFTER_SEALING = "left-before.txt", "left-after.txt"


@dataclass(frozen=True)
class Recipe:
    """What an image is made of, besides the checkout; ``times`` runs of the provisioning."""

    username: str = "jovyan"
    ssh_port: int = 2222
    sudo: bool = False
    course: Mapping[str, str] = field(default_factory=dict)  # file name -> text
    times: int = 1

    @property
    def variables(self) -> dict[str, str]:
        """For the provisioning script."""
        variables = {
            "BUNDLE": roots.GIVEN,
            "WORKER_USERNAME": self.username,
            "WORKER_SSH_PORT": str(self.ssh_port),
            "WORKER_SUDO": str(int(self.sudo)),
        }
        if self.course:
            variables["COURSE"] = f"{roots.GIVEN}/course"
        return variables


def make(recipe: Recipe) -> Path:
    """A folder with a sealed image for ``--vm-image``; made only where the cache has none."""
    folder = roots.cache() / f"worker-{_fingerprint(recipe)}"
    if (folder / ROOT).exists():
        os.utime(folder)
        return folder
    with tempfile.TemporaryDirectory(prefix="making-", dir=roots.cache()) as place:
        _make_in(Path(place), recipe)
        shutil.rmtree(folder, ignore_errors=True)
        (Path(place) / "image").rename(folder)
    roots.prune("worker")
    return folder


def _fingerprint(recipe: Recipe) -> str:
    """Of what runs on a worker, and of what makes its image; the hub's own code is none of it."""
    makers = [
        *roots.TOOLS.iterdir(),
        Path(__file__),
        *(Path(m.__file__) for m in (leavings, roots)),
    ]
    parts = (repr(recipe), worker_digest(find_sources()))
    metadata = roots.REPOSITORY / "pyproject.toml"
    return roots.digest(*(p.encode() for p in parts), roots.digest_of([*makers, metadata]))


def _make_in(place: Path, recipe: Recipe) -> None:
    root, made = place / "root", place / "image"
    made.mkdir()
    roots.unpack_base(root)
    given = roots.unpack_bundle(place / "given")
    for name, text in recipe.course.items():
        (given / "course").mkdir(exist_ok=True)
        (given / "course" / name).write_text(text)
    for _ in range(recipe.times):
        _run_in(root, given, recipe, "provision.sh", made / "making.log")
    leavings.leave(root)
    (made / BEFORE_SEALING).write_text("\n".join(leavings.found(root)))
    _run_in(root, given, recipe, "seal.sh", made / "making.log")
    (made / AFTER_SEALING).write_text("\n".join(leavings.found(root)))
    for kind, name in (("vmlinuz", KERNEL), ("initrd.img", INITRD)):
        shutil.copy(max((root / "boot").glob(f"{kind}-*")), made / name)
    roots.make_disk(root, made / ROOT, DISK_GIB)


def _run_in(root: Path, given: Path, recipe: Recipe, script: str, log: Path) -> None:
    with roots.Timed(script):
        command = ["sh", f"{roots.GIVEN}/provision/worker/{script}"]
        done = roots.enter(root, given, command, recipe.variables)
    with log.open("a") as file:
        file.write(done.stdout)
    assert done.returncode == 0, f"{script} failed:\n{done.stdout[-6000:]}"
