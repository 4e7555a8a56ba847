"""Shorthands for tests of the emulated cloud."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ec2spawner.localcloud.clock import ManualClock
from ec2spawner.localcloud.ec2.capacity import CapacityFile
from ec2spawner.localcloud.ec2.emulated import EmulatedEC2
from ec2spawner.localcloud.ec2.failures import EC2Error
from ec2spawner.localcloud.ec2.images import ubuntu_image_id
from ec2spawner.localcloud.ec2.state import Timings
from ec2spawner.localcloud.ec2.surroundings import StaticSurroundings

AMI = ubuntu_image_id("us-east-1", "amd64")
ARM_AMI = ubuntu_image_id("us-east-1", "arm64")
SUBNET_A, SUBNET_B = (f"subnet-{i:017x}" for i in (1, 2))
HOME = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 10, "DeleteOnTermination": False}}


def tags(kind: str = "instance", **values: str) -> dict[str, Any]:
    """One TagSpecification."""
    return {
        "ResourceType": kind,
        "Tags": [{"Key": k, "Value": v} for k, v in values.items()],
    }


class Cloud:
    """EC2 in virtual time, with short words for what tests do."""

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock()
        self.surroundings = StaticSurroundings()
        self.timings = Timings()
        capacity: CapacityFile | None = options.pop("capacity", None)
        self.ec2 = EmulatedEC2(
            self.clock,
            self.surroundings,
            timings=self.timings,
            capacity=capacity,
            seed="test",
            **options,
        )

    def call(self, action: str, **params: Any) -> dict[str, Any]:
        """One EC2 call."""
        return self.ec2.call(action, params)

    def run(self, count: int = 1, **more: Any) -> list[str]:
        """Launch ``count`` instances; their ids."""
        return [i["InstanceId"] for i in self.launch(count, **more)["Instances"]]

    def launch(self, count: int = 1, **more: Any) -> dict[str, Any]:
        """RunInstances with the usual parameters."""
        params: dict[str, Any] = {
            "ImageId": AMI,
            "InstanceType": "t3.medium",
            "SubnetId": SUBNET_A,
            "MinCount": count,
            "MaxCount": count,
            **more,
        }
        return self.call("RunInstances", **{k: v for k, v in params.items() if v is not None})

    def running(self, count: int = 1, **more: Any) -> list[str]:
        """Launch, and wait until they run."""
        ids = self.run(count, **more)
        self.clock.advance(self.timings.pending_seconds)
        return ids

    def stopped(self, count: int = 1, **more: Any) -> list[str]:
        """Launch, run, stop."""
        ids = self.running(count, **more)
        self.call("StopInstances", InstanceIds=ids)
        self.clock.advance(self.timings.stopping_seconds)
        return ids

    def show(self, instance_id: str) -> Mapping[str, Any]:
        """An instance as DescribeInstances shows it."""
        found = self.call("DescribeInstances", InstanceIds=[instance_id])
        view: Mapping[str, Any] = found["Reservations"][0]["Instances"][0]
        return view

    def state(self, instance_id: str) -> str:
        """An instance's state."""
        return str(self.show(instance_id)["State"]["Name"])

    def listed(self, **params: Any) -> list[str]:
        """Ids that DescribeInstances lists."""
        found = self.call("DescribeInstances", **params)["Reservations"]
        return [i["InstanceId"] for r in found for i in r["Instances"]]

    def volumes(self, **params: Any) -> list[dict[str, Any]]:
        """DescribeVolumes."""
        volumes: list[dict[str, Any]] = self.call("DescribeVolumes", **params)["Volumes"]
        return volumes

    def home_of(self, instance_id: str) -> str:
        """Id of the volume at /dev/sdf."""
        self.clock.advance(self.timings.mappings_hidden_seconds)
        mappings = self.show(instance_id)["BlockDeviceMappings"]
        return next(str(m["Ebs"]["VolumeId"]) for m in mappings if m["DeviceName"] == "/dev/sdf")

    def refused(self, code: str, action: str, **params: Any) -> EC2Error:
        """Call, and expect this error code."""
        with pytest.raises(EC2Error) as caught:
            self.call(action, **params)
        assert caught.value.code == code, str(caught.value)
        return caught.value
