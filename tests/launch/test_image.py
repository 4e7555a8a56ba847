"""``launch-cluster image`` against the emulated cloud: built, broken off, pruned, shared."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
from click.testing import Result

from ec2spawner.cloud import Gateway
from ec2spawner.ec2 import EC2
from ec2spawner.settings import load_server_config
from launch_cluster import building
from launch_cluster.images import Images
from launch_cluster.imaging import Builder

from .clouds import control, of_cluster
from .conftest import Calls, Killed

Run = Callable[..., Result]
_courses = count(1)
_clusters = count(1)


def ask(gateway: Gateway, service: str, operation: str, **params: Any) -> dict[str, Any]:
    return asyncio.run(gateway.call(service, operation, params))


class Shop:
    """A cluster with an image, and what is left of builds in it."""

    def __init__(self, run: Run, gateway: Gateway, folder: Path, name: str) -> None:
        self.run, self.gateway, self.folder, self.name = run, gateway, folder, name

    def build(self, *more: str) -> Result:
        return self.run("image", "build", self.name, "--yes", *more)

    def course(self) -> tuple[str, str]:
        """Options for an image that nobody has built yet."""
        path = self.folder / f"apt-{next(_courses)}.txt"
        path.write_text(f"package-{path.stem}\n")
        return "--apt", str(path)

    @property
    def current(self) -> str:
        name = f"/ec2spawner/{self.name}/worker-image"
        value: str = ask(self.gateway, "ssm", "get_parameter", Name=name)["Parameter"]["Value"]
        return value

    def images(self) -> list[dict[str, Any]]:
        return of_cluster(control("state")["images"], self.name, "image")

    def builders(self) -> list[dict[str, Any]]:
        rows = of_cluster(control("state")["instances"], self.name, "builder")
        return [row for row in rows if row["state"] not in ("shutting-down", "terminated")]

    def is_tidy(self) -> bool:
        """No builder, no disk of one, no snapshot without its image, and a usable image in use."""
        assert self.builders() == []
        state = control("state")
        known = {d["snapshot_id"] for image in self.images() for d in image["devices"]}
        snapshots = of_cluster(state["snapshots"], self.name, "image")
        assert {s["id"] for s in snapshots} == known
        states = {image["id"]: image["state"] for image in self.images()}
        assert states[self.current] == "available"
        return True


@pytest.fixture
def make_shop(run: Run, gateway: Gateway, aws: Path, calls: Calls) -> Callable[[], Shop]:
    def make_shop() -> Shop:
        name = f"image{next(_clusters)}"
        result = run("up", name, "--no-manager", "--yes")
        assert result.exit_code == 0, result.stderr
        calls.made.clear()
        calls.requests.clear()
        return Shop(run, gateway, aws, name)

    return make_shop


_shared: list[str] = []


@pytest.fixture
def shop(make_shop: Callable[[], Shop], run: Run, gateway: Gateway, aws: Path) -> Shop:
    """A cluster that the tests of builds share: each builds an image of its own in it."""
    if not _shared:
        _shared.append(make_shop().name)
    return Shop(run, gateway, aws, _shared[0])


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


# ---- broken off, killed, unheard

STEPS = (
    *("head_object", "put_object", "run_instances", "get_console_output", "create_image"),
    *("terminate_instances", "put_parameter"),
)


def break_at(calls: Calls, step: str, when: str, error: type[BaseException]) -> None:
    def break_off() -> None:
        calls.before.clear()
        calls.after.clear()
        calls.is_dead = error is Killed
        raise error

    (calls.before if when == "before" else calls.after)[step] = break_off


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_interrupted_at_any_call_it_ends_its_builder_and_converges_when_run_again(
    shop: Shop, calls: Calls, step: str, when: str
) -> None:
    course = shop.course()
    break_at(calls, step, when, KeyboardInterrupt)
    assert shop.build(*course).exit_code == 130
    if step != "terminate_instances":
        assert shop.builders() == []
    assert shop.build(*course).exit_code == 0
    assert shop.is_tidy()
    assert len(made_of(shop, course)) == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_call_the_next_run_goes_on_with_what_it_left(
    shop: Shop, calls: Calls, step: str, when: str
) -> None:
    course = shop.course()
    break_at(calls, step, when, Killed)
    with pytest.raises(Killed):
        shop.build(*course)
    calls.is_dead = False
    result = shop.build(*course)
    assert result.exit_code == 0, result.stderr
    assert shop.is_tidy()
    assert len(made_of(shop, course)) == 1
    launched = calls.made.count("run_instances")
    assert launched == (2 if (step, when) == ("run_instances", "before") else 1)


def made_of(shop: Shop, course: tuple[str, str]) -> list[dict[str, Any]]:
    """The images with the course's packages: that of the image in use is it."""
    tags = {i["id"]: i["tags"] for i in shop.images()}
    wanted = tags[shop.current]["ec2spawner:content"]
    return [i for i in shop.images() if i["tags"]["ec2spawner:content"] == wanted]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_real_process_that_is_told_to_end_or_killed(
    shop: Shop, run: Run, number: int, code: int
) -> None:
    """SIGINT ends the builder, too; SIGKILL leaves it to the next run, which goes on with it."""
    course = shop.course()
    control("builders/next", fault="hang")
    script = "from launch_cluster.cli import main; main()"
    command = [sys.executable, "-c", script, "image", "build", shop.name, "--yes", *course]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stderr
        assert any(b"installing Python" in line for line in process.stderr)
        process.send_signal(number)
        process.stderr.read()
        assert process.wait(30) == code
    left = [builder["id"] for builder in shop.builders()]
    assert len(left) == (number == signal.SIGKILL)
    if left:
        control(f"workers/{left[0]}/power-off", now=True)
    assert shop.build(*course).exit_code == 0
    assert shop.is_tidy()


def test_a_builder_that_listings_do_not_show_yet_is_not_launched_twice(
    shop: Shop, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = shop.course()
    break_at(calls, "run_instances", "after", Killed)
    with pytest.raises(Killed):
        shop.build(*course)
    calls.is_dead = False
    (left,) = shop.builders()

    async def none(self: Images) -> list[Builder]:
        return []

    monkeypatch.setattr(Images, "builders", none)
    assert shop.build(*course).exit_code == 0
    (image,) = made_of(shop, course)
    assert image["source_instance_id"] == left["id"]
    assert shop.is_tidy()


def test_a_builder_of_other_work_that_a_killed_run_left_is_ended(shop: Shop, calls: Calls) -> None:
    control("builders/next", fault="hang")
    break_at(calls, "run_instances", "after", Killed)
    with pytest.raises(Killed):
        shop.build(*shop.course())
    calls.is_dead = False
    (left,) = shop.builders()
    result = shop.build(*shop.course())
    assert result.exit_code == 0
    assert f"An earlier run left the builder {left['id']}" in result.stderr
    assert shop.is_tidy()


def test_a_builder_that_failed_while_nobody_looked_gives_way_to_another(
    shop: Shop, calls: Calls
) -> None:
    course = shop.course()
    control("builders/next", fault="fail")
    break_at(calls, "run_instances", "after", Killed)
    with pytest.raises(Killed):
        shop.build(*course)
    calls.is_dead = False
    (left,) = shop.builders()
    while shop.builders()[0]["state"] != "stopped":
        time.sleep(0.02)
    assert shop.build(*course).exit_code == 0
    (image,) = made_of(shop, course)
    assert image["source_instance_id"] != left["id"]
    assert shop.is_tidy()


@pytest.mark.parametrize(
    "action",
    ["PutObject", "RunInstances", "CreateImage", "PutParameter", "TerminateInstances"],
)
def test_a_lost_reply_makes_nothing_twice(shop: Shop, action: str) -> None:
    course = shop.course()
    control("faults", action=action, fault="lose-reply")
    result = shop.build(*course)
    assert result.exit_code == 0, result.stderr
    assert len(made_of(shop, course)) == 1
    assert shop.is_tidy()


@pytest.mark.parametrize("action", ["RunInstances", "CreateImage", "DescribeImages"])
def test_a_throttled_call_is_repeated(shop: Shop, action: str) -> None:
    control("faults", action=action, fault="throttle")
    assert shop.build(*shop.course()).exit_code == 0
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
    assert shop.build(*shop.course()).exit_code == 0
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


def test_a_custom_image_is_taken_without_a_build_and_doubts_about_it_are_told(
    make_shop: Callable[[], Shop], run: Run, gateway: Gateway, aws: Path, calls: Calls
) -> None:
    shop = make_shop()
    other = ask(gateway, "ec2", "describe_images", Owners=["099720109477"])["Images"]
    image_id = next(i["ImageId"] for i in other if i["Architecture"] == "x86_64")
    (aws / "instance_config.json").write_text(json.dumps({"CUSTOM_WORKER_AMI": image_id}))
    calls.made.clear()
    result = run("up", shop.name, "--no-manager", "--yes")
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


# ---- list, prune, share


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
    assert [line.split()[0] for line in lines[::2]] == [shop.current, first]
    assert [line.strip() for line in lines[1::2]] == ["used by the parameter", "used by nothing"]
    assert "JupyterHub 6." in lines[0]


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


# ---- what is said

TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT}
OR_NONE = {"type": ["string", "null"]}


def document_of(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


OUTCOME = {"enum": ["nothing to do", "planned", "done", "partly done"]}
IMAGE = document_of(
    image_id={"type": "string", "pattern": "^ami-[0-9a-f]+$"},
    name=TEXT,
    state={"enum": ["pending", "available", "failed"]},
    created={"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT"},
    architecture={"enum": ["x86_64", "arm64"]},
    root_gib={"type": "integer"},
    encrypted={"type": "boolean"},
    snapshots=TEXTS,
    base=OR_NONE,
    content=OR_NONE,
    course=OR_NONE,
    version=OR_NONE,
    jupyterhub=OR_NONE,
    jupyterlab=OR_NONE,
    used_by=TEXTS,
)
SCHEMAS = {
    "build": document_of(
        cluster=TEXT,
        region=TEXT,
        outcome=OUTCOME,
        image_id=OR_NONE,
        built={"type": "boolean"},
        reason=TEXT,
        base=TEXT,
        content={"type": "string", "pattern": "^[0-9a-f]{64}$"},
        course=OR_NONE,
        encrypted={"type": "boolean"},
        done=TEXTS,
        notices=TEXTS,
    ),
    "list": document_of(
        cluster=TEXT, parameter=TEXT, current=OR_NONE, images={"type": "array", "items": IMAGE}
    ),
    "prune": document_of(
        cluster=TEXT,
        outcome=OUTCOME,
        images=TEXTS,
        snapshots=TEXTS,
        kept={"type": "array", "items": document_of(image_id=TEXT, reason=TEXT)},
        done=TEXTS,
        failed=TEXTS,
    ),
    "share": document_of(
        cluster=TEXT,
        outcome=OUTCOME,
        image_id=TEXT,
        snapshots=TEXTS,
        account={"type": "string", "pattern": r"^\d{12}$"},
        encrypted={"type": "boolean"},
    ),
}


@pytest.mark.parametrize(
    "arguments",
    [
        ("build", "--again", "--unencrypted", "--yes"),
        ("build", "--again", "--dry-run"),
        ("build",),
        ("list",),
        ("share", "210987654321", "--dry-run"),
        ("share", "210987654321", "--yes"),
        ("prune", "--keep", "1", "--dry-run"),
        ("prune", "--keep", "1", "--yes"),
    ],
)
def test_json_output_is_one_document_of_a_known_form(
    shop: Shop, run: Run, arguments: tuple[str, ...]
) -> None:
    name, *rest = arguments
    where = [*rest[:1], shop.name, *rest[1:]] if name == "share" else [shop.name, *rest]
    result = run("image", name, *where, "--output", "json")
    assert result.exit_code == 0, result.stderr
    jsonschema.validate(json.loads(result.stdout), SCHEMAS[name])


# ---- what cannot be


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("build", "X"), ["CLUSTER_NAME: 'X'"]),
        (("build",), ["No server_config.json was found"]),
        (("build", "x1", "--base-ami", "ubuntu"), ["'ubuntu' is not an id"]),
        (("build", "x1", "--apt", "absent.txt"), ["--apt: absent.txt cannot be read"]),
        (("build", "x1", "--apt", "empty"), ["--apt: empty is empty"]),
        (("build", "x1", "--apt", "shell"), ["--apt: shell names '$(id)'"]),
        (("build", "x1", "--apt", "bytes"), ["--apt: bytes is not text"]),
        (("build", "x1", "--apt", "large"), ["--apt: large is too large", "256 KiB"]),
        (("build", "x1", "--apt", "."), ["--apt: . cannot be read"]),
        (("build", "x1", "--post-build", "text"), ["does not say what runs it", "#!/bin/bash"]),
        (
            ("build", "x1", "--requirements", "text", "--environment", "text"),
            ["--environment", "cannot be used together with --requirements"],
        ),
        (("build", "x1", "--apt", "text", "--no-course"), ["--no-course"]),
        (("build", "x1", "--config", "absent.json"), ["absent.json cannot be used"]),
        (("list", "Biology 101"), ["CLUSTER_NAME"]),
        (("list",), ["No server_config.json was found"]),
        (("prune", "x1", "--config", "absent.json"), ["absent.json cannot be used"]),
        (("share", "1234", "x1"), ["ACCOUNT: '1234' is not an AWS account", "12 digits"]),
        (("share", "123456789o12", "x1"), ["is not an AWS account"]),
    ],
)
def test_a_malformed_command_is_refused_before_aws_is_asked(
    run: Run, aws: Path, calls: Calls, arguments: tuple[str, ...], words: list[str]
) -> None:
    (aws / "empty").write_text("\n")
    (aws / "shell").write_text("gdal-bin\n$(id)\n")
    (aws / "bytes").write_bytes(b"\xff\xfe")
    (aws / "large").write_text("x" * 300_000)
    (aws / "text").write_text("numpy\n")
    result = run("image", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("error: ") == 1
    for word in words:
        assert word in result.stderr, result.stderr
    assert calls.made == []


@pytest.mark.parametrize("arguments", [("prune", "x1", "--keep", "-1"), ("build", "--bse", "x")])
def test_what_click_refuses_is_a_usage_error(
    run: Run, aws: Path, arguments: tuple[str, ...]
) -> None:
    assert run("image", *arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("build", "absent", "--yes"), ["There is no cluster absent", "launch-cluster up absent"]),
        (("share", "210987654321", "absent", "--yes"), ["A worker image is not among"]),
    ],
)
def test_a_cluster_that_is_not_there_is_told(
    run: Run, aws: Path, calls: Calls, arguments: tuple[str, ...], words: list[str]
) -> None:
    result = run("image", *arguments)
    assert result.exit_code == 1
    for word in words:
        assert word in result.stderr, result.stderr
    assert calls.changing == []


def test_a_cluster_without_images_has_an_empty_list_and_nothing_to_prune(
    run: Run, aws: Path
) -> None:
    assert "has no worker images" in run("image", "list", "absent").stdout
    assert "Nothing to do" in run("image", "prune", "absent", "--yes").stdout
