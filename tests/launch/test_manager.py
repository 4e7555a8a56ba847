"""``launch-cluster up`` with a manager, against the emulated cloud."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ec2spawner.cloud import Gateway

from .conftest import Calls

Run = Callable[..., Result]
OPTIONS = ("--vpc-cidr", "127.79.0.0/16", "--yes")


def ask(gateway: Gateway, service: str, operation: str, **params: Any) -> dict[str, Any]:
    return asyncio.run(gateway.call(service, operation, params))


@pytest.fixture
def up(run: Run, aws: Path, cluster: str, calls: Calls) -> Run:
    def up(*more: str, answer: str = "", options: tuple[str, ...] = OPTIONS) -> Result:
        return run("up", cluster, *more, *options, answer=answer)

    return up


def test_a_launch_ends_when_the_hub_answers_and_says_where(
    up: Run, aws: Path, cluster: str, gateway: Gateway
) -> None:
    result = up("--output", "json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    print(result.stderr)
    print(document)
    assert document["hub"]["url"].startswith("http://127.78.")
    assert "nothing to do" in up().stdout
