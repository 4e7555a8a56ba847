"""Filling a new home directory.

Owns the copying of skeleton files. Must not know volumes or units.
"""

from __future__ import annotations

import os
from pathlib import Path


class Ownership:
    """Whose files are. ``give`` follows no link."""

    def uid_of(self, path: Path) -> int:
        """The owner's uid."""
        return path.lstat().st_uid

    def give(self, path: Path, uid: int, gid: int) -> None:
        """Change owner and group; needs root."""
        os.chown(path, uid, gid, follow_symlinks=False)


class NoOwnership(Ownership):
    """For emulated machines, where all files have one owner."""

    def give(self, path: Path, uid: int, gid: int) -> None:
        """Leave it as it is."""


def copy_skeleton(skeleton: Path, home: Path, ownership: Ownership, uid: int, gid: int) -> None:
    """Copy what ``home`` lacks; nothing that is there is overwritten, no link is followed.

    May be repeated: every file is there as a whole or not at all.
    """
    import shutil  # for new homes only; every start would pay for it

    for folder, _, files in os.walk(skeleton):
        target = home / Path(folder).relative_to(skeleton)
        if target != home:
            target.mkdir(exist_ok=True)
            ownership.give(target, uid, gid)
        for name in files:
            if not os.path.lexists(target / name):
                partial = target / f".{name}.new"
                partial.unlink(missing_ok=True)
                shutil.copy2(Path(folder) / name, partial, follow_symlinks=False)
                ownership.give(partial, uid, gid)
                partial.rename(target / name)
