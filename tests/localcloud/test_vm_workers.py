"""Real machines, as far as that goes without one: a program that stands in for qemu."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ec2spawner.localcloud.__main__ import options_of, parser
from ec2spawner.localcloud.machines import MachineSpec
from ec2spawner.localcloud.vm_options import INITRD, KERNEL, ROOT, VmOptions
from ec2spawner.localcloud.vm_workers import VmWorkers

from .serving import Serving, launch_worker, make_subnet, state_of, until

ID = "i-0123456789abcdef0"
VOLUME = "vol0123456789abcdef0"
STAND_IN = Path(__file__).with_name("stand_in_qemu.py")


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image that nothing boots from, and programs that stand in for qemu's."""
    image, programs = tmp_path / "image", tmp_path / "bin"
    image.mkdir()
    programs.mkdir()
    for name in (ROOT, KERNEL, INITRD):
        (image / name).touch()
    scripts = {
        "qemu-system-x86_64": f'exec {sys.executable} {STAND_IN} "$@"',
        "qemu-img": 'for last; do :; done; echo "$@" >"$last"',
    }
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    return image


@pytest.fixture
def workers(image: Path) -> Iterator[VmWorkers]:
    workers = VmWorkers(VmOptions(image=image))
    yield workers
    workers.close()


@pytest.fixture
def spec(tmp_path: Path) -> MachineSpec:
    spec = MachineSpec(ID, tmp_path / ID, "127.77.1.5", 2222, (), 0.0, mac="02:00:00:00:00:05")
    spec.write()
    return spec


def attach(spec: MachineSpec, volume: str, gib: int = 1) -> Path:
    folder = spec.directory.parent / volume
    folder.mkdir(exist_ok=True)
    (folder / "gib").write_text(str(gib))
    (spec.directory / "nvme" / volume).symlink_to(folder)
    return folder / "disk"


def command(spec: MachineSpec) -> list[str]:
    file = spec.directory / "command.json"
    until(lambda: file.exists() and file.read_text())
    return list(json.loads(file.read_text()))


def told(spec: MachineSpec, name: str) -> list[dict[str, Any]]:
    file = spec.directory / "told.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [e["arguments"] for e in map(json.loads, lines) if e["execute"] == name]


def off(workers: VmWorkers) -> list[tuple[str, int]]:
    deadline = time.monotonic() + 10
    while not (ended := workers.wait(0.1)):
        assert time.monotonic() < deadline
    return ended


def test_a_volume_is_a_disk_of_its_size_with_its_id_as_serial(
    workers: VmWorkers, spec: MachineSpec
) -> None:
    disk = attach(spec, VOLUME, gib=3)
    workers.start(spec)
    assert disk.stat().st_size == 3 << 30
    assert disk.stat().st_blocks == 0
    assert f"nvme,id=dev-{VOLUME},drive={VOLUME},serial={VOLUME}" in command(spec)


def test_a_volume_keeps_what_is_on_it_and_grows(workers: VmWorkers, spec: MachineSpec) -> None:
    disk = attach(spec, VOLUME, gib=2)
    disk.write_bytes(b"kept")
    workers.start(spec)
    assert disk.stat().st_size == 2 << 30
    with disk.open("rb") as file:
        assert file.read(4) == b"kept"


def test_volumes_are_plugged_into_a_machine_that_runs_and_out_of_it(
    workers: VmWorkers, spec: MachineSpec
) -> None:
    workers.start(spec)
    attach(spec, VOLUME)
    workers.wait(0)
    until(lambda: told(spec, "device_add"))
    assert told(spec, "device_add")[0]["serial"] == VOLUME
    assert told(spec, "blockdev-add")[0]["filename"] == f"nvme/{VOLUME}/disk"
    (spec.directory / "nvme" / VOLUME).unlink()
    workers.wait(0)
    until(lambda: told(spec, "device_del"))
    assert told(spec, "device_del") == [{"id": f"dev-{VOLUME}"}]


def test_the_root_disk_is_made_once(workers: VmWorkers, spec: MachineSpec) -> None:
    workers.start(spec)
    disk = spec.directory / "root.qcow2"
    disk.write_text("what the machine wrote")
    workers.kill(ID)
    workers.start(spec)
    assert disk.read_text() == "what the machine wrote"


def test_a_stop_presses_the_button_and_the_end_is_seen(
    workers: VmWorkers, spec: MachineSpec
) -> None:
    workers.start(spec)
    workers.stop(ID)
    assert off(workers) == [(ID, 0)]
    assert not workers.is_on(ID)


def test_a_cut_network_is_a_pulled_plug(workers: VmWorkers, spec: MachineSpec) -> None:
    workers.start(spec)
    workers.cut_network(ID, cut=True)
    workers.cut_network(ID, cut=False)
    until(lambda: len(told(spec, "set_link")) == 2)
    assert [t["up"] for t in told(spec, "set_link")] == [False, True]


def test_two_machines_have_different_identities(workers: VmWorkers, tmp_path: Path) -> None:
    seen = set()
    for id_ in (ID, "i-0fedcba9876543210"):
        spec = MachineSpec(id_, tmp_path / id_, "127.77.1.5", 2222, (), 0.0)
        spec.write()
        workers.start(spec)
        words = command(spec)
        identity = words[words.index("-smbios") + 1]
        assert "serial=ec2" in identity  # as cloud-init knows EC2
        seen.add(identity)
    assert len(seen) == 2


def serve_in(folder: Path, image: Path) -> Serving:
    options = ("--workers", "vm", "--vm-image", str(image), "--stop-seconds", "600")
    return Serving(folder, *options, stand_in=False)


def test_an_instance_is_stopped_as_soon_as_its_machine_is_off(tmp_path: Path, image: Path) -> None:
    with serve_in(tmp_path / "state", image) as serving:
        ec2 = serving.client()
        subnet = make_subnet(ec2, "127.91.6.0/24")
        one = launch_worker(ec2, subnet)["InstanceId"]
        until(lambda: state_of(ec2, one) == "running")
        ec2.stop_instances(InstanceIds=[one])
        until(lambda: state_of(ec2, one) == "stopped")


def process_in(directory: Path) -> int:
    """The process whose working directory that is, once it has begun."""
    until(lambda: (directory / "told.jsonl").exists())
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == directory:
                return int(process.name)
    raise AssertionError(f"nothing runs in {directory}")


def test_a_machine_that_powers_itself_off_is_stopped_at_once(tmp_path: Path, image: Path) -> None:
    with serve_in(tmp_path / "state", image) as serving:
        ec2 = serving.client()
        one = launch_worker(ec2, make_subnet(ec2, "127.91.7.0/24"))["InstanceId"]
        until(lambda: state_of(ec2, one) == "running")
        os.kill(process_in(tmp_path / "state" / "instances" / one), signal.SIGTERM)
        until(lambda: state_of(ec2, one) == "stopped")


def test_a_builder_which_has_no_machine_is_stopped_at_once(tmp_path: Path, image: Path) -> None:
    with serve_in(tmp_path / "state", image) as serving:
        ec2 = serving.client()
        subnet = make_subnet(ec2, "127.91.8.0/24")
        builder = launch_worker(ec2, subnet, role="builder")["InstanceId"]
        until(lambda: state_of(ec2, builder) == "stopped")


@pytest.mark.parametrize("missing", [ROOT, KERNEL, INITRD])
def test_an_image_that_lacks_something_is_named(image: Path, missing: str) -> None:
    assert VmOptions(image=image).lack() == ""
    (image / missing).unlink()
    assert f"has no {missing}" in VmOptions(image=image).lack()


def test_a_missing_program_is_named_with_its_package(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "Debian: apt-get install qemu-system-x86" in VmOptions(image=image).lack()


@pytest.mark.parametrize(("workers", "seconds"), [("process", 3.0), ("vm", 90.0)])
def test_a_real_machine_gets_time_to_stop(workers: str, seconds: float) -> None:
    given = parser().parse_args(["serve", "--state-dir", "x", "--workers", workers])
    assert options_of(given).timings.stopping_seconds == seconds
