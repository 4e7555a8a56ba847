"""The manager's policy allows what hub and workers need, needs each line, refuses the rest."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis.stateful import run_state_machine_as_test
from soak.runs import settings_for
from soak.story import Story

from ec2spawner.localcloud.ec2 import lifecycle
from ec2spawner.localcloud.ec2.records import ACCOUNT_ID
from ec2spawner.tenancy import key_of
from launch_cluster.policies import Place, role_policies
from policies.iam import Request, decide_all
from policies.lives import (
    BUCKET,
    BUILDER,
    CLUSTER,
    GROUP,
    REGION,
    SUBNETS,
    TEMPLATE_ID,
    TEMPLATES,
    Judge,
    judged_story,
    manager_parameters,
    manager_policy,
    worker_template,
)
from policies.requests import World, requests_of

STORIES, STEPS = 8, 60
INLINE_MAX_CHARACTERS = 10_240  # of a role, without white space (IAM user guide, "Quotas", 2026)
MANAGED_MAX_CHARACTERS = 6144
BY_THE_AGENT = {"Register", "Channels"}
"""Statements for the agent of Systems Manager, which runs on no emulated machine."""

# ---- what there is, for calls that are made up here

OURS = {"ec2spawner:cluster": CLUSTER, "ec2spawner:role": "worker"}
OWNED = {**OURS, "ec2spawner:owner": "ada-1"}
BUILT = {"ec2spawner:cluster": CLUSTER, "ec2spawner:role": "builder"}
IMAGE = {"ec2spawner:cluster": CLUSTER, "ec2spawner:role": "image"}
MANAGERS = {"ec2spawner:cluster": CLUSTER, "ec2spawner:role": "manager"}
THEIRS = {"ec2spawner:cluster": "other", "ec2spawner:role": "worker"}
TAGS: dict[str, dict[str, str]] = {
    "i-spare": OURS,
    "i-owned": OWNED,
    "i-deleted": {**OWNED, "ec2spawner:deleted": "1 x"},
    "i-builder": BUILT,
    "i-manager": MANAGERS,
    "i-theirs": THEIRS,
    "i-untagged": {},
    "vol-home": OWNED,
    "vol-spare": OURS,
    "vol-manager": MANAGERS,
    "vol-theirs": THEIRS,
    "vol-untagged": {},
    "snap-home": OURS,
    "snap-image": IMAGE,
    "snap-manager": MANAGERS,
    "snap-theirs": THEIRS,
    "snap-untagged": {},
    "ami-ours": IMAGE,
    "ami-theirs": {"ec2spawner:cluster": "other"},
    "ami-private": {},
    "ami-private-base": {},
    "sir-theirs": THEIRS,
}
PUBLIC = {"ec2:Public": "true"}
FACTS = {
    "ami-0base": PUBLIC,
    worker_template()["ImageId"]: PUBLIC,
    **{image: {"ec2:Public": "false"} for image in ("ami-ours", "ami-theirs", "ami-private")},
    "i-untagged": {"ec2:InstanceMarketType": "on-demand"},
    "vol-untagged": {"ec2:Encrypted": "true", "ec2:VolumeType": "gp3"},
    "vol-manager": {"ec2:Encrypted": "true", "ec2:VolumeType": "gp3"},
}
OTHER_TEMPLATE = {**worker_template(), "MetadataOptions": {"HttpTokens": "required"}}
WORLD = World(
    REGION,
    ACCOUNT_ID,
    TAGS,
    {TEMPLATE_ID: worker_template(), "lt-other": OTHER_TEMPLATE},
    lambda resource_id: FACTS.get(resource_id, {}),
)


def specified(tags: Mapping[str, str], *kinds: str) -> list[dict[str, Any]]:
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    return [{"ResourceType": kind, "Tags": listed} for kind in kinds]


LAUNCHED = ("instance", "volume", "network-interface")
LAUNCH: dict[str, Any] = {
    "LaunchTemplate": {"LaunchTemplateId": TEMPLATE_ID, "Version": "$Latest"},
    "InstanceType": "t3.medium",
    "SubnetId": SUBNETS[0],
    "MinCount": 1,
    "MaxCount": 1,
    "TagSpecifications": specified(OURS, *LAUNCHED),
}
BUILD = {
    **LAUNCH,
    "ImageId": "ami-0base",
    "UserData": "x",
    "IamInstanceProfile": {"Role": BUILDER.rpartition("/")[2]},
    "TagSpecifications": specified(BUILT, *LAUNCHED),
}
PARAMETER = f"/ec2spawner/{CLUSTER}"
UBUNTU = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
TAG = {"Tags": [{"Key": "ec2spawner:owner", "Value": "ada-1"}]}

LOOKED_AT = ("Images", "InstanceTypeOfferings", "InstanceTypes", "KeyPairs", "Subnets")

Call = tuple[str, str, dict[str, Any]]

BESIDES: list[Call] = [
    # the hub, beside its fleet's calls
    ("ssm", "GetParameter", {"Name": f"{PARAMETER}/ssh-key"}),
    ("ssm", "GetParameter", {"Name": f"{PARAMETER}/oauth-client-secret"}),
    ("ssm", "GetParameters", {"Names": [f"{PARAMETER}/worker-image"]}),
    ("s3", "GetObject", {"Bucket": BUCKET, "Key": key_of(CLUSTER)}),
    ("s3", "PutObject", {"Bucket": BUCKET, "Key": key_of(CLUSTER)}),
    ("ec2", "GetConsoleOutput", {"InstanceId": "i-owned"}),
    ("service-quotas", "GetServiceQuota", {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"}),
    # workers of the cluster's own image, or of one that others made
    ("ec2", "RunInstances", {**LAUNCH, "ImageId": "ami-ours"}),
    ("ec2", "RunInstances", {**LAUNCH, "ImageId": "ami-private-base"}),
    # the manager
    ("s3", "GetObject", {"Bucket": BUCKET, "Key": "config/server_config.json"}),
    ("s3", "GetObject", {"Bucket": BUCKET, "Key": "package/0.tar.gz"}),
    ("s3", "PutObject", {"Bucket": BUCKET, "Key": "backup/hub/1.sqlite.gz", "IfNoneMatch": "*"}),
    ("s3", "PutObject", {"Bucket": BUCKET, "Key": "backup/newest/hub.sqlite.gz"}),
    ("s3", "GetObject", {"Bucket": BUCKET, "Key": "backup/hub/1.sqlite.gz"}),
    # the monthly rebuild of the workers' image
    ("s3", "ListBucket", {"Bucket": BUCKET}),
    ("s3", "PutObject", {"Bucket": BUCKET, "Key": "package/1.tar.gz"}),
    ("s3", "GetObject", {"Bucket": BUCKET, "Key": "course/1.tar.gz"}),
    ("cloudformation", "DescribeStacks", {"StackName": f"ec2spawner-{CLUSTER}"}),
    ("cloudformation", "GetTemplate", {"StackName": f"ec2spawner-{CLUSTER}-network"}),
    ("ssm", "GetParameter", {"Name": UBUNTU}),
    *(("ec2", f"Describe{what}", {}) for what in LOOKED_AT),
    ("ec2", "RunInstances", BUILD),
    ("ec2", "GetConsoleOutput", {"InstanceId": "i-builder"}),
    (
        "ec2",
        "CreateImage",
        {"InstanceId": "i-builder", "TagSpecifications": specified(IMAGE, "image", "snapshot")},
    ),
    ("ec2", "TerminateInstances", {"InstanceIds": ["i-builder"]}),
    ("ssm", "PutParameter", {"Name": f"{PARAMETER}/worker-image"}),
    ("ec2", "DeregisterImage", {"ImageId": "ami-ours"}),
    ("ec2", "DeleteSnapshot", {"SnapshotId": "snap-image"}),
]


def asked(call: Call) -> list[Request]:
    return requests_of(WORLD, *call)


# ---- what it allows


@pytest.fixture
def quietly(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Stories are full of failures, and the product warns of each."""
    with caplog.at_level(logging.CRITICAL, "ec2spawner"):
        yield


def tell(story: Story) -> None:
    """A short life in which all happens that needs a right of its own."""

    async def spot_machines_are_ended() -> None:
        """In the console: EC2 launches others, which bear no tags."""
        for instance in [i for i in story.truth.alive() if i.is_spot]:
            lifecycle.begin_terminate(story.core, instance, lifecycle.USER_STOP)

    story.class_begins(pause=90.0)
    for who in range(3):
        story.deletion_is_cut_off(who=who, seconds=1.0, pause=20.0)
    story.class_begins(pause=90.0)
    story.time_passes(200.0)
    story.class_ends(pause=20.0)
    story.time_passes(200.0)
    no_room = {"kind": "t3.medium", "zone": "us-east-1*", "market": "*"}
    story.capacity_goes(**no_room, code="InsufficientInstanceCapacity", running=0)
    story.class_begins(pause=90.0)
    story.capacity_is_back()
    story.rename(who=1, pause=20.0)
    story.choose_another_kind(who=1, pause=90.0)
    story.do(spot_machines_are_ended(), 20.0)
    for _ in range(6):
        story.time_passes(900.0)
    story.class_ends(pause=200.0)
    story.zone_is_full(zone="a", who=0, pause=90.0)
    for _ in range(4):
        story.time_passes(900.0)
    story.capacity_is_back()
    story.machine_panics(who=0, pause=90.0)
    for _ in range(3):
        story.time_passes(900.0)
    story.delete(who=2, same_name=False, is_seen=True, pause=90.0)
    for _ in range(4):
        story.time_passes(900.0)
    story.teardown()


@pytest.fixture(scope="module")
def life() -> Judge:
    """Judged: one whole life, and what is asked of AWS beside it."""
    judge = Judge(manager_policy())
    logger = logging.getLogger("ec2spawner")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    tell(judged_story(judge)())
    logger.setLevel(before)
    for call in BESIDES:
        judge.ask(asked(call))
    return judge


def test_every_call_of_a_whole_life_is_allowed_and_every_statement_is_needed(life: Judge) -> None:
    assert life.denied == []
    assert life.calls > 1000
    allowing = {s["Sid"] for s in life.policy["Statement"] if s["Effect"] == "Allow"}
    assert allowing - life.needed == BY_THE_AGENT


def test_every_call_is_allowed_whatever_happens(quietly: None) -> None:
    judge = Judge(manager_policy())
    run_state_machine_as_test(judged_story(judge), settings=settings_for(STORIES, STEPS))
    assert judge.denied == []
    assert judge.calls > 1000


def test_every_action_and_resource_that_is_named_is_used(life: Judge) -> None:
    """A statement may be needed for one of its lines only."""
    unused = []
    for statement in life.policy["Statement"]:
        if statement["Sid"] in BY_THE_AGENT or statement["Effect"] == "Deny":
            continue
        for element in ("Action", "Resource"):
            named = statement[element]
            for value in [named] if isinstance(named, str) else named:
                one = {"Statement": [{**statement, element: value}]}
                if not any(decide_all(one, [request]).is_allowed for request in life.requests):
                    unused.append(f"{statement['Sid']}: {value}")
    assert unused == []


# ---- what it refuses

SPOT = {"InstanceMarketOptions": {"MarketType": "spot"}}
FORBIDDEN: list[tuple[str, Call]] = [
    (f"{verb} {whose}", ("ec2", f"{verb}Instances", {"InstanceIds": [whose]}))
    for verb in ("Start", "Stop", "Terminate")
    for whose in ("i-theirs", "i-manager", "i-untagged")
]
FORBIDDEN += [
    (
        "terminate one of ours together with another's",
        ("ec2", "TerminateInstances", {"InstanceIds": ["i-spare", "i-theirs"]}),
    ),
    ("terminate what is somebody's", ("ec2", "TerminateInstances", {"InstanceIds": ["i-owned"]})),
    ("delete what is somebody's", ("ec2", "DeleteVolume", {"VolumeId": "vol-home"})),
    ("start a builder again", ("ec2", "StartInstances", {"InstanceIds": ["i-builder"]})),
    ("launch without tags", ("ec2", "RunInstances", {**LAUNCH, "TagSpecifications": []})),
    (
        "launch with a disk that bears no tags",
        ("ec2", "RunInstances", {**LAUNCH, "TagSpecifications": specified(OURS, *LAUNCHED[::2])}),
    ),
    (
        "launch for another cluster",
        ("ec2", "RunInstances", {**LAUNCH, "TagSpecifications": specified(THEIRS, *LAUNCHED)}),
    ),
    (
        "launch a manager",
        ("ec2", "RunInstances", {**LAUNCH, "TagSpecifications": specified(MANAGERS, *LAUNCHED)}),
    ),
    (
        "launch with another template",
        ("ec2", "RunInstances", {**LAUNCH, "LaunchTemplate": {"LaunchTemplateId": "lt-other"}}),
    ),
    (
        "launch without a template",
        (
            "ec2",
            "RunInstances",
            {**{k: v for k, v in LAUNCH.items() if k != "LaunchTemplate"}, **OTHER_TEMPLATE},
        ),
    ),
    *(
        (f"launch {whose} image", ("ec2", "RunInstances", {**LAUNCH, "ImageId": image}))
        for whose, image in (("another's", "ami-theirs"), ("a private", "ami-private"))
    ),
    (
        "build of a private image",
        ("ec2", "RunInstances", {**BUILD, "ImageId": "ami-private"}),
    ),
    (
        "launch in another subnet",
        ("ec2", "RunInstances", {**LAUNCH, "SubnetId": "subnet-0123456789abcdef9"}),
    ),
    (
        "launch with another security group",
        ("ec2", "RunInstances", {**LAUNCH, "SecurityGroupIds": [GROUP, "sg-other"]}),
    ),
    (
        "launch with another key",
        ("ec2", "RunInstances", {**LAUNCH, "KeyName": "somebody"}),
    ),
    (
        "launch with metadata that answers without a token",
        ("ec2", "RunInstances", {**LAUNCH, "MetadataOptions": {"HttpTokens": "optional"}}),
    ),
    (
        "pass another role",
        ("ec2", "RunInstances", {**BUILD, "IamInstanceProfile": {"Role": "admin"}}),
    ),
    (
        "change the user data of a stopped worker",
        ("ec2", "ModifyInstanceAttribute", {"InstanceId": "i-owned", "UserData": {"Value": "x"}}),
    ),
    (
        "change the groups of a worker",
        ("ec2", "ModifyInstanceAttribute", {"InstanceId": "i-owned", "Groups": ["sg-other"]}),
    ),
    (
        "change the type of another cluster's worker",
        ("ec2", "ModifyInstanceAttribute", {"InstanceId": "i-theirs", "InstanceType": {}}),
    ),
    (
        "change the type of the manager",
        ("ec2", "ModifyInstanceAttribute", {"InstanceId": "i-manager", "InstanceType": {}}),
    ),
    *(
        (f"tag {whose}", ("ec2", "CreateTags", {"Resources": [whose], **TAG}))
        for whose in ("vol-theirs", "i-theirs", "vol-untagged", "i-untagged", "vol-manager")
    ),
    (
        "give one of ours to another cluster",
        (
            "ec2",
            "CreateTags",
            {
                "Resources": ["vol-home"],
                "Tags": [{"Key": "ec2spawner:cluster", "Value": "other"}],
            },
        ),
    ),
    (
        "take the manager's data in as a worker's",
        (
            "ec2",
            "CreateTags",
            {
                "Resources": ["vol-manager"],
                "Tags": [{"Key": "ec2spawner:role", "Value": "worker"}],
            },
        ),
    ),
    (
        "write a tag of the bill",
        ("ec2", "CreateTags", {"Resources": ["i-owned"], "Tags": [{"Key": "Owner", "Value": ""}]}),
    ),
    *(
        (
            f"remove the tag {key}",
            ("ec2", "DeleteTags", {"Resources": ["vol-home"], "Tags": [{"Key": key}]}),
        )
        for key in ("ec2spawner:owner", "ec2spawner:cluster", "ec2spawner:generation")
    ),
    ("remove all tags", ("ec2", "DeleteTags", {"Resources": ["vol-home"]})),
    (
        "make the manager's own volume a worker's",
        (
            "ec2",
            "CreateTags",
            {
                "Resources": ["vol-manager"],
                "Tags": [
                    {"Key": "ec2spawner:cluster", "Value": "class"},
                    {"Key": "ec2spawner:role", "Value": "worker"},
                ],
            },
        ),
    ),
    (
        "remove the owner's tag together with one that it may remove",
        (
            "ec2",
            "DeleteTags",
            {
                "Resources": ["vol-home"],
                "Tags": [{"Key": "ec2spawner:moving"}, {"Key": "ec2spawner:owner"}],
            },
        ),
    ),
    (
        "attach another cluster's volume",
        ("ec2", "AttachVolume", {"VolumeId": "vol-theirs", "InstanceId": "i-spare"}),
    ),
    (
        "attach a home to another cluster's machine",
        ("ec2", "AttachVolume", {"VolumeId": "vol-home", "InstanceId": "i-theirs"}),
    ),
    (
        "attach a home to the manager",
        ("ec2", "AttachVolume", {"VolumeId": "vol-home", "InstanceId": "i-manager"}),
    ),
    (
        "detach the manager's data",
        ("ec2", "DetachVolume", {"VolumeId": "vol-manager", "InstanceId": "i-manager"}),
    ),
    *(
        (f"delete {whose}", ("ec2", "DeleteVolume", {"VolumeId": whose}))
        for whose in ("vol-theirs", "vol-manager", "vol-untagged")
    ),
    *(
        (f"delete {whose}", ("ec2", "DeleteSnapshot", {"SnapshotId": whose}))
        for whose in ("snap-theirs", "snap-manager", "snap-untagged")
    ),
    (
        "save another cluster's volume",
        (
            "ec2",
            "CreateSnapshot",
            {"VolumeId": "vol-theirs", "TagSpecifications": specified(OURS, "snapshot")},
        ),
    ),
    (
        "save a home without tags",
        ("ec2", "CreateSnapshot", {"VolumeId": "vol-home"}),
    ),
    (
        "copy another cluster's snapshot",
        (
            "ec2",
            "CreateVolume",
            {
                "SnapshotId": "snap-theirs",
                "Encrypted": True,
                "TagSpecifications": specified(OURS, "volume"),
            },
        ),
    ),
    (
        "copy a home to a disk that is not encrypted",
        (
            "ec2",
            "CreateVolume",
            {"SnapshotId": "snap-home", "TagSpecifications": specified(OURS, "volume")},
        ),
    ),
    (
        "make an image of a worker",
        (
            "ec2",
            "CreateImage",
            {"InstanceId": "i-owned", "TagSpecifications": specified(IMAGE, "image", "snapshot")},
        ),
    ),
    ("deregister another's image", ("ec2", "DeregisterImage", {"ImageId": "ami-theirs"})),
    (
        "cancel another cluster's spot request",
        ("ec2", "CancelSpotInstanceRequests", {"SpotInstanceRequestIds": ["sir-theirs"]}),
    ),
    (
        "read another cluster's console",
        ("ec2", "GetConsoleOutput", {"InstanceId": "i-theirs"}),
    ),
    ("read another cluster's key", ("ssm", "GetParameter", {"Name": "/ec2spawner/other/ssh-key"})),
    ("read another parameter", ("ssm", "GetParameter", {"Name": "/production/password"})),
    ("write its own key", ("ssm", "PutParameter", {"Name": f"{PARAMETER}/ssh-key"})),
    (
        "write the hub's configuration in the bucket",
        ("s3", "PutObject", {"Bucket": BUCKET, "Key": "config/server_config.json"}),
    ),
    (
        "write over a backup",
        ("s3", "PutObject", {"Bucket": BUCKET, "Key": "backup/hub/1.sqlite.gz"}),
    ),
    ("delete a backup", ("s3", "DeleteObject", {"Bucket": BUCKET, "Key": "backup/hub/1"})),
    (
        "delete the newest backup",
        ("s3", "DeleteObject", {"Bucket": BUCKET, "Key": "backup/newest/hub.sqlite.gz"}),
    ),
    (
        "change what the bucket deletes",
        ("s3", "PutLifecycleConfiguration", {"Bucket": BUCKET}),
    ),
    ("read another bucket", ("s3", "GetObject", {"Bucket": "other", "Key": "config/x"})),
    (
        "look at another cluster's stack",
        ("cloudformation", "GetTemplate", {"StackName": f"ec2spawner-{CLUSTER}2"}),
    ),
]


@pytest.mark.parametrize("call", [c for _, c in FORBIDDEN], ids=[n for n, _ in FORBIDDEN])
@pytest.mark.parametrize("uses_spot", ["yes", "no"])
def test_it_refuses_to(call: Call, uses_spot: str) -> None:
    assert not decide_all(manager_policy(UsesSpot=uses_spot), asked(call)).is_allowed


def test_the_same_acts_are_allowed_where_they_are_its_own() -> None:
    """So that a refusal above is one of the difference, and not of a call that is never allowed."""
    allowed: list[Call] = [
        ("ec2", "RunInstances", LAUNCH),
        ("ec2", "RunInstances", BUILD),
        ("ec2", "StartInstances", {"InstanceIds": ["i-owned"]}),
        ("ec2", "TerminateInstances", {"InstanceIds": ["i-spare", "i-deleted", "i-builder"]}),
        ("ec2", "DeleteVolume", {"VolumeId": "vol-spare"}),
        ("ec2", "ModifyInstanceAttribute", {"InstanceId": "i-owned", "InstanceType": {}}),
        ("ec2", "CreateTags", {"Resources": ["i-spare", "vol-home"], **TAG}),
        ("ec2", "AttachVolume", {"VolumeId": "vol-home", "InstanceId": "i-spare"}),
        ("ec2", "DeleteSnapshot", {"SnapshotId": "snap-home"}),
    ]
    for call in allowed:
        assert decide_all(manager_policy(UsesSpot="no"), asked(call)).is_allowed, call


def test_without_the_denial_somebodys_machine_could_be_ended() -> None:
    policy = manager_policy()
    without = {"Statement": [s for s in policy["Statement"] if s["Effect"] == "Allow"]}
    assert len(policy["Statement"]) - len(without["Statement"]) == 1
    for call in (
        ("ec2", "TerminateInstances", {"InstanceIds": ["i-owned"]}),
        ("ec2", "DeleteVolume", {"VolumeId": "vol-home"}),
    ):
        assert decide_all(without, asked(call)).is_allowed
        assert not decide_all(policy, asked(call)).is_allowed


STRAYS: list[Call] = [
    (
        "ec2",
        "CreateTags",
        {
            "Resources": ["i-stray"],
            "Tags": [
                {"Key": "ec2spawner:cluster", "Value": CLUSTER},
                {"Key": "ec2spawner:role", "Value": "worker"},
            ],
        },
    ),
    ("ec2", "RunInstances", {**LAUNCH, **SPOT, "TagSpecifications": specified(OURS, *LAUNCHED)}),
]


def test_what_only_spot_machines_need_is_there_only_for_them() -> None:
    world = World(
        REGION,
        ACCOUNT_ID,
        {"i-stray": {}},
        WORLD.templates,
        lambda resource_id: FACTS.get(resource_id, {"ec2:InstanceMarketType": "spot"}),
    )
    launch = {
        **LAUNCH,
        **SPOT,
        "TagSpecifications": specified(OURS, *LAUNCHED, "spot-instances-request"),
    }
    calls = [STRAYS[0], ("ec2", "RunInstances", launch)]
    for uses_spot, is_allowed in (("yes", True), ("no", False)):
        policy = manager_policy(UsesSpot=uses_spot)
        for call in calls:
            assert decide_all(policy, requests_of(world, *call)).is_allowed is is_allowed


# ---- its form


def test_a_star_stands_only_where_aws_knows_no_resource() -> None:
    """Describe of EC2, and the channels of Systems Manager (Service Authorization Reference)."""
    for statement in manager_policy()["Statement"]:
        actions, resources = statement["Action"], statement["Resource"]
        if "*" in ([resources] if isinstance(resources, str) else resources):
            listed = [actions] if isinstance(actions, str) else actions
            prefixes = {action.split(":")[0] for action in listed}
            is_looking = all(action.startswith("ec2:Describe") for action in listed)
            assert is_looking or prefixes == {"ec2messages", "ssmmessages"}, statement
        assert "*" not in json.dumps(actions), "no action by wildcard"


def test_every_resource_is_of_this_region_and_account() -> None:
    for statement in manager_policy()["Statement"]:
        named = statement["Resource"]
        for arn in [named] if isinstance(named, str) else named:
            if arn == "*":
                continue
            service, region, account = arn.split(":")[2:5]
            if service != "s3" and service != "iam":
                assert region == REGION, arn
            is_anybodys = service == "s3" or "::image/" in arn or "::snapshot/" in arn
            assert account == ("" if is_anybodys or "parameter/aws/" in arn else ACCOUNT_ID), arn


def test_its_parts_fit_even_with_long_names_and_many_subnets() -> None:
    place = Place("a" * 24, "ap-southeast-1", ACCOUNT_ID)
    subnet = f"arn:aws:ec2:{place.region}:{ACCOUNT_ID}:subnet/subnet-0123456789abcdef0"
    bucket = f"ec2spawner-{place.cluster}-{ACCOUNT_ID}-{place.region}"
    many = manager_parameters(WorkerSubnetArns=",".join([subnet] * 6), Bucket=bucket)
    text = (TEMPLATES / "manager.yaml").read_text()
    parts = role_policies(text, place, many)["ManagerRole"]
    sizes = {name: len("".join(json.dumps(p).split())) for name, p in parts.items()}
    assert set(sizes) == {"workers", "ManagerPolicy"}
    assert sizes["workers"] < INLINE_MAX_CHARACTERS
    assert sizes["ManagerPolicy"] < MANAGED_MAX_CHARACTERS
