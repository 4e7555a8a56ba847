"""Images of real machines, made by the real provisioning scripts in a root of Debian 12.

Owns the cache of roots and images, outside the checkout and by a hash of all that goes into them.
Needs root, mmdebstrap and a way to packages; ``lack`` says what is missing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ec2spawner.localcloud.vm_options import INITRD, KERNEL, PROGRAMS, ROOT
from ec2spawner.worker import image

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = REPOSITORY / "tools" / "image"
PROVISIONING = Path(image.__file__).parent
DEBIAN = "http://deb.debian.org/debian"
DISK_GIB = 4
KEPT = 3
"""Images and roots in the cache; the oldest go."""
MAKERS = {**PROGRAMS, "mmdebstrap": "mmdebstrap", "mkfs.ext4": "e2fsprogs"}


def lack() -> str:
    """Why no image can be made and run here; "" where it can."""
    if os.geteuid() != 0:
        return "needs root, for a Debian root of its own"
    if os.uname().machine != "x86_64":
        return f"makes and runs x86_64 only, and this is {os.uname().machine}"
    for program, package in MAKERS.items():
        if shutil.which(program) is None:
            return f"needs {program} (Debian: apt-get install {package})"
    return ""


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
        given = "/run/harness/given"
        variables = {
            "BUNDLE": given,
            "WORKER_USERNAME": self.username,
            "WORKER_SSH_PORT": str(self.ssh_port),
            "WORKER_SUDO": str(int(self.sudo)),
        }
        if self.course:
            variables["COURSE"] = f"{given}/course"
        return variables


def make(recipe: Recipe) -> Path:
    """A folder with a sealed image for ``--vm-image``; made only where the cache has none."""
    folder = _cache() / f"worker-{_fingerprint(recipe)}"
    if (folder / ROOT).exists():
        os.utime(folder)
        return folder
    with tempfile.TemporaryDirectory(prefix="making-", dir=_cache()) as place:
        _make_in(Path(place), recipe)
        shutil.rmtree(folder, ignore_errors=True)
        (Path(place) / "image").rename(folder)
    _prune("worker-")
    return folder


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "ec2spawner"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _prune(prefix: str) -> None:
    found = sorted(_cache().glob(f"{prefix}*"), key=lambda path: path.stat().st_mtime)
    for path in found[:-KEPT]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def _fingerprint(recipe: Recipe) -> str:
    """Of what runs on a worker, and of what makes its image; the hub's own code is none of it."""
    package = REPOSITORY / "ec2spawner"
    folders = (package / "worker", TOOLS)
    files = [p for f in folders for p in f.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    files += [package / f"{name}.py" for name in ("__init__", "errors", "model", "version")]
    files += [REPOSITORY / "pyproject.toml", Path(__file__)]
    names = {path: str(path.relative_to(REPOSITORY)) for path in sorted(files)}
    contents = [name.encode() + b"\0" + path.read_bytes() for path, name in names.items()]
    return _hash(repr(recipe).encode(), *contents)


def _make_in(place: Path, recipe: Recipe) -> None:
    root, given, made = place / "root", place / "given", place / "image"
    made.mkdir()
    _unpack_base(root)
    _bundle(given, recipe)
    with (made / "making.log").open("wb") as log:
        for _ in range(recipe.times):
            _in_root(root, given, recipe, "provision.sh", log.fileno())
        _in_root(root, given, recipe, "seal.sh", log.fileno())
    for path in sorted((root / "boot").glob("vmlinuz-*"))[-1:]:
        shutil.copy(path, made / KERNEL)
    for path in sorted((root / "boot").glob("initrd.img-*"))[-1:]:
        shutil.copy(path, made / INITRD)
    disk = made / ROOT
    with disk.open("wb") as file:
        file.truncate(DISK_GIB << 30)
    with _timed("making a disk of it"):
        options = ["-q", "-F", "-L", "root", "-E", "lazy_itable_init=1,lazy_journal_init=1"]
        subprocess.run(["mkfs.ext4", *options, "-d", root, disk], check=True)


def _unpack_base(root: Path) -> None:
    """A root of Debian as a cloud image has it, before any provisioning."""
    archive = _cache() / f"debian-{_hash((TOOLS / 'make_root.sh').read_bytes())}.tar"
    if not archive.exists():
        with _timed("making a root of Debian 12"):
            subprocess.run([TOOLS / "make_root.sh", root, _mirror()], check=True)
        partial = archive.with_suffix(f".{os.getpid()}")
        subprocess.run(["tar", "-C", root, "-cf", partial, "--one-file-system", "."], check=True)
        partial.replace(archive)
        _prune("debian-")
    else:
        root.mkdir()
        subprocess.run(["tar", "-C", root, "-xpf", archive], check=True)


def _mirror() -> str:
    """This computer's mirror of Debian 12, if it has one."""
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Codename: bookworm"]
    done = subprocess.run([*asked, "Component: main"], capture_output=True, text=True, check=False)
    return next(iter(done.stdout.split()), DEBIAN)


def _bundle(given: Path, recipe: Recipe) -> None:
    """What the launch command's bundle holds, as far as a worker is concerned."""
    wheel = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation"]
    source = given.with_name("source")
    for name in ("ec2spawner", "launch_cluster"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    subprocess.run([*wheel, "--wheel-dir", given, source], check=True)
    shutil.copy(PROVISIONING / "worker.lock", given)
    shutil.copytree(PROVISIONING, given / "provision" / "worker")
    for name, text in recipe.course.items():
        (given / "course").mkdir(exist_ok=True)
        (given / "course" / name).write_text(text)


def _in_root(root: Path, given: Path, recipe: Recipe, script: str, log: int) -> None:
    variables = [f"{name}={value}" for name, value in recipe.variables.items()]
    command = [*variables, "sh", f"/run/harness/given/provision/worker/{script}"]
    with _timed(script):
        done = subprocess.run(
            [TOOLS / "in_root.sh", root, given, *command],
            env={**os.environ, "MIRROR": _mirror()},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
        )
    if done.returncode:
        said = Path(f"/proc/self/fd/{log}").resolve().read_text(errors="replace")
        raise AssertionError(f"{script} failed:\n" + "\n".join(said.splitlines()[-60:]))


class _timed:  # noqa: N801 - used as a function
    """Says how long a step took."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *failure: object) -> None:
        seconds = time.monotonic() - self._began
        print(f"image: {self._what}: {seconds:.0f} s", file=sys.stderr, flush=True)
