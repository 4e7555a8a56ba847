"""The host of a real worker: NVMe volumes, mounts, and a unit of systemd.

Owns every command line that a start runs on Ubuntu 24.04 and Debian 12. Must not know the order
of a start. Runs as root (the hub's SSH user gets there by sudo, for this command only).
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable
from pathlib import Path

from ec2spawner.worker.activity_file import FILE_NAME as ACTIVITY_FILE
from ec2spawner.worker.document import Limits
from ec2spawner.worker.home import Ownership, copy_skeleton
from ec2spawner.worker.host import Boot, Contents, Filesystem, ServerStatus
from ec2spawner.worker.metadata import Interruption, interruption_notice, is_spot
from ec2spawner.worker.protocol import Code, Fault
from ec2spawner.worker.runner import Completed, Runner, run_program

LABEL = "ec2spawner-home"  # ext4 takes 16 characters
MOUNT_OPTIONS = "nodev,nosuid,noatime"
MKFS_TIMEOUT_SECONDS = 300.0
FSCK_TIMEOUT_SECONDS = 600.0  # only after a crash, and then it may take its time
UNMOUNT_TRIES = 10
UNMOUNT_PAUSE_SECONDS = 0.2
STOP_POLL_SECONDS = 0.05
STOP_REPEAT_POLLS = 40  # 2 s: a Jupyter server that has only just started may swallow a SIGTERM
LOG_LINES = 40
LOG_TAIL_CHARS = 8192
BOOTED = ("running", "degraded")  # degraded: booted, and some unit failed
BLANK_BYTES = 4096  # mkfs writes its superblock, in here, as its last act
_BLKID_NOTHING = 2
_FSCK_GIVES_UP = 4
_HOME_MODE = 0o750
_SHOWN = "ActiveState,MainPID,ExecMainPID,ExecMainCode,ExecMainStatus"
_CLD_EXITED = "1"


def unit_name(username: str) -> str:
    """The server's unit; user names that documents admit need no escaping in it."""
    return f"ec2spawner-server@{username}.service"


def classify(blkid: Completed, wipefs: Completed, beginning: bytes) -> Contents:
    """What a volume holds, by all three witnesses; blank only where they agree."""
    found = dict(line.partition("=")[::2] for line in blkid.stdout.splitlines())
    if blkid.exit_code == 0 and found.get("TYPE") == "ext4":
        return Contents(Filesystem.EXT4)
    if blkid.exit_code != _BLKID_NOTHING or found:
        kind = found.get("TYPE") or found.get("PTTYPE") or blkid.words
        return Contents(Filesystem.FOREIGN, f"blkid: {kind}")
    if wipefs.exit_code != 0 or wipefs.stdout.strip():
        return Contents(Filesystem.FOREIGN, f"wipefs: {wipefs.words}")
    if any(beginning) or len(beginning) < BLANK_BYTES:
        return Contents(Filesystem.FOREIGN, "unknown data at the volume's beginning")
    return Contents(Filesystem.BLANK)


def parse_status(shown: str) -> ServerStatus:
    """From ``systemctl show``."""
    raw = dict(line.partition("=")[::2] for line in shown.splitlines())
    active = raw.get("ActiveState") in ("active", "activating", "reloading", "deactivating")
    pid = int(raw.get("MainPID", "0")) or None
    if active or raw.get("ExecMainPID", "0") == "0":
        return ServerStatus(active, pid, None)
    status = int(raw.get("ExecMainStatus", "0"))
    return ServerStatus(False, None, status if raw.get("ExecMainCode") == _CLD_EXITED else -status)


class SystemdHost:
    """This machine. ``root`` and the rest are for tests."""

    def __init__(
        self,
        run: Runner = run_program,
        root: Path = Path("/"),
        look_up: Callable[[str], pwd.struct_passwd] = pwd.getpwnam,
        ownership: Ownership | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._run = run
        self._root = root
        self._look_up = look_up
        self._ownership = ownership or Ownership()
        self._sleep = sleep
        self._lock: tuple[int, ...] = ()

    @property
    def state_directory(self) -> Path:
        """On the root disk."""
        return self._root / "var/lib/ec2spawner"

    @property
    def runtime_directory(self) -> Path:
        """On tmpfs."""
        return self._root / "run/ec2spawner"

    def prepare(self) -> None:
        """Make both directories, root's own."""
        for directory in (self.state_directory, self.runtime_directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    # -- the machine -------------------------------------------------------------------------

    def boot(self) -> Boot:
        """The kernel's own name for it; its clock begins with the boot."""
        file = self._root / "proc/sys/kernel/random/boot_id"
        return Boot(file.read_text().strip(), 0.0)

    def await_boot(self, timeout_seconds: float) -> str:
        """systemd waits for all that belongs to the boot, cloud-init included."""
        argv = ("systemctl", "is-system-running", "--wait")
        try:
            done = self._run(argv, timeout_seconds=timeout_seconds)
        except Fault as fault:
            raise Fault(Code.BOOT_UNFINISHED, fault.detail) from None
        if (state := done.stdout.strip()) not in BOOTED:
            raise Fault(Code.BOOT_UNFINISHED, f"systemctl: {state or done.words}")
        return state

    def disk_free_bytes(self) -> int:
        """Of the root disk."""
        disk = os.statvfs(self.state_directory)
        return disk.f_bavail * disk.f_frsize

    def power_off(self) -> None:
        """Nobody's inhibitor lock holds it up (systemd 257 heeds them for root, too)."""
        self._must(Code.INTERNAL, "systemctl", "poweroff", "--check-inhibitors=no")

    def keep_open(self, fd: int) -> None:
        """What outlives a killed start (mkfs, fsck) keeps the next start waiting."""
        self._lock = (fd,)

    def _must(self, code: Code, *argv: str, timeout_seconds: float = 30.0) -> str:
        done = self._run(argv, timeout_seconds=timeout_seconds, inherit=self._lock)
        if done.exit_code != 0:
            full = "No space left" in done.stderr
            raise Fault(Code.DISK_FULL if full else code, f"{argv[0]}: {done.words}")
        return done.stdout

    def _ask(self, *argv: str) -> Completed:
        return self._run(argv)

    def _user(self, username: str) -> pwd.struct_passwd:
        try:
            user = self._look_up(username)
        except KeyError:
            raise Fault(Code.INTERNAL, f"this image has no user {username}") from None
        if user.pw_uid == 0:
            raise Fault(Code.BAD_DOCUMENT, f"username: {username} is root")
        return user

    # -- the home ----------------------------------------------------------------------------

    def find_device(self, volume_id: str) -> str | None:
        """EBS shows a volume's id as its NVMe serial, without the dash (EC2 user guide, 2026)."""
        serial = volume_id.replace("-", "", 1)
        for file in sorted(self._root.glob("sys/class/nvme/*/serial")):
            if file.read_text().strip() != serial:
                continue
            for namespace in sorted(file.parent.glob(f"{file.parent.name}n[0-9]*")):
                if (self._root / "dev" / namespace.name).exists():
                    return f"/dev/{namespace.name}"
        return None

    def inspect(self, device: str) -> Contents:
        """Ask lsblk, blkid and wipefs, and read the beginning."""
        rows = self._must(
            Code.INTERNAL, "lsblk", "--noheadings", "--raw", "--output", "TYPE,MOUNTPOINT", device
        ).splitlines()
        if [row.strip() for row in rows] != ["disk"]:
            return Contents(Filesystem.FOREIGN, f"partitioned, or mounted elsewhere: {rows}")
        blkid = self._ask("blkid", "--probe", "--output", "export", device)
        wipefs = self._ask("wipefs", "--no-act", "--noheadings", device)
        with (self._root / device.lstrip("/")).open("rb") as disk:
            return classify(blkid, wipefs, disk.read(BLANK_BYTES))

    def format(self, device: str) -> None:
        """ext4, all of it for its user; the rest of the tables is written in the background."""
        argv = ("mkfs.ext4", "-q", "-m", "0", "-L", LABEL, "-E", "nodiscard", device)
        self._must(Code.MOUNT_FAILED, *argv, timeout_seconds=MKFS_TIMEOUT_SECONDS)

    def mounted_device(self, username: str) -> str | None:
        """What findmnt says of the user's home directory."""
        home = self._user(username).pw_dir
        done = self._ask("findmnt", "--noheadings", "--output", "SOURCE", "--mountpoint", home)
        return done.stdout.strip() or None if done.exit_code == 0 else None

    def mount(self, device: str, username: str) -> None:
        """Mend what a crash left, then mount; a student's home holds no devices and no setuid."""
        home = self._user(username).pw_dir
        argv = ("e2fsck", "-p", device)
        check = self._run(argv, timeout_seconds=FSCK_TIMEOUT_SECONDS, inherit=self._lock)
        if check.exit_code >= _FSCK_GIVES_UP:
            raise Fault(Code.MOUNT_FAILED, f"e2fsck: {check.words}")
        (self._root / home.lstrip("/")).mkdir(parents=True, exist_ok=True)
        self._must(Code.MOUNT_FAILED, "mount", "-t", "ext4", "-o", MOUNT_OPTIONS, device, home)

    def unmount(self, username: str) -> bool:
        """A home in use is tried again for a while, and never torn away."""
        home = self._user(username).pw_dir
        self._ask("sync", "--file-system", home)
        for attempt in range(UNMOUNT_TRIES):
            if attempt:
                self._sleep(UNMOUNT_PAUSE_SECONDS)
            if self._ask("umount", home).exit_code == 0:
                return True
        return False

    def _home(self, username: str) -> Path:
        return self._root / self._user(username).pw_dir.lstrip("/")

    def is_home_prepared(self, username: str) -> bool:
        """mkfs leaves the top directory to root."""
        return self._ownership.uid_of(self._home(username)) != 0

    def prepare_home(self, username: str) -> None:
        """The skeleton first; that the home is its user's comes last."""
        user, home = self._user(username), self._home(username)
        uid, gid = user.pw_uid, user.pw_gid
        copy_skeleton(self._root / "etc/skel", home, self._ownership, uid, gid)
        if (home / "lost+found").is_dir():
            (home / "lost+found").rmdir()  # e2fsck makes another when it needs one
        home.chmod(_HOME_MODE)
        self._ownership.give(home, uid, gid)

    def home_free_bytes(self, username: str) -> int | None:
        """Of the mounted home."""
        if self.mounted_device(username) is None:
            return None
        disk = os.statvfs(self._home(username))
        return disk.f_bavail * disk.f_frsize

    # -- the server --------------------------------------------------------------------------

    def start_server(self, username: str, limits: Limits) -> None:
        """The unit's limits until the next boot, then the unit; it reads its document itself."""
        unit = unit_name(username)
        memory = "infinity" if limits.memory_bytes is None else str(limits.memory_bytes)
        cpu = "" if limits.cpu is None else f"{limits.cpu * 100:.0f}%"
        properties = (f"MemoryMax={memory}", f"CPUQuota={cpu}")
        self._must(Code.INTERNAL, "systemctl", "set-property", "--runtime", unit, *properties)
        self._ask("systemctl", "reset-failed", unit)
        done = self._ask("systemctl", "start", unit)
        if done.exit_code != 0:
            raise Fault(Code.SERVER_DIED, f"systemctl: {done.words}\n{self.server_log(username)}")

    def stop_server(self, username: str, timeout_seconds: float) -> None:
        """systemd sends SIGTERM to the server; at our bound its whole group gets SIGKILL."""
        unit = unit_name(username)
        self._must(Code.INTERNAL, "systemctl", "stop", "--no-block", unit)
        for attempt in range(1, max(1, round(timeout_seconds / STOP_POLL_SECONDS)) + 1):
            if not self.server_status(username).active:
                return
            self._sleep(STOP_POLL_SECONDS)
            if attempt % STOP_REPEAT_POLLS == 0:
                self._ask("systemctl", "kill", "--kill-whom=main", "--signal=SIGTERM", unit)
        self._ask("systemctl", "kill", "--signal=SIGKILL", unit)
        self._must(Code.INTERNAL, "systemctl", "stop", unit)

    def server_status(self, username: str) -> ServerStatus:
        """What systemd knows of the unit; one that it never saw is inactive."""
        unit = unit_name(username)
        return parse_status(
            self._must(Code.INTERNAL, "systemctl", "show", f"--property={_SHOWN}", unit)
        )

    def activity_file(self, username: str) -> tuple[Path, int]:
        """In the RuntimeDirectory of the server's unit, which goes with the server."""
        directory = self._root / "run/ec2spawner-server"
        return directory / ACTIVITY_FILE, self._user(username).pw_uid

    def server_log(self, username: str) -> str:
        """The journal's last lines of this unit in this boot."""
        done = self._ask(
            "journalctl",
            "--no-pager",
            "--quiet",
            "--boot",
            "--output=cat",
            f"--lines={LOG_LINES}",
            f"--unit={unit_name(username)}",
        )
        return done.stdout[-LOG_TAIL_CHARS:]

    # -- notices -----------------------------------------------------------------------------

    def notice_directory(self) -> Path:
        """Beside the server's own directory, where whoever runs the server could put links."""
        directory = self._root / "run/ec2spawner-notices"
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        return directory

    def is_spot(self) -> bool:
        """What the instance metadata says."""
        return is_spot()

    def write_back(self) -> None:
        """All file systems at once: that needs no right to the home."""
        self._must(Code.INTERNAL, "sync")

    def interruption_notice(self) -> Interruption | None:
        """What the instance metadata says."""
        return interruption_notice()
