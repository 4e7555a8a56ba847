"""A scripted boto3 session, and a gateway on top of it in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from botocore import exceptions as boto

from ec2spawner.cloud import Gateway

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
READ_TIMEOUT = boto.ReadTimeoutError(endpoint_url="https://ec2")
REFUSED = boto.EndpointConnectionError(endpoint_url="https://ec2")


def answered(code: str, message: str = "", status: int = 400) -> boto.ClientError:
    """AWS's refusal, as boto3 raises it."""
    return boto.ClientError(
        {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status},
        },
        "Op",
    )


THROTTLED = answered("RequestLimitExceeded", status=503)


class FakeBoto:
    """A boto3 session whose one client answers from a script, the last line again and again."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.requests: list[tuple[float, str, dict[str, Any]]] = []
        self.clients: list[tuple[str, dict[str, Any]]] = []
        self.sessions = 0

    def __call__(self) -> FakeBoto:
        self.sessions += 1
        return self

    def client(self, service: str, **options: Any) -> FakeBoto:
        self.clients.append((service, options))
        return self

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**params: Any) -> Any:
            now = asyncio.get_running_loop().time()
            self.requests.append((now, operation, params))
            step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            if isinstance(step, Exception):
                raise step
            return step(params) if callable(step) else step

        return call

    @property
    def times(self) -> list[float]:
        return [at for at, _, _ in self.requests]


def gateway(session: Any, jitter: float = 1.0) -> Gateway:
    return Gateway(
        "eu-west-1",
        session_factory=session,
        clock=lambda: asyncio.get_running_loop().time(),
        jitter=lambda: jitter,
    )
