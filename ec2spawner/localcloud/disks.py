"""The disks of the emulated cloud: directories that volumes, snapshots and instances are.

Owns ``volumes/``, ``snapshots/`` and ``instances/`` of the state directory. Follows events of the
semantics; what takes time (copies, removals) is done in order by one thread, so that a volume is
never removed before its snapshot is taken. Must not know processes.

    volumes/vol-.../filesystem   absent or empty: blank; "ext4": ours; else foreign
    volumes/vol-.../data/        the files
    volumes/vol-.../gib          its size; a real machine keeps its files in an image, disk
    instances/i-.../nvme/vol...  link to the volume, by its serial (the id without dash)
"""

from __future__ import annotations

import logging
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from ec2spawner.localcloud.ec2.emulated import EmulatedEC2
from ec2spawner.localcloud.ec2.state import Event

log = logging.getLogger(__name__)


class Disks:
    """All directories, and the thread that copies and removes."""

    def __init__(self, state_dir: Path, lock: threading.RLock, commit: Callable[[], None]) -> None:
        self.volumes = state_dir / "volumes"
        self.snapshots = state_dir / "snapshots"
        self.instances = state_dir / "instances"
        for directory in (self.volumes, self.snapshots, self.instances):
            directory.mkdir(parents=True, exist_ok=True)
        self._lock = lock
        self._commit = commit
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="disks", daemon=True)
        self._thread.start()

    def instance(self, instance_id: str) -> Path:
        """An instance's root disk."""
        return self.instances / instance_id

    def follow(self, core: EmulatedEC2, event: Event) -> None:
        """Carry out on disk what an event says."""
        if event.name == "volume-created":
            self._create_volume(core, event.id, event.other)
        elif event.name == "volume-deleted":
            self._remove(self.volumes / event.id)
        elif event.name == "snapshot-created":
            self._create_snapshot(core, event.id, event.other)
        elif event.name == "snapshot-deleted":
            self._remove(self.snapshots / event.id)
        elif event.name == "attached":
            self._link(core, event.id, event.other)
        elif event.name == "detached":
            self._device(event.id, event.other).unlink(missing_ok=True)

    def reconcile(self, cores: list[EmulatedEC2]) -> None:
        """After a restart: make what is missing, go on with copies, remove what nobody has."""
        for core in cores:
            for volume in core.volumes.values():
                self._create_volume(core, volume.id, volume.snapshot_id, again=True)
                if volume.attachment:
                    self._link(core, volume.id, volume.attachment.instance_id)
            for snapshot in core.snapshots.values():
                if not snapshot.has_data:
                    self._create_snapshot(core, snapshot.id, snapshot.volume_id)
        for directory, kind in (
            (self.volumes, "volumes"),
            (self.snapshots, "snapshots"),
            (self.instances, "instances"),
        ):
            known = {id_ for core in cores for id_ in getattr(core, kind)}
            for path in directory.iterdir():
                if path.name not in known:
                    self._remove(path)

    def remove_instance(self, instance_id: str) -> None:
        """Remove an instance's root disk; its machine is off."""
        self._remove(self.instance(instance_id))

    def close(self) -> None:
        """Finish what is under way, within a second or so; the rest waits for the next start."""
        self._jobs.put(None)
        self._thread.join(timeout=1.0)

    def wait(self) -> None:
        """Wait until everything asked for is done."""
        done = threading.Event()
        self._jobs.put(done.set)
        done.wait(60)

    def _device(self, volume_id: str, instance_id: str) -> Path:
        return self.instance(instance_id) / "nvme" / volume_id.replace("-", "")

    def _link(self, core: EmulatedEC2, volume_id: str, instance_id: str) -> None:
        volume = core.volumes.get(volume_id)
        if volume is None or volume.is_root or not volume.has_data:
            return
        (self.volumes / volume_id / "gib").write_text(str(volume.size_gib))
        device = self._device(volume_id, instance_id)
        device.parent.mkdir(parents=True, exist_ok=True)
        if not device.is_symlink():
            device.symlink_to(self.volumes / volume_id)

    def _create_volume(
        self, core: EmulatedEC2, volume_id: str, snapshot_id: str, *, again: bool = False
    ) -> None:
        volume = core.volumes.get(volume_id)
        if volume is None or volume.is_root:
            return
        if volume.has_data:
            (self.volumes / volume_id / "data").mkdir(parents=True, exist_ok=True)
            return
        source, target = self.snapshots / snapshot_id, self.volumes / volume_id
        self._jobs.put(lambda: self._copied(core, "volume", volume_id, source, target))

    def _create_snapshot(self, core: EmulatedEC2, snapshot_id: str, volume_id: str) -> None:
        snapshot = core.snapshots.get(snapshot_id)
        if snapshot is None or snapshot.has_data:
            return
        source, target = self.volumes / volume_id, self.snapshots / snapshot_id
        self._jobs.put(lambda: self._copied(core, "snapshot", snapshot_id, source, target))

    def _copied(self, core: EmulatedEC2, kind: str, id_: str, source: Path, target: Path) -> None:
        copy_tree(source, target)
        with self._lock:
            core.copied(kind, id_)
            volume = core.volumes.get(id_)
            if volume and volume.attachment:
                self._link(core, id_, volume.attachment.instance_id)
            self._commit()

    def _remove(self, path: Path) -> None:
        def remove() -> None:
            shutil.rmtree(path, ignore_errors=True)

        self._jobs.put(remove)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                log.exception("A disk job failed")


def copy_tree(source: Path, target: Path) -> None:
    """Copy a volume's directory whole, or not at all; sparse, and shared where that is possible."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if source.exists():
        subprocess.run(  # noqa: S603 - fixed program, our own paths
            ["/bin/cp", "-a", "--reflink=auto", "--sparse=auto", f"{source}/.", str(partial)],
            check=False,  # a file that vanished meanwhile is no reason to lose the others
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    (partial / "data").mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
