"""Spot requests: looking at them, cancelling them, and what EC2 does for them by itself.

Owns DescribeSpotInstanceRequests, CancelSpotInstanceRequests, interruptions, the restart of what
was interrupted, and the launch of another instance for a persistent request whose instance ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ec2spawner.localcloud.ec2.failures import EC2Error, bad_value, missing, wrong_state
from ec2spawner.localcloud.ec2.filters import Getter, choose, page
from ec2spawner.localcloud.ec2.launching import launch_for_request
from ec2spawner.localcloud.ec2.lifecycle import (
    SPOT_END,
    SPOT_STOP,
    begin_start,
    begin_stop,
    begin_terminate,
)
from ec2spawner.localcloud.ec2.records import Instance, SpotRequest
from ec2spawner.localcloud.ec2.spot_requests import OVER, SHOWN_SECONDS, request_of, set_status
from ec2spawner.localcloud.ec2.state import State
from ec2spawner.localcloud.ec2.views import moment, tag_list
from ec2spawner.model import InstanceState

_ON = (InstanceState.PENDING, InstanceState.RUNNING)
_NO_ROOM = ("Insufficient", "MaxSpot", "Unsupported", "Unfulfillable")

_FILTERS: dict[str, Getter[SpotRequest]] = {
    "spot-instance-request-id": lambda r: (r.id,),
    "state": lambda r: (r.state,),
    "status-code": lambda r: (r.status,),
    "instance-id": lambda r: (r.instance_id,) if r.instance_id else (),
    "type": lambda r: (_type(r),),
    "launched-availability-zone": lambda r: (r.zone,),
    "launch.instance-type": lambda r: (r.launch.get("InstanceType", ""),),
    "launch.image-id": lambda r: (r.launch.get("ImageId", ""),),
}


def _type(request: SpotRequest) -> str:
    return "persistent" if request.is_persistent else "one-time"


def describe_spot_instance_requests(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """DescribeSpotInstanceRequests: those that are over are shown for two days."""
    ids = params.get("SpotInstanceRequestIds") or ()
    found = [ec2.find("spot-request", i) for i in ids] if ids else ec2.spot_requests.values()
    chosen = choose(found, params.get("Filters") or (), _FILTERS)
    shown, token = page(chosen, params, "SpotInstanceRequestIds")
    return {"SpotInstanceRequests": [_view(r) for r in shown], "NextToken": token}


def _view(request: SpotRequest) -> dict[str, Any]:
    launch = {"ImageId", "InstanceType", "KeyName", "SubnetId"}
    return {
        "SpotInstanceRequestId": request.id,
        "State": request.state,
        "Status": {
            "Code": request.status,
            "Message": request.status.replace("-", " "),
            "UpdateTime": moment(request.changed_at),
        },
        "Type": _type(request),
        "InstanceInterruptionBehavior": request.interruption,
        "InstanceId": request.instance_id or None,
        "LaunchedAvailabilityZone": request.zone,
        "LaunchSpecification": {k: v for k, v in request.launch.items() if k in launch},
        "CreateTime": moment(request.created_at),
        "ProductDescription": "Linux/UNIX",
        "Tags": tag_list(request.tags),
    }


def cancel_spot_instance_requests(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """CancelSpotInstanceRequests: ends a stopped instance, and lets a running one run."""
    ids = params.get("SpotInstanceRequestIds")
    if not ids:
        raise missing("SpotInstanceRequestId")
    requests = [ec2.find("spot-request", i) for i in dict.fromkeys(ids)]
    for request in requests:
        if request.state not in OVER:
            _cancel(ec2, request)
    shown = [{"SpotInstanceRequestId": r.id, "State": r.state} for r in requests]
    return {"CancelledSpotInstanceRequests": shown}


def _cancel(ec2: State, request: SpotRequest) -> None:
    instance = ec2.instances.get(request.instance_id)
    if request.state == "open":
        set_status(ec2, request, "cancelled", "canceled-before-fulfillment")
    elif instance and instance.state is InstanceState.STOPPED:
        set_status(ec2, request, "cancelled", "instance-terminated-by-service")
        begin_terminate(ec2, instance, SPOT_END)
    else:
        marked_for = request.due_at - ec2.clock() if request.due_at else None
        set_status(ec2, request, "cancelled", "request-canceled-and-instance-running", marked_for)


# ---- what EC2 does by itself


def interrupt(ec2: State, instance: Instance, seconds: float) -> None:
    """EC2 takes a spot instance back: the machine gets its notice now, and its end later."""
    if not instance.is_spot:
        raise bad_value(f"{instance.id} is no spot instance; EC2 does not take it back")
    if instance.state not in _ON:
        raise wrong_state(f"{instance.id} is {instance.state.value}, not running")
    request = request_of(ec2, instance)
    instance.interruption_at = ec2.clock() + seconds
    ec2.touch(instance)
    ec2.happened("interruption", instance.id)
    if request is None:
        return
    if action_of(ec2, instance) == "stop":
        set_status(ec2, request, request.state, "marked-for-stop", seconds)
    else:
        state = request.state if request.is_persistent else "closed"
        set_status(ec2, request, state, "marked-for-termination", seconds)


def action_of(ec2: State, instance: Instance) -> str:
    """What an interruption does to it: "stop" or "terminate"."""
    request = request_of(ec2, instance)
    may_stop = request is not None and request.state not in OVER and request.interruption == "stop"
    return "stop" if may_stop else "terminate"


def advance(ec2: State, request: SpotRequest) -> None:
    """The moment has come at which EC2 looks at a request again."""
    request.due_at = None
    instance = ec2.instances.get(request.instance_id)
    is_on = instance is not None and instance.state in _ON
    if instance and is_on and instance.interruption_at is not None:
        _take_back(ec2, instance)
    elif request.state in OVER:
        _forget(ec2, request, is_on)
    elif request.state == "open":
        _launch_another(ec2, request)
    elif request.state == "disabled" and instance:
        _start_again(ec2, request, instance)


def _take_back(ec2: State, instance: Instance) -> None:
    if action_of(ec2, instance) == "stop":
        if instance.state is InstanceState.PENDING:
            instance.state = InstanceState.RUNNING
        begin_stop(ec2, instance, SPOT_STOP)
    else:
        begin_terminate(ec2, instance, SPOT_END)


def _forget(ec2: State, request: SpotRequest, has_instance: bool) -> None:
    if has_instance:
        set_status(ec2, request, request.state, request.status, SHOWN_SECONDS)
    else:
        ec2.remove(request)


def _launch_another(ec2: State, request: SpotRequest) -> None:
    """A new instance like the first, with the request's tags on the request and none on itself."""
    try:
        launch_for_request(ec2, request)
    except EC2Error as error:
        if error.code.startswith(_NO_ROOM):
            retry = ec2.timings.spot_retry_seconds
            set_status(ec2, request, "open", "capacity-not-available", retry)
        else:
            set_status(ec2, request, "closed", "bad-parameters")
    else:
        set_status(ec2, request, "active", "fulfilled")


def _start_again(ec2: State, request: SpotRequest, instance: Instance) -> None:
    wanted = ec2.occupant(instance)
    room, _ = ec2.capacity.current().room("StartInstances", wanted, ec2.occupants())
    if instance.state is InstanceState.STOPPED and (room is None or room > 0):
        begin_start(ec2, instance)
    else:
        retry = ec2.timings.spot_retry_seconds
        set_status(ec2, request, request.state, request.status, retry)
