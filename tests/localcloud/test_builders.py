"""Builders of images, and images that a parameter names."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ec2spawner.localcloud.ec2.builders import PHASES
from ec2spawner.localcloud.inprocess import InProcessCloud
from localcloud.support import AMI, SUBNET_A, Cloud, tags

BUILDER = tags(**{"ec2spawner:role": "builder"})
NAME = "/ec2spawner/bio/worker-image"


def build(cloud: Cloud, **more: Any) -> str:
    (builder,) = cloud.run(TagSpecifications=[BUILDER], **more)
    return builder


def said(cloud: Cloud, builder: str) -> list[str]:
    output = cloud.call("GetConsoleOutput", InstanceId=builder, Latest=True)["Output"]
    lines = base64.b64decode(output).decode().splitlines()
    return [line.partition("ec2spawner-image: ")[2] for line in lines if "ec2spawner-" in line]


def state(cloud: Cloud, builder: str) -> str:
    found = cloud.call("DescribeInstances", InstanceIds=[builder])
    name: str = found["Reservations"][0]["Instances"][0]["State"]["Name"]
    return name


def let_pass(cloud: Cloud) -> None:
    """A while, in steps in which all that follows another happens."""
    for _ in range(10):
        cloud.clock.advance(60.0)
        cloud.ec2.settle()


def test_a_builder_says_how_far_it_is_and_switches_itself_off(cloud: Cloud) -> None:
    cloud.timings.builder_seconds = 60.0
    builder = build(cloud)
    cloud.clock.advance(cloud.timings.pending_seconds)
    assert state(cloud, builder) == "running"
    cloud.clock.advance(25.0)
    half = said(cloud, builder)
    assert half == [f"phase {text}" for text in PHASES[:3]]
    cloud.clock.advance(60.0 - 25.0 - cloud.timings.pending_seconds)
    assert state(cloud, builder) == "stopping"
    cloud.clock.advance(cloud.timings.stopping_seconds)
    assert state(cloud, builder) == "stopped"
    assert said(cloud, builder) == [*(f"phase {text}" for text in PHASES), "done"]


def test_a_console_is_only_ever_added_to(cloud: Cloud) -> None:
    cloud.timings.builder_seconds = 10.0
    builder = build(cloud)
    before = b""
    for _ in range(12):
        output = cloud.call("GetConsoleOutput", InstanceId=builder)["Output"]
        assert base64.b64decode(output).startswith(before)
        before = base64.b64decode(output)
        cloud.clock.advance(1.0)
    assert before.rstrip().endswith(b"done")


@pytest.mark.parametrize(
    ("fault", "end", "last"),
    [
        ("fail", "stopped", "failed in provision.sh"),
        ("hang", "running", f"phase {PHASES[2]}"),
        ("silent", "stopped", f"phase {PHASES[-1]}"),
    ],
)
def test_the_next_builder_goes_wrong_as_told(cloud: Cloud, fault: str, end: str, last: str) -> None:
    cloud.ec2.builder_faults.append(fault)
    spoilt, good = build(cloud), build(cloud)
    let_pass(cloud)
    assert (state(cloud, spoilt), said(cloud, spoilt)[-1]) == (end, last)
    assert (state(cloud, good), said(cloud, good)[-1]) == ("stopped", "done")


def test_a_builder_that_runs_again_has_the_same_to_do(cloud: Cloud) -> None:
    builder = build(cloud)
    let_pass(cloud)
    cloud.call("StartInstances", InstanceIds=[builder])
    assert said(cloud, builder)[-1] == f"phase {PHASES[0]}"
    let_pass(cloud)
    assert state(cloud, builder) == "stopped"


def test_others_stay_on(cloud: Cloud) -> None:
    (manager,) = cloud.run(TagSpecifications=[tags(**{"ec2spawner:role": "manager"})])
    let_pass(cloud)
    assert state(cloud, manager) == "running"


# ---- images by parameter


def test_an_image_that_a_parameter_names_is_looked_up_at_the_launch(cloud: Cloud) -> None:
    by_name = {"ImageId": f"resolve:ssm:{NAME}"}
    refused = {"InstanceType": "t3.medium", "SubnetId": SUBNET_A, "MinCount": 1, "MaxCount": 1}
    cloud.refused("SsmInvalidParameter", "RunInstances", **by_name, **refused)
    cloud.surroundings.parameters[NAME] = (AMI, "text")
    cloud.refused("SsmInvalidParameter", "RunInstances", **by_name, **refused)
    cloud.surroundings.parameters[NAME] = (AMI, "aws:ec2:image")
    assert cloud.launch(**by_name)["Instances"][0]["ImageId"] == AMI
    cloud.surroundings.parameters[NAME] = ("ami-00000000000000000", "aws:ec2:image")
    cloud.refused("InvalidAMIID.NotFound", "RunInstances", **by_name, **refused)


def test_a_template_takes_a_parameter_that_is_there_and_follows_it(whole: InProcessCloud) -> None:
    ec2, ssm = whole.client("ec2"), whole.client("ssm")
    data = {"ImageId": f"resolve:ssm:{NAME}", "InstanceType": "t3.medium"}
    template = {"LaunchTemplateName": "worker", "LaunchTemplateData": data}
    with pytest.raises(ec2.exceptions.ClientError, match="SsmInvalidParameter"):
        ec2.create_launch_template(**template)
    ssm.put_parameter(Name=NAME, Value=AMI, Type="String", DataType="aws:ec2:image")
    ec2.create_launch_template(**template)
    vpc = ec2.create_vpc(CidrBlock="127.77.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="127.77.1.0/24", AvailabilityZone="us-east-1a")[
        "Subnet"
    ]["SubnetId"]
    launch = {
        "LaunchTemplate": {"LaunchTemplateName": "worker"},
        "SubnetId": subnet,
        "MinCount": 1,
        "MaxCount": 1,
    }
    first = ec2.run_instances(**launch)["Instances"][0]
    assert first["ImageId"] == AMI
    whole.clock.advance(60.0)
    image = ec2.create_image(InstanceId=first["InstanceId"], Name="new")["ImageId"]
    whole.clock.advance(60.0)
    ssm.put_parameter(Name=NAME, Value=image, DataType="aws:ec2:image", Overwrite=True)
    assert ec2.run_instances(**launch)["Instances"][0]["ImageId"] == image


def test_control_spoils_builders_and_refuses_what_it_does_not_know(whole: InProcessCloud) -> None:
    def post(body: str) -> tuple[int, bytes]:
        reply = whole.control("POST", "builders/next", body.encode())
        return reply.status, reply.body

    assert post('{"fault": "hang", "count": 2}')[0] == 200
    assert whole.core().builder_faults == ["hang", "hang"]
    assert post('{"count": 0}')[0] == 200
    assert whole.core().builder_faults == []
    for wrong in ('{"fault": "melt"}', '{"count": -1}', '{"count": true}'):
        assert post(wrong)[0] == 400
