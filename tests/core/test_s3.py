"""The requests that are sent to S3, and what is made of its replies."""

from __future__ import annotations

import io
from typing import Any

import pytest

from core.botos import READ_TIMEOUT, REFUSED, FakeBoto, answered, gateway
from core.virtual import in_virtual_time
from ec2spawner.cloud import BODY_MAX_BYTES
from ec2spawner.errors import (
    CloudError,
    ConditionFailed,
    Denied,
    NotFound,
    OutcomeUnknown,
    Throttled,
    Unreachable,
)
from ec2spawner.s3 import Objects, Stored


def objects(*script: Any) -> tuple[Objects, FakeBoto]:
    session = FakeBoto(*script)
    return Objects(gateway(session), "bucket"), session


@pytest.mark.parametrize(
    ("replaces", "condition"), [(None, {"IfNoneMatch": "*"}), ('"e"', {"IfMatch": '"e"'})]
)
@in_virtual_time
async def test_a_write_is_one_call_with_a_condition(
    replaces: str | None, condition: dict[str, str]
) -> None:
    bucket, session = objects({"ETag": '"f"'})
    assert await bucket.put("key", b"body", replaces=replaces) == '"f"'
    ((_, operation, sent),) = session.requests
    assert operation == "put_object"
    assert sent == {
        "Bucket": "bucket",
        "Key": "key",
        "Body": b"body",
        "ContentType": "application/json",
        **condition,
    }
    assert session.clients[0][0] == "s3"


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (answered("PreconditionFailed", status=412), ConditionFailed),
        (answered("ConditionalRequestConflict", status=409), ConditionFailed),
        (answered("OperationAborted", status=409), ConditionFailed),
        (answered("NoSuchKey", status=404), NotFound),
        (answered("NoSuchBucket", status=404), NotFound),
        (answered("AccessDenied", status=403), Denied),
        (answered("SlowDown", status=503), Throttled),
        (answered("InternalError", status=500), OutcomeUnknown),
        (answered("RequestTimeout", status=400), OutcomeUnknown),
        (READ_TIMEOUT, OutcomeUnknown),
        (REFUSED, Unreachable),
    ],
    ids=str,
)
@in_virtual_time
async def test_a_write_is_never_repeated_by_itself(
    failure: Exception, kind: type[CloudError]
) -> None:
    bucket, session = objects(failure)
    with pytest.raises(CloudError) as caught:
        await bucket.put("key", b"body", replaces=None)
    assert type(caught.value) is kind
    assert len(session.requests) == 1


@in_virtual_time
async def test_an_object_is_read_whole_with_its_etag() -> None:
    bucket, session = objects({"ETag": '"e"', "Body": io.BytesIO(b"body")})
    assert await bucket.get("key") == Stored('"e"', b"body")
    assert session.requests[0][1:] == ("get_object", {"Bucket": "bucket", "Key": "key"})


@in_virtual_time
async def test_an_object_that_is_much_too_large_is_cut_off() -> None:
    bucket, _ = objects({"ETag": '"e"', "Body": io.BytesIO(b"x" * (2 * BODY_MAX_BYTES))})
    stored = await bucket.get("key")
    assert stored is not None
    assert len(stored.body) == BODY_MAX_BYTES


@in_virtual_time
async def test_a_body_that_breaks_off_is_no_answer() -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            raise READ_TIMEOUT

    bucket, _ = objects({"ETag": '"e"', "Body": Broken()})
    with pytest.raises(Unreachable):
        await bucket.get("key")


@in_virtual_time
async def test_an_absent_object_is_none_and_an_absent_bucket_an_error() -> None:
    bucket, _ = objects(answered("NoSuchKey", status=404))
    assert await bucket.get("key") is None
    bucket, _ = objects(answered("NoSuchBucket", status=404))
    with pytest.raises(NotFound):
        await bucket.get("key")
