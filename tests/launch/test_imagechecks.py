"""What can be seen of an image without booting it: each thing that speaks against it is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ec2spawner.settings import InstanceConfig
from launch_cluster.facts import Facts, ImageFacts, TypeFacts
from launch_cluster.imagechecks import findings_about_image
from launch_cluster.imaging import Recipe, image_tags
from launch_cluster.looking import parse_image
from launch_cluster.request import UpRequest

KIND = TypeFacts("t3.medium", ("x86_64",), True, ("us-east-1a", "us-east-1b"))
IMAGE = ImageFacts("ami-0123456789abcdef0", "x86_64", "/dev/sda1", 8)
REQUEST = UpRequest("bio", InstanceConfig(), Path("server_config.json"), base_ami=IMAGE.image_id)


def custom(**choices: Any) -> UpRequest:
    """With an image of the operator's own."""
    named = InstanceConfig(CUSTOM_WORKER_AMI=IMAGE.image_id, **choices)
    return replace(REQUEST, choices=named, base_ami=None)


def built(**recipe: Any) -> ImageFacts:
    """As ``image build`` makes one."""
    return replace(IMAGE, tags=image_tags("zoo", Recipe("ami-1", "p", **recipe), {}, {}))


def findings(request: UpRequest, image: ImageFacts, current: str | None = None) -> list[str]:
    facts = Facts("1", kind=KIND, image=image, image_id=image.image_id, current_image=current)
    return [str(finding) for finding in findings_about_image(request, facts)]


def test_an_image_of_the_operators_own_is_taken_if_it_is_known_to_do() -> None:
    assert findings(REQUEST, IMAGE) == []
    assert findings(custom(), built()) == []
    assert findings(custom(WORKER_SSH_PORT=2222), built(ssh_port=2222)) == []
    assert findings(replace(custom(), unchecked_image=True), IMAGE) == []


def test_an_image_that_new_workers_have_already_is_not_asked_about_again() -> None:
    assert findings(custom(), IMAGE, current=IMAGE.image_id) == []
    assert len(findings(custom(), IMAGE, current="ami-1")) == 1


@pytest.mark.parametrize(
    ("request_", "image", "words"),
    [
        (REQUEST, replace(IMAGE, platform="windows"), "is for windows, not for Linux"),
        (REQUEST, replace(IMAGE, virtualization="paravirtual"), "boot hvm only"),
        (REQUEST, replace(IMAGE, has_ena=False), "has no driver for ENA"),
        (
            REQUEST,
            replace(IMAGE, further_disks=("/dev/sdb", "/dev/sdf")),
            "at /dev/sdf, which is the home's place",
        ),
        (custom(), IMAGE, "say --unchecked-image"),
        (
            custom(WORKER_USERNAME="student"),
            built(),
            "WORKER_USERNAME student is not what ami-0123456789abcdef0 was built with (jovyan)",
        ),
        (custom(WORKER_SSH_PORT=2222), built(), "WORKER_SSH_PORT 2222 is not what"),
        (
            replace(custom(WORKER_NOTEBOOK_PORT=9999), unchecked_image=True),
            built(),
            "Write 8888 in instance_config.json",
        ),
    ],
)
def test_each_thing_that_speaks_against_an_image_is_found(
    request_: UpRequest, image: ImageFacts, words: str
) -> None:
    (finding,) = findings(request_, image)
    assert words in finding


def test_all_that_speaks_against_an_image_is_found_at_once() -> None:
    bad = replace(IMAGE, state="failed", is_ebs=False, architecture="arm64", root_gib=90)
    found = findings(custom(), bad)
    assert len(found) == 5
    for words in ("failed", "no EBS root", "is for arm64", "90 GiB", "bears no tags"):
        assert any(words in finding for finding in found)


def test_an_image_is_read_as_ec2_describes_it() -> None:
    disks = [
        {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 12}},
        {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 3}},
        {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"},
    ]
    raw = {"ImageId": "ami-1", "Architecture": "x86_64", "State": "available"}
    image = parse_image({**raw, "RootDeviceName": "/dev/sda1", "BlockDeviceMappings": disks})
    assert (image.root_gib, image.further_disks) == (12, ("/dev/sdf",))
    assert (image.platform, image.virtualization, image.has_ena) == ("", "hvm", True)
    odd = parse_image(
        {**raw, "Platform": "windows", "VirtualizationType": "paravirtual", "EnaSupport": False}
    )
    assert (odd.platform, odd.virtualization, odd.has_ena) == ("windows", "paravirtual", False)
