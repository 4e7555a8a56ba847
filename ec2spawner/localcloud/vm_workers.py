"""Workers as real machines: one qemu a worker, with its own kernel, systemd, sshd and disks.

Owns qemu's processes, their command lines and their monitors. All of them are forked by one thread
that lives as long as the program, so that the kernel kills them when it ends.

In a machine's directory, beside what ``machines`` puts there:

    root.qcow2     what this machine wrote on its root disk, over the image's root.img
    console.log    what its kernel and services said
    qmp.log        what qemu answered
    shell.sock     its second serial port, for a shell where the kernel's command line asks for one
    nvme/vol...    link to a volume's folder, whose file ``disk`` the machine sees as an NVMe device

The machine has one interface, with an address that qemu gives it. Its private address, out of
127.0.0.0/8, is led to it: the kernel is told to answer to loopback addresses from there, too. The
host of the cloud is 169.254.2.2 to it, and the instance metadata are where EC2 has them.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ec2spawner.localcloud import metadata_cmd
from ec2spawner.localcloud.machines import MachineSpec
from ec2spawner.localcloud.vm_options import INITRD, KERNEL, ROOT, VmOptions

HOST_ADDRESS = "169.254.2.2"
"""Where a machine reaches what listens on 127.0.0.1 here (qemu's choice for this network)."""
NETWORK = "169.254.0.0/16"
METADATA = "169.254.169.254:80"
NETDEV, INTERFACE = "net0", "nic0"
GIB = 1 << 30


@dataclass
class _Machine:
    process: subprocess.Popen[bytes]
    pidfd: int
    directory: Path
    volumes: set[str]

    def tell(self, command: str, **arguments: Any) -> None:
        """Say something to qemu's monitor; its answer goes to qmp.log."""
        line = json.dumps({"execute": command, "arguments": arguments}) + "\n"
        with contextlib.suppress(BrokenPipeError):
            os.write(self.monitor, line.encode())

    @property
    def monitor(self) -> int:
        """Where qemu's monitor listens."""
        return self.process.stdin.fileno() if self.process.stdin else -1


class VmWorkers:
    """A Driver of qemu machines."""

    def __init__(self, options: VmOptions) -> None:
        self._options = options
        self._machines: dict[str, _Machine] = {}
        self._poll = select.poll()
        self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll.register(self._wake_r, select.POLLIN)

    def start(self, spec: MachineSpec) -> None:
        """See Driver."""
        self._make_root_disk(spec.directory)
        volumes = set(_present_volumes(spec.directory))
        for volume in volumes:
            _make_disk(spec.directory, volume)
        with (spec.directory / "qmp.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own words, and checked files
                ["setpriv", "--pdeathsig", "KILL", *self._command(spec, volumes)],  # noqa: S607
                cwd=spec.directory,  # paths of sockets must be short
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ.get("PATH", os.defpath)},
            )
        pidfd = os.pidfd_open(process.pid)
        machine = _Machine(process, pidfd, spec.directory, volumes)
        self._machines[spec.instance_id] = machine
        self._poll.register(pidfd, select.POLLIN)
        machine.tell("qmp_capabilities")

    def _make_root_disk(self, directory: Path) -> None:
        disk = directory / "root.qcow2"
        if disk.exists():
            return
        partial = disk.with_suffix(".new")
        image = self._options.image.absolute() / ROOT
        subprocess.run(  # noqa: S603 - as above
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image, partial],  # noqa: S607
            check=True,
            stdin=subprocess.DEVNULL,
        )
        partial.replace(disk)

    def _command(self, spec: MachineSpec, volumes: set[str]) -> Iterator[str]:
        """qemu's command line; whatever may hold a comma is doubled there, as qemu asks."""
        options = self._options
        yield from ("qemu-system-x86_64", "-accel", options.accelerator, "-cpu", "max")
        yield from ("-smp", str(options.cpus), "-m", str(options.memory_mib))
        yield from ("-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio")
        identity = uuid.UUID("ec2" + uuid.uuid5(uuid.NAMESPACE_OID, spec.instance_id).hex[3:])
        smbios = f"type=1,manufacturer=Amazon EC2,serial={identity},uuid={identity}"
        yield from ("-smbios", smbios)
        yield from ("-kernel", str(options.image.absolute() / KERNEL))
        yield from ("-initrd", str(options.image.absolute() / INITRD))
        yield from ("-append", self._kernel_command_line())
        yield from ("-drive", "file=root.qcow2,if=virtio,format=qcow2,cache=unsafe")
        yield from ("-device", "virtio-rng-pci")
        yield from ("-netdev", self._network(spec))
        yield from ("-device", f"virtio-net-pci,id={INTERFACE},netdev={NETDEV},mac={spec.mac}")
        yield from ("-chardev", "file,id=console,path=console.log,append=on")
        yield from ("-serial", "chardev:console")
        yield from ("-serial", "unix:shell.sock,server=on,wait=off")
        for volume in sorted(volumes):
            file = f"nvme/{volume}/disk"
            yield from ("-blockdev", f"driver=file,node-name={volume},filename={file}")
            yield from ("-device", f"nvme,id=dev-{volume},drive={volume},serial={volume}")

    def _kernel_command_line(self) -> str:
        words = ["root=/dev/vda", "rw", "console=ttyS0", "quiet"]
        words += ["sysctl.net.ipv4.conf.all.route_localnet=1", self._options.append]
        return " ".join(filter(None, words))

    def _network(self, spec: MachineSpec) -> str:
        ports = (spec.ssh_port, self._options.notebook_port)
        forwards = [f"hostfwd=tcp:{spec.private_ip}:{p}-{spec.private_ip}:{p}" for p in ports]
        metadata = f"{sys.executable} -I -S {metadata_cmd.__file__} .".replace(",", ",,")
        forwards.append(f"guestfwd=tcp:{METADATA}-cmd:{metadata}")
        return ",".join(["user", f"id={NETDEV}", f"net={NETWORK}", *forwards])

    def stop(self, instance_id: str) -> None:
        """See Driver: presses the power button."""
        if machine := self._machines.get(instance_id):
            machine.tell("system_powerdown")

    def kill(self, instance_id: str) -> None:
        """See Driver."""
        if machine := self._machines.get(instance_id):
            machine.process.kill()
            machine.process.wait()
            self._forget(instance_id, machine)

    def _forget(self, instance_id: str, machine: _Machine) -> None:
        self._poll.unregister(machine.pidfd)
        os.close(machine.pidfd)
        if machine.process.stdin:
            with contextlib.suppress(BrokenPipeError):
                machine.process.stdin.close()
        del self._machines[instance_id]

    def kill_server(self, instance_id: str) -> bool:
        """See Driver. Nobody reaches into a real machine from outside."""
        return False

    def cut_network(self, instance_id: str, *, cut: bool) -> None:
        """See Driver: pulls the plug, or puts it back."""
        if machine := self._machines.get(instance_id):
            machine.tell("set_link", name=INTERFACE, up=not cut)

    def is_on(self, instance_id: str) -> bool:
        """See Driver."""
        return instance_id in self._machines

    def wait(self, timeout_seconds: float) -> list[tuple[str, int]]:
        """See Driver. Volumes that came or went meanwhile are plugged in or out."""
        ready = {fd for fd, _ in self._poll.poll(max(0.0, timeout_seconds) * 1000)}
        if self._wake_r in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_r, 4096)
        ended = []
        for instance_id, machine in list(self._machines.items()):
            if machine.pidfd in ready and machine.process.poll() is not None:
                self._forget(instance_id, machine)
                ended.append((instance_id, machine.process.returncode))
            else:
                _plug(machine)
        return ended

    def wake(self) -> None:
        """See Driver."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_w, b"x")

    def close(self) -> None:
        """See Driver."""
        for machine in self._machines.values():
            machine.process.kill()
        for instance_id, machine in list(self._machines.items()):
            machine.process.wait()
            self._forget(instance_id, machine)


def _present_volumes(directory: Path) -> list[str]:
    """The serials of what is attached."""
    try:
        return [path.name for path in (directory / "nvme").iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []


def _make_disk(directory: Path, volume: str) -> None:
    """A volume's image: blank where there is none, longer where the volume has grown."""
    folder = directory / "nvme" / volume
    size = int((folder / "gib").read_text()) * GIB
    with (folder / "disk").open("ab") as disk:
        if disk.seek(0, os.SEEK_END) < size:
            disk.truncate(size)


def _plug(machine: _Machine) -> None:
    present = set(_present_volumes(machine.directory))
    for volume in present - machine.volumes:
        _make_disk(machine.directory, volume)
        file = f"nvme/{volume}/disk"
        machine.tell("blockdev-add", **{"driver": "file", "node-name": volume, "filename": file})
        machine.tell("device_add", driver="nvme", id=f"dev-{volume}", drive=volume, serial=volume)
    for volume in machine.volumes - present:
        machine.tell("device_del", id=f"dev-{volume}")
    machine.volumes = present
