"""Small objects in the cluster's bucket, typed: written only if they are what the writer thinks.

Owns the requests' shapes. Must not know what an object means, nor boto3, which only the gateway
does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ec2spawner.cloud import Effect, Gateway
from ec2spawner.errors import NotFound

NO_SUCH_KEY = "NoSuchKey"


@dataclass(frozen=True)
class Stored:
    """An object as it was read; every write gives it another ``etag``, if its bytes differ."""

    etag: str
    body: bytes


class Objects:
    """The objects of one bucket. Each call is one attempt: who waits for it decides what then."""

    def __init__(self, gateway: Gateway, bucket: str) -> None:
        self._gateway = gateway
        self.bucket = bucket

    async def get(self, key: str) -> Stored | None:
        """The object, or None where there is none. Raises ``CloudError``.

        To roles without s3:ListBucket, S3 answers AccessDenied for a missing object (S3 API
        reference, "GetObject", read 2026).
        """
        params = {"Bucket": self.bucket, "Key": key}
        try:
            reply = await self._gateway.call("s3", "get_object", params, deadline_seconds=0)
        except NotFound as error:
            if error.aws_code != NO_SUCH_KEY:  # the bucket itself
                raise
            return None
        return Stored(reply["ETag"], bytes(reply["Body"]))

    async def put(self, key: str, body: bytes, *, replaces: str | None) -> str:
        """Write the object and give its new etag, if it is ``replaces`` now, or absent for None.

        Raises ``ConditionFailed`` where it is something else, ``NotFound`` where it is gone, and
        ``OutcomeUnknown`` where it may or may not have been written (S3 user guide, "How to prevent
        object overwrites with conditional writes", read 2026).
        """
        condition = {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": replaces}
        params: dict[str, Any] = {
            "Bucket": self.bucket,
            "Key": key,
            "Body": body,
            "ContentType": "application/json",
            **condition,
        }
        reply = await self._gateway.call(
            "s3", "put_object", params, deadline_seconds=0, effect=Effect.ONCE
        )
        return str(reply["ETag"])
