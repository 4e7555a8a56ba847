"""What becomes of a spot request when its instance stops, starts or ends.

Owns the states and status codes of requests (EC2 user guide, "State changes for a Spot request",
2026). Changes no instance: ``lifecycle`` says what happens to one, ``spot`` acts on requests.
"""

from __future__ import annotations

from ec2spawner.localcloud.ec2.records import Instance, SpotRequest
from ec2spawner.localcloud.ec2.state import State
from ec2spawner.model import SPOT_INTERRUPTED

SHOWN_SECONDS = 86_400 * 2
"""So long is a request that is over still shown (as long as the console keeps it, about)."""
OVER = ("closed", "cancelled")


def request_of(ec2: State, instance: Instance) -> SpotRequest | None:
    """The request of a spot instance, if EC2 still shows it."""
    return ec2.spot_requests.get(instance.spot_request_id)


def set_status(
    ec2: State, request: SpotRequest, state: str, status: str, due_in_seconds: float | None = None
) -> None:
    """Move a request on; EC2 looks at it again after so many seconds."""
    now = ec2.clock()
    if state in OVER and due_in_seconds is None:
        due_in_seconds = SHOWN_SECONDS
    request.state, request.status, request.changed_at = state, status, now
    request.due_at = None if due_in_seconds is None else now + due_in_seconds
    ec2.touch(request)


def is_cancelled(ec2: State, instance: Instance) -> bool:
    """Whether a spot instance lives on without its request: it cannot be stopped any more."""
    request = request_of(ec2, instance)
    return instance.is_spot and (request is None or request.state in OVER)


def is_stoppable(ec2: State, instance: Instance) -> bool:
    """Whether EC2 can stop it: on demand, or of a persistent request that stands."""
    return not instance.is_spot or (instance.spot_is_persistent and not is_cancelled(ec2, instance))


def stopped(ec2: State, instance: Instance) -> None:
    """Its instance stops. Only what EC2 stopped itself it will start itself."""
    instance.interruption_at = None
    request = request_of(ec2, instance)
    if request is None or request.state in OVER:
        return
    if instance.reason_code == SPOT_INTERRUPTED:
        retry = ec2.timings.spot_retry_seconds
        set_status(ec2, request, "disabled", "instance-stopped-no-capacity", retry)
    else:
        set_status(ec2, request, "disabled", "instance-stopped-by-user")


def started(ec2: State, instance: Instance) -> None:
    """Its instance starts again."""
    request = request_of(ec2, instance)
    if request and request.state not in OVER:
        set_status(ec2, request, "active", "fulfilled")


def ended(ec2: State, instance: Instance) -> None:
    """Its instance is gone. A persistent request that nobody cancelled is open again."""
    instance.interruption_at = None
    request = request_of(ec2, instance)
    if request is None or request.instance_id != instance.id:
        return
    by_user = instance.reason_code.startswith("Client.")
    status = "instance-terminated-by-user" if by_user else "instance-terminated-no-capacity"
    if request.state in OVER:
        set_status(ec2, request, request.state, status)
    elif request.is_persistent:
        retry = ec2.timings.spot_retry_seconds
        set_status(ec2, request, "open", "pending-evaluation", retry)
    else:
        set_status(ec2, request, "closed", status)
