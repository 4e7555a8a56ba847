"""``launch-cluster image build`` and ``up`` against the emulated cloud: builds, good and bad."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.settings import load_server_config
from launch_cluster import building

from .clouds import control
from .conftest import Calls
from .shops import Run, Shop, ask

# ---- a build


def test_up_builds_an_image_from_the_base_and_new_workers_are_launched_from_it(
    make_shop: Callable[[], Shop], gateway: Gateway, aws: Path
) -> None:
    shop = make_shop()
    config, _ = load_server_config(aws / "server_config.json")
    assert shop.current == config.WORKER_AMI_ID
    assert shop.is_tidy()
    (image,) = ask(gateway, "ec2", "describe_images", ImageIds=[shop.current])["Images"]
    tags = {t["Key"]: t["Value"] for t in image["Tags"]}
    assert tags["ec2spawner:jupyterhub"].count(".") == 2
    assert tags["ec2spawner:base"].startswith("ami-")
    assert len(tags["ec2spawner:content"]) == 64
    (snapshot,) = (d["Ebs"]["SnapshotId"] for d in image["BlockDeviceMappings"])
    found = ask(gateway, "ec2", "describe_snapshots", SnapshotIds=[snapshot])["Snapshots"][0]
    assert {t["Key"]: t["Value"] for t in found["Tags"]} == tags
    reply = ask(
        gateway,
        "ec2",
        "run_instances",
        LaunchTemplate={"LaunchTemplateId": config.LAUNCH_TEMPLATE_ID, "Version": "$Latest"},
        SubnetId=config.WORKER_SUBNETS[0].SUBNET_ID,
        MinCount=1,
        MaxCount=1,
    )
    assert reply["Instances"][0]["ImageId"] == shop.current


def test_a_builder_is_launched_from_the_clusters_template_with_its_own_image_and_profile(
    shop: Shop, calls: Calls, aws: Path, gateway: Gateway
) -> None:
    assert shop.build(*shop.course()).exit_code == 0
    (params,) = (p for name, p in calls.requests if name == "run_instances")
    assert set(params["LaunchTemplate"]) == {"LaunchTemplateId", "Version"}
    assert params["ImageId"] != shop.current
    assert params["IamInstanceProfile"]["Arn"].endswith(f"ec2spawner-{shop.name}-us-east-1-builder")
    assert params["InstanceInitiatedShutdownBehavior"] == "stop"
    assert params["CreditSpecification"] == {"CpuCredits": "unlimited"}
    assert len(params["UserData"].encode()) < 16_384
    tags = {t["Key"]: t["Value"] for t in params["TagSpecifications"][0]["Tags"]}
    assert tags["ec2spawner:role"] == "builder"
    kinds = [s["ResourceType"] for s in params["TagSpecifications"]]
    assert kinds == ["instance", "volume", "network-interface"]
    assert params["SubnetId"].startswith("subnet-")


def test_what_the_builder_fetches_lies_in_the_clusters_bucket(shop: Shop, calls: Calls) -> None:
    assert shop.build(*shop.course()).exit_code == 0
    (params,) = (p for name, p in calls.requests if name == "run_instances")
    named = {word.strip("'") for word in params["UserData"].replace("=", " ").split()}
    asked = [p["Key"] for name, p in calls.requests if name == "head_object"]
    assert {key.partition("/")[0] for key in asked} == {"package", "course"}
    assert set(asked) <= named
    put = [p["Key"] for name, p in calls.requests if name == "put_object"]
    assert [key.partition("/")[0] for key in put] in (["course"], ["package", "course"])


def test_the_same_inputs_build_nothing_twice(shop: Shop, calls: Calls) -> None:
    course = shop.course()
    assert shop.build(*course).exit_code == 0
    built = shop.current
    calls.made.clear()
    result = shop.build(*course)
    assert result.exit_code == 0
    assert "nothing to do" in result.stdout
    assert calls.changing == []
    assert shop.build(*shop.course()).exit_code == 0
    assert shop.current != built
    calls.made.clear()
    result = shop.build(*course)  # the first one is there still
    assert "it was built before" in result.stdout
    assert calls.changing == ["put_parameter"]
    assert shop.current == built


def test_up_keeps_the_courses_packages_and_the_base_of_the_image_in_use(
    make_shop: Callable[[], Shop], run: Run, gateway: Gateway, aws: Path
) -> None:
    shop = make_shop()
    base = ask(gateway, "ec2", "describe_images", Owners=["099720109477"])["Images"][0]["ImageId"]
    assert shop.build(*shop.course(), "--base-ami", base).exit_code == 0
    config, _ = load_server_config(aws / "server_config.json")
    assert shop.current == config.WORKER_AMI_ID
    result = run("up", shop.name, "--no-manager", "--yes")
    assert result.exit_code == 0, result.stderr
    assert "nothing to do" in result.stdout
    (aws / "instance_config.json").write_text('{"WORKER_SUDO": true}')
    result = run("up", shop.name, "--no-manager", "--yes")
    assert result.exit_code == 0, result.stderr
    newest = max(shop.images(), key=lambda image: int(image["sequence"]))
    assert newest["tags"]["ec2spawner:course"]
    assert newest["tags"]["ec2spawner:base"] == base
    assert newest["id"] == shop.current


def test_a_course_can_be_left_out_again(shop: Shop) -> None:
    assert shop.build(*shop.course()).exit_code == 0
    assert shop.build("--no-course").exit_code == 0
    (image,) = (i for i in shop.images() if i["id"] == shop.current)
    assert "ec2spawner:course" not in image["tags"]


def test_a_course_whose_files_are_gone_from_the_bucket_is_told(
    make_shop: Callable[[], Shop], gateway: Gateway, aws: Path
) -> None:
    shop = make_shop()
    assert shop.build(*shop.course()).exit_code == 0
    config, _ = load_server_config(aws / "server_config.json")
    (image,) = (i for i in shop.images() if i["id"] == shop.current)
    key = f"course/{image['tags']['ec2spawner:course']}.tar.gz"
    ask(gateway, "s3", "delete_object", Bucket=config.BUCKET, Key=key)
    result = shop.build("--again")
    assert result.exit_code == 1
    assert "no longer in the cluster's bucket" in result.stderr
    assert "--no-course" in result.stderr
    assert shop.build("--again", "--no-course").exit_code == 0


def test_a_dry_run_shows_what_would_be_built_and_changes_nothing(shop: Shop, calls: Calls) -> None:
    before = shop.current
    result = shop.run("image", "build", shop.name, *shop.course(), "--dry-run")
    assert result.exit_code == 0
    assert "build the worker image" in result.stdout
    assert calls.changing == []
    assert shop.current == before


# ---- builds that fail


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("fail", ["was not built: in provision.sh.", "- ", "no space left on device"]),
        ("hang", ["is not built after", "the last that its builder said: installing Python"]),
        ("silent", ["switched itself off without a word"]),
    ],
)
def test_a_build_that_fails_shows_the_last_lines_keeps_the_log_and_ends_the_builder(
    shop: Shop, aws: Path, monkeypatch: pytest.MonkeyPatch, fault: str, words: list[str]
) -> None:
    before, images, course = shop.current, shop.images(), shop.course()
    monkeypatch.setattr(building, "LAST_WORDS_SECONDS", 0.1)
    control("builders/next", fault=fault)
    with monkeypatch.context() as short:
        if fault == "hang":
            short.setattr(building, "BUILD_DEADLINE_SECONDS", 1.0)
        result = shop.build(*course)
    assert result.exit_code == 1
    for word in words:
        assert word in result.stderr, result.stderr
    log = aws / f"ec2spawner-{shop.name}-image.log"
    assert str(log) in result.stderr
    assert "ec2spawner-image: phase fetching the package" in log.read_text()
    assert (shop.current, shop.images()) == (before, images)
    assert shop.is_tidy()
    assert shop.build(*course).exit_code == 0


def test_a_builder_that_somebody_ends_is_told(shop: Shop, calls: Calls) -> None:
    control("builders/next", fault="hang")

    def end() -> None:
        (builder,) = shop.builders()
        control(f"workers/{builder['id']}/terminate", now=True)
        calls.before.clear()

    calls.before["get_console_output"] = end
    result = shop.build(*shop.course())
    assert result.exit_code == 1
    assert "was ended by somebody else" in result.stderr
    assert shop.is_tidy()


def test_no_room_in_one_zone_is_no_end(shop: Shop, aws: Path) -> None:
    rule = {"type": "t3.medium", "zone": "us-east-1a", "max_running": 0}
    control("capacity", rules=[rule])
    try:
        result = shop.build(*shop.course())
        assert result.exit_code == 0, result.stderr
        assert "No room in subnet-" in result.stderr
        control("capacity", rules=[{**rule, "zone": "*"}])
        result = shop.build(*shop.course())
        assert result.exit_code == 1
        assert "InsufficientInstanceCapacity" in result.stderr
    finally:
        control("capacity", rules=[])
    assert shop.is_tidy()


def test_a_profile_that_ec2_does_not_know_yet_is_waited_for(shop: Shop) -> None:
    control(
        "faults",
        action="RunInstances",
        fault="error",
        code="InvalidParameterValue",
        message="Value (x) for parameter iamInstanceProfile.arn is invalid.",
        status=400,
        count=2,
    )
    result = shop.build(*shop.course())
    assert result.exit_code == 0
    said = result.stderr.splitlines()
    assert said.count("Waiting until EC2 knows the builder's profile …") == 1
    assert said.count("Putting the package into the cluster's bucket …") == 1
    assert any(
        line.startswith("Putting the package into the cluster's bucket: done") for line in said
    )
    assert shop.is_tidy()


def test_another_wrong_value_is_not_tried_again(shop: Shop, calls: Calls) -> None:
    control(
        "faults",
        action="RunInstances",
        fault="error",
        code="InvalidParameterValue",
        message="Value (x) for parameter keyName is invalid.",
        status=400,
    )
    assert shop.build(*shop.course()).exit_code == 1
    assert calls.made.count("run_instances") == 1


def test_a_builder_that_is_done_and_stays_on_is_stopped(
    shop: Shop, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    control("builders/next", fault="hang")
    monkeypatch.setattr(building, "POWER_OFF_SECONDS", 0.05)

    async def console(self: EC2, instance_id: str, max_chars: int = 0) -> str:
        return "ec2spawner-image: done\n"

    monkeypatch.setattr(EC2, "console", console)
    result = shop.build(*shop.course())
    assert result.exit_code == 0, result.stderr
    assert "stop_instances" in calls.made
    assert shop.is_tidy()


def test_an_image_that_vanishes_is_told_and_made_anew(
    shop: Shop, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = shop.course()

    def lose() -> None:
        calls.after.clear()
        newest = max(shop.images(), key=lambda image: int(image["sequence"]))
        boto3.client("ec2").deregister_image(ImageId=newest["id"], DeleteAssociatedSnapshots=True)

    calls.after["create_image"] = lose
    monkeypatch.setattr(building, "SHOWN_DEADLINE_SECONDS", 0.1)
    result = shop.build(*course)
    assert result.exit_code == 3
    assert "does not show the image" in result.stderr
    assert shop.build(*course).exit_code == 0
    assert shop.is_tidy()


# ---- an image of the operator's own


def test_a_rebuild_where_no_choices_lie_keeps_those_of_the_cluster(
    make_shop: Callable[[], Shop], run: Run, aws: Path
) -> None:
    """As a manager rebuilds, every month."""
    shop = make_shop()
    choices = aws / "instance_config.json"
    choices.write_text(json.dumps({"WORKER_SUDO": True, "WORKER_USERNAME": "scholar"}))
    assert run("up", shop.name, "--no-manager", "--yes").exit_code == 0
    before = shop.current
    choices.unlink()
    result = shop.build()
    assert result.exit_code == 0, result.stderr
    assert "the choices in" in result.stderr
    assert shop.current == before


def test_a_rebuild_takes_nobodys_own_image_away(
    make_shop: Callable[[], Shop], gateway: Gateway, aws: Path
) -> None:
    shop = make_shop()
    worker = ask(
        gateway,
        "ec2",
        "run_instances",
        ImageId=shop.current,
        InstanceType="t3.medium",
        MinCount=1,
        MaxCount=1,
    )["Instances"][0]["InstanceId"]
    eventually_running(gateway, worker)
    own = ask(gateway, "ec2", "create_image", InstanceId=worker, Name=f"own {shop.name}")["ImageId"]
    name = f"/ec2spawner/{shop.name}/worker-image"
    ask(gateway, "ssm", "put_parameter", Name=name, Value=own, Type="String", Overwrite=True)
    result = shop.build("--again")
    assert result.exit_code == 2
    assert "was not built by this command" in result.stderr
    assert shop.current == own


def eventually_running(gateway: Gateway, instance_id: str) -> None:
    while True:
        found = ask(gateway, "ec2", "describe_instances", InstanceIds=[instance_id])
        if found["Reservations"][0]["Instances"][0]["State"]["Name"] == "running":
            return
        time.sleep(0.05)


def test_a_custom_image_is_taken_without_a_build_and_doubts_about_it_are_told(
    make_shop: Callable[[], Shop], run: Run, gateway: Gateway, aws: Path, calls: Calls
) -> None:
    shop = make_shop()
    other = ask(gateway, "ec2", "describe_images", Owners=["099720109477"])["Images"]
    image_id = next(i["ImageId"] for i in other if i["Architecture"] == "x86_64")
    (aws / "instance_config.json").write_text(json.dumps({"CUSTOM_WORKER_AMI": image_id}))
    calls.made.clear()
    assert run("up", shop.name, "--no-manager", "--yes").exit_code == 1
    assert calls.changing == []
    result = run("up", shop.name, "--no-manager", "--yes", "--unchecked-image")
    assert result.exit_code == 0, result.stderr
    assert "does not say that it is a worker image of ec2spawner" in result.stderr
    assert calls.changing == ["put_parameter"]
    assert shop.current == image_id
    config, _ = load_server_config(aws / "server_config.json")
    assert image_id == config.WORKER_AMI_ID
    assert "nothing to do" in run("up", shop.name, "--no-manager", "--yes").stdout
    result = shop.build()
    assert result.exit_code == 2
    assert "CUSTOM_WORKER_AMI" in result.stderr
    (aws / "instance_config.json").unlink()
    assert run("up", shop.name, "--no-manager", "--yes").exit_code == 0
    assert shop.is_tidy()


def test_an_image_that_another_cluster_built_is_taken_if_it_fits_this_one(
    make_shop: Callable[[], Shop], run: Run, aws: Path, calls: Calls
) -> None:
    image_id = make_shop().current
    (aws / "server_config.json").unlink()
    other = make_shop()
    choices = {"CUSTOM_WORKER_AMI": image_id, "WORKER_USERNAME": "student"}
    (aws / "instance_config.json").write_text(json.dumps(choices))
    result = run("up", other.name, "--no-manager", "--yes")
    assert result.exit_code == 1
    assert f"WORKER_USERNAME student is not what {image_id} was built with (jovyan)" in (
        result.stderr
    )
    (aws / "instance_config.json").write_text(json.dumps({"CUSTOM_WORKER_AMI": image_id}))
    result = run("up", other.name, "--no-manager", "--yes")
    assert result.exit_code == 0, result.stderr
    assert other.current == image_id
