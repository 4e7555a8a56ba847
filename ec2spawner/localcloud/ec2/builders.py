"""Builders of images: what such a machine says on its console, and when it switches itself off.

Owns the script that instances of the role builder follow by the cloud's clock. Nothing is built:
what a builder's user data asks for is not carried out.
"""

from __future__ import annotations

from ec2spawner.localcloud.ec2.records import Instance
from ec2spawner.localcloud.ec2.state import State
from ec2spawner.model import TAG_ROLE, InstanceState, Role

PHASES = (
    "fetching the package",
    "installing packages of the system",
    "installing Python packages",
    "setting services up",
    "removing what is this machine's own",
)
FAULTS = {
    "fail": "the provisioning fails: the console says so, and the machine switches itself off",
    "hang": "it comes to a halt in the midst of its work and stays on",
    "silent": "it switches itself off without a last word",
}


def is_builder(instance: Instance) -> bool:
    """Whether an instance is tagged as a builder of images."""
    return instance.tags.get(TAG_ROLE) == Role.BUILDER.value


def begin(ec2: State, instance: Instance) -> None:
    """A builder boots for the first time: how it will go is settled now."""
    if ec2.builder_faults:
        instance.builder_fault = ec2.builder_faults.pop(0)
    instance.due_at = ec2.clock() + min(ec2.timings.pending_seconds, ec2.timings.builder_seconds)


def seconds_left(ec2: State, instance: Instance) -> float | None:
    """How long until it switches itself off; None if it never does."""
    if not is_builder(instance) or instance.builder_fault == "hang":
        return None
    return max(0.0, instance.launched_at + ec2.timings.builder_seconds - ec2.clock())


def console(ec2: State, instance: Instance) -> bytes:
    """What it has written so far."""
    on = (InstanceState.PENDING, InstanceState.RUNNING)
    end = ec2.clock() if instance.state in on else instance.changed_at
    seconds = ec2.timings.builder_seconds
    share = 1.0 if not seconds else min(1.0, (end - instance.launched_at) / seconds)
    is_over = share >= 1.0 and instance.builder_fault != "hang"
    said = [f"phase {text}" for text in PHASES[: int(share * len(PHASES)) + 1]]
    if instance.builder_fault in ("fail", "hang"):
        said = said[:3]
    lines = ["Linux version 6.8.0-1029-aws", *(f"ec2spawner-image: {text}" for text in said)]
    if is_over and instance.builder_fault == "fail":
        lines += ["error: no space left on device", "ec2spawner-image: failed in provision.sh"]
    elif is_over and not instance.builder_fault:
        lines.append("ec2spawner-image: done")
    step = seconds / (len(PHASES) + 2)
    return "".join(f"[{step * i:12.6f}] {line}\r\n" for i, line in enumerate(lines)).encode()
