"""Filling a new home directory.

Owns the copying of skeleton files. Must not know volumes or units.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def copy_skeleton(skeleton: Path, home: Path, owner: tuple[int, int] | None) -> None:
    """Copy what ``home`` lacks; nothing that is there is overwritten, no link is followed.

    ``owner`` is (uid, gid), or None to leave ownership as it is. May be repeated.
    """
    for folder, _, files in os.walk(skeleton):
        target = home / Path(folder).relative_to(skeleton)
        if target != home:
            target.mkdir(exist_ok=True)
            _give(target, owner)
        for name in files:
            if not os.path.lexists(target / name):
                _copy(Path(folder) / name, target / name, owner)


def _copy(source: Path, target: Path, owner: tuple[int, int] | None) -> None:
    partial = target.with_name(f".{target.name}.new")
    partial.unlink(missing_ok=True)
    shutil.copy2(source, partial, follow_symlinks=False)
    _give(partial, owner)
    partial.rename(target)


def _give(path: Path, owner: tuple[int, int] | None) -> None:
    if owner is not None:
        os.chown(path, *owner, follow_symlinks=False)
