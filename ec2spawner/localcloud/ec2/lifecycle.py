"""What happens to instances, volumes, snapshots and images as time passes.

Owns every change of an instance's state, with its consequences for volumes and addresses. Must
not check whether a call is allowed: that is in the actions.
"""

from __future__ import annotations

from ec2spawner.localcloud.ec2 import builders
from ec2spawner.localcloud.ec2.records import (
    Attachment,
    Image,
    Instance,
    MappedVolume,
    Record,
    Snapshot,
    Volume,
)
from ec2spawner.localcloud.ec2.spot_requests import ended, is_cancelled, started, stopped
from ec2spawner.localcloud.ec2.state import State
from ec2spawner.localcloud.ec2.views import moment
from ec2spawner.model import (
    SPOT_INTERRUPTED,
    TRANSITIONS,
    InstanceState,
    SnapshotState,
    VolumeState,
)

TOKEN_SECONDS = 86_400 * 2
"""How long a client token is remembered: longer than any instance that vanished."""

USER_STOP = ("Client.UserInitiatedShutdown", "User initiated shutdown")
OWN_STOP = ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown")
SPOT_STOP = (SPOT_INTERRUPTED, "Spot Instance interruption")
SPOT_END = ("Server.SpotInstanceTermination", "Spot Instance termination")


def advance(ec2: State, record: Record) -> None:
    """A record's time has come: what was under way is done."""
    if isinstance(record, Instance):
        _advance_instance(ec2, record)
    elif isinstance(record, Volume):
        _advance_volume(ec2, record)
    elif isinstance(record, Snapshot):
        complete_snapshot(ec2, record)
    elif isinstance(record, Image):
        record.due_at = None
        record.state = "available"
        ec2.touch(record)


def change_state(
    ec2: State, instance: Instance, state: InstanceState, due_in_seconds: float | None
) -> None:
    """Move an instance to another state, which lasts until ``due_in_seconds`` from now."""
    if state not in TRANSITIONS[instance.state]:
        raise AssertionError(f"{instance.id}: {instance.state.value} -> {state.value}")
    now = ec2.clock()
    instance.shown_before = instance.state
    instance.state = state
    instance.changed_at = now
    instance.due_at = None if due_in_seconds is None else now + due_in_seconds
    ec2.touch(instance)


def _advance_instance(ec2: State, instance: Instance) -> None:
    if instance.state is InstanceState.PENDING:
        change_state(ec2, instance, InstanceState.RUNNING, builders.seconds_left(ec2, instance))
    elif instance.state is InstanceState.STOPPING:
        change_state(ec2, instance, InstanceState.STOPPED, None)
        ec2.happened("stopped", instance.id)
        if is_cancelled(ec2, instance):
            begin_terminate(ec2, instance, SPOT_END)
    elif instance.state is InstanceState.SHUTTING_DOWN:
        _end(ec2, instance)
    elif instance.state is InstanceState.TERMINATED:
        ec2.remove(instance)
        ec2.happened("vanished", instance.id)
        _forget_old_tokens(ec2)


def begin_start(ec2: State, instance: Instance) -> None:
    """A stopped instance boots; EC2 renews its launch time."""
    change_state(ec2, instance, InstanceState.PENDING, ec2.timings.pending_seconds)
    instance.launched_at = ec2.clock()
    instance.reason_code = instance.reason_message = instance.transition_reason = ""
    instance.impaired = {}  # it may be another host
    recover(instance)
    started(ec2, instance)
    if instance.wants_public_ip:
        instance.public_ip = public_address(ec2)
    ec2.happened("booted", instance.id)


def recover(instance: Instance) -> None:
    """Its kernel is a new one: a panic is over, and what the check of the machine found."""
    instance.panicked_at = None
    instance.impaired.pop("instance", None)


def begin_stop(ec2: State, instance: Instance, reason: tuple[str, str]) -> None:
    """A running instance shuts down to ``stopped``, unless it gets stuck on its way."""
    seconds = None if instance.is_stuck else ec2.timings.stopping_seconds
    change_state(ec2, instance, InstanceState.STOPPING, seconds)
    _give_reason(ec2, instance, reason)
    stopped(ec2, instance)
    instance.public_ip = ""
    ec2.happened("stopping", instance.id)


def begin_terminate(ec2: State, instance: Instance, reason: tuple[str, str]) -> None:
    """An instance goes for good; nothing to do for one that is on its way already."""
    if instance.state in (InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED):
        return
    change_state(ec2, instance, InstanceState.SHUTTING_DOWN, ec2.timings.shutting_down_seconds)
    _give_reason(ec2, instance, reason)
    instance.public_ip = ""
    ec2.happened("terminating", instance.id)


def hasten(ec2: State, instance_id: str) -> None:
    """End the stop or the termination of an instance now, unless it is stuck."""
    instance = ec2.instances.get(instance_id)
    ending = (InstanceState.STOPPING, InstanceState.SHUTTING_DOWN)
    if instance and instance.state in ending and instance.due_at is not None:
        instance.due_at = ec2.clock()
        ec2.touch(instance)


def _give_reason(ec2: State, instance: Instance, reason: tuple[str, str]) -> None:
    code, words = reason
    instance.reason_code, instance.reason_message = code, f"{code}: {words}"
    if code == USER_STOP[0]:
        at = moment(ec2.clock()).strftime("%Y-%m-%d %H:%M:%S GMT")
        instance.transition_reason = f"User initiated ({at})"


def _end(ec2: State, instance: Instance) -> None:
    ec2.release_address(instance.private_ip)
    for mapped in instance.mappings.values():
        volume = ec2.volumes.get(mapped.volume_id)
        if volume is None:
            continue
        if mapped.delete_on_termination:
            delete_volume(ec2, volume)
        else:
            finish_detach(ec2, volume)
    instance.mappings = {}
    instance.private_ip = ""
    change_state(ec2, instance, InstanceState.TERMINATED, ec2.timings.terminated_shown_seconds)
    ended(ec2, instance)
    ec2.happened("terminated", instance.id)


def _forget_old_tokens(ec2: State) -> None:
    limit = ec2.clock() - TOKEN_SECONDS
    for token in [t for t in ec2.tokens.values() if t.used_at < limit]:
        ec2.remove(token)


def public_address(ec2: State) -> str:
    """A public address out of a range kept for documentation; nothing listens there."""
    number = ec2.next_number()
    return f"203.0.113.{number % 254 + 1}"


def _advance_volume(ec2: State, volume: Volume) -> None:
    volume.due_at = None
    if volume.state is VolumeState.CREATING:
        _finish_create(ec2, volume)
    elif volume.attachment and volume.attachment.state == "attaching":
        volume.attachment.state = "attached"
        ec2.touch(volume)
    elif volume.attachment and volume.attachment.state == "detaching":
        finish_detach(ec2, volume)


def _finish_create(ec2: State, volume: Volume) -> None:
    if volume.has_data:
        volume.state = VolumeState.AVAILABLE
    ec2.touch(volume)


def volume_has_data(ec2: State, volume_id: str) -> None:
    """The files of the volume's snapshot have been copied."""
    volume = ec2.volumes.get(volume_id)
    if volume is None or volume.has_data:
        return
    volume.has_data = True
    if volume.due_at is None and volume.state is VolumeState.CREATING:
        volume.state = VolumeState.AVAILABLE
    ec2.touch(volume)


def snapshot_has_data(ec2: State, snapshot_id: str) -> None:
    """The files of the snapshot's volume have been copied."""
    snapshot = ec2.snapshots.get(snapshot_id)
    if snapshot is None or snapshot.has_data:
        return
    snapshot.has_data = True
    if snapshot.due_at is None:
        complete_snapshot(ec2, snapshot)
    ec2.touch(snapshot)


def complete_snapshot(ec2: State, snapshot: Snapshot) -> None:
    """The snapshot's time is over: completed, if its files are there."""
    snapshot.due_at = None
    if snapshot.has_data and snapshot.state is SnapshotState.PENDING:
        snapshot.state = SnapshotState.COMPLETED
    ec2.touch(snapshot)


def attach(
    ec2: State,
    instance: Instance,
    volume: Volume,
    device: str,
    *,
    delete_on_termination: bool = False,
) -> None:
    """Put a volume on a device of an instance."""
    now = ec2.clock()
    instance.mappings[device] = MappedVolume(volume.id, delete_on_termination, now)
    volume.attachment = Attachment(instance.id, device, delete_on_termination, "attaching", now)
    volume.state = VolumeState.IN_USE
    volume.due_at = now + ec2.timings.attach_seconds
    ec2.touch(instance)
    ec2.touch(volume)
    ec2.happened("attached", volume.id, instance.id)


def begin_detach(ec2: State, volume: Volume) -> None:
    """Take a volume off its instance; it is available a little later."""
    if volume.attachment:
        volume.attachment.state = "detaching"
        volume.due_at = ec2.clock() + ec2.timings.attach_seconds
        ec2.touch(volume)


def finish_detach(ec2: State, volume: Volume) -> None:
    """The volume is free."""
    attachment = volume.attachment
    if attachment is None:
        return
    instance = ec2.instances.get(attachment.instance_id)
    if instance and instance.state is not InstanceState.SHUTTING_DOWN:
        instance.mappings.pop(attachment.device, None)
        ec2.touch(instance)
    volume.attachment, volume.state, volume.due_at = None, VolumeState.AVAILABLE, None
    ec2.touch(volume)
    ec2.happened("detached", volume.id, attachment.instance_id)


def delete_volume(ec2: State, volume: Volume) -> None:
    """The volume and its files go."""
    ec2.remove(volume)
    ec2.happened("volume-deleted", volume.id)
