"""``EmulatedEC2``: the semantics as one object, called by action name with boto3's parameters.

Owns the table of actions and the order of a call: let time pass, check, carry out. Knows neither
HTTP nor moto nor files; a test can drive it with a clock of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from ec2spawner.localcloud.clock import Clock
from ec2spawner.localcloud.ec2 import (
    health,
    images,
    inspecting,
    launching,
    lifecycle,
    power,
    spot,
    storage,
    tagging,
)
from ec2spawner.localcloud.ec2.capacity import CapacityFile
from ec2spawner.localcloud.ec2.failures import EC2Error
from ec2spawner.localcloud.ec2.records import Instance, SpotRequest
from ec2spawner.localcloud.ec2.state import State, Timings
from ec2spawner.localcloud.ec2.surroundings import StaticSurroundings, Surroundings
from ec2spawner.model import InstanceState

Action = Callable[[State, Mapping[str, Any]], dict[str, Any]]

ACTIONS: dict[str, Action] = {
    "RunInstances": launching.run_instances,
    "StartInstances": power.start_instances,
    "StopInstances": power.stop_instances,
    "RebootInstances": power.reboot_instances,
    "TerminateInstances": power.terminate_instances,
    "DescribeInstances": inspecting.describe_instances,
    "DescribeInstanceStatus": health.describe_instance_status,
    "DescribeInstanceAttribute": inspecting.describe_instance_attribute,
    "DescribeInstanceCreditSpecifications": inspecting.describe_instance_credit_specifications,
    "ModifyInstanceAttribute": inspecting.modify_instance_attribute,
    "ModifyInstanceMetadataOptions": inspecting.modify_instance_metadata_options,
    "GetConsoleOutput": health.get_console_output,
    "DescribeNetworkInterfaces": inspecting.describe_network_interfaces,
    "DescribeSpotInstanceRequests": spot.describe_spot_instance_requests,
    "CancelSpotInstanceRequests": spot.cancel_spot_instance_requests,
    "CreateVolume": storage.create_volume,
    "DeleteVolume": storage.delete_volume_call,
    "DescribeVolumes": storage.describe_volumes,
    "ModifyVolume": storage.modify_volume,
    "AttachVolume": storage.attach_volume,
    "DetachVolume": storage.detach_volume,
    "CreateSnapshot": storage.create_snapshot,
    "DeleteSnapshot": storage.delete_snapshot,
    "DescribeSnapshots": storage.describe_snapshots,
    "DescribeSnapshotAttribute": storage.describe_snapshot_attribute,
    "ModifySnapshotAttribute": storage.modify_snapshot_attribute,
    "CreateImage": images.create_image,
    "DeregisterImage": images.deregister_image,
    "DescribeImages": images.describe_images,
    "DescribeImageAttribute": images.describe_image_attribute,
    "ModifyImageAttribute": images.modify_image_attribute,
    "CreateTags": tagging.create_tags,
    "DeleteTags": tagging.delete_tags,
    "DescribeTags": tagging.describe_tags,
}


class EmulatedEC2(State):
    """One account's EC2 in one Region. Calls from several threads are taken one by one."""

    def __init__(
        self,
        clock: Clock,
        surroundings: Surroundings | None = None,
        *,
        region: str = "us-east-1",
        timings: Timings | None = None,
        capacity: CapacityFile | None = None,
        seed: str = "",
    ) -> None:
        super().__init__(
            clock,
            surroundings or StaticSurroundings(),
            region=region,
            timings=timings,
            capacity=capacity,
            seed=seed,
        )
        self.lock = threading.RLock()
        images.add_public_images(self)

    def call(self, action: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out an EC2 action; EC2Error when EC2 would refuse it."""
        with self.lock:
            self.settle()
            if params.get("DryRun"):
                raise EC2Error(
                    "DryRunOperation",
                    "Request would have succeeded, but DryRun flag is set.",
                    412,
                )
            return ACTIONS[action](self, params)

    def settle(self) -> None:
        """Carry out everything whose time has come."""
        with self.lock:
            while (record := self.pop_due()) is not None:
                if isinstance(record, SpotRequest):
                    spot.advance(self, record)
                elif isinstance(record, Instance) and record.state is InstanceState.RUNNING:
                    power.machine_powered_off(self, record.id)  # a builder that has done its work
                else:
                    lifecycle.advance(self, record)

    def powered_off(self, instance_id: str) -> None:
        """The machine of an instance shut itself down."""
        with self.lock:
            self.settle()
            power.machine_powered_off(self, instance_id)

    def went_off(self, instance_id: str) -> None:
        """The machine of an instance that stops or terminates is off: no need to wait longer."""
        with self.lock:
            self.settle()
            lifecycle.hasten(self, instance_id)

    def copied(self, kind: str, id_: str) -> None:
        """The files of a new volume or snapshot are in place."""
        with self.lock:
            if kind == "volume":
                lifecycle.volume_has_data(self, id_)
            else:
                lifecycle.snapshot_has_data(self, id_)
