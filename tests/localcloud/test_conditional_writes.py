"""S3's conditional writes through the served cloud, as the hub's lease needs them; replies lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ec2spawner.cloud import Gateway
from ec2spawner.errors import CloudError, ConditionFailed, NotFound, OutcomeUnknown, Unreachable
from ec2spawner.identity import this_process
from ec2spawner.lease import Lease
from ec2spawner.s3 import Objects, Stored
from ec2spawner.tenancy import key_of
from localcloud.serving import Serving

KEY = key_of("class")


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("conditions") / "state"
    folder.mkdir()
    with Serving(folder, "--workers", "stub") as serving:
        yield serving


@pytest.fixture
def bucket(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Objects]:
    name = request.node.name.replace("_", "-").replace("[", "-").replace("]", "")[-60:].strip("-")
    serving.client("s3").create_bucket(Bucket=name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", serving.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    gateway = Gateway("us-east-1")
    yield Objects(gateway, name)
    gateway.close()
    serving.control("DELETE", "faults")


async def failure(call: Any) -> type[CloudError]:
    with pytest.raises(CloudError) as caught:
        await call
    return type(caught.value)


async def test_both_conditions_are_enforced(bucket: Objects) -> None:
    assert await bucket.get(KEY) is None
    assert await failure(bucket.put(KEY, b"0", replaces='"0123"')) is NotFound
    first = await bucket.put(KEY, b"1", replaces=None)
    assert await failure(bucket.put(KEY, b"2", replaces=None)) is ConditionFailed
    second = await bucket.put(KEY, b"2", replaces=first)
    assert await failure(bucket.put(KEY, b"3", replaces=first)) is ConditionFailed
    assert await bucket.get(KEY) == Stored(second, b"2")


@pytest.mark.parametrize(("when", "stands"), [("after", b"2"), ("before", b"1")])
async def test_a_write_without_a_reply_is_found_out_by_reading(
    serving: Serving, bucket: Objects, when: str, stands: bytes
) -> None:
    first = await bucket.put(KEY, b"1", replaces=None)
    fault = {"service": "s3", "action": "PutObject", "fault": "lose-reply", "when": when}
    serving.control("POST", "faults", fault)
    assert await failure(bucket.put(KEY, b"2", replaces=first)) is OutcomeUnknown
    stored = await bucket.get(KEY)
    assert stored is not None
    assert stored.body == stands
    assert (stored.etag == first) is (when == "before")


async def test_throttling_and_an_outage_are_no_answers(serving: Serving, bucket: Objects) -> None:
    serving.control("POST", "outage", {"on": True})
    assert issubclass(await failure(bucket.get(KEY)), Unreachable)
    serving.control("POST", "outage", {"on": False})
    assert await bucket.get(KEY) is None


async def test_of_writers_at_once_one_wins(bucket: Objects) -> None:
    etag = await bucket.put(KEY, b"0", replaces=None)
    writes = [bucket.put(KEY, b"%d" % number, replaces=etag) for number in range(1, 9)]
    results = await asyncio.gather(*writes, return_exceptions=True)
    won = [number for number, result in enumerate(results, 1) if isinstance(result, str)]
    assert len(won) == 1
    assert all(isinstance(r, (str, ConditionFailed)) for r in results), results
    stored = await bucket.get(KEY)
    assert stored is not None
    assert stored.body == b"%d" % won[0]


async def test_an_object_outlives_the_death_of_the_cloud(tmp_path: Path, bucket: Objects) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    with Serving(folder, "--workers", "stub") as serving:
        serving.client("s3").create_bucket(Bucket="kept")
        written = serving.client("s3").put_object(Bucket="kept", Key=KEY, Body=b"1")
        serving.kill()
        serving.start()
        read = serving.client("s3").get_object(Bucket="kept", Key=KEY)
        assert (read["ETag"], read["Body"].read()) == (written["ETag"], b"1")


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_lease_is_kept_whatever_reply_is_lost(
    serving: Serving, bucket: Objects, when: str
) -> None:
    fault = {"service": "s3", "fault": "lose-reply", "when": when, "count": 2}
    serving.control("POST", "faults", fault)
    first = Lease(bucket, "class", this_process())
    keeping = asyncio.ensure_future(first.run())
    for _ in range(500):
        if first.is_held():
            break
        await asyncio.sleep(0.01)
    assert first.is_held()
    second = Lease(bucket, "class", this_process())  # the first one's process lives
    await asyncio.wait({waiting := asyncio.ensure_future(second.run())}, timeout=0.5)
    assert not second.is_held()
    assert second.problem is not None
    for task in (waiting, keeping):
        task.cancel()
        await asyncio.wait({task})
    third = Lease(bucket, "class", this_process())
    await asyncio.wait({taking := asyncio.ensure_future(third.run())}, timeout=0.5)
    assert third.is_held(), "it was given back"
    taking.cancel()
    await asyncio.wait({taking})
