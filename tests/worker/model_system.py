"""A model of a Debian with systemd, which runs the command lines that SystemdHost would run.

It understands exactly the command lines that are expected; any other fails the test.
"""

from __future__ import annotations

import pwd
from collections.abc import Callable, Sequence
from pathlib import Path

from ec2spawner.worker.home import Ownership
from ec2spawner.worker.runner import DEFAULT_TIMEOUT_SECONDS, Completed
from ec2spawner.worker.systemd_host import SystemdHost, unit_name

from .documents import VOLUME_ID

DEVICE = "/dev/nvme1n1"
HOME = "/home/jovyan"
UNIT = "ec2spawner-server@jovyan.service"
UID = 1000


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


class ModelOwnership(Ownership):
    def __init__(self) -> None:
        self.uids: dict[Path, int] = {}

    def uid_of(self, path: Path) -> int:
        return self.uids.get(path, 0)

    def give(self, path: Path, uid: int, gid: int) -> None:
        self.uids[path] = uid


class ModelSystem:
    """State and log of one machine; ``fail`` maps a program to how it ends instead."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commands: list[tuple[str, ...]] = []
        self.inherited: list[tuple[int, ...]] = []
        self.fail: dict[str, Completed] = {}
        self.before: Callable[[Sequence[str]], None] = lambda argv: None
        self.after: Callable[[Sequence[str]], None] = lambda argv: None
        self.filesystem = ""
        self.partitioned = False
        self.mounted = False
        self.active = False
        self.dies_with: int | None = None
        self.powered_off = False
        self.stubborn = False
        self.swallows = False
        self.busy_unmounts = 0
        self.starts = 0
        self.log = ""
        self.boots = 1
        self.system_state = "running"
        self.sleeps = 0
        self.on_sleep: Callable[[int], None] = lambda count: None
        self.ownership = ModelOwnership()
        self.home = root / HOME.lstrip("/")
        self._lay_out()

    def _lay_out(self) -> None:
        self.boot_id = self.root / "proc/sys/kernel/random/boot_id"
        self.boot_id.parent.mkdir(parents=True)
        self.boot_id.write_text("00000000-0000-4000-8000-000000000001\n")
        for serial, name in (("vol0root", "nvme0"), (VOLUME_ID.replace("-", ""), "nvme1")):
            controller = self.root / "sys/class/nvme" / name
            (controller / f"{name}n1").mkdir(parents=True)
            (controller / f"{name}c1n1").mkdir()
            (controller / "serial").write_text(f"{serial}\n")
        (self.root / "dev").mkdir()
        (self.root / DEVICE.lstrip("/")).write_bytes(bytes(8192))
        (self.root / "etc/skel/.config").mkdir(parents=True)
        (self.root / "etc/skel/.profile").write_text("# profile\n")
        (self.root / "etc/skel/.config/settings").write_text("x\n")
        self.home.mkdir(parents=True)

    def host(self) -> SystemdHost:
        return SystemdHost(self, self.root, self.user, self.ownership, self.sleep)

    def user(self, name: str) -> pwd.struct_passwd:
        if name not in ("jovyan", "toor"):
            raise KeyError(name)
        uid = 0 if name == "toor" else UID
        return pwd.struct_passwd((name, "x", uid, UID, "", HOME, "/bin/bash"))

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.on_sleep(self.sleeps)

    def power_cycle(self) -> None:
        """EC2 stopped and started it: memory, mounts and /run are gone."""
        self.mounted = self.active = False
        self.boots += 1
        self.boot_id.write_text(f"00000000-0000-4000-8000-{self.boots:012}\n")
        for file in (self.root / "run/ec2spawner").iterdir():
            file.unlink()

    def __call__(
        self,
        argv: Sequence[str],
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        inherit: Sequence[int] = (),
    ) -> Completed:
        assert all(isinstance(word, str) for word in argv)
        self.before(argv)
        self.commands.append(tuple(argv))
        self.inherited.append(tuple(inherit))
        done = self.fail.get(argv[0]) or self._carry_out(list(argv))
        self.after(argv)
        return done

    def _carry_out(self, argv: list[str]) -> Completed:
        match argv:
            case ["lsblk", "--noheadings", "--raw", "--output", "TYPE,MOUNTPOINT", d] if (
                d == DEVICE
            ):
                return Completed(0, "disk \npart \n" if self.partitioned else "disk \n")
            case ["blkid", "--probe", "--output", "export", d] if d == DEVICE:
                if not self.filesystem:
                    return Completed(2)
                return Completed(0, f"DEVNAME={d}\nTYPE={self.filesystem}\n")
            case ["wipefs", "--no-act", "--noheadings", d] if d == DEVICE:
                return Completed(0, f"x  0x438  {self.filesystem}\n" if self.filesystem else "")
            case ["mkfs.ext4", "-q", "-m", "0", "-L", _, "-E", "nodiscard", d] if d == DEVICE:
                assert not self.filesystem, "formatted a volume that holds a file system"
                assert not self.mounted
                self.filesystem = "ext4"
                (self.home / "lost+found").mkdir(exist_ok=True)
                return Completed(0)
            case ["e2fsck", "-p", d] if d == DEVICE:
                assert not self.mounted, "checked a mounted file system"
                return Completed(0, "clean\n")
            case ["findmnt", "--noheadings", "--output", "SOURCE", "--mountpoint", h] if h == HOME:
                return Completed(0, DEVICE + "\n") if self.mounted else Completed(1)
            case ["mount", "-t", "ext4", "-o", "nodev,nosuid,noatime", d, h] if (d, h) == (
                DEVICE,
                HOME,
            ):
                assert not self.mounted, "mounted twice"
                self.mounted = True
                return Completed(0)
            case ["sync", "--file-system", h] if h == HOME:
                return Completed(0)
            case ["umount", h] if h == HOME:
                if self.busy_unmounts:
                    self.busy_unmounts -= 1
                    return Completed(32, "", "target is busy.")
                self.mounted = False
                return Completed(0)
            case ["systemctl", *rest]:
                return self._systemctl(rest)
            case ["journalctl", *_, unit] if unit == f"--unit={UNIT}":
                return Completed(0, self.log)
        raise AssertionError(f"unexpected command line: {argv}")

    def _systemctl(self, rest: list[str]) -> Completed:
        match rest:
            case ["poweroff", "--check-inhibitors=no"]:
                self.powered_off = True
                return Completed(0)
            case ["is-system-running", "--wait"]:
                return Completed(int(self.system_state != "running"), f"{self.system_state}\n")
        assert rest[-1] == UNIT or rest[2] == UNIT
        match rest[0]:
            case "show":
                return Completed(0, self._shown())
            case "set-property" | "reset-failed":
                return Completed(0)
            case "start":
                assert self.mounted, "started a server without its home"
                assert (self.root / "run/ec2spawner/server.json").exists()
                self.starts += 1
                self.active = self.dies_with is None
                return Completed(0)
            case "stop":
                if "--no-block" in rest and (self.stubborn or self.swallows):
                    return Completed(0)
                self.active = False
                return Completed(0)
            case "kill":
                if rest[1:-1] == ["--kill-whom=main", "--signal=SIGTERM"]:
                    self.active = self.stubborn
                    return Completed(0)
                assert rest[1:-1] == ["--signal=SIGKILL"]
                self.active = False
                return Completed(0)
        raise AssertionError(f"unexpected: systemctl {rest}")

    def _shown(self) -> str:
        if self.active:
            return "ActiveState=active\nMainPID=1\nExecMainPID=1\nExecMainCode=0\n"
        if self.dies_with is not None and self.starts:
            return (
                "ActiveState=failed\nMainPID=0\nExecMainPID=77\nExecMainCode=1\n"
                f"ExecMainStatus={self.dies_with}\n"
            )
        return "ActiveState=inactive\nMainPID=0\nExecMainPID=0\nExecMainCode=0\nExecMainStatus=0\n"


assert unit_name("jovyan") == UNIT
