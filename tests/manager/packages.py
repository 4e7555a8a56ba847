"""The package that managers are provisioned from: changed, and as an archive."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from launch_cluster import bundle

REPOSITORY = Path(__file__).parents[2]
MANAGER = REPOSITORY / "launch_cluster/manager"


def change_wheel(bundle: Path, name: str, text: str) -> None:
    """Replace a file in the wheel of a package, or add it."""
    (wheel,) = bundle.glob("*.whl")
    fresh = wheel.with_suffix(".new")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(fresh, "w") as new:
        for item in old.infolist():
            if item.filename != name:
                new.writestr(item, old.read(item))
        new.writestr(name, text)
    fresh.replace(wheel)


def pack(folder: Path, archive: Path) -> str:
    """An archive of what a bundle was changed into, and its SHA-256."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    archive.write_bytes(bundle.pack(contents))
    return hashlib.sha256(archive.read_bytes()).hexdigest()
