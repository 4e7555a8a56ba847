"""Every command line that a real worker would run, in order, and every way in which one fails."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from ec2spawner.worker import commands
from ec2spawner.worker.commands import Start, World
from ec2spawner.worker.document import parse_start
from ec2spawner.worker.host import Filesystem, ServerStatus
from ec2spawner.worker.protocol import Code, Events, Fault
from ec2spawner.worker.runner import Completed, run_program
from ec2spawner.worker.systemd_host import SystemdHost, classify, parse_status

from .documents import TOKEN, encoded
from .model_system import DEVICE, HOME, UNIT, Killed, ModelSystem

SHOW = (
    "systemctl",
    "show",
    "--property=ActiveState,MainPID,ExecMainPID,ExecMainCode,ExecMainStatus",
    UNIT,
)
FINDMNT = ("findmnt", "--noheadings", "--output", "SOURCE", "--mountpoint", HOME)
LOOK = [
    ("lsblk", "--noheadings", "--raw", "--output", "TYPE,MOUNTPOINT", DEVICE),
    ("blkid", "--probe", "--output", "export", DEVICE),
    ("wipefs", "--no-act", "--noheadings", DEVICE),
]
MKFS = ("mkfs.ext4", "-q", "-m", "0", "-L", "ec2spawner-home", "-E", "nodiscard", DEVICE)
MOUNT = [
    ("e2fsck", "-p", DEVICE),
    ("mount", "-t", "ext4", "-o", "nodev,nosuid,noatime", DEVICE, HOME),
]
SERVER = [
    ("systemctl", "set-property", "--runtime", UNIT, "MemoryMax=infinity", "CPUQuota="),
    ("systemctl", "reset-failed", UNIT),
    ("systemctl", "start", UNIT),
]


@pytest.fixture
def system(tmp_path: Path) -> ModelSystem:
    return ModelSystem(tmp_path)


def start(system: ModelSystem, **changes: Any) -> list[dict[str, Any]]:
    """Run start on the model; its time passes with every sleep."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        system.sleep(seconds)

    out = io.BytesIO()
    world = World(lambda: now[0], sleep, lambda *_: system.active)
    events = Events(out, lambda: now[0])
    try:
        Start(system.host(), parse_start(encoded(**changes)), events, world).run()
    except Fault as fault:
        events.error(fault, [TOKEN])
    return [json.loads(line) for line in out.getvalue().splitlines()]


def claim_file(system: ModelSystem) -> Path:
    return system.root / "var/lib/ec2spawner/claim.json"


def programs(system: ModelSystem) -> list[str]:
    return [c[1] if c[0] == "systemctl" else c[0] for c in system.commands]


def test_a_first_start_runs_these_commands_in_this_order(system: ModelSystem) -> None:
    told = start(system)
    assert system.commands == [SHOW, FINDMNT, *LOOK, MKFS, *MOUNT, *SERVER, SHOW]
    steps = [e["step"] for e in told if e["event"] == "progress"]
    assert steps == ["home", "format", "mount", "server", "wait"]
    assert told[-1] == {
        "event": "ready",
        "pid": 1,
        "reused": False,
        "formatted": True,
        "seconds": 0.0,
    }


def test_a_later_start_mounts_and_never_formats(system: ModelSystem) -> None:
    start(system)
    system.power_cycle()
    system.commands.clear()
    told = start(system)
    assert system.commands == [SHOW, FINDMNT, *LOOK, *MOUNT, *SERVER, SHOW]
    assert told[-1]["formatted"] is False


def test_a_repeated_start_only_looks(system: ModelSystem) -> None:
    start(system)
    system.commands.clear()
    assert start(system)[-1]["reused"] is True
    assert system.commands == [SHOW, SHOW]


def test_a_stop_ends_writes_back_and_unmounts(system: ModelSystem) -> None:
    start(system)
    system.commands.clear()
    out = io.BytesIO()
    commands.stop(system.host(), 10, Events(out))
    assert system.commands == [
        SHOW,
        ("systemctl", "stop", "--no-block", UNIT),
        SHOW,
        FINDMNT,
        ("sync", "--file-system", HOME),
        ("umount", HOME),
    ]
    assert json.loads(out.getvalue())["unmounted"] is True


def test_a_server_that_ignores_sigterm_is_killed_at_the_bound(system: ModelSystem) -> None:
    start(system)
    system.stubborn = True
    commands.stop(system.host(), 1, Events(io.BytesIO()))
    assert ("systemctl", "kill", "--signal=SIGKILL", UNIT) in system.commands
    assert system.sleeps == 20  # of 50 ms
    assert not system.active


def test_a_swallowed_sigterm_is_sent_again(system: ModelSystem) -> None:
    start(system)
    system.swallows = True
    commands.stop(system.host(), 10, Events(io.BytesIO()))
    assert system.sleeps == 40  # of 50 ms
    assert "SIGKILL" not in str(system.commands)


def test_a_busy_home_is_unmounted_again_and_then_left(system: ModelSystem) -> None:
    start(system)
    system.busy_unmounts = 3
    assert system.host().unmount("jovyan")
    system.mounted = True
    system.busy_unmounts = 99
    out = io.BytesIO()
    commands.stop(system.host(), 10, Events(out))
    assert json.loads(out.getvalue())["unmounted"] is False
    assert system.mounted


def test_limits_are_set_until_the_next_boot(system: ModelSystem) -> None:
    start(system, limits={"memory_bytes": 2**30, "cpu": 1.5})
    wanted = ("systemctl", "set-property", "--runtime", UNIT, "MemoryMax=1073741824")
    assert (*wanted, "CPUQuota=150%") in system.commands


def test_a_new_home_gets_skeleton_files_and_its_owner_last(system: ModelSystem) -> None:
    given: list[Path] = []
    give = system.ownership.give
    system.ownership.give = lambda path, uid, gid: (given.append(path), give(path, uid, gid))[1]  # type: ignore[func-returns-value,method-assign]
    start(system)
    assert (system.home / ".profile").read_text() == "# profile\n"
    assert (system.home / ".config/settings").exists()
    assert not (system.home / "lost+found").exists()
    assert given[-1] == system.home
    assert system.home.stat().st_mode & 0o777 == 0o750


def test_a_home_keeps_what_its_user_changed_and_deleted(system: ModelSystem) -> None:
    start(system)
    (system.home / ".profile").write_text("mine\n")
    (system.home / ".config/settings").unlink()
    system.power_cycle()
    start(system)
    assert (system.home / ".profile").read_text() == "mine\n"
    assert not (system.home / ".config/settings").exists()


def test_a_serial_that_comes_late_is_waited_for(system: ModelSystem) -> None:
    serial = system.root / "sys/class/nvme/nvme1/serial"
    text = serial.read_text()
    serial.unlink()
    system.on_sleep = lambda count: serial.write_text(text) if count == 5 else None  # type: ignore[assignment,return-value]
    assert start(system)[-1]["event"] == "ready"
    assert system.sleeps == 5


def test_a_device_node_that_comes_after_its_serial_is_waited_for(system: ModelSystem) -> None:
    node = system.root / DEVICE.lstrip("/")
    node.unlink()
    system.on_sleep = lambda count: node.write_bytes(bytes(8192)) if count == 3 else None  # type: ignore[assignment,return-value]
    assert start(system)[-1]["event"] == "ready"


def test_a_serial_that_never_comes_is_home_missing(system: ModelSystem) -> None:
    told = start(system, volume_id="vol-0fedcba9876543210")
    assert told[-1]["code"] == "home-missing"
    assert system.commands == []


def test_a_machine_without_the_home_bears_no_record_of_the_claim(system: ModelSystem) -> None:
    told = start(system, claim="f" * 16, volume_id="vol-0fedcba9876543210")
    assert told[-1]["code"] == "home-missing"
    assert not claim_file(system).exists()
    assert start(system)[-1]["event"] == "ready"  # it still is free for whose home is here


def test_a_start_killed_while_its_home_is_awaited_leaves_no_record(system: ModelSystem) -> None:
    def killed(count: int) -> None:
        raise Killed

    system.on_sleep = killed
    with pytest.raises(Killed):
        start(system, claim="f" * 16, volume_id="vol-0fedcba9876543210")
    system.on_sleep = lambda count: None
    assert not claim_file(system).exists()
    assert start(system)[-1]["event"] == "ready"


def test_the_claim_is_on_record_before_the_first_command(system: ModelSystem) -> None:
    recorded: list[bool] = []
    system.before = lambda argv: recorded.append(claim_file(system).exists())
    start(system)
    assert recorded
    assert all(recorded)


def test_another_home_that_is_missing_leaves_server_and_record_alone(system: ModelSystem) -> None:
    start(system)
    record = claim_file(system).read_text()
    told = start(system, volume_id="vol-0fedcba9876543210")
    assert told[-1]["code"] == "home-missing"
    assert system.active
    assert claim_file(system).read_text() == record


@pytest.mark.parametrize("kind", ["xfs", "LVM2_member", "crypto_LUKS", "swap", "ext3"])
def test_a_foreign_file_system_is_refused_and_left_alone(system: ModelSystem, kind: str) -> None:
    system.filesystem = kind
    told = start(system)
    assert told[-1]["code"] == "foreign-filesystem"
    assert kind in told[-1]["detail"]
    assert {"mkfs.ext4", "mount", "start"}.isdisjoint(programs(system))


def test_unknown_data_counts_as_foreign(system: ModelSystem) -> None:
    (system.root / DEVICE.lstrip("/")).write_bytes(bytes(100) + b"data" + bytes(8000))
    assert start(system)[-1]["code"] == "foreign-filesystem"
    assert "mkfs.ext4" not in programs(system)


def test_a_partitioned_volume_counts_as_foreign(system: ModelSystem) -> None:
    system.partitioned = True
    assert start(system)[-1]["code"] == "foreign-filesystem"


@pytest.mark.parametrize(
    ("program", "done", "code"),
    [
        ("mkfs.ext4", Completed(1, "", "Input/output error"), "mount-failed"),
        ("mkfs.ext4", Completed(1, "", "No space left on device"), "disk-full"),
        ("mount", Completed(32, "", "wrong fs type, bad superblock"), "mount-failed"),
        ("e2fsck", Completed(4, "UNEXPECTED INCONSISTENCY"), "mount-failed"),
        ("e2fsck", Completed(8, "", "is in use"), "mount-failed"),
        ("lsblk", Completed(32, "", "not a block device"), "internal"),
        ("blkid", Completed(8, "", "ambivalent result"), "foreign-filesystem"),
        ("wipefs", Completed(1, "", "cannot open"), "foreign-filesystem"),
    ],
)
def test_a_program_that_fails_starts_no_server(
    system: ModelSystem, program: str, done: Completed, code: str
) -> None:
    system.fail[program] = done
    told = start(system)
    assert told[-1]["code"] == code
    assert "start" not in programs(system)
    del system.fail[program]
    assert start(system)[-1]["event"] == "ready"  # and the next try mends it


@pytest.mark.parametrize("exit_code", [1, 2, 3])
def test_a_file_system_that_was_mended_is_mounted(system: ModelSystem, exit_code: int) -> None:
    system.fail["e2fsck"] = Completed(exit_code, "FIXED")
    assert start(system)[-1]["event"] == "ready"


def test_a_server_that_dies_is_told_with_its_log_and_without_its_token(
    system: ModelSystem,
) -> None:
    system.dies_with = 3
    system.log = f"loading\nPort 8888 is already in use, I am {TOKEN}\n"
    told = start(system)
    assert told[-1]["code"] == "server-died"
    assert "exit code 3" in told[-1]["detail"]
    assert "already in use" in told[-1]["detail"]
    assert TOKEN not in json.dumps(told)


def test_a_server_that_found_its_disk_full_is_told_so(system: ModelSystem) -> None:
    system.dies_with = 1
    system.log = "OSError: [Errno 28] No space left on device: '/home/jovyan/x'\n"
    assert start(system)[-1]["code"] == "disk-full"


def test_a_unit_that_cannot_start_is_told_at_once(system: ModelSystem) -> None:
    system.after = lambda argv: None
    real = system._systemctl
    system._systemctl = lambda rest: (  # type: ignore[method-assign]
        Completed(1, "", "Failed to load credentials") if rest[0] == "start" else real(rest)
    )
    told = start(system)
    assert told[-1]["code"] == "server-died"
    assert "Failed to load credentials" in told[-1]["detail"]


def test_a_server_that_never_answers_is_a_time_out(system: ModelSystem) -> None:
    now = [0.0]
    out = io.BytesIO()
    world = World(lambda: now[0], lambda s: now.__setitem__(0, now[0] + s), lambda *_: False)
    system.log = "still importing\n"
    with pytest.raises(Fault) as caught:
        Start(system.host(), parse_start(encoded()), Events(out), world).run()
    assert caught.value.slug is Code.SERVER_TIMEOUT
    assert 20 <= now[0] < 21
    assert system.active  # the next start with the same document finds it


def test_another_claim_touches_nothing(system: ModelSystem) -> None:
    start(system)
    system.commands.clear()
    told = start(system, claim="f" * 16)
    assert told[-1]["code"] == "owner-mismatch"
    assert system.commands == []
    assert system.active


def test_a_full_root_disk_is_told_so(system: ModelSystem, monkeypatch: Any) -> None:
    def full(*args: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ec2spawner.worker.records.write_atomically", full)
    assert start(system)[-1]["code"] == "disk-full"
    assert system.commands == []


@pytest.mark.parametrize(("name", "word"), [("nobody9", "no user"), ("toor", "root")])
def test_a_user_that_the_image_lacks_or_that_is_root(
    system: ModelSystem, name: str, word: str
) -> None:
    with pytest.raises(Fault, match=word):
        system.host().mounted_device(name)


def test_no_command_line_and_no_public_file_holds_a_secret_or_the_owner(
    system: ModelSystem,
) -> None:
    start(system)
    spoken = " ".join(word for command in system.commands for word in command)
    assert TOKEN not in spoken
    assert "jo-0123456789" not in spoken
    for file in (system.root / "run/ec2spawner").iterdir():
        assert file.stat().st_mode & 0o077 == 0
    assert (system.root / "run/ec2spawner").stat().st_mode & 0o077 == 0
    assert TOKEN not in claim_file(system).read_text()


def test_what_may_outlive_a_killed_start_holds_the_lock(system: ModelSystem) -> None:
    start(system)
    for argv, inherited in zip(system.commands, system.inherited, strict=True):
        if argv[0] in ("mkfs.ext4", "e2fsck"):
            assert len(inherited) == 1


def test_a_start_killed_at_any_command_is_made_good_by_the_next(tmp_path: Path) -> None:
    count = kill_everywhere(tmp_path, used=False)
    assert count == 2 * len([SHOW, FINDMNT, *LOOK, MKFS, *MOUNT, *SERVER, SHOW])


def test_a_start_on_a_used_volume_killed_at_any_command_never_formats(tmp_path: Path) -> None:
    assert kill_everywhere(tmp_path, used=True) > 20


def kill_everywhere(tmp_path: Path, *, used: bool) -> int:
    """Kill before and after the effect of each command; returns the number of kills."""
    kills = 0
    for number in range(100):
        for moment in ("before", "after"):
            root = tmp_path / f"{number}-{moment}"
            root.mkdir()
            system = ModelSystem(root)
            if used:
                start(system)
                (system.home / "thesis.txt").write_text("all of it")
                system.power_cycle()
                system.commands.clear()
            if not _killed(system, number, moment):
                return kills
            kills += 1
            assert start(system)[-1]["event"] == "ready"
            assert system.mounted
            assert system.active
            assert (system.home / ".profile").exists()
            assert programs(system).count("mkfs.ext4") == (0 if used else 1) or moment == "before"
            if used:
                assert (system.home / "thesis.txt").read_text() == "all of it"
                assert "mkfs.ext4" not in programs(system)
    raise AssertionError("a start that never ends")


def _killed(system: ModelSystem, number: int, moment: str) -> bool:
    left = [number]

    def strike(argv: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    setattr(system, moment, strike)
    try:
        start(system)
    except Killed:
        setattr(system, moment, lambda argv: None)
        return True
    return False


def test_a_home_whose_preparation_was_killed_is_prepared_by_the_next_start(
    system: ModelSystem, monkeypatch: Any
) -> None:
    def killed(*args: object, **options: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copy2", killed)
        with pytest.raises(Killed):
            start(system)
    assert start(system)[-1]["event"] == "ready"
    assert (system.home / ".profile").exists()
    assert system.ownership.uid_of(system.home) == 1000


ZEROS = bytes(4096)


@pytest.mark.parametrize(
    ("blkid", "wipefs", "beginning", "filesystem"),
    [
        (Completed(2), Completed(0), ZEROS, Filesystem.BLANK),
        (Completed(0, "TYPE=ext4\n"), Completed(0, "x ext4"), b"", Filesystem.EXT4),
        (Completed(0, "TYPE=ext2\n"), Completed(0, ""), ZEROS, Filesystem.FOREIGN),
        (Completed(0, "PTTYPE=gpt\n"), Completed(0, ""), ZEROS, Filesystem.FOREIGN),
        (Completed(0, ""), Completed(0), ZEROS, Filesystem.FOREIGN),
        (Completed(1), Completed(0), ZEROS, Filesystem.FOREIGN),
        (Completed(8), Completed(0), ZEROS, Filesystem.FOREIGN),
        (Completed(2, "TYPE=ext4\n"), Completed(0), ZEROS, Filesystem.FOREIGN),
        (Completed(2), Completed(0, "x swap"), ZEROS, Filesystem.FOREIGN),
        (Completed(2), Completed(1), ZEROS, Filesystem.FOREIGN),
        (Completed(2), Completed(0), ZEROS[:-1] + b"x", Filesystem.FOREIGN),
        (Completed(2), Completed(0), b"", Filesystem.FOREIGN),
    ],
)
def test_blank_is_only_what_all_witnesses_call_blank(
    blkid: Completed, wipefs: Completed, beginning: bytes, filesystem: Filesystem
) -> None:
    assert classify(blkid, wipefs, beginning).filesystem is filesystem


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        ("ActiveState=active\nMainPID=7\nExecMainPID=7\n", ServerStatus(True, 7)),
        ("ActiveState=activating\nMainPID=0\nExecMainPID=0\n", ServerStatus(True)),
        ("ActiveState=deactivating\nMainPID=7\nExecMainPID=7\n", ServerStatus(True, 7)),
        ("ActiveState=inactive\nMainPID=0\nExecMainPID=0\n", ServerStatus(False)),
        (
            "ActiveState=failed\nMainPID=0\nExecMainPID=7\nExecMainCode=1\nExecMainStatus=3\n",
            ServerStatus(False, None, 3),
        ),
        (
            "ActiveState=failed\nMainPID=0\nExecMainPID=7\nExecMainCode=2\nExecMainStatus=9\n",
            ServerStatus(False, None, -9),
        ),
        ("", ServerStatus(False)),
    ],
)
def test_what_systemd_shows_is_understood(shown: str, status: ServerStatus) -> None:
    assert parse_status(shown) == status


class RealTools(ModelSystem):
    """The model, with the real tools of e2fsprogs and util-linux on an image file."""

    def _carry_out(self, argv: list[str]) -> Completed:
        if argv[0] in ("blkid", "wipefs", "mkfs.ext4", "e2fsck"):
            done = run_program([*argv[:-1], str(self.root / argv[-1].lstrip("/"))])
            if argv[0] == "mkfs.ext4":
                self.filesystem = "ext4"
            return done
        return super()._carry_out(argv)


def test_the_real_tools_take_these_options_and_tell_blank_from_used(tmp_path: Path) -> None:
    for tool in ("blkid", "wipefs", "mkfs.ext4", "e2fsck"):
        if not any((Path(d) / tool).exists() for d in ("/usr/sbin", "/sbin", "/usr/bin")):
            pytest.skip(f"{tool} is not installed")
    system = RealTools(tmp_path)
    image = tmp_path / DEVICE.lstrip("/")
    image.write_bytes(b"")
    with image.open("r+b") as disk:
        disk.truncate(32 * 1024 * 1024)
    assert start(system)[-1] | {"seconds": 0} == {
        "event": "ready",
        "pid": 1,
        "reused": False,
        "formatted": True,
        "seconds": 0,
    }
    assert system.host().inspect(DEVICE).filesystem is Filesystem.EXT4
    system.power_cycle()
    assert start(system)[-1]["formatted"] is False


def test_the_real_runner_has_bounds_no_shell_and_no_environment(monkeypatch: Any) -> None:
    monkeypatch.setenv("SECRET", "x")
    assert run_program(["echo", "$HOME; id"]).stdout == "$HOME; id\n"
    assert "SECRET" not in run_program(["env"]).stdout
    with pytest.raises(Fault, match="longer than"):
        run_program(["sleep", "5"], timeout_seconds=0.05)
    with pytest.raises(Fault, match="not installed"):
        run_program(["no-such-program"])


def test_the_default_host_is_this_machine() -> None:
    host = SystemdHost()
    assert host.state_directory == Path("/var/lib/ec2spawner")
    assert host.runtime_directory == Path("/run/ec2spawner")
