"""``python -m ec2spawner.localcloud serve``: the emulated cloud's command line."""

from __future__ import annotations

import argparse
import logging
import math
import sys
from pathlib import Path

from ec2spawner.localcloud.ec2.capacity import CapacityFormatError
from ec2spawner.localcloud.ec2.state import Timings
from ec2spawner.localcloud.server import Options, ServeError, serve
from ec2spawner.localcloud.store import StoreError
from ec2spawner.localcloud.vm_options import VmOptions

MAX_PENDING_SECONDS = 5.0
STOP_SECONDS = 3.0
VM_STOP_SECONDS = 90.0


def _seconds(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"must be a number of seconds from 0, not {text}")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65_535:
        raise argparse.ArgumentTypeError(f"must be 0 to 65535, not {text}")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m ec2spawner.localcloud", description=__doc__)
    command = top.add_subparsers(dest="command", required=True)
    add = command.add_parser(
        "serve", help="emulate EC2 and its neighbours on loopback, until Ctrl-C"
    ).add_argument
    add("--port", type=_port, default=5000, help="port of the AWS endpoint; 0: any free one")
    add("--state-dir", type=Path, required=True, help="all that is kept; made if it is not there")
    add("--workers", choices=("process", "stub", "vm"), default="process", help="what a worker is")
    add("--stub-types", default="", help="process: instance types whose workers are stubs, A,B")
    add("--boot-seconds", type=_seconds, default=5.0, help="launch to SSH (default 5)")
    add("--builder-seconds", type=_seconds, help="what an image takes to build (default: boot)")
    add("--stop-seconds", type=_seconds, help="stop call to stopped (3; vm: at most, 90)")
    add("--pending-seconds", type=_seconds, help="launch to running (default: boot, at most 5)")
    add("--terminate-seconds", type=_seconds, help="terminate to terminated (default: stop)")
    add("--snapshot-seconds", type=_seconds, default=2.0, help="snapshot to completed (default 2)")
    add("--image-seconds", type=_seconds, default=5.0, help="image to available (default 5)")
    add("--volume-seconds", type=_seconds, default=0.5, help="new volume, attach, detach (0.5)")
    add("--fresh-ids-hidden-seconds", type=_seconds, default=0.0, help="new ids are NotFound (0)")
    add("--listing-lag-seconds", type=_seconds, default=0.0, help="listings show old states (0)")
    add("--watchdog-seconds", type=_seconds, default=60.0, help="looks of dead-man switches (60)")
    add("--throttle", choices=("aws", "off"), default="aws", help="AWS's request limits, or none")
    add("--capacity", type=Path, help="JSON file of what can run; read again when it changes")
    add("--ssh-port", type=_port, default=2222, help="port of the workers' sshd (default 2222)")
    vm = VmOptions()
    add("--vm-image", type=Path, help="vm: folder with root.img, vmlinuz and initrd.img")
    add("--vm-memory-mib", type=int, default=vm.memory_mib, help="vm: memory (default 1024)")
    add("--vm-cpus", type=int, default=vm.cpus, help="vm: processors (default 2)")
    add("--vm-accelerator", choices=("tcg", "kvm"), default=vm.accelerator, help="vm: tcg or kvm")
    add(
        "--vm-notebook-port", type=_port, default=vm.notebook_port, help="vm: led there, too (8888)"
    )
    add("--vm-append", default="", help="vm: more for the kernel's command line")
    add("--forget", action="store_true", help="find nothing at the next start, and be quicker")
    add("--seed", help="the same ids in every new state directory")
    add("--machine-command", help=argparse.SUPPRESS)  # a stand-in for the machine, in tests
    add("--verbose", action="store_true", help="log every call")
    return top


def options_of(given: argparse.Namespace) -> Options:
    """Options of the parsed command line."""
    pending = given.pending_seconds
    if given.stop_seconds is None:
        given.stop_seconds = VM_STOP_SECONDS if given.workers == "vm" else STOP_SECONDS
    timings = Timings(
        pending_seconds=min(given.boot_seconds, MAX_PENDING_SECONDS)
        if pending is None
        else pending,
        stopping_seconds=given.stop_seconds,
        shutting_down_seconds=(
            given.stop_seconds if given.terminate_seconds is None else given.terminate_seconds
        ),
        builder_seconds=(
            given.boot_seconds if given.builder_seconds is None else given.builder_seconds
        ),
        volume_seconds=given.volume_seconds,
        attach_seconds=given.volume_seconds,
        snapshot_seconds=given.snapshot_seconds,
        image_seconds=given.image_seconds,
        fresh_ids_hidden_seconds=given.fresh_ids_hidden_seconds,
        listing_lag_seconds=given.listing_lag_seconds,
        watchdog_seconds=given.watchdog_seconds,
    )
    return Options(
        port=given.port,
        state_dir=given.state_dir.absolute(),
        workers=given.workers,
        stub_types=tuple(filter(None, given.stub_types.split(","))),
        ssh_port=given.ssh_port,
        throttle=given.throttle == "aws",
        capacity=given.capacity,
        seed=given.seed,
        forget=given.forget,
        boot_seconds=given.boot_seconds,
        timings=timings,
        machine_command=given.machine_command.split() if given.machine_command else None,
        vm=VmOptions(
            image=given.vm_image or Path(),
            memory_mib=given.vm_memory_mib,
            cpus=given.vm_cpus,
            accelerator=given.vm_accelerator,
            notebook_port=given.vm_notebook_port,
            append=given.vm_append,
        ),
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 after an orderly end, 1 if it cannot be served, 2 for wrong usage."""
    given = parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if given.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for noisy in ("botocore", "urllib3", "asyncio", "asyncssh", "werkzeug"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        serve(options_of(given))
    except (ServeError, StoreError, CapacityFormatError) as error:
        print(f"localcloud: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
