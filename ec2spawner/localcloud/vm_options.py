"""What workers that are real machines are made of, and whether this computer can run them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "setpriv": "util-linux",
}
"""What is run, and the Debian package that it is in."""
ROOT, KERNEL, INITRD = "root.img", "vmlinuz", "initrd.img"


@dataclass(frozen=True)
class VmOptions:
    """``image``: a folder with root.img (raw, one file system), vmlinuz and initrd.img."""

    image: Path = Path()
    memory_mib: int = 1024
    cpus: int = 2
    accelerator: str = "tcg"
    notebook_port: int = 8888
    append: str = ""  # to the kernel's command line

    def lack(self) -> str:
        """Why machines cannot be run, in words; "" where they can."""
        for program, package in PROGRAMS.items():
            if shutil.which(program) is None:
                return f"{program} is not installed (Debian: apt-get install {package})"
        for name in (ROOT, KERNEL, INITRD):
            if not (self.image / name).is_file():
                return f"{self.image} has no {name}; make test-image makes such an image"
        return ""
