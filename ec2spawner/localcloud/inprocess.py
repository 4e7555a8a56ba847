"""The emulated cloud inside a test's own process: boto3 clients without a socket, in virtual time.

Owns the bridge from botocore to the front. Requests go the whole way (parameters, faults, limits,
XML), only not over a network; nothing waits, and no machine boots.

    with InProcessCloud() as cloud:
        ec2 = cloud.client("ec2")
        ec2.run_instances(...)
        cloud.clock.advance(5)
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from ec2spawner.localcloud.clock import ManualClock
from ec2spawner.localcloud.cloud import EmulatedCloud, open_store
from ec2spawner.localcloud.control import Control
from ec2spawner.localcloud.ec2.capacity import CapacityFile
from ec2spawner.localcloud.ec2.emulated import EmulatedEC2
from ec2spawner.localcloud.ec2.state import Timings
from ec2spawner.localcloud.front import ConnectionLost, Front, NeverAnswered, Reply, run_wsgi

ENDPOINT = "http://127.0.0.1:1"  # never connected to


@lru_cache(maxsize=1)
def _session() -> Any:
    """One session for all: reading AWS's descriptions takes half a second."""
    import boto3

    return boto3.session.Session("test", "test")


class _Body(io.BytesIO):
    """A reply's body as botocore reads it."""

    def stream(self, *arguments: Any, **more: Any) -> Iterator[bytes]:
        """The whole body in one piece."""
        yield self.read()


class InProcessCloud:
    """An emulated cloud on a ``ManualClock``, for one test; ``close`` it, or use ``with``."""

    def __init__(
        self,
        *,
        clock: ManualClock | None = None,
        state_dir: Path | None = None,
        timings: Timings | None = None,
        capacity: CapacityFile | None = None,
        throttle: bool = False,
        seed: str = "test",
    ) -> None:
        self.clock = clock or ManualClock()
        self.cloud = EmulatedCloud(
            clock=self.clock,
            store=open_store(state_dir) if state_dir else None,
            timings=timings,
            capacity=capacity,
            throttle=throttle,
            seed=seed,
        )
        self.cloud.restore()
        self.control = Control(self.cloud, None)
        self.front = Front(self.cloud, self.control, pause=self._pause)

    def _pause(self, seconds: float) -> bool:
        self.clock.advance(min(seconds, 60.0))
        return True

    def client(self, service: str, region: str = "us-east-1", **more: Any) -> Any:
        """A boto3 client of this cloud, without retries unless ``config`` says otherwise."""
        from botocore.config import Config

        more.setdefault("config", Config(retries={"total_max_attempts": 1}))
        client = _session().client(service, region, endpoint_url=ENDPOINT, **more)
        return self.hook(client)

    def hook(self, client: Any) -> Any:
        """Lead an existing boto3 client to this cloud."""
        client.meta.events.register_first("before-send", self._send)
        return client

    def core(self, region: str = "us-east-1") -> EmulatedEC2:
        """EC2's semantics of a Region, without HTTP."""
        return self.cloud.core(region)

    def _send(self, request: Any, **more: Any) -> Any:
        from botocore.awsrequest import AWSResponse
        from botocore.exceptions import ConnectionClosedError, ReadTimeoutError

        try:
            reply = self.request(request.method, request.url, request.headers, request.body)
        except NeverAnswered as error:
            raise ReadTimeoutError(endpoint_url=request.url) from error
        except ConnectionLost as error:
            raise ConnectionClosedError(endpoint_url=request.url) from error
        return AWSResponse(request.url, reply.status, dict(reply.headers), _Body(reply.body))

    def request(self, method: str, url: str, headers: Any, body: Any) -> Reply:
        """One HTTP request to the front."""
        from werkzeug.test import EnvironBuilder

        if hasattr(body, "read"):
            body = body.read()
        parts = urlsplit(url)
        builder = EnvironBuilder(
            method=method,
            path=parts.path or "/",
            query_string=parts.query,
            base_url=f"{parts.scheme}://{parts.netloc}",
            headers=[(k, v.decode() if isinstance(v, bytes) else v) for k, v in headers.items()],
            data=body.encode() if isinstance(body, str) else body or b"",
        )
        return run_wsgi(self.front, builder.get_environ())

    def close(self) -> None:
        """Give moto back to the process."""
        self.cloud.close()

    def __enter__(self) -> InProcessCloud:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
