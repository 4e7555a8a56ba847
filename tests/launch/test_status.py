"""What ``status`` says of a cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2, LaunchRequest
from ec2spawner.identity import this_process
from ec2spawner.model import TAG_OWNER, TAG_USER
from ec2spawner.s3 import Objects
from ec2spawner.settings import ServerConfig, load_server_config
from ec2spawner.tenancy import Record, key_of

from .conftest import Calls

Run = Callable[..., Result]


def make(run: Run, cluster: str) -> ServerConfig:
    assert run("up", cluster, "--no-manager", "--yes").exit_code == 0
    config, _ = load_server_config(Path("server_config.json"))
    return config


def launch(gateway: Gateway, config: ServerConfig, count: int) -> list[str]:
    request = LaunchRequest(
        launch_template_id=config.LAUNCH_TEMPLATE_ID,
        instance_type="t3.medium",
        subnet_id=config.WORKER_SUBNETS[0].SUBNET_ID,
        count=count,
        profile="default",
        home_gib=3,
        cost_tags={},
    )
    made = asyncio.run(EC2(gateway, config.CLUSTER_NAME).launch(request, "token"))
    return [worker.instance_id for worker in made]


def test_a_cluster_that_is_not_there_is_said_to_be_none(run: Run, aws: Path, calls: Calls) -> None:
    result = run("status", "nothing")
    assert result.exit_code == 0
    assert "there is none" in result.stdout
    assert json.loads(run("status", "nothing", "--output", "json").stdout)["exists"] is False
    assert calls.changing == []


def test_it_counts_machines_and_homes_and_names_hub_and_stacks(
    run: Run, aws: Path, cluster: str, gateway: Gateway, calls: Calls
) -> None:
    config = make(run, cluster)
    first, *_ = launch(gateway, config, 2)
    owned = {TAG_OWNER: "ann-1", TAG_USER: "ann"}
    asyncio.run(EC2(gateway, cluster).tag([first], owned))
    record = Record("h", 1, "2026-01-01 00:00:00 UTC", this_process(), is_ended=True)
    bucket = Objects(gateway, config.BUCKET)
    asyncio.run(bucket.put(key_of(cluster), record.to_bytes(), replaces=None))
    calls.made.clear()

    found = json.loads(run("status", cluster, "--output", "json").stdout)
    assert found["exists"] is True
    assert set(found["stacks"]) == {f"ec2spawner-{cluster}", f"ec2spawner-{cluster}-network"}
    (profile,) = found["workers"]
    states = found["workers"][profile]
    assert sum(states.values()) == 2
    assert sum(n for state, n in states.items() if state.endswith("(spare)")) == 1
    assert found["homes"] == {"count": 2, "gib": 6}
    assert found["hub"].endswith("has ended")
    text = run("status", cluster).stdout
    assert "homes: 2, 6 GiB" in text
    assert f"stack ec2spawner-{cluster}: CREATE_COMPLETE" in text
    assert calls.changing == []
