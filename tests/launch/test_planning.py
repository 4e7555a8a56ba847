"""Decisions of ``up``, without AWS: what is wanted, what differs, what stands in the way."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2spawner.classes import ScheduledClass
from ec2spawner.model import InstanceState
from ec2spawner.settings import Choices, InstanceConfig, server_config_text
from launch_cluster.checking import find_obstacles
from launch_cluster.facts import (
    Facts,
    ImageFacts,
    KeyFacts,
    StackFacts,
    StackSpec,
    SubnetFacts,
    TypeFacts,
)
from launch_cluster.imaging import TAG_BASE, TAG_CONTENT, Builder, WorkerImage, recipe_of
from launch_cluster.planning import (
    ZONE_LETTERS,
    KeyChange,
    Package,
    Templates,
    cluster_spec,
    differences,
    key_change,
    make_plan,
    network_of,
    network_size,
    network_spec,
    server_config,
    subnet_cidrs,
    wanted_image,
    wanted_subnets,
    zones_of,
)
from launch_cluster.request import Options, UpRequest, read_request

PACKAGE = Package("digest", "6.1.1")
TEMPLATES = Templates(network="network", cluster="cluster")
REQUEST = UpRequest("bio", InstanceConfig(), Path("server_config.json"))
KIND = TypeFacts("t3.medium", ("x86_64",), True, ("us-east-1a", "us-east-1b", "us-east-1c"))
IMAGE = ImageFacts("ami-0123456789abcdef0", "x86_64", "/dev/sda1", 8)
KEY = KeyFacts("ssh-ed25519 A", "ssh-ed25519 A")
PROFILE = "arn:aws:iam::123456789012:instance-profile/builders"
EMPTY = Facts("1", kind=KIND, image=IMAGE, image_id=IMAGE.image_id)
SUBNETS = {
    name: SubnetFacts(name, "vpc-0123456789abcdef0", zone, 100)
    for name, zone in (
        ("subnet-0123456789abcdef0", "us-east-1a"),
        ("subnet-0123456789abcdef1", "us-east-1b"),
        ("subnet-0123456789abcdef2", "us-east-1a"),
    )
}
PRIVATE, PUBLIC = tuple(SUBNETS)[:2], tuple(SUBNETS)[2]
OWN = replace(REQUEST, private_subnets=PRIVATE, public_subnet=PUBLIC)
OWN_FACTS = replace(EMPTY, subnets=SUBNETS)


def made(spec: StackSpec, outputs: dict[str, str], status: str = "CREATE_COMPLETE") -> StackFacts:
    return StackFacts(
        spec.name, "id", status, spec.parameters, spec.tags, outputs, f"{spec.template}\n"
    )


NETWORK_OUTPUTS = {
    "VpcId": "vpc-0123456789abcdef0",
    "PrivateSubnetA": "subnet-0123456789abcdef0",
    "PrivateSubnetB": "subnet-0123456789abcdef1",
    "PublicSubnetA": "subnet-0123456789abcdef2",
    "PublicSubnetB": "subnet-0123456789abcdef3",
}
CLUSTER_OUTPUTS = {
    "WorkerSecurityGroupId": "sg-0123456789abcdef0",
    "ManagerSecurityGroupId": "sg-0123456789abcdef1",
    "LaunchTemplateId": "lt-0123456789abcdef0",
    "Bucket": "ec2spawner-bio-1-us-east-1",
    "BuilderProfileArn": "arn:aws:iam::123456789012:instance-profile/ec2spawner-bio",
}


def built(request: UpRequest = REQUEST, **tags: str) -> WorkerImage:
    """The worker image that ``request`` asks for."""
    recipe = recipe_of(request.choices, IMAGE.image_id, PACKAGE.digest, None)
    kinds = {TAG_CONTENT: recipe.content, TAG_BASE: IMAGE.image_id, **tags}
    worker, made_at = "ami-0123456789abcdef1", "2026-01-01T00:00:00.000Z"
    return WorkerImage(worker, "n", "available", made_at, "x86_64", "/dev/sda1", 12, tags=kinds)


def complete(request: UpRequest = REQUEST, facts: Facts = EMPTY) -> Facts:
    """The facts after ``request`` was carried out once."""
    if not request.private_subnets:
        network = made(network_spec(request, facts, TEMPLATES.network), NETWORK_OUTPUTS)
        facts = replace(facts, network=network)
    spec = cluster_spec(request, facts, TEMPLATES.cluster, network_of(request, facts))
    image = built(request)
    return replace(
        facts,
        key=KEY,
        cluster=made(spec, CLUSTER_OUTPUTS),
        worker_images=(image,),
        current_image=image.image_id,
    )


def text_of(request: UpRequest, facts: Facts) -> str:
    network = network_of(request, facts)
    assert network
    config = server_config(request, facts, network, CLUSTER_OUTPUTS)
    assert config
    return server_config_text(config)


def test_for_nothing_everything_is_planned() -> None:
    plan = make_plan(REQUEST, EMPTY, TEMPLATES, None, PACKAGE)
    assert plan.network
    assert plan.network.is_new
    assert plan.key is KeyChange.MAKE
    assert plan.cluster
    assert plan.cluster.is_new
    assert plan.config


@pytest.mark.parametrize(("request_", "facts"), [(REQUEST, EMPTY), (OWN, OWN_FACTS)])
def test_what_is_complete_has_nothing_to_do(request_: UpRequest, facts: Facts) -> None:
    done = complete(request_, facts)
    assert make_plan(request_, done, TEMPLATES, text_of(request_, done), PACKAGE).is_empty
    left_out = replace(request_, private_subnets=(), public_subnet=None)
    assert make_plan(left_out, done, TEMPLATES, text_of(request_, done), PACKAGE).is_empty


def test_own_subnets_need_no_network_stack() -> None:
    plan = make_plan(OWN, OWN_FACTS, TEMPLATES, None, PACKAGE)
    assert plan.network is None
    assert plan.cluster
    assert plan.cluster.spec.parameters["WorkerSubnetIds"] == ",".join(PRIVATE)


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "CREATE_FAILED"])
def test_remains_of_a_failed_creation_are_removed_first(status: str) -> None:
    done = complete()
    assert done.cluster
    remains = replace(done.cluster, status=status, stack_id="remains")
    plan = make_plan(REQUEST, replace(done, cluster=remains), TEMPLATES, None, PACKAGE)
    assert plan.cluster
    assert (plan.cluster.is_new, plan.cluster.remains) == (True, "remains")


def test_a_network_that_does_not_say_what_it_holds_gives_no_traceback() -> None:
    done = complete()
    assert done.network
    silent = replace(done, network=replace(done.network, outputs={}))
    assert make_plan(REQUEST, silent, TEMPLATES, None, PACKAGE).config


def test_differences_name_template_parameters_and_tags() -> None:
    stack = StackFacts("s", "id", "CREATE_COMPLETE", {"A": "1"}, {"t": "1"}, {}, "old")
    spec = StackSpec("s", "new", {"A": "2", "B": "3"}, {})
    assert differences(spec, stack) == (
        "the template",
        "A: 1 -> 2",
        "B: none -> 3",
        "tag t: 1 -> none",
    )


@pytest.mark.parametrize(
    ("private", "public", "change"),
    [
        (None, None, KeyChange.MAKE),
        ("a", None, KeyChange.IMPORT),
        (None, "a", KeyChange.REPLACE),
        ("a", "b", KeyChange.REPLACE),
        ("a", "a", None),
    ],
)
def test_the_key_converges_from_wherever_it_is(
    private: str | None, public: str | None, change: KeyChange | None
) -> None:
    assert key_change(replace(EMPTY, key=KeyFacts(private, public))) is change


def test_the_image_is_the_named_one_else_the_one_in_use_else_the_newest() -> None:
    image = built()
    named = replace(REQUEST, base_ami="ami-1")
    custom = replace(named, choices=InstanceConfig(CUSTOM_WORKER_AMI="ami-00000000000000001"))
    assert wanted_image(REQUEST, None) is None
    assert wanted_image(REQUEST, image) == IMAGE.image_id
    assert wanted_image(named, image) == "ami-1"
    assert wanted_image(custom, image) == "ami-00000000000000001"


@pytest.mark.parametrize(
    ("arn", "name", "profile"),
    [
        (None, "none", "none"),
        ("arn:aws:iam::123456789012:role/team/builders", "builders", "none"),
        (PROFILE, "none", PROFILE),
    ],
)
def test_the_builders_role_is_the_named_one_else_that_of_the_last_run_else_made(
    arn: str | None, name: str, profile: str
) -> None:
    request = replace(REQUEST, builder_role=arn)
    done = complete(request)
    assert done.cluster
    given = done.cluster.parameters
    assert (given["BuilderRoleName"], given["BuilderProfileArn"]) == (name, profile)
    assert given["BuilderRoleArn"] == (arn if name != "none" else "none")
    assert make_plan(REQUEST, done, TEMPLATES, text_of(REQUEST, done), PACKAGE).is_empty


def with_profile(request: UpRequest, *types: str) -> UpRequest:
    profiles = [{"SLUG": "usual", "NAME": "Usual", "INSTANCE_TYPES": types}]
    choices = InstanceConfig.model_validate_json(json.dumps({"PROFILES": profiles}))
    return replace(request, choices=choices)


def test_every_type_of_a_profile_must_run_the_one_image() -> None:
    request = with_profile(REQUEST, "t3.medium", "m7g.large")
    assert request.worker_types == ("t3.medium", "m7g.large")
    arm = replace(KIND, name="m7g.large", architectures=("arm64",))
    kinds = {"t3.medium": KIND, "m7g.large": arm}
    (finding,) = find_obstacles(request, replace(EMPTY, kinds=kinds))
    assert "m7g.large in PROFILES runs arm64" in str(finding)
    (finding,) = find_obstacles(request, replace(EMPTY, kinds={**kinds, "m7g.large": None}))
    assert "is not there in this Region" in str(finding)
    x86 = replace(arm, architectures=("x86_64",))
    assert find_obstacles(request, replace(EMPTY, kinds={**kinds, "m7g.large": x86})) == []


def test_every_type_of_a_profile_needs_nvme_volumes_and_a_zone_of_the_workers() -> None:
    request = with_profile(REQUEST, "t3.medium", "g5.xlarge")
    gpu = replace(KIND, name="g5.xlarge", zones=("us-east-1f",))
    facts = replace(EMPTY, kinds={"t3.medium": KIND, "g5.xlarge": gpu})
    (finding,) = find_obstacles(request, facts)
    assert "g5.xlarge in PROFILES is offered in none of the workers' zones" in str(finding)
    (finding,) = find_obstacles(
        with_profile(OWN, "t3.medium", "g5.xlarge"), replace(facts, subnets=SUBNETS)
    )
    assert "but in us-east-1f" in str(finding)
    old = replace(gpu, zones=KIND.zones, has_nvme=False)
    (finding,) = find_obstacles(request, replace(facts, kinds={"t3.medium": KIND, "x": old}))
    assert "has no NVMe volumes" in str(finding)


def test_a_new_network_has_the_zones_that_offer_all_types() -> None:
    wide = replace(KIND, zones=("us-east-1a", "us-east-1b", "us-east-1c", "us-east-1d"))
    gpu = replace(KIND, name="g5.xlarge", zones=("us-east-1b", "us-east-1d"))
    facts = replace(EMPTY, kind=wide, kinds={"t3.medium": wide, "g5.xlarge": gpu})
    request = with_profile(REQUEST, "t3.medium", "g5.xlarge")
    assert network_size(request, facts)[1] == ("us-east-1b", "us-east-1d")
    assert network_size(replace(request, zones=3), facts)[1][2] == "us-east-1a"


def test_a_plan_shows_builders_that_an_earlier_run_left() -> None:
    left = Builder("i-1", InstanceState.STOPPED, "x", 3 * 3600)
    done = replace(complete(), builders=(left,))
    plan = make_plan(REQUEST, done, TEMPLATES, text_of(REQUEST, done), PACKAGE)
    assert plan.builders == ("i-1",)
    assert not plan.is_empty


def test_the_newest_base_is_looked_for_where_it_is_asked_for() -> None:
    assert wanted_image(replace(REQUEST, newest_base=True), built()) is None


def test_subnets_are_the_named_ones_else_those_of_the_last_run() -> None:
    own = complete(OWN, OWN_FACTS).cluster
    ours = complete()
    assert wanted_subnets(REQUEST, None, None) == ((), None)
    assert wanted_subnets(REQUEST, None, own) == (PRIVATE, PUBLIC)
    assert wanted_subnets(REQUEST, ours.network, ours.cluster) == ((), None)


def test_an_existing_network_keeps_addresses_and_zones() -> None:
    done = complete(replace(REQUEST, vpc_cidr="127.77.0.0/16"))
    moved = replace(done, kind=replace(KIND, zones=("us-east-1c", "us-east-1d")))
    spec = network_spec(REQUEST, moved, TEMPLATES.network)
    assert spec.parameters["VpcCidr"] == "127.77.0.0/16"
    assert (spec.parameters["ZoneA"], spec.parameters["ZoneB"]) == ("us-east-1a", "us-east-1b")


@pytest.mark.parametrize(("asked", "count"), [(None, 2), (2, 2), (3, 3), (4, 4)])
def test_a_network_has_as_many_zones_as_are_asked_for(asked: int | None, count: int) -> None:
    request = replace(REQUEST, zones=asked)
    offered = tuple(f"us-east-1{letter}" for letter in "abcdef")
    facts = replace(EMPTY, kind=replace(KIND, zones=offered))
    spec = network_spec(request, facts, TEMPLATES.network)
    assert zones_of(spec.parameters) == offered[:count]
    private = [spec.parameters[f"PrivateCidr{letter}"] for letter in ZONE_LETTERS]
    assert [bool(cidr) for cidr in private] == [i < count for i in range(4)]
    ids = {f"PrivateSubnet{x}": f"subnet-0000000{i}" for i, x in enumerate(ZONE_LETTERS[:count])}
    stack = made(spec, {"VpcId": "vpc-1", "PublicSubnetA": "subnet-00000009", **ids})
    network = network_of(REQUEST, replace(facts, network=stack))
    assert network
    assert [s.ZONE for s in network.worker_subnets] == list(offered[:count])
    assert [s.SUBNET_ID for s in network.worker_subnets] == list(ids.values())
    again = network_spec(REQUEST, replace(facts, network=stack), TEMPLATES.network)
    assert again.parameters == spec.parameters  # the option need not be said again


@pytest.mark.parametrize(
    ("zones", "offered", "network", "words"),
    [
        (3, 2, None, "too few zones for a network (us-east-1a, us-east-1b)"),
        (None, 1, None, "too few zones"),
        (3, 6, 2, "--zones 3 cannot change the network, which was made over 2 zones"),
        (2, 6, 2, ""),
        (None, 6, 2, ""),
        (4, 6, None, ""),
    ],
)
def test_zones_that_cannot_be_had_are_found_before(
    zones: int | None, offered: int, network: int | None, words: str
) -> None:
    kind = replace(KIND, zones=tuple(f"us-east-1{letter}" for letter in "abcdef"[:offered]))
    facts = complete() if network else EMPTY
    found = find_obstacles(replace(REQUEST, zones=zones), replace(facts, kind=kind))
    assert [words in str(f) for f in found] == [True] * bool(words)


@given(prefix=st.integers(16, 24), start=st.integers(0, 255), zones=st.integers(2, 4))
def test_subnets_lie_in_the_vpc_do_not_overlap_and_are_large_enough(
    prefix: int, start: int, zones: int
) -> None:
    vpc = ipaddress.IPv4Network(f"10.{start}.0.0/{prefix}")
    cidrs = [cidr for cidr in subnet_cidrs(str(vpc), zones).values() if cidr]
    assert len(cidrs) == 2 + zones
    parts = [ipaddress.IPv4Network(text) for text in cidrs]
    assert all(part.subnet_of(vpc) and part.prefixlen <= 28 for part in parts)
    assert not any(a.overlaps(b) for a in parts for b in parts if a is not b)


def test_the_hubs_address_of_the_last_run_is_kept_unless_another_is_given() -> None:
    first = replace(REQUEST, hub_connect_url="http://hub:9000", hub_address="127.0.0.1")
    done = complete(first)
    network = network_of(first, done)
    assert network
    recorded = server_config(first, done, network, CLUSTER_OUTPUTS)
    again = replace(done, recorded=recorded)
    assert text_of(REQUEST, again) == text_of(first, done)
    other = replace(REQUEST, hub_connect_url="https://hub")
    spec = cluster_spec(other, again, TEMPLATES.cluster, network)
    assert spec.parameters["HubApiPort"] == "443"


def test_a_class_schedule_is_copied_at_the_first_launch_and_then_kept_as_it_is_there() -> None:
    entry = ScheduledClass(WEEKDAY="monday", TIME="09:15", TIME_ZONE="Europe/Berlin", COUNT=30)
    first = replace(REQUEST, choices=InstanceConfig(CLASS_SCHEDULE=(entry,)))
    done = complete(first)
    network = network_of(first, done)
    assert network
    recorded = server_config(first, done, network, CLUSTER_OUTPUTS)
    assert recorded
    assert list(recorded.CLASS_SCHEDULE) == [entry]
    again = replace(done, recorded=recorded)
    assert text_of(REQUEST, again) == text_of(first, done)
    told = [n for n in make_plan(REQUEST, again, TEMPLATES, None, PACKAGE).notices if "CLASS_" in n]
    assert len(told) == 1
    assert "edit it there" in told[0]
    assert not [
        n for n in make_plan(first, again, TEMPLATES, None, PACKAGE).notices if "CLASS_" in n
    ]


def test_what_the_choices_say_of_people_comes_before_what_was_edited() -> None:
    done = complete(REQUEST)
    network = network_of(REQUEST, done)
    assert network
    recorded = server_config(REQUEST, done, network, CLUSTER_OUTPUTS)
    assert recorded
    edited = recorded.model_copy(update={"AUTHENTICATOR": "github", "ADMIN_USERS": ("ann",)})
    again = replace(done, recorded=edited)
    kept = server_config(REQUEST, again, network, CLUSTER_OUTPUTS)
    assert kept
    assert (kept.AUTHENTICATOR, kept.ADMIN_USERS) == ("github", ("ann",))
    chosen = replace(REQUEST, choices=InstanceConfig(AUTHENTICATOR="google"))
    told = server_config(chosen, again, network, CLUSTER_OUTPUTS)
    assert told
    assert (told.AUTHENTICATOR, told.ADMIN_USERS) == ("google", ("ann",))


@pytest.mark.parametrize("more", [{}, {"region": "eu-west-1"}])
def test_what_the_choices_do_not_say_stays_unsaid_beside_the_options(
    more: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("instance_config.json").write_text('{"ADMIN_USERS": ["ann"]}')
    request, _ = read_request(Options("bio", **more))  # type: ignore[arg-type]
    said = request.choices.model_fields_set & set(Choices.model_fields)
    assert said == {"ADMIN_USERS", *({"REGION"} if more else ())}


ALIVE = "UPDATE_COMPLETE"


def obstacles(request: UpRequest = REQUEST, **changes: Any) -> list[str]:
    return [str(f) for f in find_obstacles(request, replace(OWN_FACTS, **{"key": KEY, **changes}))]


def broken(status: str) -> StackFacts:
    return replace(complete().cluster or made(StackSpec("", "", {}, {}), {}), status=status)


NAMED = {"parameters": {"ClusterName": "zoo"}, "tags": {}}
TAGGED = {"parameters": {}, "tags": {"ec2spawner:cluster": "zoo"}}


def anothers(marks: dict[str, Any]) -> StackFacts:
    """A stack that bears our stack's name, and another cluster's mark."""
    return StackFacts(REQUEST.cluster_stack, "id", "CREATE_COMPLETE", **marks)


@pytest.mark.parametrize(
    ("request_", "changes", "words"),
    [
        (REQUEST, {"kind": None}, "t3.medium is not a type in us-east-1"),
        (REQUEST, {"kind": replace(KIND, has_nvme=False)}, "has no NVMe volumes"),
        (REQUEST, {"kind": replace(KIND, zones=("us-east-1a",))}, "in too few zones"),
        (REQUEST, {"image": None}, "ami-0123456789abcdef0 does not exist in us-east-1"),
        (REQUEST, {"image": None, "image_id": None}, "The newest Ubuntu 24.04 cannot be found"),
        (REQUEST, {"image": replace(IMAGE, state="pending")}, "is pending, not available"),
        (REQUEST, {"image": replace(IMAGE, is_ebs=False)}, "has no EBS root disk"),
        (REQUEST, {"image": replace(IMAGE, architecture="arm64")}, "is for arm64"),
        (REQUEST, {"image": replace(IMAGE, root_gib=30)}, "Write at least 30"),
        (REQUEST, {"cluster": broken("UPDATE_ROLLBACK_FAILED")}, "UPDATE_ROLLBACK_FAILED"),
        (OWN, {"subnets": {PUBLIC: SUBNETS[PUBLIC]}}, f"The subnet {PRIVATE[0]} does not exist"),
        (
            OWN,
            {"subnets": {**SUBNETS, PRIVATE[0]: replace(SUBNETS[PRIVATE[0]], free_addresses=0)}},
            "has no free address",
        ),
        (
            OWN,
            {"subnets": {**SUBNETS, PRIVATE[0]: replace(SUBNETS[PRIVATE[0]], state="pending")}},
            "is pending",
        ),
        (
            OWN,
            {"subnets": {**SUBNETS, PUBLIC: replace(SUBNETS[PUBLIC], vpc_id="vpc-2")}},
            "lie in several VPCs",
        ),
        (replace(OWN, public_subnet=PRIVATE[0]), {}, "as private and as public"),
        (OWN, {"kind": replace(KIND, zones=("us-east-1f",))}, "t3.medium is not offered"),
        (REQUEST, {"key": KeyFacts(None, "a"), "workers": 3}, "is lost, and 3 workers"),
        (REQUEST, {"key": KeyFacts("b", "a"), "workers": 3}, "does not belong to the key pair"),
        (REQUEST, {"key": KeyFacts(), "workers": 3}, "is lost, and 3 workers"),
        (REQUEST, {"cluster": anothers(TAGGED)}, "ec2spawner-bio belongs to the cluster zoo"),
        (REQUEST, {"cluster": anothers(NAMED)}, "ec2spawner-bio belongs to the cluster zoo"),
        (REQUEST, {"network": anothers(TAGGED)}, "ec2spawner-bio belongs to the cluster zoo"),
        (REQUEST, {"network": anothers(NAMED)}, "ec2spawner-bio belongs to the cluster zoo"),
        (
            REQUEST,
            {"cluster": replace(anothers(NAMED), status="ROLLBACK_COMPLETE")},
            "ec2spawner-bio belongs to the cluster zoo",
        ),
    ],
)
def test_each_obstacle_is_found_and_says_what_to_do(
    request_: UpRequest, changes: dict[str, Any], words: str
) -> None:
    found = obstacles(request_, **changes)
    assert [f for f in found if words in f], found
    assert all(f.endswith(".") for f in found)


def test_another_clusters_stack_is_one_obstacle_whatever_it_holds() -> None:
    wide = replace(REQUEST, vpc_cidr="10.0.0.0/16", private_subnets=PRIVATE)
    found = obstacles(wide, network=replace(anothers(NAMED), status="UPDATE_ROLLBACK_FAILED"))
    assert len(found) == 1
    assert "Choose another name" in found[0]


def test_all_obstacles_are_found_at_once() -> None:
    found = obstacles(OWN, kind=None, image=None, subnets={}, key=KeyFacts(None, "a"), workers=1)
    assert len(found) == 6


@pytest.mark.parametrize(
    ("key", "value"),
    [("WORKER_SSH_PORT", 2022), ("WORKER_NOTEBOOK_PORT", 9999), ("WORKER_USERNAME", "ada")],
)
def test_what_machines_in_use_have_is_not_changed_beneath_them(key: str, value: Any) -> None:
    done = complete(OWN, OWN_FACTS)
    network = network_of(OWN, done)
    assert network
    facts = replace(done, recorded=server_config(OWN, done, network, CLUSTER_OUTPUTS))
    changed = replace(OWN, choices=OWN.choices.model_copy(update={key: value}))
    assert find_obstacles(changed, replace(facts, workers=0)) == []
    (found,) = find_obstacles(changed, replace(facts, workers=3))
    assert str(found).startswith(f"{key} {value} ")
    assert "is not what the 3 workers that there are have" in str(found)
    assert "launch-cluster terminate-workers bio" in str(found)
    assert find_obstacles(OWN, replace(facts, workers=3)) == []


@pytest.mark.parametrize("request_", [REQUEST, OWN])
def test_where_all_is_well_there_is_no_obstacle(request_: UpRequest) -> None:
    assert obstacles(request_) == []
    assert find_obstacles(request_, complete(request_, OWN_FACTS)) == []
    for lost in (KeyFacts(None, "a"), KeyFacts()):
        assert obstacles(request_, key=lost, workers=0) == []
    assert obstacles(request_, key=KeyFacts("a", None), workers=3) == []


def test_a_zone_without_the_type_is_noted_when_another_has_it() -> None:
    facts = replace(OWN_FACTS, kind=replace(KIND, zones=("us-east-1a",)))
    plan = make_plan(OWN, facts, TEMPLATES, None, PACKAGE)
    assert [n for n in plan.notices if PRIVATE[1] in n]
    assert find_obstacles(OWN, replace(facts, key=KEY)) == []
