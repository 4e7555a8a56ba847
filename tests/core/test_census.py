"""The metrics of the cluster: counted from the listing, and described."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from core.builders import ANN, NOW, PENDING, RUNNING, STOPPED, home, listing, worker
from ec2spawner import census, metrics
from ec2spawner.errors import CapacityError
from ec2spawner.model import TAG_PREPARED, Worker
from ec2spawner.placement import Failure
from ec2spawner.wishes import POOL_LAUNCH, Memory

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def prepared(spare: Worker) -> Worker:
    return replace(spare, tags=MappingProxyType({**spare.tags, TAG_PREPARED: "1"}))


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_workers_and_spares_are_counted_and_what_is_gone_has_no_series() -> None:
    spares = [
        prepared(worker("i-2", RUNNING)),
        worker("i-3", RUNNING),
        worker("i-4", PENDING),
        prepared(worker("i-5", STOPPED)),
        worker("i-6", STOPPED),
    ]
    view = listing(worker("i-1", RUNNING, ANN), home("vol-1", ANN, "i-1"), *spares)
    failed = {("capacity", "t3.medium", "a", "on-demand"): Failure(CapacityError("no"), NOW + 9)}
    past = {("subnet", "subnet-a"): Failure(CapacityError("no"), NOW - 9)}
    broken = Failure(CapacityError("no"), NOW + 9)
    holds = {(POOL_LAUNCH, "ami-1"): broken, ("stop", "i-1"): broken}
    held = MappingProxyType(holds)
    census.take(view, Memory(failed=MappingProxyType({**failed, **past}), holds=held), NOW)
    assert value("ec2spawner_workers", state="running", profile="default") == 3
    assert value("ec2spawner_workers", state="stopped", profile="default") == 2
    found = {
        kind: value("ec2spawner_spares", profile="default", readiness=kind)
        for kind in ("ready", "booting", "rested", "unprepared")
    }
    assert found == {"ready": 1, "booting": 2, "rested": 1, "unprepared": 1}
    assert value("ec2spawner_failed_offerings", kind="capacity") == 1
    assert value("ec2spawner_failed_offerings", kind="subnet") is None
    assert value("ec2spawner_failed_offerings", kind="image") == 1
    assert value("ec2spawner_failed_offerings", kind="stop") is None
    census.take(listing(), Memory(), NOW)
    assert value("ec2spawner_workers", state="running", profile="default") is None


def test_every_metric_is_described() -> None:
    text = DOCUMENT.read_text()
    collectors = [c for c in vars(metrics).values() if isinstance(c, MetricWrapperBase)]
    assert len(collectors) >= 9
    for collector in collectors:
        (family,) = collector.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        for label in collector._labelnames:
            assert f"`{label}`" in row, (name, label)
