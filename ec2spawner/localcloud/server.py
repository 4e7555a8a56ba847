"""The HTTP server of the emulated cloud, and the wiring of all its parts.

Owns sockets, signals and the order of start and end. Listens on loopback only.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ec2spawner.localcloud.cloud import EmulatedCloud, open_store
from ec2spawner.localcloud.control import Control
from ec2spawner.localcloud.disks import Disks
from ec2spawner.localcloud.ec2.capacity import CapacityFile
from ec2spawner.localcloud.ec2.emulated import EmulatedEC2
from ec2spawner.localcloud.ec2.state import Timings
from ec2spawner.localcloud.front import Front
from ec2spawner.localcloud.machines import Driver, Machines
from ec2spawner.localcloud.managers import Managers
from ec2spawner.localcloud.motoside import import_moto
from ec2spawner.localcloud.vm_options import VmOptions

log = logging.getLogger(__name__)


class ServeError(Exception):
    """Why the cloud cannot be served, in one line."""


@dataclass
class Options:
    """How the cloud is to be served."""

    port: int
    state_dir: Path
    host: str = "127.0.0.1"
    workers: str = "process"
    stub_types: tuple[str, ...] = ()
    ssh_port: int = 2222
    throttle: bool = True
    capacity: Path | None = None
    seed: str | None = None
    forget: bool = False
    """Whether the next start is to find nothing; the machines' files lie there all the same."""
    boot_seconds: float = 5.0
    timings: Timings = field(default_factory=Timings)
    machine_command: list[str] | None = None
    vm: VmOptions = field(default_factory=VmOptions)


class Served:
    """A served cloud: everything wired, listening, until ``close``."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._server: Any = None
        with contextlib.ExitStack() as undo:
            self._listener = undo.enter_context(_listen(options.host, options.port))
            self.port: int = self._listener.getsockname()[1]
            if options.workers == "vm" and (lack := options.vm.lack()):
                raise ServeError(f"no real machines here: {lack}")
            undo.callback(os.close, _lock_state(options.state_dir))
            capacity = CapacityFile(options.capacity)
            capacity.load()
            store = None if options.forget else open_store(options.state_dir)
            self.cloud = EmulatedCloud(
                store=store,
                timings=options.timings,
                capacity=capacity,
                throttle=options.throttle,
                seed=options.seed,
            )
            undo.callback(self.cloud.close)
            self.cloud.restore()
            self._wire(options)
            self._last = undo.pop_all()

    def _wire(self, options: Options) -> None:
        self.disks = Disks(options.state_dir, self.cloud.lock, self.cloud.commit)
        self.machines = Machines(
            _driver(options),
            self.disks,
            ssh_port=options.ssh_port,
            boot_seconds=lambda: options.boot_seconds,
            watchdog_seconds=lambda: self.cloud.timings.watchdog_seconds,
            tick=self._tick,
            ends_with_machine=options.workers == "vm",
        )
        self.managers = Managers(self.disks, lambda: options.boot_seconds)
        self.cloud.on_new_core = self._adopt
        for core in self.cloud.cores.values():
            self._adopt(core)
        self.cloud.listeners += [
            self.disks.follow,
            self.machines.follow,
            self.managers.follow,
        ]
        control = Control(self.cloud, self.machines, self.managers.faults)
        self.front = Front(self.cloud, control, agents=self.managers)

    def _adopt(self, core: EmulatedEC2) -> None:
        core.copies_files = True
        core.console = self._console

    def _console(self, instance_id: str) -> bytes:
        path = self.disks.instance(instance_id) / "console.log"
        return path.read_bytes()[-65_536:] if path.exists() else b""

    def _tick(self) -> float | None:
        self.cloud.settle()
        due = self.cloud.next_due()
        return None if due is None else max(0.0, due - self.cloud.clock())

    def start(self) -> None:
        """Begin to answer, and to do what the state directory says."""
        cores = list(self.cloud.cores.values())
        self.disks.reconcile(cores)
        self.machines.start()
        self.machines.reconcile(cores)
        self.managers.start()
        self.managers.reconcile(cores)
        self._server = _make_server(self._listener, self.front)
        threading.Thread(target=self._serve, name="http", daemon=True).start()
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()

    def _serve(self) -> None:
        self._server.serve_forever(poll_interval=0.1)

    def _warm_up(self) -> None:
        """Import what the first calls need; they wait for it where they come earlier."""
        import_moto()  # outside the cloud's lock: it takes seconds
        self.front.warm_up()
        self.cloud.load_cloudformation()

    def close(self) -> None:
        """Stop answering, cut the power of every machine, let go of the state."""
        self.front.closing.set()
        if self._server:
            self._server.shutdown()
            self._server.server_close()
        self.machines.close()
        self.managers.close()
        self.disks.close()
        self._last.close()


def _driver(options: Options) -> Driver:
    if options.workers == "stub":
        from ec2spawner.localcloud.stub_workers import StubWorkers

        return StubWorkers()
    if options.workers == "vm":
        from ec2spawner.localcloud.vm_workers import VmWorkers

        return VmWorkers(options.vm)
    from ec2spawner.localcloud.process_workers import ProcessWorkers

    processes = ProcessWorkers(options.machine_command)
    if not options.stub_types:
        return processes
    from ec2spawner.localcloud.mixed_workers import MixedWorkers
    from ec2spawner.localcloud.stub_workers import StubWorkers

    return MixedWorkers(processes, lambda ended: StubWorkers(when_ended=ended), options.stub_types)


def _listen(host: str, port: int) -> socket.socket:
    if not ipaddress.ip_address(host).is_loopback:
        raise ServeError(f"{host} is no loopback address; the emulated cloud serves no other")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise ServeError(
            f"cannot listen on {host}:{port} ({error.strerror}); end what uses the port, "
            "or choose another with --port"
        ) from error
    return listener


def _lock_state(state_dir: Path) -> int:
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ServeError(f"cannot use {state_dir} as state directory: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ServeError(f"another emulated cloud uses {state_dir}; end it first") from error
    return descriptor


def _make_server(listener: socket.socket, front: Front) -> Any:
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        """Quiet, and without delay on small replies."""

        disable_nagle_algorithm = True

        def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
            self.close_connection = True  # a lost reply is the end of its connection

        def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's name
            log.log(logging.DEBUG if type == "info" else logging.ERROR, message, *args)

    host, port = listener.getsockname()[:2]
    return make_server(
        host, port, front, threaded=True, request_handler=Handler, fd=listener.fileno()
    )


def _ends() -> socket.socket:
    """What can be read from once SIGTERM or SIGINT has come.

    The kernel may give a signal to any thread, and Python's handlers run in the main thread only,
    which a lock would keep asleep; the byte comes whichever thread it was.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    return reader


def serve(options: Options) -> NoReturn:
    """Serve until SIGTERM or SIGINT, then end the process; ServeError if that cannot be."""
    served = Served(options)
    ended = _ends()
    served.start()
    with contextlib.suppress(OSError):
        print(f"ready: http://{options.host}:{served.port}", flush=True)
    ended.recv(1)
    served.front.closing.set()
    served.machines.close()
    sys.stdout.flush()
    os._exit(0)  # whatever is under way: the journal holds all that was answered
