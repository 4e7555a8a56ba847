"""The hub's client at its provider: read from SSM, and from nowhere else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ec2spawner.errors import ConfigError, Denied, NotFound
from ec2spawner.oauthclient import client_now, read_client

ID, SECRET = "/ec2spawner/biology101/oauth-client-id", "/ec2spawner/biology101/oauth-client-secret"


class Parameters:
    """SSM with these parameters; the gateway, as far as it is needed."""

    def __init__(self, values: dict[str, str], refusal: Exception | None = None) -> None:
        self.values = values
        self.refusal = refusal
        self.is_closed = False

    async def call(self, service: str, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        assert (service, operation) == ("ssm", "get_parameter")
        assert params["WithDecryption"] is True
        if self.refusal:
            raise self.refusal
        if params["Name"] not in self.values:
            raise NotFound("not there", aws_code="ParameterNotFound")
        return {"Parameter": {"Value": self.values[params["Name"]]}}

    def close(self) -> None:
        self.is_closed = True


async def read(gateway: Parameters) -> Any:
    return await read_client(gateway, "biology101")  # type: ignore[arg-type]


async def test_both_halves_are_a_client() -> None:
    client = await read(Parameters({ID: "the-id\n", SECRET: "the-secret\n"}))
    assert (client.id, client.secret) == ("the-id", "the-secret")
    assert "the-secret" not in repr(client)


async def test_without_either_there_is_none() -> None:
    assert await read(Parameters({})) is None


@pytest.mark.parametrize(("there", "missing"), [(ID, SECRET), (SECRET, ID)])
async def test_one_half_is_refused_by_the_other_s_name(there: str, missing: str) -> None:
    with pytest.raises(ConfigError, match=f"{missing} is missing") as refused:
        await read(Parameters({there: "the-value"}))
    assert "the-value" not in str(refused.value)


async def test_a_refusal_of_aws_is_not_taken_for_none() -> None:
    with pytest.raises(Denied):
        await read(Parameters({}, Denied("no")))


async def test_it_can_be_read_while_an_event_loop_runs() -> None:
    gateway = Parameters({ID: "the-id", SECRET: "the-secret"})
    assert asyncio.get_running_loop()
    client = client_now(lambda: gateway, "biology101")  # type: ignore[arg-type,return-value]
    assert client
    assert client.id == "the-id"
    assert gateway.is_closed
