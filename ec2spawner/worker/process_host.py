"""The host of the emulated cloud: directories for volumes, plain processes for units.

Owns the mapping of a machine's hardware onto ``D/instances/i-.../`` and the talk with that
machine's init. Must not import the emulated cloud: files and one socket are the contract.

    DIR/nvme/<serial>     symlink to D/volumes/vol-.../, which holds `filesystem` and `data/`
    DIR/run/              as tmpfs: the machine empties it at every boot
    DIR/run/home/<user>   symlink to a mounted volume
    DIR/run/notices/      what the user is to be told
    DIR/machine.json      "is_spot": true where EC2 may take it back;
                          "server_argv": [...] replaces the single-user server (for tests)
    DIR/instance-action.json   what EC2's /latest/meta-data/spot/instance-action would answer
    DIR/faults.json       {"format": "fail"}, {"mount": "fail"}, {"disk": "full"}
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ec2spawner.worker.activity_file import FILE_NAME as ACTIVITY_FILE
from ec2spawner.worker.document import Limits
from ec2spawner.worker.home import NoOwnership, copy_skeleton
from ec2spawner.worker.host import Boot, Contents, Filesystem, ServerStatus
from ec2spawner.worker.metadata import ANSWER_MAX_BYTES, Interruption, parse_interruption
from ec2spawner.worker.notice_file import VARIABLE as NOTICES
from ec2spawner.worker.protocol import Code, Fault
from ec2spawner.worker.records import write_atomically

UNIT = "ec2spawner-server"
NOTICE_FILE = "instance-action.json"
LOG_TAIL_BYTES = 8192
_SKELETON = Path("/etc/skel")
_INIT_TIMEOUT_SECONDS = 10.0
_NEW_HOME_MODE = 0o1755  # the sticky bit says: not yet its user's
_HOME_MODE = 0o750


class ProcessHost:
    """One emulated machine, by its directory."""

    def __init__(self, directory: Path, server_argv: tuple[str, ...] = ()) -> None:
        self._directory = directory
        self._argv = server_argv or (sys.executable, "-I", "-m", "ec2spawner.worker.singleuser")
        self._log = directory / "server.log"

    @classmethod
    def of(cls, directory: str) -> ProcessHost:
        """The machine in ``directory``, with its own choice of a server."""
        path = Path(directory)
        return cls(path, tuple(_settings(path).get("server_argv", ())))

    @property
    def state_directory(self) -> Path:
        """On the emulated root disk."""
        return self._directory / "state"

    @property
    def runtime_directory(self) -> Path:
        """Emptied by the machine at boot."""
        return self._directory / "run"

    def prepare(self) -> None:
        """Make both directories."""
        self.state_directory.mkdir(mode=0o700, exist_ok=True)
        self.runtime_directory.mkdir(mode=0o700, exist_ok=True)

    # -- the machine -------------------------------------------------------------------------

    def boot(self) -> Boot:
        """As init knows it: the computer's own boot is another matter."""
        answer = self._ask(op="boot")
        return Boot(str(answer["boot_id"]), float(answer["began_at"]))

    def await_boot(self, timeout_seconds: float) -> str:
        """Whatever can ask this has booted."""
        return "running"

    def disk_free_bytes(self) -> int:
        """Of the disk below."""
        if self._fault("disk") == "full":
            return 0
        disk = os.statvfs(self.state_directory)
        return disk.f_bavail * disk.f_frsize

    def power_off(self) -> None:
        """Init ends everything, this command included."""
        self._ask(op="poweroff")

    def keep_open(self, fd: int) -> None:
        """Nothing to do: no programs are run."""

    def _fault(self, what: str) -> str | None:
        try:
            faults = json.loads((self._directory / "faults.json").read_text())
        except (OSError, ValueError):
            return None
        return faults.get(what) if isinstance(faults, dict) else None

    # -- the home ----------------------------------------------------------------------------

    def find_device(self, volume_id: str) -> str | None:
        """The volume's directory."""
        link = self._directory / "nvme" / volume_id.replace("-", "", 1)
        return str(link.resolve()) if link.is_dir() else None

    def inspect(self, device: str) -> Contents:
        """By the file ``filesystem``; files on a volume without a file system are foreign."""
        try:
            kind = (Path(device) / "filesystem").read_text().strip()
        except FileNotFoundError:
            kind = ""
        data = Path(device) / "data"
        if kind == "ext4":
            return Contents(Filesystem.EXT4)
        if kind or (data.is_dir() and any(data.iterdir())):
            return Contents(Filesystem.FOREIGN, f"{device} holds {kind or 'files'}")
        return Contents(Filesystem.BLANK)

    def format(self, device: str) -> None:
        """An empty ``data/``, and only then the mark."""
        if self._fault("format"):
            raise Fault(Code.MOUNT_FAILED, "mkfs.ext4 failed (fault)")
        data = Path(device) / "data"
        data.mkdir(exist_ok=True)
        data.chmod(_NEW_HOME_MODE)
        write_atomically(Path(device) / "filesystem", "ext4\n")

    def _mountpoint(self, username: str) -> Path:
        return self.runtime_directory / "home" / username

    def _home(self, username: str) -> Path:
        return self._mountpoint(username).resolve() / "data"

    def mounted_device(self, username: str) -> str | None:
        """Where the home's link leads."""
        point = self._mountpoint(username)
        return str(point.resolve()) if point.is_symlink() else None

    def mount(self, device: str, username: str) -> None:
        """A link to the volume."""
        if self._fault("mount") or not (Path(device) / "data").is_dir():
            raise Fault(Code.MOUNT_FAILED, f"mount {device} failed")
        point = self._mountpoint(username)
        point.parent.mkdir(exist_ok=True)
        point.symlink_to(device)

    def unmount(self, username: str) -> bool:
        """Remove the link."""
        self._mountpoint(username).unlink(missing_ok=True)
        return True

    def is_home_prepared(self, username: str) -> bool:
        """No sticky bit, no more to do."""
        return not self._home(username).stat().st_mode & 0o1000

    def prepare_home(self, username: str) -> None:
        """The skeleton, and then the mode of a home."""
        if self._fault("disk") == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy_skeleton(_SKELETON, self._home(username), NoOwnership(), os.getuid(), os.getgid())
        self._home(username).chmod(_HOME_MODE)

    def home_free_bytes(self, username: str) -> int | None:
        """Of the disk below."""
        if self.mounted_device(username) is None:
            return None
        disk = os.statvfs(self._home(username))
        return disk.f_bavail * disk.f_frsize

    # -- the server --------------------------------------------------------------------------

    def start_server(self, username: str, limits: Limits) -> None:
        """Under the machine's init; limits are for real machines."""
        home = str(self._home(username))
        self._log.unlink(missing_ok=True)
        self._ask(
            op="start",
            unit=UNIT,
            argv=list(self._argv),
            env=self._environment(username, home),
            cwd=home,
            log=str(self._log),
        )

    def _environment(self, username: str, home: str) -> Mapping[str, str]:
        """What systemd gives to a unit of that user, and no secret."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "HOME": home,
            "USER": username,
            "LOGNAME": username,
            "SHELL": "/bin/bash",
            "CREDENTIALS_DIRECTORY": str(self.runtime_directory),
            "RUNTIME_DIRECTORY": str(self.runtime_directory),
            NOTICES: str(self._notices),
        }

    def stop_server(self, username: str, timeout_seconds: float) -> None:
        """Init ends what belongs to the unit."""
        self._ask(timeout_seconds, op="stop", unit=UNIT, timeout_seconds=timeout_seconds)

    def server_status(self, username: str) -> ServerStatus:
        """As init sees it."""
        answer = self._ask(op="status", unit=UNIT)
        return ServerStatus(answer["active"], answer["pid"], answer["exit_code"])

    def activity_file(self, username: str) -> tuple[Path, int]:
        """In what the server is told is its RuntimeDirectory."""
        return self.runtime_directory / ACTIVITY_FILE, os.getuid()

    def server_log(self, username: str) -> str:
        """The end of ``server.log``."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, self._log.stat().st_size - LOG_TAIL_BYTES))
                return log.read(LOG_TAIL_BYTES).decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _ask(self, extra_seconds: float = 0.0, **request: Any) -> dict[str, Any]:
        """One request to the machine's init; raises Fault where it refuses or is not there."""
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_INIT_TIMEOUT_SECONDS + extra_seconds)
                connection.connect(f"/proc/self/fd/{directory}/init.sock")  # 108 bytes at most
                connection.sendall(json.dumps(request).encode() + b"\n")
                answer = json.loads(connection.makefile("rb").readline())
        except (OSError, ValueError) as error:
            raise Fault(Code.INTERNAL, f"the machine's init does not answer: {error}") from None
        finally:
            os.close(directory)
        if "error" in answer:
            raise Fault(Code.INTERNAL, f"the machine's init refused: {answer['error']}")
        return dict(answer)

    # -- notices -----------------------------------------------------------------------------

    @property
    def _notices(self) -> Path:
        return self.runtime_directory / "notices"

    def notice_directory(self) -> Path:
        """Emptied by the machine at boot."""
        self.prepare()
        self._notices.mkdir(exist_ok=True)
        return self._notices

    def is_spot(self) -> bool:
        """As the emulated cloud says."""
        return _settings(self._directory).get("is_spot") is True

    def write_back(self) -> None:
        """Nothing to do: the computer below does not end with an emulated machine."""

    def interruption_notice(self) -> Interruption | None:
        """From the file that stands for the instance metadata."""
        try:
            with (self._directory / NOTICE_FILE).open("rb") as notice:
                text = notice.read(ANSWER_MAX_BYTES)
        except FileNotFoundError:
            return None
        return parse_interruption(text.decode("ascii", "replace"))


def _settings(directory: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((directory / "machine.json").read_text()))
    except (OSError, ValueError) as error:
        raise Fault(Code.INTERNAL, f"no emulated machine: {error}") from None
