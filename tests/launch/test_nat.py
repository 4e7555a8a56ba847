"""Another kind of NAT for a network that is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from launch_cluster.checking import find_obstacles

from .conftest import Calls
from .test_planning import EMPTY, REQUEST, complete


@pytest.mark.parametrize(
    ("asked", "has", "words"),
    [
        (
            "instance",
            "gateway",
            "--nat instance cannot take the place of the network's NAT gateway",
        ),
        (
            "gateway",
            "instance",
            "--nat gateway cannot take the place of the network's NAT instance",
        ),
        ("instance", None, "--nat instance cannot take the place of the network's NAT gateway"),
        ("gateway", "gateway", ""),
        ("instance", "instance", ""),
        (None, "instance", ""),
        ("none", "gateway", ""),
        ("none", "instance", ""),
        ("gateway", "none", ""),
        ("instance", "none", ""),
    ],
)
def test_one_kind_of_nat_does_not_take_the_place_of_the_other_which_has_the_address(
    asked: str | None, has: str | None, words: str
) -> None:
    found = find_obstacles(replace(REQUEST, nat=asked), complete(replace(REQUEST, nat=has)))
    assert [words in str(f) and f"then with --nat {asked}" in str(f) for f in found] == (
        [True] * bool(words)
    )


def test_the_kind_of_nat_of_a_network_whose_making_failed_may_be_another() -> None:
    done = complete()
    assert done.network
    remains = replace(done.network, status="ROLLBACK_COMPLETE")
    assert find_obstacles(replace(REQUEST, nat="instance"), replace(EMPTY, network=remains)) == []


def test_the_other_kind_is_had_by_none_in_between(
    run: Callable[..., Result], aws: Path, cluster: str, calls: Calls
) -> None:
    def up(nat: str) -> Result:
        return run("up", cluster, "--no-manager", "--nat", nat, "--yes")

    assert up("gateway").exit_code == 0
    calls.made.clear()
    refused = up("instance")
    assert refused.exit_code == 1
    assert "run this with --nat none first" in " ".join(refused.stderr.split())
    assert calls.changing == []
    for nat in ("none", "instance"):
        assert up(nat).exit_code == 0
    assert "nothing to do" in up("instance").stdout
