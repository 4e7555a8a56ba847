"""What the hub tells a worker's dead-man switch is what the worker reads."""

from __future__ import annotations

import json

from ec2spawner import switch
from ec2spawner.settings import ServerConfig
from ec2spawner.worker import deadman
from ec2spawner.worker.deadman import Terms
from ec2spawner.worker.document import parse_prepare

HUB = "http://10.77.0.5:8081/hub/api"


def test_the_worker_reads_what_the_hub_writes() -> None:
    config = ServerConfig.model_construct(HUB_LOST_SECONDS=900, JUPYTER_NOTEBOOK_TIMEOUT=1200)
    document = parse_prepare(json.dumps(switch.prepare_document(HUB, config)).encode())
    assert document.watchdog == Terms(HUB, 900.0, 1200.0)


def test_what_the_hub_may_be_told_to_wait_the_worker_may_be_told_too() -> None:
    fields = ServerConfig.model_json_schema()["properties"]
    assert fields["HUB_LOST_SECONDS"]["maximum"] == deadman.HUB_LOST_MAX_SECONDS
    assert fields["JUPYTER_NOTEBOOK_TIMEOUT"]["maximum"] == deadman.IDLE_MAX_SECONDS
    for name in ("HUB_LOST_SECONDS", "JUPYTER_NOTEBOOK_TIMEOUT"):
        assert fields[name]["minimum"] == 1
