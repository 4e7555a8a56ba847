"""The manager's stack as it is planned, without AWS."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from ec2spawner.manager.place import CHOICES_KEY, SERVER_CONFIG_KEY
from ec2spawner.profiles import ProfileChoice
from ec2spawner.settings import InstanceConfig, WorkerSubnet
from ec2spawner.version import __version__
from launch_cluster.answering import (
    Answer,
    HubSilent,
    Site,
    look_at,
    wait_for_hub,
    words_of,
)
from launch_cluster.facts import (
    Facts,
    ImageFacts,
    ManagerFacts,
    PackageFacts,
    StackFacts,
    TypeFacts,
)
from launch_cluster.hosting import (
    LASTING,
    manager_obstacles,
    manager_spec,
    notices_of_image,
    plan_manager,
    with_unknown_image,
    without_instance,
)
from launch_cluster.imaging import (
    TAG_PACKAGE,
    TAG_VERSION,
    ImageChange,
    ImageStep,
    Recipe,
    WorkerImage,
    take_custom,
)
from launch_cluster.looking import parse_image
from launch_cluster.manager_request import ManagerOptions, ManagerRequest, read_manager
from launch_cluster.planning import ManagerPlan, Network
from launch_cluster.provisioning import DATA_VOLUME, check_script
from launch_cluster.reporter import Reporter
from launch_cluster.request import UpRequest
from launch_cluster.stacks import changes_of
from launch_cluster.vpcs import FoundSubnets, sort_subnets

from .test_planning import CLUSTER_OUTPUTS, REQUEST

KIND = TypeFacts("t3.medium", ("x86_64",), True, ("us-east-1a", "us-east-1b"))
IMAGE = ImageFacts("ami-0123456789abcdef0", "x86_64", "/dev/sda1", 8)
NETWORK = Network(
    "vpc-0123456789abcdef0",
    (
        WorkerSubnet(SUBNET_ID="subnet-0123456789abcdef0", ZONE="us-east-1a"),
        WorkerSubnet(SUBNET_ID="subnet-0123456789abcdef1", ZONE="us-east-1b"),
    ),
    "subnet-0123456789abcdef2",
)
ASKED = replace(REQUEST, manager=ManagerRequest())
EMPTY = Facts("1", manager=ManagerFacts(kind=KIND, image=IMAGE))
TEMPLATE = "manager"
FILES = {SERVER_CONFIG_KEY: "config", CHOICES_KEY: "choices"}
SCRIPT = f"head {DATA_VOLUME} tail"


def planned(request: UpRequest = ASKED, facts: Facts = EMPTY, files: Any = FILES) -> ManagerPlan:
    return plan_manager(request, facts, TEMPLATE, NETWORK, CLUSTER_OUTPUTS, files)


def spec_of(request: UpRequest = ASKED, facts: Facts = EMPTY) -> Any:
    return manager_spec(request, facts, TEMPLATE, NETWORK, CLUSTER_OUTPUTS, SCRIPT)


def with_stack(request: UpRequest = ASKED, *, lives: bool = True, **changes: Any) -> Facts:
    """The facts after ``request`` was carried out once."""
    spec = spec_of(request)
    if not lives:
        spec = without_instance(spec, None)
    outputs = {"PrivateAddress": "10.0.0.5", "PublicAddress": "198.51.100.7"}
    stack = StackFacts(
        spec.name, "id", "CREATE_COMPLETE", spec.parameters, spec.tags, outputs, spec.template
    )
    known = ManagerFacts(stack, KIND, IMAGE, files=FILES)
    return replace(EMPTY, manager=replace(known, **changes))


def test_without_a_manager_nothing_is_planned() -> None:
    assert planned(REQUEST).is_empty


def test_addresses_and_data_come_first_then_the_files_then_the_machine() -> None:
    plan = planned()
    assert plan.before
    assert plan.before.is_new
    assert plan.before.spec.parameters["WithInstance"] == "no"
    assert plan.files == (SERVER_CONFIG_KEY, CHOICES_KEY)
    assert plan.instance
    assert plan.instance.spec.parameters["WithInstance"] == "yes"
    assert (plan.starts, plan.replaces) == (True, False)


def test_what_is_complete_has_nothing_to_do() -> None:
    assert planned(facts=with_stack()).is_empty


def test_a_stack_without_its_machine_gets_it_by_one_update() -> None:
    plan = planned(facts=with_stack(lives=False))
    assert plan.before is None
    assert plan.starts


def test_what_changes_beside_the_machine_is_one_update_in_place() -> None:
    asked = replace(ASKED, manager=ManagerRequest(ssh_cidr="203.0.113.0/24"))
    plan = planned(asked, with_stack())
    assert plan.before is None
    assert plan.instance
    assert plan.instance.differences == ("SshCidr: none -> 203.0.113.0/24",)
    assert not plan.starts


OF_NEW = ImageStep(ImageChange.BUILD, "", Recipe("ami-0", "new"))


@pytest.mark.parametrize(
    ("tags", "step", "asked", "lives", "is_said"),
    [
        ({TAG_PACKAGE: "old", TAG_VERSION: "0"}, OF_NEW, ManagerRequest(), True, True),
        ({TAG_VERSION: "0"}, OF_NEW, ManagerRequest(), True, True),  # built before it had the tag
        ({TAG_VERSION: __version__}, OF_NEW, ManagerRequest(), True, False),
        ({TAG_PACKAGE: "new", TAG_VERSION: "0"}, OF_NEW, ManagerRequest(), True, False),
        ({TAG_PACKAGE: "old"}, None, ManagerRequest(), True, False),
        ({TAG_PACKAGE: "old"}, take_custom("ami-2", "ami-1"), ManagerRequest(), True, False),
        ({TAG_PACKAGE: "old"}, OF_NEW, ManagerRequest(is_upgraded=True), True, False),
        ({TAG_PACKAGE: "old"}, OF_NEW, ManagerRequest(may_be_replaced=True), True, False),
        ({TAG_PACKAGE: "old"}, OF_NEW, ManagerRequest(), False, False),
        ({TAG_PACKAGE: "old"}, OF_NEW, None, True, False),
    ],
)
def test_it_is_said_where_workers_get_another_package_than_the_hub_that_stays(
    tags: dict[str, str],
    step: ImageStep | None,
    asked: ManagerRequest | None,
    lives: bool,
    is_said: bool,
) -> None:
    old = WorkerImage("ami-1", "n", "available", "then", "x86_64", "/dev/sda1", 8, tags=tags)
    facts = replace(with_stack(lives=lives), worker_images=(old,), current_image="ami-1")
    said = notices_of_image(replace(ASKED, manager=asked), facts, step)
    assert ["launch-cluster up bio --upgrade" in words for words in said] == [True] * is_said


@pytest.mark.parametrize("key", LASTING)
def test_what_would_make_another_machine_stays_as_it_is_while_it_lives(key: str) -> None:
    facts = with_stack()
    assert facts.manager
    assert facts.manager.stack
    changed = {**facts.manager.stack.parameters, key: "as it was"}
    stack = replace(facts.manager.stack, parameters=changed)
    facts = replace(facts, manager=replace(facts.manager, stack=stack))
    assert planned(facts=facts).is_empty
    gone = {**changed, "WithInstance": "no"}
    facts = replace(facts, manager=replace(facts.manager, stack=replace(stack, parameters=gone)))
    plan = planned(facts=facts)
    assert plan.instance
    is_remembered = key == "KeyName"  # an option
    assert (plan.instance.spec.parameters[key] == "as it was") is is_remembered


def test_a_replacement_ends_the_machine_and_makes_it_again_in_two_updates() -> None:
    asked = replace(ASKED, manager=ManagerRequest(may_be_replaced=True))
    plan = planned(asked, with_stack())
    assert plan.before
    assert plan.before.differences == ("WithInstance: yes -> no",)
    assert plan.instance
    assert (plan.starts, plan.replaces) == (True, True)


def test_a_permission_to_replace_what_is_not_there_ends_nothing() -> None:
    asked = replace(ASKED, manager=ManagerRequest(may_be_replaced=True))
    plan = planned(asked, with_stack(lives=False))
    assert (plan.before, plan.replaces) == (None, False)


def test_a_manager_that_is_made_of_the_workers_base_must_have_the_agent() -> None:
    assert EMPTY.manager
    assert EMPTY.manager.image
    own = replace(ASKED, base_ami=EMPTY.manager.image.image_id)
    assert any("amazon-ssm-agent" in notice for notice in planned(own).notices)
    assert not any("agent" in n for n in planned(replace(own, base_ami="ami-1")).notices)
    assert not any("agent" in n for n in planned(own, with_stack(own)).notices)


def test_only_files_that_differ_are_written() -> None:
    stale = with_stack(files={**FILES, SERVER_CONFIG_KEY: "old"})
    assert planned(facts=stale).files == (SERVER_CONFIG_KEY,)


CONFIG = {"WORKER_AMI_ID": "ami-1", "POOL_RUNNING": 0}


@pytest.mark.parametrize(
    ("changes", "refreshes"),
    [
        ({}, False),
        ({"WORKER_AMI_ID": "ami-2"}, False),
        ({"POOL_RUNNING": 3}, True),
        ({"WORKER_AMI_ID": "ami-2", "POOL_RUNNING": 3}, True),
    ],
)
def test_a_hub_takes_over_what_matters_to_it(changes: dict[str, Any], refreshes: bool) -> None:
    """The workers' image does not: it comes out of SSM."""
    known = {SERVER_CONFIG_KEY: json.dumps(CONFIG), CHOICES_KEY: "{}"}
    new = {**known, SERVER_CONFIG_KEY: json.dumps({**CONFIG, **changes})}
    plan = planned(facts=with_stack(files=known), files=new)
    assert plan.files == ((SERVER_CONFIG_KEY,) if changes else ())
    assert plan.refreshes is refreshes
    pending = {**known, SERVER_CONFIG_KEY: with_unknown_image(new[SERVER_CONFIG_KEY])}
    plan = planned(facts=with_stack(files=known), files=pending)
    assert plan.files == (SERVER_CONFIG_KEY,)
    assert plan.refreshes is refreshes


def test_what_is_due_or_unreadable_is_taken_over_whatever_the_files_say() -> None:
    assert planned(facts=with_stack(is_refresh_due=True)).refreshes
    assert planned(facts=with_stack(files={**FILES, CHOICES_KEY: "other"})).refreshes
    assert not planned(facts=with_stack(lives=False, is_refresh_due=True)).refreshes


def test_a_hub_that_says_that_it_has_the_package_is_left_alone() -> None:
    package = PackageFacts("a" * 64, "b" * 16)
    for release, due in (("b" * 16, None), ("c" * 16, package), ("", package)):
        assert planned(facts=with_stack(package=package, release=release)).package == due


def test_the_script_is_cut_where_the_volumes_id_goes() -> None:
    parameters = spec_of().parameters
    assert (parameters["UserDataHead"], parameters["UserDataTail"]) == ("head ", " tail")


@pytest.mark.parametrize("script", ["no volume", f"{DATA_VOLUME}{DATA_VOLUME}", "x" * 5000])
def test_a_script_that_does_not_fit_is_an_error(script: str) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        check_script(script)
    assert check_script(SCRIPT) == SCRIPT


@pytest.mark.parametrize(
    ("arn", "names"),
    [
        ("arn:aws:iam::123456789012:role/path/hub", ("hub", "none")),
        ("arn:aws-cn:iam::123456789012:instance-profile/hub", ("none", "hub")),
    ],
)
def test_a_role_or_a_profile_of_others(arn: str, names: tuple[str, str]) -> None:
    request, faults = read_manager(ManagerOptions(role_arn=arn), None)
    assert faults == []
    parameters = spec_of(replace(ASKED, manager=request)).parameters
    assert (parameters["GivenRoleName"], parameters["GivenProfileName"]) == names


@pytest.mark.parametrize(("kind", "option"), [("t3a.small", "standard"), ("m7i.large", "")])
def test_a_manager_is_told_not_to_borrow_cpu_credits_if_it_has_any(kind: str, option: str) -> None:
    choices = InstanceConfig(MANAGER_INSTANCE_TYPE=kind)
    assert spec_of(replace(ASKED, choices=choices)).parameters["CpuCredits"] == option


def test_spot_rights_are_asked_for_where_a_profile_is_on_the_spot_market() -> None:
    spot = ProfileChoice(SLUG="a", NAME="A", INSTANCE_TYPES=("t3.medium",), MARKET="spot")
    choices = InstanceConfig(PROFILES=(spot,))
    assert spec_of().parameters["UsesSpot"] == "no"
    assert spec_of(replace(ASKED, choices=choices)).parameters["UsesSpot"] == "yes"


@pytest.mark.parametrize(
    ("changes", "asked", "words"),
    [
        ({"kind": None}, {}, "MANAGER_INSTANCE_TYPE t3.medium is not a type"),
        ({"kind": replace(KIND, has_nvme=False)}, {}, "has no NVMe volumes"),
        ({"zone": "us-east-1f"}, {}, "is not offered in us-east-1f"),
        ({"image": None}, {}, "An image for the manager cannot be found"),
        ({"image": replace(IMAGE, architecture="arm64")}, {}, "manager's image is for arm64"),
        ({"has_key": False}, {"key_name": "x"}, "--key-name x is not a key pair"),
        ({}, {"key_name": "x"}, "would replace the manager's machine"),
        ({}, {"email": "a@b.org"}, "is for certificates"),
    ],
)
def test_each_obstacle_is_found_and_says_what_to_do(
    changes: dict[str, Any], asked: dict[str, Any], words: str
) -> None:
    facts = with_stack(**changes) if changes else with_stack()
    request = replace(ASKED, manager=ManagerRequest(**asked))
    found = [str(f) for f in manager_obstacles(request, facts, None)]
    assert [f for f in found if words in f], found
    assert all(f.endswith(".") for f in found)


def test_where_all_is_well_there_is_no_obstacle() -> None:
    public = "subnet-0123456789abcdef2"
    assert list(manager_obstacles(ASKED, with_stack(), public)) == []
    assert list(manager_obstacles(ASKED, EMPTY, public)) == []
    allowed = replace(ASKED, manager=ManagerRequest(key_name="x", may_be_replaced=True))
    assert list(manager_obstacles(allowed, with_stack(), None)) == []


def test_the_managers_subnet_cannot_become_another() -> None:
    found = [str(f) for f in manager_obstacles(ASKED, with_stack(), "subnet-0000000000000000f")]
    assert len(found) == 1
    assert "its address and its data would stay behind" in found[0]


# ---- change sets


def test_only_disks_make_another_machine_of_one_whose_root_is_a_volume() -> None:
    def change(name: str, recreation: str, replacement: str) -> bool:
        target = {"Name": name, "RequiresRecreation": recreation}
        resource = {
            "Action": "Modify",
            "LogicalResourceId": "Manager",
            "ResourceType": "AWS::EC2::Instance",
            "Replacement": replacement,
            "Details": [{"Target": target}],
        }
        (found,) = changes_of({"Changes": [{"ResourceChange": resource}]})
        return found.is_replaced

    assert not change("InstanceType", "Conditionally", "Conditional")
    assert not change("Tags", "Never", "False")
    assert change("BlockDeviceMappings", "Conditionally", "Conditional")
    assert change("ImageId", "Always", "True")


# ---- a VPC of others


def table(*, main: bool = False, subnets: tuple[str, ...] = (), **route: str) -> dict[str, Any]:
    return {
        "VpcId": "vpc-1",
        "Associations": [{"Main": main}, *({"SubnetId": s} for s in subnets)],
        "Routes": [{"DestinationCidrBlock": "0.0.0.0/0", **route}],
    }


def test_subnets_are_told_apart_by_their_default_routes() -> None:
    subnets = [
        {"SubnetId": f"s-{number}", "AvailabilityZone": zone, "VpcId": "vpc-1"}
        for number, zone in ((4, "b"), (1, "a"), (2, "a"), (3, "b"), (5, "c"), (6, "c"), (7, "c"))
    ]
    tables = [
        table(main=True, NatGatewayId="nat-1"),
        table(subnets=("s-2", "s-3"), GatewayId="igw-1"),
        {"VpcId": "vpc-1", "Associations": [{"SubnetId": "s-5"}], "Routes": []},
        table(subnets=("s-6",), NetworkInterfaceId="eni-1"),
        table(subnets=("s-7",), NatGatewayId="nat-2", State="blackhole"),
    ]
    assert sort_subnets(subnets, tables) == FoundSubnets(("s-1", "s-4", "s-6"), ("s-2", "s-3"))
    assert sort_subnets(subnets, []) == FoundSubnets()


# ---- the wait


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


async def waited(answers: list[Answer], console: str = "") -> tuple[Answer, float]:
    clock = Clock()

    async def said() -> str:
        return console

    left = iter(answers)
    answer = await wait_for_hub(
        Site("198.51.100.7"),
        said,
        Reporter(),
        look=lambda site: next(left, Answer(False)),
        sleep=clock.sleep,
        clock=clock,
    )
    return answer, clock.now


async def test_the_wait_ends_with_the_first_answer() -> None:
    answer, seconds = await waited([Answer(False)] * 20 + [Answer(True, is_unnamed=True)])
    assert answer == Answer(True, is_unnamed=True)
    assert 0 < seconds < 60
    assert (await waited([Answer(True)]))[1] == 0


async def test_the_wait_is_bounded_and_shows_the_console(capsys: Any) -> None:
    lines = "\n".join(f"ec2spawner-manager: phase {n}" for n in range(40))
    with pytest.raises(HubSilent) as caught:
        await waited([], lines)
    assert len(caught.value.faults) == 15
    assert ": 39, 10 s" in capsys.readouterr().err


async def test_a_script_that_failed_ends_the_wait_at_once() -> None:
    with pytest.raises(HubSilent, match="could not be set up") as caught:
        await waited([], "ec2spawner-manager: failed no network\n")
    assert "--replace-manager" in caught.value.next_step


@pytest.mark.parametrize("domain", ["", "hub.invalid"])
@pytest.mark.parametrize(("status", "is_up"), [(200, True), (308, False), (301, False)])
async def test_only_the_hub_s_own_word_counts(domain: str, status: int, is_up: bool) -> None:
    """Caddy leads on to HTTPS also where the hub is dead."""
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[0])
        head = f"HTTP/1.1 {status} x\r\nLocation: https://hub.invalid/\r\n"
        writer.write(f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        found = await asyncio.to_thread(look_at, Site("127.0.0.1", domain, port))
    assert found == Answer(is_up, is_unnamed=bool(domain))
    assert asked == ["GET /hub/health HTTP/1.1"]


def test_a_name_that_leads_nowhere_is_not_told_as_the_hub_s_address() -> None:
    site = Site("198.51.100.7", "hub.org")
    unnamed = words_of(site, Answer(True, is_unnamed=True))
    assert unnamed.startswith("The hub is up at 198.51.100.7; hub.org does not point there yet")
    assert unnamed.endswith("make its A record 198.51.100.7")
    assert words_of(site, Answer(True)) == "The hub answers at https://hub.org"


def test_the_callback_is_under_the_name_that_users_type() -> None:
    assert Site("198.51.100.7").callback == "http://198.51.100.7/hub/oauth_callback"
    assert Site("198.51.100.7", "hub.org").callback == "https://hub.org/hub/oauth_callback"
    named = "https://hub.uni.example"
    own = Site("198.51.100.7", public_url=f"{named}/")
    assert own.callback == f"{named}/hub/oauth_callback"
    both = Site("198.51.100.7", "hub.org", public_url=named)
    assert both.callback == "https://hub.org/hub/oauth_callback"
    assert Site("127.78.0.1", http_port=8078).url == "http://127.78.0.1:8078"


def test_a_private_image_is_named_to_the_managers_role_and_a_public_one_is_not() -> None:
    assert spec_of(facts=replace(EMPTY, image=IMAGE)).parameters["PrivateImageArn"] == ""
    private = replace(EMPTY, image=replace(IMAGE, is_public=False))
    arn = f"arn:aws:ec2:{ASKED.choices.REGION}::image/{IMAGE.image_id}"
    assert spec_of(facts=private).parameters["PrivateImageArn"] == arn
    raw = {"ImageId": "ami-1", "Architecture": "arm64", "State": "available"}
    assert parse_image({**raw, "Public": True}).is_public
    assert not parse_image({**raw, "Public": False}).is_public
