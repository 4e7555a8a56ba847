"""``users restore`` against the emulated cloud, and what can be asked of it wrongly."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import Result

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.model import (
    TAG_CLUSTER,
    TAG_DELETED,
    TAG_EXPIRES,
    TAG_GENERATION,
    TAG_OWNER,
    TAG_RESTORED,
    TAG_ROLE,
    TAG_USER,
    DeletedMark,
    Owner,
    SnapshotState,
    Volume,
)
from ec2spawner.settings import load_server_config
from launch_cluster import restore as module

from .conftest import Calls

Run = Callable[..., Result]
ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs/schemas/users_restore_output.schema.json").read_text())
ANN = Owner("ann")


class Cluster:
    """A cluster in the emulated cloud with homes that were deleted a day ago."""

    def __init__(self, gateway: Gateway, folder: Path, name: str) -> None:
        self.config, _ = load_server_config(folder / "server_config.json")
        self.ec2 = EC2(gateway, name)
        self.gateway = gateway
        self.name = name

    def home(self, owner: Owner = ANN, days_ago: float | None = 1.0, generation: str = "1") -> str:
        tags = {
            TAG_CLUSTER: self.name,
            TAG_ROLE: "worker",
            TAG_OWNER: owner.key,
            TAG_USER: owner.label,
            TAG_GENERATION: generation,
        }
        if days_ago is not None:
            tags[TAG_DELETED] = DeletedMark(time.time() - days_ago * 86_400, "row1").to_tag()
        params = {
            "AvailabilityZone": self.config.WORKER_SUBNETS[0].ZONE,
            "Size": 7,
            "VolumeType": "gp3",
            "TagSpecifications": [
                {
                    "ResourceType": "volume",
                    "Tags": [{"Key": k, "Value": v} for k, v in tags.items()],
                }
            ],
        }
        made: str = asyncio.run(self.gateway.call("ec2", "create_volume", params))["VolumeId"]
        self.until(lambda: self.volume(made).state.value == "available")
        return made

    def volume(self, volume_id: str) -> Volume:
        (found,) = asyncio.run(self.ec2.list_volumes([volume_id]))
        return found

    def volumes(self) -> list[Volume]:
        return asyncio.run(self.ec2.list_volumes())

    def save(self, volume_id: str) -> str:
        tags = {**self.volume(volume_id).tags, TAG_EXPIRES: f"{time.time() + 86_400:.0f}"}
        made = asyncio.run(self.ec2.snapshot(volume_id, tags)).snapshot_id

        def is_completed() -> bool:
            (found,) = asyncio.run(self.ec2.list_snapshots([made]))
            return found.state is SnapshotState.COMPLETED

        self.until(is_completed)
        return made

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not is_so():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def built(
    run: Run,
    aws: Path,
    calls: Calls,
    cluster: str,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
) -> Cluster:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.2)
    (aws / "instance_config.json").write_text(json.dumps({"COST_TAGS": {"Department": "Bio"}}))
    assert run("up", cluster, "--no-manager", "--yes").exit_code == 0
    calls.made.clear()
    return Cluster(gateway, aws, cluster)


def answer(result: Result, code: int = 0) -> dict[str, Any]:
    assert result.exit_code == code, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    jsonschema.validate(document, SCHEMA)
    return document


def test_a_deleted_home_becomes_its_users_again_after_a_yes(
    run: Run, built: Cluster, calls: Calls
) -> None:
    home = built.home()
    before = dict(built.volume(home).tags)
    refused = run("users", "restore", "ann", answer="n\n")
    assert refused.exit_code == 1
    assert f"1. make {home} (7 GiB, of " in refused.stdout
    assert calls.changing == []
    planned = answer(run("users", "restore", "Ann", "--dry-run", "--output", "json"))
    assert (planned["outcome"], planned["source"], planned["user"]) == ("planned", home, "ann")
    assert calls.changing == []
    result = run("users", "restore", "ann", answer="y\n")
    assert result.exit_code == 0, result.stderr
    assert f"{home} is the home of ann now." in result.stdout
    after = dict(built.volume(home).tags)
    assert after.pop(TAG_RESTORED).endswith(home)
    assert after == {key: value for key, value in before.items() if key != TAG_DELETED}
    assert calls.changing == ["create_tags", "delete_tags"]
    again = answer(run("users", "restore", "ann", "--yes", "--output", "json"))
    assert again["outcome"] == "nothing to do"
    assert len(calls.changing) == 2


def test_a_snapshot_becomes_a_home_and_stays(run: Run, built: Cluster, calls: Calls) -> None:
    home = built.home()
    saved = built.save(home)
    asyncio.run(built.ec2.delete_volume(home))
    done = answer(run("users", "restore", "ann", saved, "--yes", "--output", "json"))
    assert (done["outcome"], done["source"]) == ("done", saved)
    made = built.volume(done["volume_id"])
    assert made.tags[TAG_OWNER] == ANN.key
    assert made.tags["Department"] == "Bio"
    assert made.generation == 1
    assert made.deleted is None
    assert made.size_gib == 7
    assert made.zone == built.config.WORKER_SUBNETS[0].ZONE
    assert [s.snapshot_id for s in asyncio.run(built.ec2.list_snapshots())] == [saved]
    assert not [call for call in calls.made if call.startswith(("delete_v", "delete_s"))]


def test_another_home_in_use_stays_and_the_old_one_comes_beside_it(
    run: Run, built: Cluster, calls: Calls
) -> None:
    old, new = built.home(), built.home(days_ago=None, generation="2")
    refused = run("users", "restore", "ann", "--yes")
    assert refused.exit_code == 1
    assert f"has another home with files, {new}" in refused.stderr
    assert "--as restored" in refused.stderr
    assert calls.changing == []
    done = answer(run("users", "restore", "ann", "--as", "restored", "--yes", "--output", "json"))
    assert (done["server"], done["volume_id"]) == ("restored", old)
    beside = built.volume(old)
    assert beside.owner == Owner("ann", "restored").key
    assert beside.tags[TAG_USER] == "ann/restored"
    assert beside.deleted is None
    assert built.volume(new).owner == ANN.key


def test_a_named_servers_home_comes_back_too(run: Run, built: Cluster) -> None:
    lab = built.home(Owner("ann", "lab"))
    nothing = run("users", "restore", "ann", "--yes", "--output", "json")
    assert nothing.exit_code == 1
    assert json.loads(nothing.stdout)["error"]["code"] == "restore"
    done = answer(run("users", "restore", "ann", "--server", "lab", "--yes", "--output", "json"))
    assert done["volume_id"] == lab


def test_other_clusters_homes_are_not_seen(run: Run, built: Cluster, gateway: Gateway) -> None:
    stranger = Cluster(gateway, Path.cwd(), f"{built.name}-x")
    theirs = stranger.home()
    result = run("users", "restore", "ann", theirs, "--yes")
    assert result.exit_code == 1
    assert "does not exist, or is not of this cluster" in result.stderr
    assert stranger.volume(theirs).deleted is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a/b",), ["NAME: 'a/b' has a / in it"]),
        (("",), ["NAME: '' has no name"]),
        (("ann", "yesterday"), ["SNAPSHOT: 'yesterday' is not an id", "snap-0123456789abcdef0"]),
        (("ann", "--server", "My Lab"), ["--server: 'My Lab' is no name of a server"]),
        (("ann", "--as", ""), ["--as: '' is no name of a server"]),
        (("ann", "--as", "a--b"), ["--as: 'a--b'"]),
        (("a/b", "x"), ["NAME", "SNAPSHOT"]),
        (("ann", "--config", "absent.json"), ["absent.json cannot be used"]),
        (("ann",), ["No server_config.json was found"]),
    ],
)
def test_what_is_asked_wrongly_is_said_at_once(
    run: Run, aws: Path, calls: Calls, arguments: tuple[str, ...], words: list[str]
) -> None:
    result = run("users", "restore", *arguments)
    assert result.exit_code == 2
    assert result.stderr.count("error: ") == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert calls.made == []
