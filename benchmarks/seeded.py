"""A cluster of running workers that nobody had to launch: written into an emulated cloud's store.

Owns what such a worker, its home and its root disk look like there, as after a launch by the fleet
and a claim. Must not know who looks at them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from ec2spawner.localcloud.cloud import open_store
from ec2spawner.localcloud.ec2.records import (
    Attachment,
    Instance,
    MappedVolume,
    Record,
    Volume,
)
from ec2spawner.model import (
    HOME_DEVICE,
    TAG_CLAIM,
    TAG_CLUSTER,
    TAG_GENERATION,
    TAG_OWNER,
    TAG_PROFILE,
    TAG_ROLE,
    TAG_USER,
    InstanceState,
    Owner,
    Role,
    VolumeState,
)

REGION = "us-east-1"
CLUSTER = "benchmark"
VOLUMES_EACH = 2  # root disk and home: a launch tags both
ROOT_DEVICE = "/dev/sda1"
AGE_SECONDS = 3600.0


def owner_of(number: int) -> Owner:
    """Whose worker it is."""
    return Owner(f"user{number}")


def records(number: int, now: float) -> Iterator[Record]:
    """One running worker that has an owner, and its two volumes."""
    worker_id = f"i-{number:017x}"
    at = now - AGE_SECONDS
    born = {
        TAG_CLUSTER: CLUSTER,
        TAG_ROLE: Role.WORKER.value,
        TAG_PROFILE: "default",
    }
    owner = owner_of(number)
    claimed = {TAG_OWNER: owner.key, TAG_USER: owner.label, TAG_CLAIM: f"{number:016x}"}
    root_id, home_id = (f"vol-{VOLUMES_EACH * number + n:017x}" for n in range(VOLUMES_EACH))
    yield Instance(
        worker_id,
        sequence=number,
        reservation_id=f"r-{number:017x}",
        image_id="ami-0123456789abcdef0",
        instance_type="t3.medium",
        zone=f"{REGION}a",
        vpc_id="vpc-0123456789abcdef0",
        subnet_id="subnet-0123456789abcdef0",
        private_ip=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
        groups=[("sg-0123456789abcdef0", "workers")],
        interface_id=f"eni-{number:017x}",
        state=InstanceState.RUNNING,
        changed_at=at,
        created_at=at,
        launched_at=at,
        mappings={
            ROOT_DEVICE: MappedVolume(root_id, delete_on_termination=True, attached_at=at),
            HOME_DEVICE: MappedVolume(home_id, delete_on_termination=False, attached_at=at),
        },
        tags={**born, **claimed},
    )
    for volume_id, device, tags in (
        (root_id, ROOT_DEVICE, born),
        (home_id, HOME_DEVICE, {**born, **claimed, TAG_GENERATION: "1"}),
    ):
        yield Volume(
            volume_id,
            sequence=number,
            zone=f"{REGION}a",
            size_gib=10,
            encrypted=True,
            state=VolumeState.IN_USE,
            created_at=at,
            is_root=device == ROOT_DEVICE,
            attachment=Attachment(worker_id, device, device == ROOT_DEVICE, "attached", at),
            tags=tags,
        )


def fill(state_dir: Path, workers: int) -> None:
    """Put so many running workers into a state directory that no cloud serves yet."""
    store = open_store(state_dir)
    now = time.time()
    made = (record for number in range(workers) for record in records(number, now))
    store.save(REGION, {(record.kind, record.id): record.to_json() for record in made})
    store.close()
