"""Start, stop, reboot and terminate, and what a machine does by itself.

Owns the rules of which state allows which call. All calls on several instances are all or
nothing, as in EC2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ec2spawner.localcloud.ec2.failures import (
    EC2Error,
    bad_value,
    malformed,
    missing,
    wrong_state,
)
from ec2spawner.localcloud.ec2.lifecycle import (
    OWN_STOP,
    USER_STOP,
    begin_start,
    begin_stop,
    begin_terminate,
    recover,
)
from ec2spawner.localcloud.ec2.records import Instance
from ec2spawner.localcloud.ec2.spot_requests import is_cancelled, is_stoppable
from ec2spawner.localcloud.ec2.state import State
from ec2spawner.localcloud.ec2.views import state_view
from ec2spawner.model import SPOT_INTERRUPTED, InstanceState

MAX_IDS = 1000

_NOT_STOPPABLE = (
    InstanceState.PENDING,
    InstanceState.SHUTTING_DOWN,
    InstanceState.TERMINATED,
)


def read_ids(params: Mapping[str, Any]) -> list[str]:
    """The instance ids of a request, checked for form."""
    ids: list[str] = params.get("InstanceIds") or []
    if not ids:
        raise missing("InstanceId")
    if len(ids) > MAX_IDS:
        raise bad_value(f"You may specify at most {MAX_IDS} instances")
    for one in ids:
        if not one.startswith("i-") or len(one) < 10:
            raise malformed(one, "i")
    return ids


def _changes(before: list[tuple[Instance, InstanceState]]) -> list[dict[str, Any]]:
    return [
        {
            "InstanceId": instance.id,
            "CurrentState": state_view(instance.state),
            "PreviousState": state_view(previous),
        }
        for instance, previous in before
    ]


def start_instances(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """StartInstances: from ``stopped`` only; no capacity for one is no start for any."""
    instances = ec2.find_instances(read_ids(params))
    for instance in instances:
        if instance.state not in (
            InstanceState.STOPPED,
            InstanceState.RUNNING,
            InstanceState.PENDING,
        ):
            raise wrong_state(
                f"The instance '{instance.id}' is not in a state from which it can be started."
            )
    stopped = [i for i in instances if i.state is InstanceState.STOPPED]
    for instance in stopped:
        _check_spot_request(instance)
    _check_room(ec2, stopped)
    before = [(i, i.state) for i in instances]
    for instance in stopped:
        begin_start(ec2, instance)
    return {"StartingInstances": _changes(before)}


def _check_spot_request(instance: Instance) -> None:
    """What EC2 took back, only EC2 starts again (EC2 user guide, "Behavior of Spot Instance
    interruptions", 2026).
    """
    if instance.is_spot and instance.reason_code == SPOT_INTERRUPTED:
        raise EC2Error(
            "IncorrectSpotRequestState",
            f"You can't start the Spot Instance '{instance.id}' because the associated Spot "
            "Instance request is not in an appropriate state to support start.",
        )


def _check_room(ec2: State, instances: list[Instance]) -> None:
    capacity = ec2.capacity.current()
    occupants = ec2.occupants()
    for instance in instances:
        wanted = ec2.occupant(instance)
        room, reason = capacity.room("StartInstances", wanted, occupants)
        if room is not None and room < 1 and reason:
            raise reason
        occupants.append(wanted)


def stop_instances(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """StopInstances: from ``running``; nothing to do for what is stopped or stopping.

    With Force, what is stuck gets the time of a stop once more, and is cut off then (EC2 user
    guide, "Troubleshoot instance stop issues", 2026).
    """
    instances = ec2.find_instances(read_ids(params))
    for instance in instances:
        _check_stoppable(ec2, instance)
    before = [(i, i.state) for i in instances]
    for instance in instances:
        if params.get("Force"):
            _unstick(ec2, instance)
        if instance.state is InstanceState.RUNNING:
            begin_stop(ec2, instance, USER_STOP)
    return {"StoppingInstances": _changes(before)}


def _unstick(ec2: State, instance: Instance) -> None:
    if instance.is_stuck and instance.state is InstanceState.STOPPING:
        instance.due_at = ec2.clock() + ec2.timings.stopping_seconds
    instance.is_stuck = False
    ec2.touch(instance)


def _check_stoppable(ec2: State, instance: Instance) -> None:
    if instance.state in _NOT_STOPPABLE:
        raise wrong_state(
            f"The instance '{instance.id}' is not in a state from which it can be stopped."
        )
    if instance.disable_api_stop:
        raise EC2Error(
            "OperationNotPermitted",
            f"The instance '{instance.id}' may not be stopped. "
            "Modify its 'disableApiStop' instance attribute and try again.",
        )
    if instance.is_spot and not instance.spot_is_persistent:
        raise EC2Error(
            "UnsupportedOperation",
            f"You can't stop the Spot Instance '{instance.id}' because it is associated with "
            "a one-time Spot Instance request. You can only stop Spot Instances associated with "
            "persistent Spot Instance requests.",
        )
    if is_cancelled(ec2, instance) and instance.state is InstanceState.RUNNING:
        raise EC2Error(
            "UnsupportedOperation",
            f"You can't stop the Spot Instance '{instance.id}' because the associated Spot "
            "Instance request is cancelled.",
        )


def terminate_instances(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """TerminateInstances: idempotent; one protected or unknown id fails the call."""
    instances = ec2.find_instances(read_ids(params))
    for instance in instances:
        if instance.disable_api_termination:
            raise EC2Error(
                "OperationNotPermitted",
                f"The instance '{instance.id}' may not be terminated. "
                "Modify its 'disableApiTermination' instance attribute and try again.",
            )
    before = [(i, i.state) for i in instances]
    for instance in instances:
        begin_terminate(ec2, instance, USER_STOP)
    return {"TerminatingInstances": _changes(before)}


def reboot_instances(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """RebootInstances: the machine boots again; the state stays ``running``."""
    instances = ec2.find_instances(read_ids(params))
    for instance in instances:
        if instance.state in (InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED):
            raise wrong_state(f"The instance '{instance.id}' is not in a valid state.")
    for instance in instances:
        if instance.state in (InstanceState.RUNNING, InstanceState.PENDING):
            recover(instance)
            ec2.touch(instance)
            ec2.happened("rebooted", instance.id)
    return {}


def machine_powered_off(ec2: State, instance_id: str) -> None:
    """The machine shut itself down: stopped or terminated, as the instance's attribute says."""
    instance = ec2.instances.get(instance_id)
    if instance is None:
        return
    if instance.state is InstanceState.PENDING:  # so quick that EC2 has not shown it running
        instance.state = InstanceState.RUNNING
    if instance.state is not InstanceState.RUNNING:
        return
    if instance.shutdown_behavior == "terminate" or not is_stoppable(ec2, instance):
        begin_terminate(ec2, instance, OWN_STOP)
    else:
        begin_stop(ec2, instance, OWN_STOP)
