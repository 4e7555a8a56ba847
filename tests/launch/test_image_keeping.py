"""``launch-cluster image list``, ``prune`` and ``share`` against the emulated cloud."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from ec2spawner.cloud import Gateway
from ec2spawner.settings import load_server_config
from launch_cluster import images

from .conftest import Calls, Killed
from .shops import Run, Shop, ask, break_at


def test_the_list_shows_every_image_with_what_uses_it(
    make_shop: Callable[[], Shop], run: Run, calls: Calls
) -> None:
    shop = make_shop()
    first = shop.current
    assert shop.build(*shop.course()).exit_code == 0
    calls.made.clear()
    result = run("image", "list")  # the cluster that server_config.json names
    assert result.exit_code == 0
    assert calls.changing == []
    lines = result.stdout.splitlines()
    ids, uses = (line.split()[0] for line in lines[::2]), (line.strip() for line in lines[1::2])
    shown = dict(zip(ids, uses, strict=True))  # both may be of the same second
    assert shown == {shop.current: "used by the parameter", first: "used by nothing"}
    assert all("JupyterHub 6." in line for line in lines[::2])


def test_pruning_spares_what_is_used_and_the_newest_and_takes_snapshots_along(
    make_shop: Callable[[], Shop], run: Run, gateway: Gateway, aws: Path
) -> None:
    shop = make_shop()
    config, _ = load_server_config(aws / "server_config.json")
    of_worker = shop.current
    worker = ask(
        gateway,
        "ec2",
        "run_instances",
        LaunchTemplate={"LaunchTemplateId": config.LAUNCH_TEMPLATE_ID, "Version": "$Latest"},
        SubnetId=config.WORKER_SUBNETS[0].SUBNET_ID,
        MinCount=1,
        MaxCount=1,
    )["Instances"][0]["InstanceId"]
    made = []
    for _ in range(3):
        assert shop.build(*shop.course()).exit_code == 0
        made.append(shop.current)
    before = len(shop.images())
    assert run("image", "prune", "--keep", "1", "--dry-run").exit_code == 0
    assert len(shop.images()) == before
    assert run("image", "prune", "--keep", "1", answer="n\n").exit_code == 1
    assert len(shop.images()) == before
    result = run("image", "prune", "--keep", "1", "--yes", "--output", "json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    kept = {row["image_id"]: row["reason"] for row in document["kept"]}
    assert worker in kept[of_worker]
    assert kept[made[2]] == "used by the parameter"
    assert len(kept) == 3  # and the newest of the two that nothing uses
    assert {i["id"] for i in shop.images()} == set(kept)
    assert shop.is_tidy()
    assert "Nothing to do" in run("image", "prune", "--keep", "1", "--yes").stdout
    ask(gateway, "ec2", "terminate_instances", InstanceIds=[worker])
    assert run("image", "prune", "--keep", "0", "--yes").exit_code == 0
    assert [i["id"] for i in shop.images()] == [made[2]]


def test_pruning_spares_what_another_cluster_or_template_of_the_account_is_launched_from(
    make_shop: Callable[[], Shop], run: Run, gateway: Gateway
) -> None:
    shop = make_shop()
    used = []
    for _ in range(2):
        used.append(shop.current)
        assert shop.build(*shop.course()).exit_code == 0
    other = f"/ec2spawner/{shop.name}-of-another/worker-image"
    ask(gateway, "ssm", "put_parameter", Name=other, Value=used[0], Type="String")
    ask(gateway, "ssm", "put_parameter", Name=f"{other}/x", Value=used[1], Type="String")
    template = {
        "LaunchTemplateName": f"{shop.name}-own",
        "LaunchTemplateData": {"ImageId": used[1]},
    }
    ask(gateway, "ec2", "create_launch_template", **template)
    result = run("image", "prune", shop.name, "--keep", "0", "--yes", "--output", "json")
    assert result.exit_code == 0, result.stderr
    kept = {row["image_id"]: row["reason"] for row in json.loads(result.stdout)["kept"]}
    assert kept == {
        used[0]: f"used by the cluster {shop.name}-of-another",
        used[1]: f"used by the launch template {shop.name}-own",
        shop.current: "used by the parameter",
    }
    ask(gateway, "ssm", "delete_parameter", Name=other)


def test_the_files_of_courses_of_which_no_image_is_left_go_with_a_prune(
    make_shop: Callable[[], Shop], run: Run, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = make_shop()
    for _ in range(2):
        assert shop.build(*shop.course()).exit_code == 0
    config, _ = load_server_config(shop.folder / "server_config.json")
    (current,) = (i for i in shop.images() if i["id"] == shop.current)
    used = f"course/{current['tags']['ec2spawner:course']}.tar.gz"

    def courses() -> set[str]:
        found = ask(gateway, "s3", "list_objects_v2", Bucket=config.BUCKET, Prefix="course/")
        return {entry["Key"] for entry in found["Contents"]}

    before = courses()
    assert len(before) == 2
    assert run("image", "prune", "--keep", "0", "--yes").exit_code == 0
    assert courses() == before  # too young: somebody may be about to build from them
    monkeypatch.setattr(images, "COURSE_MIN_SECONDS", -1.0)
    result = run("image", "prune", "--keep", "0", "--yes")
    assert result.exit_code == 0, result.stderr
    assert courses() == {used}
    assert "Nothing to do" in run("image", "prune", "--keep", "0", "--yes").stdout


def test_an_image_that_comes_to_be_used_while_it_is_pruned_stays(
    make_shop: Callable[[], Shop], run: Run, gateway: Gateway, calls: Calls
) -> None:
    shop = make_shop()
    old = shop.current
    assert shop.build(*shop.course()).exit_code == 0
    seen = 0

    def use() -> None:
        nonlocal seen
        seen += 1
        if seen == 2:
            name = f"/ec2spawner/{shop.name}/worker-image"
            boto3.client("ssm").put_parameter(Name=name, Value=old, Overwrite=True)

    calls.before["get_parameter"] = use
    result = run("image", "prune", shop.name, "--keep", "0", "--yes")
    assert result.exit_code == 1
    assert f"{old} is kept: it is used by the parameter now" in result.stderr
    assert old in {i["id"] for i in shop.images()}


def test_a_killed_prune_is_finished_by_the_next(
    make_shop: Callable[[], Shop], run: Run, calls: Calls
) -> None:
    shop = make_shop()
    assert shop.build(*shop.course()).exit_code == 0
    break_at(calls, "deregister_image", "after", Killed)
    with pytest.raises(Killed):
        run("image", "prune", "--keep", "0", "--yes")
    calls.is_dead = False
    result = run("image", "prune", "--keep", "0", "--yes")
    assert result.exit_code == 0
    assert "of an image that is gone already" in result.stdout
    assert shop.is_tidy()


def test_an_unencrypted_image_is_shared_with_its_snapshots(
    make_shop: Callable[[], Shop], run: Run, gateway: Gateway, calls: Calls
) -> None:
    shop = make_shop()
    refused = run("image", "share", "210987654321", "--yes")
    assert refused.exit_code == 1
    assert "it is encrypted with the account's own key" in refused.stderr
    assert "--unencrypted" in refused.stderr
    assert shop.build("--unencrypted").exit_code == 0
    assert run("image", "share", "210987654321", answer="n\n").exit_code == 1
    result = run("image", "share", "210987654321", "--yes")
    assert result.exit_code == 0, result.stderr
    (image,) = (i for i in shop.images() if i["id"] == shop.current)
    assert image["launch_accounts"] == ["210987654321"]
    attribute = ask(
        gateway,
        "ec2",
        "describe_snapshot_attribute",
        SnapshotId=image["devices"][0]["snapshot_id"],
        Attribute="createVolumePermission",
    )
    assert attribute["CreateVolumePermissions"] == [{"UserId": "210987654321"}]
    assert shop.build("--again").exit_code == 0
    pruned = run("image", "prune", "--keep", "0", "--yes")
    assert f"{image['id']}: used by account 210987654321" in pruned.stdout
    assert image["id"] in {i["id"] for i in shop.images()}
    calls.made.clear()
    again = run("image", "share", "210987654321", "--image", image["id"], "--yes")
    assert "is already shared with 210987654321" in again.stdout
    assert calls.changing == []
    back = ("image", "share", "210987654321", "--image", image["id"], "--revoke", "--yes")
    assert run(*back).exit_code == 0
    assert "is not shared with 210987654321" in run(*back).stdout
    assert run("image", "prune", "--keep", "0", "--yes").exit_code == 0
    assert image["id"] not in {i["id"] for i in shop.images()}
