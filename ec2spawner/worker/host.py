"""The line between what a start does and the machine that it does it on.

Owns the ``Host`` interface and the values that cross it. Everything above is the same code on a
real worker (``systemd_host``) and in the emulated cloud (``process_host``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from ec2spawner.worker.document import Limits
from ec2spawner.worker.metadata import Interruption


class Filesystem(Enum):
    """What a volume holds."""

    BLANK = "blank"  # no signature of anything, and nothing written at its beginning
    EXT4 = "ext4"
    FOREIGN = "foreign"  # anything else: never touched


@dataclass(frozen=True)
class Contents:
    """A volume's file system, and for a foreign one what was seen."""

    filesystem: Filesystem
    detail: str = ""


@dataclass(frozen=True)
class ServerStatus:
    """The server's unit; ``exit_code`` is -N after signal N, None while nothing has ended."""

    active: bool
    pid: int | None = None
    exit_code: int | None = None


@dataclass(frozen=True)
class Boot:
    """One run of a machine, from power-on to power-off; moments are of ``clock``."""

    boot_id: str
    began_at: float


class Host(Protocol):
    """One machine. Every method raises Fault for what it cannot do."""

    @property
    def state_directory(self) -> Path:
        """On the root disk: kept for as long as the machine exists."""

    @property
    def runtime_directory(self) -> Path:
        """Empty after every boot, and readable by the command's own user only."""

    def prepare(self) -> None:
        """Make both directories."""

    def boot(self) -> Boot:
        """The boot that this machine is in."""

    def await_boot(self, timeout_seconds: float) -> str:
        """How the system is once it has booted to the end: "running" or "degraded"."""

    def disk_free_bytes(self) -> int:
        """Free space of the root disk."""

    def power_off(self) -> None:
        """Begin to shut the machine down in order; returns at once."""

    def keep_open(self, fd: int) -> None:
        """Let programs that are run inherit ``fd``: it is the lock, which they then hold, too."""

    def find_device(self, volume_id: str) -> str | None:
        """The block device of an attached volume, or None while it is not there."""

    def inspect(self, device: str) -> Contents:
        """What ``device`` holds; looks, and changes nothing."""

    def format(self, device: str) -> None:
        """Make an empty file system; the caller has seen that the device is blank."""

    def mounted_device(self, username: str) -> str | None:
        """The device that is mounted as the home of ``username``."""

    def mount(self, device: str, username: str) -> None:
        """Mount ``device`` as the home of ``username``."""

    def unmount(self, username: str) -> bool:
        """Write back and unmount; False where somebody still uses it."""

    def is_home_prepared(self, username: str) -> bool:
        """Whether the mounted home already belongs to its user."""

    def prepare_home(self, username: str) -> None:
        """Skeleton files and ownership; the last thing that it does makes the home prepared."""

    def home_free_bytes(self, username: str) -> int | None:
        """Free space of the mounted home, or None where none is mounted."""

    def start_server(self, username: str, limits: Limits) -> None:
        """Start the single-user server, whose document is in the runtime directory."""

    def stop_server(self, username: str, timeout_seconds: float) -> None:
        """SIGTERM, and SIGKILL to all that is left at the bound. Returns when it is gone."""

    def server_status(self, username: str) -> ServerStatus:
        """How the server's unit is."""

    def activity_file(self, username: str) -> tuple[Path, int]:
        """Where the server leaves when its user worked, and the uid that it must belong to."""

    def server_log(self, username: str) -> str:
        """The end of what the server last started has written, a few KiB at most."""

    def notice_directory(self) -> Path:
        """Where notices for the notebook user lie, who may only read them; made if need be."""

    def is_spot(self) -> bool:
        """Whether EC2 may take this machine back."""

    def write_back(self) -> None:
        """Have all that was saved written to the disks."""

    def interruption_notice(self) -> Interruption | None:
        """When EC2 takes this spot instance back; None while it does not mean to."""
