"""Whether an image can become a worker: all that can be seen of it without booting it.

Owns what EC2 says of any image, and what the tags of one say that ``image build`` made: of an
operator's own (``CUSTOM_WORKER_AMI``) nothing else tells what it holds. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from ec2spawner.model import HOME_DEVICE
from ec2spawner.settings import INSTANCE_CONFIG_NAME

from .facts import Facts, ImageFacts
from .imaging import TAG_NOTEBOOK_PORT, TAG_SSH_PORT, TAG_USERNAME, TAG_VERSION
from .planning import Finding
from .request import UpRequest

TAGS_OF_KEYS = {
    "WORKER_USERNAME": TAG_USERNAME,
    "WORKER_NOTEBOOK_PORT": TAG_NOTEBOOK_PORT,
    "WORKER_SSH_PORT": TAG_SSH_PORT,
}
"""What is fixed when an image is made, and must be as the hub believes it to be."""


def findings_about_image(request: UpRequest, facts: Facts) -> Iterator[Finding]:
    """All that speaks against the image that is named, or against what is built from it."""
    subject = f"The image {facts.image_id}"
    other = "Name another as BASE_AMI, or leave it out for the newest Ubuntu 24.04."
    is_custom = bool(request.choices.CUSTOM_WORKER_AMI)
    if is_custom:
        subject = f"CUSTOM_WORKER_AMI {facts.image_id}"
        other = f"Write another into {INSTANCE_CONFIG_NAME}, or none: then an image is built."
    if facts.image is None:
        yield from _of_missing(request, facts, subject, other)
        return
    for reason in _reasons(facts, facts.image):
        yield Finding(subject, reason, other)
    if facts.image.root_gib > request.choices.WORKER_EBS_SIZE:
        yield Finding(
            f"WORKER_EBS_SIZE {request.choices.WORKER_EBS_SIZE}",
            f"is less than the root disk of {facts.image.image_id}, {facts.image.root_gib} GiB",
            f"Write at least {facts.image.root_gib} in {INSTANCE_CONFIG_NAME}.",
        )
    if is_custom:
        yield from _of_content(request, facts, facts.image, subject)


def _of_missing(request: UpRequest, facts: Facts, subject: str, other: str) -> Iterator[Finding]:
    if facts.image_id is None and facts.kind is not None:
        why = "cannot be found: Canonical's parameter in SSM is not there"
        yield Finding("The newest Ubuntu 24.04", why, "Name an image as BASE_AMI.")
    elif facts.image_id is not None:
        why = f"does not exist in {request.choices.REGION}, or may not be used by this account"
        yield Finding(subject, why, other)


def _reasons(facts: Facts, image: ImageFacts) -> Iterator[str]:
    """Why no worker comes of it, by what EC2 says."""
    if image.state != "available":
        yield f"is {image.state}, not available"
    if image.platform:
        yield f"is for {image.platform}, not for Linux"
    if not image.is_ebs:
        yield "has no EBS root disk, so that it could not be stopped"
    if image.virtualization != "hvm":
        yield f"is {image.virtualization}, and types with NVMe boot hvm only"
    if not image.has_ena:
        yield "has no driver for ENA (EnaSupport), without which types with NVMe do not start"
    if facts.kind and image.architecture not in facts.kind.architectures:
        runs = "/".join(facts.kind.architectures)
        yield f"is for {image.architecture}, but {facts.kind.name} runs {runs}"
    if HOME_DEVICE in image.further_disks:
        yield f"has a disk of its own at {HOME_DEVICE}, which is the home's place"


def _of_content(
    request: UpRequest, facts: Facts, image: ImageFacts, subject: str
) -> Iterator[Finding]:
    """Whether it holds what the hub needs, by the tags of ``image build``."""
    if not image.tags.get(TAG_VERSION):
        if not request.unchecked_image and image.image_id != facts.current_image:
            yield Finding(
                subject,
                "bears no tags of launch-cluster image build (of an image that another account"
                " shares, none are to be seen), so that nobody can tell whether it holds what the"
                " hub needs",
                "If it does (docs/image.md says what that is), say --unchecked-image; else write"
                f" another into {INSTANCE_CONFIG_NAME}, or none: then an image is built.",
            )
        return
    for key, tag in TAGS_OF_KEYS.items():
        has, wanted = image.tags.get(tag), str(getattr(request.choices, key))
        if has not in (None, wanted):
            yield Finding(
                f"{key} {wanted}",
                f"is not what {image.image_id} was built with ({has})",
                f"Write {has} in {INSTANCE_CONFIG_NAME}, or name another image as"
                " CUSTOM_WORKER_AMI.",
            )
