"""prepare, start, keep, status and stop: the same steps on every host.

Owns their order, which makes each step safe to repeat after a kill at any line: the home's device
is seen, then the claim is recorded, and only then is anything touched; the record of a server comes
before the server, the ownership of a home as its last change. Must not know systemd or the emulated
cloud.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ec2spawner.worker import keep_file, probe, records
from ec2spawner.worker.clock import boot_seconds
from ec2spawner.worker.document import KeepDocument, PrepareDocument, StartDocument
from ec2spawner.worker.host import Filesystem, Host
from ec2spawner.worker.protocol import Code, Events, Fault

HOME_WAIT_SECONDS = 60.0  # a volume that is attached at launch is there before SSH is
POLL_SECONDS = 0.025
STATUS_POLL_SECONDS = 0.25
REPLACED_SERVER_STOP_SECONDS = 10.0
KEEP_WAIT_SECONDS = 5.0  # for a start or a stop that is under way
PREPARED_FREE_MIN_BYTES = 512 * 1024 * 1024  # of the root disk: logs, caches, a package or two
IDENTITY = frozenset({"HOME", "USER", "LOGNAME", "SHELL", "PWD", "TMPDIR", "XDG_RUNTIME_DIR"})
"""Variables that are the worker's to say, never the hub's."""


@dataclass(frozen=True)
class World:
    """Time and network, for tests to replace."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    answers: Callable[[str, int, str], bool] = probe.answers


def _begin(host: Host) -> None:
    """Every command of a hub begins so: it is a sign of life to the dead-man switch."""
    host.prepare()
    note_contact(host)


def note_contact(host: Host) -> None:
    """Note that a hub commands this worker now; where that fails, the command matters more."""
    with contextlib.suppress(Fault, OSError):
        records.note_contact(host.runtime_directory, host.boot().boot_id, boot_seconds())


class Start:
    """One run of ``start``."""

    def __init__(
        self, host: Host, document: StartDocument, events: Events, world: World | None = None
    ) -> None:
        self._host = host
        self._document = document
        self._events = events
        self._world = world or World()
        self._deadline = self._world.monotonic() + document.timeout_seconds
        self._formatted = False

    def run(self) -> None:
        """Have the server answer, and say so; raises Fault."""
        try:
            _begin(self._host)
            with records.locked(self._host.runtime_directory, self._left()) as lock:
                self._host.keep_open(lock)
                previous = self._read_claim()
                reused = self._is_running()
                if not reused:
                    device = self._await_device()
                self._record_claim(previous)
                if not reused:
                    self._end_previous(previous)
                    self._provide_home(device)
                    self._start_server()
            self._await_answer(reused)
            note_contact(self._host)
        except OSError as error:
            raise _fault_of(error) from error

    def _left(self) -> float:
        return max(0.0, self._deadline - self._world.monotonic())

    def _read_claim(self) -> records.Claim | None:
        recorded = records.read_claim(self._host.state_directory)
        if recorded is not None and recorded.claim != self._document.claim:
            detail = f"this worker belongs to {recorded.owner}, claim {recorded.claim}"
            raise Fault(Code.OWNER_MISMATCH, detail)
        return recorded

    def _record_claim(self, recorded: records.Claim | None) -> None:
        """Only for a machine that was seen to have the home.

        An address may have passed to another machine, which a record would close to its owner.
        """
        d = self._document
        claim = records.Claim(d.owner, d.claim, d.volume_id, d.username)
        if recorded != claim:
            records.write_claim(self._host.state_directory, claim)
        if d.watchdog is not None:
            records.write_terms(self._host.state_directory, d.watchdog)

    def _is_running(self) -> bool:
        same = records.read_digest(self._host.runtime_directory) == self._document.digest
        return same and self._host.server_status(self._document.username).active

    def _end_previous(self, previous: records.Claim | None) -> None:
        """The claim's last server, also under another user name; a home moves with its user."""
        for username in {self._document.username, previous.username if previous else ""} - {""}:
            if self._host.server_status(username).active:
                self._host.stop_server(username, REPLACED_SERVER_STOP_SECONDS)
            if username != self._document.username and self._host.mounted_device(username):
                self._unmount(username)

    def _unmount(self, username: str) -> None:
        if not self._host.unmount(username):
            raise Fault(Code.MOUNT_FAILED, "another volume is mounted as home, and in use")

    def _provide_home(self, device: str) -> None:
        host, username = self._host, self._document.username
        mounted = host.mounted_device(username)
        if mounted != device:
            if mounted is not None:
                self._unmount(username)
            self._format_if_blank(device)
            self._events.progress("mount")
            host.mount(device, username)
        if not host.is_home_prepared(username):
            host.prepare_home(username)

    def _await_device(self) -> str:
        self._events.progress("home")
        bound = self._world.monotonic() + min(HOME_WAIT_SECONDS, self._left())
        while (device := self._host.find_device(self._document.volume_id)) is None:
            if self._world.monotonic() >= bound:
                raise Fault(Code.HOME_MISSING, f"{self._document.volume_id} is not attached")
            self._world.sleep(POLL_SECONDS)
        return device

    def _format_if_blank(self, device: str) -> None:
        contents = self._host.inspect(device)
        if contents.filesystem is Filesystem.FOREIGN:
            raise Fault(Code.FOREIGN_FILESYSTEM, contents.detail)
        if contents.filesystem is Filesystem.BLANK:
            self._events.progress("format")
            self._host.format(device)
            self._formatted = True

    def _start_server(self) -> None:
        self._events.progress("server")
        d = self._document
        keep_file.remove(self._host.notice_directory())  # it was said of the server before
        records.write_server(self._host.runtime_directory, d, environment_of(d))
        self._host.start_server(d.username, d.limits)

    def _await_answer(self, reused: bool) -> None:
        self._events.progress("wait")
        d = self._document
        status = self._host.server_status(d.username)
        look_at = self._world.monotonic() + STATUS_POLL_SECONDS
        while status.active:
            if self._world.answers(d.address, d.port, d.prefix):
                self._say_ready(status.pid, reused)
                return
            if self._left() <= 0:
                raise Fault(Code.SERVER_TIMEOUT, self._host.server_log(d.username))
            self._world.sleep(POLL_SECONDS)
            if self._world.monotonic() >= look_at or not _exists(status.pid):
                status = self._host.server_status(d.username)
                look_at = self._world.monotonic() + STATUS_POLL_SECONDS
        raise self._death(status.exit_code)

    def _say_ready(self, pid: int | None, reused: bool) -> None:
        self._events.write(
            event="ready",
            pid=pid,
            reused=reused,
            formatted=self._formatted,
            seconds=self._events.seconds,
        )

    def _death(self, exit_code: int | None) -> Fault:
        log = self._host.server_log(self._document.username)
        code = Code.DISK_FULL if "[Errno 28]" in log else Code.SERVER_DIED
        return Fault(code, f"exit code {exit_code}: {log}")


def environment_of(document: StartDocument) -> Mapping[str, str]:
    """The server's variables: the hub's, with the address at which this worker is reached."""
    environment = {k: v for k, v in document.environment.items() if k not in IDENTITY}
    scheme = environment.get("JUPYTERHUB_SERVICE_URL", "http:").partition(":")[0]
    host = f"[{document.address}]" if ":" in document.address else document.address
    environment["JUPYTERHUB_SERVICE_URL"] = f"{scheme}://{host}:{document.port}{document.prefix}"
    return environment


def prepare(host: Host, document: PrepareDocument, events: Events) -> None:
    """Remember the hub, and say that the machine has booted to the end and has room.

    Holds no lock while the machine boots: who is given this worker meanwhile must not wait for it.
    """
    try:
        _begin(host)
        with records.locked(host.runtime_directory, document.timeout_seconds):
            records.write_terms(host.state_directory, document.watchdog)
        events.progress("boot")
        system = host.await_boot(document.timeout_seconds)
        free = host.disk_free_bytes()
        if free < PREPARED_FREE_MIN_BYTES:
            raise Fault(Code.DISK_FULL, f"{free} bytes are free on the root disk")
        note_contact(host)
        events.write(event="prepared", system=system, disk_free_bytes=free, seconds=events.seconds)
    except OSError as error:
        raise _fault_of(error) from error


def keep(host: Host, document: KeepDocument, events: Events) -> None:
    """Have the user of the server that runs count as at work for some time from now on, or end it.

    It goes with the server, and with the boot.
    """
    try:
        _begin(host)
        with records.locked(host.runtime_directory, KEEP_WAIT_SECONDS):
            claim = records.read_claim(host.state_directory)
            if claim is None or claim.claim != document.claim:
                raise Fault(Code.OWNER_MISMATCH, "this worker does not serve that claim")
            if not host.server_status(claim.username).active:
                raise Fault(Code.SERVER_DIED, "no server runs here")
            _leave_word_to_keep(host, document.at_work_seconds)
        note_contact(host)
        events.write(event="kept", seconds=events.seconds)
    except OSError as error:
        raise _fault_of(error) from error


def _leave_word_to_keep(host: Host, at_work_seconds: float | None) -> None:
    directory = host.notice_directory()
    if at_work_seconds is None:
        keep_file.remove(directory)
    else:
        keep_file.write(directory, boot_seconds() + at_work_seconds)


def report_status(host: Host, events: Events) -> None:
    """One line: the server, whose it is, and the home."""
    _begin(host)
    claim = records.read_claim(host.state_directory)
    status = host.server_status(claim.username) if claim else None
    mounted = claim is not None and host.mounted_device(claim.username) is not None
    events.write(
        active=bool(status and status.active),
        pid=status.pid if status else None,
        exit_code=status.exit_code if status else None,
        owner=claim.owner if claim else None,
        claim=claim.claim if claim else None,
        home_mounted=mounted,
        disk_free_bytes=host.home_free_bytes(claim.username) if claim and mounted else None,
    )


def stop(host: Host, timeout_seconds: float, events: Events) -> None:
    """End the server, write back and unmount the home; nothing to do is done, too."""
    try:
        _begin(host)
        with records.locked(
            host.runtime_directory, timeout_seconds + HOME_WAIT_SECONDS, interrupt=True
        ):
            claim = records.read_claim(host.state_directory)
            unmounted = claim is None or _stop_server_of(host, claim.username, timeout_seconds)
            keep_file.remove(host.notice_directory())
        note_contact(host)
        events.write(event="stopped", seconds=events.seconds, unmounted=unmounted)
    except OSError as error:
        raise _fault_of(error) from error


def _stop_server_of(host: Host, username: str, timeout_seconds: float) -> bool:
    if host.server_status(username).active:
        host.stop_server(username, timeout_seconds)
    return host.mounted_device(username) is None or host.unmount(username)


def _exists(pid: int | None) -> bool:
    return pid is None or Path(f"/proc/{pid}").exists()


def _fault_of(error: OSError) -> Fault:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return Fault(Code.DISK_FULL if full else Code.INTERNAL, f"{type(error).__name__}: {error}")
