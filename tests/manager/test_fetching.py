"""What comes out of the bucket: whole, as announced, and never over what was edited here."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cluster_config import CLUSTER

from ec2spawner.errors import CloudError, ConfigError, Denied, NotFound, Rejected, Unreachable
from ec2spawner.manager import fetching
from ec2spawner.manager.fetching import (
    PART_BYTES,
    PackageRefused,
    await_server_config,
    fetch_package,
    read_object,
    refresh,
)
from ec2spawner.settings import EDITABLE_KEYS, load_server_config

CONFIG, CHOICES = "config/server_config.json", "config/manager.json"


def config(**changed: Any) -> bytes:
    return json.dumps({**CLUSTER, **changed}).encode()


class Bucket:
    """S3, as far as the gateway is asked; ``answers`` come first, one a call."""

    def __init__(self, **objects: bytes) -> None:
        self.objects: dict[str, bytes] = dict(objects)
        self.answers: list[Exception | Callable[[], None]] = []
        self.calls = 0

    async def call(self, service: str, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        assert (service, operation) == ("s3", "get_object")
        self.calls += 1
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            answer()
        if params["Key"] not in self.objects:
            raise NotFound("not there", aws_code="NoSuchKey")
        body = self.objects[params["Key"]]
        begin, end = (int(n) for n in params["Range"].removeprefix("bytes=").split("-"))
        if begin >= len(body):
            raise Rejected("past it", aws_code="InvalidRange")
        return {"Body": body[begin : end + 1]}


def gateway_of(bucket: Bucket) -> Any:
    return bucket


async def no_sleep(_: float) -> None:
    """Time flies."""


# ---- the configuration


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "server_config.json"


async def waited(bucket: Bucket, target: Path) -> bool:
    return await await_server_config(
        gateway_of(bucket), "bucket", target, target.with_name("asked"), no_sleep
    )


async def test_it_is_waited_for_whatever_is_in_the_way(target: Path) -> None:
    bucket = Bucket(**{CONFIG: config()})
    bucket.answers = [
        NotFound("no", aws_code="NoSuchKey"),
        Denied("no"),  # what S3 says of a missing object
        Unreachable("no"),
        lambda: bucket.objects.update({CONFIG: b"{"}),
        lambda: bucket.objects.update({CONFIG: config(REGION=7)}),
        lambda: bucket.objects.update({CONFIG: config()}),
    ]
    assert await waited(bucket, target)
    assert load_server_config(target)[0].CLUSTER_NAME == "biology101"
    assert bucket.calls == 6
    assert {p.name for p in target.parent.iterdir()} == {
        target.name,
        ".server_config.fetched.json",
        "asked",
    }


async def test_one_that_is_there_is_kept_and_nobody_is_asked(target: Path) -> None:
    target.write_text("edited")
    target.with_name("asked").touch()
    bucket = Bucket(**{CONFIG: config()})
    assert not await waited(bucket, target)
    assert target.read_text() == "edited"
    assert bucket.calls == 0


async def test_a_new_machine_with_the_old_data_asks_once(target: Path) -> None:
    bucket = Bucket(**{CONFIG: config()})
    await waited(bucket, target)
    target.with_name("asked").unlink()
    bucket.objects[CONFIG] = config(WORKER_INSTANCE_TYPE="t3.large")
    assert await waited(bucket, target)
    assert load_server_config(target)[0].WORKER_INSTANCE_TYPE == "t3.large"
    assert not await waited(bucket, target)
    assert bucket.calls == 2


@pytest.mark.parametrize("answer", [Unreachable("no"), NotFound("no"), Denied("no")])
async def test_and_goes_on_with_them_without_an_answer(target: Path, answer: Exception) -> None:
    bucket = Bucket(**{CONFIG: config()})
    await waited(bucket, target)
    target.with_name("asked").unlink()
    before, bucket.answers = target.read_text(), [answer]
    assert not await waited(bucket, target)
    assert target.read_text() == before


# ---- what changes at an upgrade


@pytest.fixture
def parameters(tmp_path: Path) -> Path:
    path = tmp_path / "manager.env"
    path.write_text("EC2SPAWNER_CLUSTER=biology101\nEC2SPAWNER_DOMAIN=\nEC2SPAWNER_EMAIL=\n")
    return path


async def refreshed(bucket: Bucket, target: Path, parameters: Path) -> list[str]:
    return await refresh(gateway_of(bucket), "bucket", target, parameters)


async def test_a_new_configuration_is_taken_over(target: Path, parameters: Path) -> None:
    bucket = Bucket(**{CONFIG: config()})
    await waited(bucket, target)
    assert await refreshed(bucket, target, parameters) == []
    bucket.objects[CONFIG] = config(WORKER_INSTANCE_TYPE="t3.large", JUPYTER_NOTEBOOK_TIMEOUT=60)
    assert await refreshed(bucket, target, parameters) == [target.name]
    now = load_server_config(target)[0]
    assert (now.WORKER_INSTANCE_TYPE, now.JUPYTER_NOTEBOOK_TIMEOUT) == ("t3.large", 60)


LESSON = {
    **{"WEEKDAY": "monday", "TIME": "09:15", "TIME_ZONE": "Europe/Berlin", "GROUP": "biology101"},
    **{"MINUTES_AHEAD": 15, "KEEP_MINUTES": 30},
}
EDITED = {
    "JUPYTER_NOTEBOOK_TIMEOUT": 1234,
    "CLASS_SCHEDULE": [LESSON],
    "AUTHENTICATOR": "github",
    "ADMIN_USERS": ["ann"],
    "KEEP_ALIVE_MAX_HOURS": 3,
}
"""Values that may be written into the file on the manager; each other key is kept alike."""


@pytest.mark.parametrize("key", EDITED)
async def test_what_was_edited_here_stays(target: Path, parameters: Path, key: str) -> None:
    bucket = Bucket(**{CONFIG: config()})
    await waited(bucket, target)
    written = json.loads(target.read_text())
    target.write_text(json.dumps({**written, key: EDITED[key]}))
    edited = getattr(load_server_config(target)[0], key)
    others = {"JUPYTER_NOTEBOOK_TIMEOUT": 60, "CLASS_SCHEDULE": [{**LESSON, "GROUP": "other"}]}
    bucket.objects[CONFIG] = config(WORKER_INSTANCE_TYPE="t3.large", **others)
    for _ in range(2):
        await refreshed(bucket, target, parameters)
        now = load_server_config(target)[0]
        assert (now.WORKER_INSTANCE_TYPE, getattr(now, key)) == ("t3.large", edited)
        fetched = load_server_config(target.with_name(".server_config.fetched.json"))[0]
        for other in set(EDITABLE_KEYS) - {key}:
            assert getattr(now, other) == getattr(fetched, other)


async def test_a_new_domain_is_taken_over_and_the_rest_kept(target: Path, parameters: Path) -> None:
    chosen = {"DOMAIN": "hub.example.org", "EMAIL": "a@example.org"}
    bucket = Bucket(**{CHOICES: json.dumps(chosen).encode()})
    assert await refreshed(bucket, target, parameters) == [parameters.name]
    assert set(parameters.read_text().splitlines()) == {
        "EC2SPAWNER_CLUSTER=biology101",
        "EC2SPAWNER_DOMAIN=hub.example.org",
        "EC2SPAWNER_EMAIL=a@example.org",
    }
    assert await refreshed(bucket, target, parameters) == []


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"DOMAIN": "a b"}',
        '{"DOMAIN": "x.org\\nLD_PRELOAD=/tmp/x"}',
        '{"EMAIL": "$(x)"}',
    ],
)
async def test_what_is_no_domain_changes_nothing(target: Path, parameters: Path, text: str) -> None:
    before = parameters.read_text()
    with pytest.raises(ConfigError):
        await refreshed(Bucket(**{CHOICES: text.encode()}), target, parameters)
    assert parameters.read_text() == before


async def test_an_empty_bucket_changes_nothing(target: Path, parameters: Path) -> None:
    assert await refreshed(Bucket(), target, parameters) == []


async def test_aws_out_of_reach_is_not_taken_for_an_empty_bucket(
    target: Path, parameters: Path
) -> None:
    bucket = Bucket()
    bucket.answers = [Unreachable("no")]
    with pytest.raises(CloudError):
        await refreshed(bucket, target, parameters)


# ---- packages


def package(**files: bytes) -> bytes:
    return archive(*((tarfile.TarInfo(name), body) for name, body in files.items()))


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, body in members:
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def named(name: str, **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in more.items():
        setattr(info, key, value)
    return info


async def fetch(body: bytes, folder: Path, name: str = "") -> Bucket:
    digest = name or sha256(body).hexdigest()
    bucket = Bucket(**{f"package/{digest}.tar.gz": body})
    await fetch_package(gateway_of(bucket), "bucket", digest, folder)
    return bucket


async def test_a_package_is_unpacked_once(tmp_path: Path) -> None:
    folder = tmp_path / "bundles" / "x"
    body = package(**{"hub.lock": b"locked", "provision/manager/provision.sh": b"echo"})
    assert (await fetch(body, folder)).calls == 1
    assert (folder / "provision/manager/provision.sh").read_bytes() == b"echo"
    assert {p.name for p in folder.iterdir()} == {"hub.lock", "provision"}
    assert (await fetch(body, folder)).calls == 0


async def test_one_that_was_broken_off_is_begun_anew(tmp_path: Path) -> None:
    left = tmp_path / ".x.new"
    left.mkdir()
    (left / "half").touch()
    await fetch(package(a=b"a"), tmp_path / "x")
    assert not (tmp_path / "x/half").exists()


async def test_one_that_is_not_what_it_is_called_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageRefused, match="not what it is called"):
        await fetch(package(a=b"a"), tmp_path / "x", "b" * 64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "../../etc", "A" * 64, "a" * 63])
async def test_what_is_no_name_of_a_package_is_not_asked_for(tmp_path: Path, name: str) -> None:
    with pytest.raises(PackageRefused):
        await fetch_package(gateway_of(Bucket()), "bucket", name, tmp_path / "x")


@pytest.mark.parametrize(
    "member",
    [
        named("../outside"),
        named("/etc/passwd"),
        named("link", type=tarfile.SYMTYPE, linkname="/etc"),
        named("hard", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        named("device", type=tarfile.CHRTYPE),
    ],
)
async def test_what_is_no_plain_file_inside_it_is_refused(
    tmp_path: Path, member: tarfile.TarInfo
) -> None:
    with pytest.raises(PackageRefused, match="no plain file"):
        await fetch(archive((member, b"")), tmp_path / "bundles/x")
    assert not (tmp_path / "bundles/x").exists()
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES * 2 + 7])
async def test_an_object_of_any_size_is_read_whole(size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    bucket = Bucket(key=body[:size])
    if size == 0:
        assert await read_object(gateway_of(bucket), "bucket", "key") == b""
    else:
        assert await read_object(gateway_of(bucket), "bucket", "key") == body[:size]


def test_parts_are_what_the_gateway_reads_of_one_reply() -> None:
    from ec2spawner.cloud import BODY_MAX_BYTES

    assert fetching.PART_BYTES <= BODY_MAX_BYTES
