"""The workers' image with an upgrade of the manager: new workers get it after the hub, or not at
all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from ec2spawner.cloud import Gateway
from launch_cluster import up as up_module
from launch_cluster.bundle import Bundle
from launch_cluster.imaging import TAG_PACKAGE
from launch_cluster.provisioning import release_of

from .clouds import control
from .conftest import Calls, Killed
from .shops import Shop, break_at
from .test_manager import Run, stack
from .test_upgrading import cluster, hub, newer, no_faults, up

__all__ = ["cluster", "hub", "newer", "no_faults", "stack", "up"]  # fixtures


@pytest.fixture
def newer_on_workers(newer: Bundle, monkeypatch: pytest.MonkeyPatch) -> str:
    """And what of it is on workers is another, too: its digest."""
    digest = hashlib.sha256(newer.sha256.encode()).hexdigest()
    monkeypatch.setattr(up_module, "worker_digest", lambda sources: digest)
    return digest


@pytest.fixture
def shop(run: Run, gateway: Gateway, aws: Path, cluster: str) -> Shop:
    """The cluster's images."""
    return Shop(run, gateway, aws, cluster)


def packages_of(shop: Shop) -> dict[str, str]:
    """Image to the digest of what of the package is in it."""
    return {image["id"]: image["tags"][TAG_PACKAGE] for image in shop.images()}


def test_new_workers_keep_their_image_until_the_hub_has_changed_over(
    up: Run, newer: Bundle, newer_on_workers: str, hub: Any, shop: Shop, calls: Calls
) -> None:
    before, release = shop.current, hub()[0]
    control("managers/next", fault="fail")
    result = up("--upgrade")
    assert result.exit_code == 3  # the image is built
    assert "new workers get it once the hub has changed over" in result.stdout
    assert "it is as it was before" in result.stderr
    assert (hub()[0], shop.current) == (release, before)
    assert "put_parameter" not in calls.made
    assert calls.made.count("create_image") == 1

    calls.made.clear()
    result = up("--upgrade")
    assert result.exit_code == 0, result.stderr
    assert hub()[0] == release_of(newer.data)
    assert packages_of(shop)[shop.current] == newer_on_workers
    assert "run_instances" not in calls.made  # what was built is found
    changing = calls.changing
    assert changing.index("put_parameter") > changing.index("send_command")
    assert "nothing to do" in up("--upgrade").stdout


@pytest.mark.parametrize("how", [KeyboardInterrupt, Killed])
@pytest.mark.parametrize(
    ("step", "when"),
    [
        ("create_image", "after"),
        ("put_object", "before"),
        ("send_command", "before"),
        ("send_command", "after"),
        ("put_parameter", "before"),
        ("put_parameter", "after"),
    ],
)
def test_broken_off_between_the_build_and_the_use_of_an_image_it_converges(
    up: Run,
    newer: Bundle,
    newer_on_workers: str,
    hub: Any,
    shop: Shop,
    calls: Calls,
    step: str,
    when: str,
    how: type[BaseException],
) -> None:
    break_at(calls, step, when, how)
    try:
        assert up("--upgrade").exit_code == 130
    except Killed:
        calls.is_dead = False
    result = up("--upgrade")
    assert result.exit_code == 0, result.stderr
    assert hub()[0] == release_of(newer.data)
    packages = packages_of(shop)
    assert packages[shop.current] == newer_on_workers
    assert [*packages.values()].count(newer_on_workers) == 1
    assert shop.is_tidy()
    assert "nothing to do" in up("--upgrade").stdout


def test_it_is_said_that_workers_go_ahead_of_the_hub_without_an_upgrade(
    up: Run, newer_on_workers: str, hub: Any, shop: Shop, calls: Calls, cluster: str
) -> None:
    before, release = shop.current, hub()[0]
    words = f"To bring both to the same: launch-cluster up {cluster} --upgrade."
    result = up("--dry-run")
    assert words in result.stderr
    assert words not in up("--upgrade", "--dry-run").stderr
    assert shop.current == before
    assert up().exit_code == 0
    assert packages_of(shop)[shop.current] == newer_on_workers
    assert hub()[0] == release
    assert words not in up().stderr
