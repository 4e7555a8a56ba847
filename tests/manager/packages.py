"""The package that managers are provisioned from, as an archive."""

from __future__ import annotations

import hashlib
from pathlib import Path

from launch_cluster import bundle

REPOSITORY = Path(__file__).parents[2]
MANAGER = REPOSITORY / "launch_cluster/manager"


def pack(folder: Path, archive: Path) -> str:
    """An archive of what a bundle was changed into, and its SHA-256."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    archive.write_bytes(bundle.pack(contents))
    return hashlib.sha256(archive.read_bytes()).hexdigest()
