"""How well instances are: status checks, kernel panics, the console, and what is stuck.

Owns DescribeInstanceStatus and GetConsoleOutput, and what makes an instance ill or well again. What
a sick machine does is the machines' business; here it is on record.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from ec2spawner.localcloud.ec2 import builders
from ec2spawner.localcloud.ec2.failures import missing, wrong_state
from ec2spawner.localcloud.ec2.filters import Getter, choose, page
from ec2spawner.localcloud.ec2.inspecting import named_instances
from ec2spawner.localcloud.ec2.lifecycle import recover
from ec2spawner.localcloud.ec2.records import Instance
from ec2spawner.localcloud.ec2.state import State
from ec2spawner.localcloud.ec2.views import STATE_CODES, moment, shown_state, state_view
from ec2spawner.model import InstanceState

CHECKS = {"instance": "InstanceStatus", "system": "SystemStatus", "ebs": "AttachedEbsStatus"}
"""The status checks, and what replies call them (EC2 user guide, "Status checks", 2026)."""
INITIALIZING_SECONDS = 60
"""For so long after a start status checks say "initializing" (about as EC2 does)."""
CONSOLE_BYTES = 65_536  # GetConsoleOutput: the most recent 64 KB (EC2 API reference, 2026)
PANIC = b"""\
[  213.471912] BUG: kernel NULL pointer dereference, address: 0000000000000008
[  213.473344] Kernel panic - not syncing: Fatal exception in interrupt
[  213.474012] ---[ end Kernel panic - not syncing: Fatal exception in interrupt ]---
"""

_DETAILS = {"ok": "passed", "initializing": "initializing", "impaired": "failed"}


def describe_instance_status(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """DescribeInstanceStatus: running ones, or all with IncludeAllInstances; no filter on tags."""
    found = named_instances(ec2, params)
    if not params.get("IncludeAllInstances"):
        found = [i for i in found if shown_state(ec2, i) is InstanceState.RUNNING]
    chosen = choose(found, params.get("Filters") or (), _filters(ec2), has_tags=False)
    shown, token = page(chosen, params, "InstanceIds")
    return {"InstanceStatuses": [_status(ec2, i) for i in shown], "NextToken": token}


def _status(ec2: State, instance: Instance) -> dict[str, Any]:
    return {
        "InstanceId": instance.id,
        "AvailabilityZone": instance.zone,
        "InstanceState": state_view(shown_state(ec2, instance)),
        **{shown: _check_view(ec2, instance, check) for check, shown in CHECKS.items()},
    }


def _check_view(ec2: State, instance: Instance, check: str) -> dict[str, Any]:
    health = health_of(ec2, instance, check)
    if health not in _DETAILS:
        return {"Status": health}
    detail: dict[str, Any] = {"Name": "reachability", "Status": _DETAILS[health]}
    if health == "impaired":
        detail["ImpairedSince"] = moment(instance.impaired[check])
    return {"Status": health, "Details": [detail]}


def health_of(ec2: State, instance: Instance, check: str) -> str:
    """What one of an instance's status checks says now."""
    if shown_state(ec2, instance) is not InstanceState.RUNNING:
        return "not-applicable"
    if check in instance.impaired and ec2.clock() >= instance.impaired[check]:
        return "impaired"
    fresh = ec2.clock() < instance.launched_at + INITIALIZING_SECONDS
    return "initializing" if fresh else "ok"


def _filters(ec2: State) -> dict[str, Getter[Instance]]:
    def status(check: str) -> Getter[Instance]:
        return lambda i: (health_of(ec2, i, check),)

    def reachability(check: str) -> Getter[Instance]:
        return lambda i: (_DETAILS.get(health_of(ec2, i, check), ""),)

    return {
        "availability-zone": lambda i: (i.zone,),
        "instance-state-name": lambda i: (shown_state(ec2, i).value,),
        "instance-state-code": lambda i: (str(STATE_CODES[shown_state(ec2, i)]),),
        "instance-status.status": status("instance"),
        "instance-status.reachability": reachability("instance"),
        "system-status.status": status("system"),
        "system-status.reachability": reachability("system"),
        "attached-ebs-status.status": status("ebs"),
        "event.code": lambda i: (),  # no events are ever scheduled here
    }


def get_console_output(ec2: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """GetConsoleOutput: the last 64 KiB that the machine wrote, as base64."""
    if not params.get("InstanceId"):
        raise missing("InstanceId")
    (instance,) = ec2.find_instances([params["InstanceId"]])
    is_builder = builders.is_builder(instance)
    output = builders.console(ec2, instance) if is_builder else ec2.console(instance.id)
    if instance.panicked_at is not None:
        output += PANIC
    return {
        "InstanceId": instance.id,
        "Output": base64.b64encode(output[-CONSOLE_BYTES:]).decode(),
        "Timestamp": moment(ec2.clock()),
    }


# ---- what makes an instance ill, and well


def impair(ec2: State, instance: Instance, check: str) -> None:
    """A status check fails from now on."""
    instance.impaired[check] = ec2.clock()
    ec2.touch(instance)


def panic(ec2: State, instance: Instance) -> None:
    """The kernel panics: the machine is silent, and EC2's check finds out a little later."""
    if instance.state is not InstanceState.RUNNING:
        raise wrong_state(f"The instance '{instance.id}' is {instance.state.value}, not running.")
    instance.panicked_at = ec2.clock()
    instance.impaired["instance"] = ec2.clock() + ec2.timings.status_check_seconds
    ec2.touch(instance)
    ec2.happened("panicked", instance.id)


def stick(ec2: State, instance: Instance) -> None:
    """Its stop, which is under way or comes, does not end: it stays ``stopping``."""
    instance.is_stuck = True
    if instance.state is InstanceState.STOPPING:
        instance.due_at = None
    ec2.touch(instance)


def heal(ec2: State, instance: Instance) -> None:
    """All of the above is over; a machine that had panicked boots again."""
    has_panicked = instance.panicked_at is not None
    if instance.is_stuck and instance.state is InstanceState.STOPPING:
        instance.due_at = ec2.clock()
    instance.is_stuck = False
    instance.impaired = {}
    recover(instance)
    ec2.touch(instance)
    if has_panicked and instance.state is InstanceState.RUNNING:
        ec2.happened("rebooted", instance.id)
