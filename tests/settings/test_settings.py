"""Both configuration files: what is read, what is refused, and in which words."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2spawner import settings
from ec2spawner.addresses import hub_port
from ec2spawner.configfile import ConfigFileError
from ec2spawner.errors import ConfigError
from ec2spawner.settings import (
    InstanceConfig,
    ServerConfig,
    WorkerSubnet,
    find_server_config,
    load_instance_config,
    load_server_config,
    server_config_text,
    write_server_config,
)

SERVER: dict[str, Any] = {
    "CLUSTER_NAME": "biology101",
    "VPC_ID": "vpc-0123456789abcdef0",
    "WORKER_SUBNETS": [{"SUBNET_ID": "subnet-0123456789abcdef0", "ZONE": "us-east-1a"}],
    "WORKER_SECURITY_GROUP_ID": "sg-0123456789abcdef0",
    "MANAGER_SECURITY_GROUP_ID": "sg-0123456789abcdef1",
    "LAUNCH_TEMPLATE_ID": "lt-0123456789abcdef0",
    "WORKER_AMI_ID": "ami-0123456789abcdef0",
    "SSH_KEY_PARAMETER": "/ec2spawner/biology101/ssh-key",
    "BUCKET": "ec2spawner-biology101-123456789012-us-east-1",
}


PROFILE: dict[str, Any] = {"SLUG": "big", "NAME": "Big", "INSTANCE_TYPES": ["m7i.large"]}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(content: Any) -> Path:
        path = tmp_path / "config.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def faults_of(path: Path, load: Any = load_instance_config) -> list[str]:
    with pytest.raises(ConfigFileError) as caught:
        load(path)
    assert str(path) in caught.value.what
    assert caught.value.next_step
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "the file is empty"),
        ("  \n", "the file is empty"),
        ('{"REGION": "us-ea', "ends too early (line 1, column 12"),
        ('{\n  "REGION": "us-east-1",\n', "ends too early (line 3, column 1"),
        ('{"REGION": 1,}', "is not JSON (line 1, column 1"),
        ("REGION=x", "is not JSON (line 1, column 1"),
        ("[1]", "the file holds a list"),
        ('"text"', "the file holds a text"),
        ("null", "the file holds null"),
        ('{"WORKER_EBS_SIZE": NaN}', "NaN is not JSON"),
        (b"\xff\xfe{}", "is not UTF-8 text"),
        ("[" * 100_000, "is not usable JSON"),
        ('{"SERVER_OWNER": "\\ud800"}', "is not usable JSON"),
        (b"{" + b" " * (2 << 20) + b"}", "is larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_json_object_is_refused_with_the_place(
    write: Any, content: Any, words: str
) -> None:
    faults = faults_of(write(content))
    assert len(faults) == 1
    assert words in faults[0]


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "No such file" in faults_of(tmp_path / "absent.json")[0]
    assert "directory" in faults_of(tmp_path)[0]


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        ({"WORKER_EBS_SIZE": 4}, "WORKER_EBS_SIZE: 4", "is less than 8. Write a whole number of"),
        ({"WORKER_EBS_SIZE": 10**9}, "WORKER_EBS_SIZE", "is more than 16384"),
        ({"WORKER_EBS_SIZE": "8"}, 'WORKER_EBS_SIZE: "8"', "is a text"),
        ({"WORKER_EBS_SIZE": 8.5}, "WORKER_EBS_SIZE: 8.5", "is a number with a decimal point"),
        ({"WORKER_EBS_SIZE": True}, "WORKER_EBS_SIZE: true", "is true or false"),
        ({"WORKER_EBS_SIZE": None}, "WORKER_EBS_SIZE: null", "is null"),
        ({"USER_HOME_EBS_SIZE": False}, "USER_HOME_EBS_SIZE: false", "is true or false"),
        ({"JUPYTER_NOTEBOOK_TIMEOUT": -1}, "JUPYTER_NOTEBOOK_TIMEOUT: -1", "is less than 1"),
        ({"JUPYTER_NOTEBOOK_TIMEOUT": 0}, "JUPYTER_NOTEBOOK_TIMEOUT: 0", "is less than 1"),
        ({"WORKER_SSH_PORT": 65536}, "WORKER_SSH_PORT: 65536", "is more than 65535"),
        ({"WORKER_SSH_PORT": 8888}, "WORKER_NOTEBOOK_PORT: 8888", "is WORKER_SSH_PORT too"),
        (
            {"WORKER_SSH_PORT": 2222, "WORKER_NOTEBOOK_PORT": 2222},
            "WORKER_NOTEBOOK_PORT: 2222",
            "is WORKER_SSH_PORT too",
        ),
        ({"PROFILES": {}}, "PROFILES: {}", "is an object. Write a list such as"),
        (
            {"PROFILES": [{"NAME": "Big", "INSTANCE_TYPES": ["m7i.large"]}]},
            "PROFILES[0].SLUG",
            "is missing",
        ),
        ({"PROFILES": [{**PROFILE, "SLUG": "Big"}]}, 'PROFILES[0].SLUG: "Big"', "form"),
        ({"PROFILES": [{**PROFILE, "COLOUR": 1}]}, "PROFILES[0].COLOUR", "is not a known key"),
        ({"PROFILES": [{**PROFILE, "MARKET": "black"}]}, "PROFILES[0].MARKET", "form"),
        ({"PROFILES": [{**PROFILE, "HOME_GIB": 0}]}, "PROFILES[0].HOME_GIB: 0", "less than 1"),
        (
            {"PROFILES": [{**PROFILE, "INSTANCE_TYPES": []}]},
            "PROFILES[0].INSTANCE_TYPES",
            "has 0 entries",
        ),
        (
            {"PROFILES": [{**PROFILE, "INSTANCE_TYPES": ["t3.medium", "big"]}]},
            'PROFILES[0].INSTANCE_TYPES[1]: "big"',
            "form",
        ),
        (
            {"PROFILES": [{**PROFILE, "INSTANCE_TYPES": ["t3.medium", "t3.medium"]}]},
            "PROFILES[0].INSTANCE_TYPES",
            "names t3.medium twice",
        ),
        ({"PROFILES": [PROFILE, PROFILE]}, "PROFILES", "two profiles with the SLUG 'big'"),
        ({"POOL_RUNNING": -1}, "POOL_RUNNING: -1", "is less than 0"),
        (
            {"PROFILES": [PROFILE], "POOL_STOPPED": 2},
            "POOL_STOPPED: 2",
            "is for a cluster without PROFILES",
        ),
        ({"PROFILES": [{**PROFILE, "POOL_RUNNING": 1.5}]}, "PROFILES[0].POOL_RUNNING", "decimal"),
        ({"WORKER_SUDO": 1}, "WORKER_SUDO: 1", "true or false, without quotes"),
        ({"WORKER_SUDO": "no"}, 'WORKER_SUDO: "no"', "true or false, without quotes"),
        ({"REGION": "Virginia"}, 'REGION: "Virginia"', '"us-east-1"'),
        ({"WORKER_INSTANCE_TYPE": "medium"}, "WORKER_INSTANCE_TYPE", '"t3.medium"'),
        ({"WORKER_USERNAME": "root"}, "WORKER_USERNAME", "is taken"),
        ({"WORKER_USERNAME": "Zoë Müller"}, "WORKER_USERNAME", "does not have the form"),
        ({"CUSTOM_WORKER_AMI": "ubuntu"}, "CUSTOM_WORKER_AMI", "ami-0123456789abcdef0"),
        ({"SERVER_OWNER": "x" * 257}, "SERVER_OWNER", "has 257 characters"),
        ({"SERVER_OWNER": "<b>"}, "SERVER_OWNER", "does not have the form"),
        ({"COST_TAGS": []}, "COST_TAGS: []", "is a list"),
        ({"COST_TAGS": {"a": 1}}, "COST_TAGS.a: 1", "is a number"),
        ({"COST_TAGS": {"aws:x": "y"}}, "COST_TAGS", "'aws:x', which is reserved"),
        ({"COST_TAGS": {"ec2spawner:owner": "y"}}, "COST_TAGS", "which is reserved"),
        ({"COST_TAGS": {"Name": "y"}}, "COST_TAGS", "which is reserved"),
        ({"COST_TAGS": {"": "y"}}, "COST_TAGS", "1 to 128 characters"),
        ({"COST_TAGS": {str(i): "" for i in range(31)}}, "COST_TAGS", "has 31 entries"),
        ({"WORKER_EBSSIZE": 8}, "WORKER_EBSSIZE is not", "WORKER_EBS_SIZE, if that is meant"),
        ({"worker_ebs_size": 8}, "worker_ebs_size is not", "WORKER_EBS_SIZE, if that is meant"),
        ({"Zebra": 8}, "Zebra", "is not a known key."),
    ],
)
def test_an_impossible_value_is_refused_with_key_value_reason_and_remedy(
    write: Any, values: dict[str, Any], key: str, words: str
) -> None:
    faults = faults_of(write(values))
    assert len(faults) == 1
    assert faults[0].startswith(key)
    assert words in faults[0]


CLASS: dict[str, Any] = {
    "WEEKDAY": "monday",
    "TIME": "09:15",
    "TIME_ZONE": "Europe/Berlin",
    "GROUP": "biology101",
}


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"WEEKDAY": "Monday"}, '.WEEKDAY: "Monday"', "is no weekday such as monday"),
        ({"WEEKDAY": "montag"}, '.WEEKDAY: "montag"', "is no weekday"),
        ({"WEEKDAY": 1}, ".WEEKDAY: 1", "is a number"),
        ({"TIME": "9:15"}, '.TIME: "9:15"', "is no time from 00:00 to 23:59"),
        ({"TIME": "24:00"}, '.TIME: "24:00"', "is no time from 00:00 to 23:59"),
        ({"TIME": "09:15\n"}, ".TIME", "is no time"),
        ({"TIME": "\u0660\u0669:\u0661\u0665"}, ".TIME", "is no time"),
        ({"TIME": 915}, ".TIME: 915", "is a number"),
        ({"TIME_ZONE": "Europe/Bonn"}, '.TIME_ZONE: "Europe/Bonn"', "is no time zone"),
        ({"TIME_ZONE": ""}, '.TIME_ZONE: ""', "is no time zone"),
        ({"TIME_ZONE": "Europe"}, '.TIME_ZONE: "Europe"', "is no time zone"),
        ({"TIME_ZONE": "../../etc/passwd"}, ".TIME_ZONE", "is no time zone"),
        ({"TIME_ZONE": "/etc/passwd"}, ".TIME_ZONE", "is no time zone"),
        ({"TIME_ZONE": "a\u0000b"}, ".TIME_ZONE", "is no time zone"),
        ({"TIME_ZONE": "x" * 5000}, ".TIME_ZONE", "is no time zone"),
        ({"MINUTES_AHEAD": -1}, ".MINUTES_AHEAD: -1", "is less than 0"),
        ({"MINUTES_AHEAD": 181}, ".MINUTES_AHEAD: 181", "is more than 180"),
        ({"KEEP_MINUTES": 0}, ".KEEP_MINUTES: 0", "is less than 1"),
        ({"KEEP_MINUTES": 721}, ".KEEP_MINUTES: 721", "is more than 720"),
        ({"COUNT": 3}, ": {", "has GROUP and COUNT; one of them says for whom it is"),
        ({"GROUP": None}, ": {", "has neither GROUP nor COUNT"),
        ({"GROUP": None, "COUNT": 0}, ".COUNT: 0", "is less than 1"),
        ({"GROUP": ""}, '.GROUP: ""', "does not have the form"),
        ({"DAY": "monday"}, ".DAY", "is not a known key"),
    ],
)
def test_an_impossible_class_is_refused_with_its_place(
    write: Any, change: dict[str, Any], key: str, words: str
) -> None:
    schedule = [CLASS, {**CLASS, **change}]
    for load, rest in ((load_instance_config, {}), (load_server_config, SERVER)):
        (fault,) = faults_of(write({**rest, "CLASS_SCHEDULE": schedule}), load)
        assert fault.startswith(f"CLASS_SCHEDULE[1]{key}")
        assert words in fault


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ({}, "CLASS_SCHEDULE: {} is an object. Write a list such as [{"),
        (["monday"], 'CLASS_SCHEDULE[0]: "monday" is a text'),
        ([{}], "CLASS_SCHEDULE[0].WEEKDAY is missing"),
        ([CLASS] * 201, "has 201 entries"),
    ],
)
def test_a_schedule_that_is_none_is_refused(write: Any, schedule: Any, words: str) -> None:
    assert words in faults_of(write({"CLASS_SCHEDULE": schedule}))[0]


def test_classes_are_kept_by_the_launch_command(write: Any, tmp_path: Path) -> None:
    config, _ = load_instance_config(write({"CLASS_SCHEDULE": [CLASS]}))
    (entry,) = config.CLASS_SCHEDULE
    assert (entry.MINUTES_AHEAD, entry.KEEP_MINUTES, entry.COUNT) == (15, 30, None)
    path = tmp_path / "server_config.json"
    write_server_config(path, config_with(CLASS_SCHEDULE=config.CLASS_SCHEDULE))
    assert load_server_config(path)[0].CLASS_SCHEDULE == config.CLASS_SCHEDULE


def test_the_value_of_an_unknown_key_is_not_shown_for_it_may_be_a_secret(write: Any) -> None:
    assert "hunter2" not in "".join(faults_of(write({"AWS_SECRET_KEY": "hunter2"})))


def test_all_faults_are_named_at_once_with_the_doubled_key_among_them(write: Any) -> None:
    text = '{"REGION": "us-east-1", "REGION": "x", "WORKER_EBS_SIZE": 4, "Zebra": 1}'
    faults = faults_of(write(text))
    assert [fault.split(" ")[0].rstrip(":") for fault in faults] == [
        "REGION",
        "REGION",
        "WORKER_EBS_SIZE",
        "Zebra",
    ]
    assert "is there twice" in faults[0]


def test_an_incomplete_server_config_names_every_missing_key(write: Any) -> None:
    faults = faults_of(write({"CLUSTER_NAME": "x"}), load_server_config)
    missing = {fault.split(" ")[0] for fault in faults}
    assert missing == set(SERVER) - {"CLUSTER_NAME"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"CLUSTER_NAME": "Biology 101"}, "CLUSTER_NAME"),
        ({"CLUSTER_NAME": "x" * 25}, "CLUSTER_NAME"),
        ({"CLUSTER_NAME": "bio-network"}, 'ends in "-network"'),
        ({"WORKER_SSH_PORT": 8888}, "is WORKER_SSH_PORT too"),
        ({"WORKER_SUBNETS": []}, "has 0 entries"),
        (
            {"WORKER_SUBNETS": [{"SUBNET_ID": "nope", "ZONE": "us-east-1a"}]},
            "WORKER_SUBNETS[0].SUBNET_ID",
        ),
        ({"WORKER_SUBNETS": [{"ZONE": "us-east-1a"}]}, "WORKER_SUBNETS[0].SUBNET_ID is missing"),
        ({"HUB_CONNECT_URL": "hub:8081"}, "is not an http:// or https:// address"),
        ({"HUB_CONNECT_URL": "http://hub:port"}, "is not an address"),
        ({"HUB_CONNECT_URL": "http://hüb:8081"}, "characters other than ASCII"),
        ({"HUB_CONNECT_URL": "http://u:p@hub"}, "more than scheme, host, port and path"),
        ({"HUB_LISTEN_ADDRESS": "everywhere"}, "is not an IP address"),
        ({"LAUNCH_TEMPLATE_ID": 7}, "is a number"),
        ({"MANAGER_INSTANCE_TYPE": "t3.medium"}, "is not a known key"),
    ],
)
def test_an_impossible_server_config_is_refused(
    write: Any, values: dict[str, Any], words: str
) -> None:
    faults = faults_of(write({**SERVER, **values}), load_server_config)
    assert len(faults) == 1
    assert words in faults[0]


def test_defaults_stand_for_what_a_file_leaves_out(write: Any) -> None:
    config, notices = load_instance_config(write({"$schema": "x", "WORKER_EBS_SIZE": 20}))
    assert config == InstanceConfig(WORKER_EBS_SIZE=20)
    assert notices == ()


def test_a_file_of_cloudjhub_is_read_with_notices(write: Any) -> None:
    old = {
        "MANAGER_INSTANCE_TYPE": "t2.medium",
        "WORKER_INSTANCE_TYPE": "t2.micro",
        "WORKER_EBS_SIZE": 8,
        "USER_HOME_EBS_SIZE": 0,
        "JUPYTER_NOTEBOOK_TIMEOUT": 3600,
        "CUSTOM_WORKER_AMI": "",
        "SERVER_USERNAME": "ubuntu",
        "REGION": "us-east-1",
        "WORKER_USERNAME": "ubuntu",
        "SERVER_OWNER": "",
        "IGNORE_PERMISSIONS": "false",
        "ENVIRONMENT": "production",
        "PLATFORM": "linux",
    }
    config, notices = load_instance_config(write(old))
    assert config.USER_HOME_EBS_SIZE == 10
    assert config.WORKER_INSTANCE_TYPE == "t2.micro"
    assert [n for n in notices if "USER_HOME_EBS_SIZE: 0 is read as 10" in n]
    for key in ("SERVER_USERNAME", "IGNORE_PERMISSIONS", "ENVIRONMENT", "PLATFORM"):
        assert [n for n in notices if f"{key} is no longer used" in n]


def test_obsolete_keys_of_a_server_config_say_what_replaced_them(write: Any) -> None:
    _, notices = load_server_config(write({**SERVER, "INSTANCE_TYPE": "t2.micro"}))
    assert len(notices) == 1
    assert "WORKER_INSTANCE_TYPE takes its place" in notices[0]


def config_with(**values: Any) -> ServerConfig:
    subnets = (WorkerSubnet(SUBNET_ID="subnet-0123456789abcdef0", ZONE="us-east-1a"),)
    return ServerConfig(**{**SERVER, "WORKER_SUBNETS": subnets, **values})


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "server_config.json"
    config = config_with(COST_TAGS={"b": "2", "a": "ü"}, HUB_CONNECT_URL="http://hub:9000")
    assert write_server_config(path, config)
    assert load_server_config(path) == (config, ())
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_written_order_is_stable_and_the_cluster_comes_first() -> None:
    first = server_config_text(config_with(COST_TAGS={"b": "2", "a": "1"}))
    assert first == server_config_text(config_with(COST_TAGS={"a": "1", "b": "2"}))
    assert next(iter(json.loads(first))) == "CLUSTER_NAME"


def test_writing_the_same_again_touches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "server_config.json"
    write_server_config(path, config_with())
    before = path.stat()
    assert not write_server_config(path, config_with())
    assert path.stat() == before


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "server_config.json"
    write_server_config(path, config_with())
    old = path.read_text()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_server_config(path, config_with(BUCKET="other-bucket"))
    assert path.read_text() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["server_config.json"]


def test_writing_into_a_folder_that_is_not_there_is_an_error_with_a_next_step(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="folder that exists"):
        write_server_config(tmp_path / "no" / "server_config.json", config_with())


def test_the_server_config_is_found_by_name_then_beside_then_in_etc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_config = tmp_path / "jupyterhub_config.py"
    system = tmp_path / "etc.json"
    monkeypatch.setattr(settings, "SYSTEM_CONFIG", system)
    with pytest.raises(ConfigError, match="launch-cluster up"):
        find_server_config({}, hub_config)
    system.touch()
    assert find_server_config({}, hub_config) == system
    beside = tmp_path / "server_config.json"
    beside.touch()
    assert find_server_config({}, hub_config) == beside
    assert find_server_config({}, tmp_path) == beside
    named = {"EC2SPAWNER_CONFIG": "/elsewhere/absent.json"}
    assert find_server_config(named, hub_config) == Path("/elsewhere/absent.json")


@pytest.mark.parametrize(
    ("url", "port"),
    [(None, 8081), ("http://hub:9", 9), ("http://hub", 80), ("https://hub/x", 443)],
)
def test_the_hubs_port_is_read_from_its_address(url: str | None, port: int) -> None:
    assert hub_port(url) == port
    assert config_with(HUB_CONNECT_URL=url).hub_api_port == port


def test_the_operators_tags_name_the_owner_unless_a_tag_does() -> None:
    assert InstanceConfig(SERVER_OWNER="Biology").operator_tags == {"Owner": "Biology"}
    own = InstanceConfig(SERVER_OWNER="Biology", COST_TAGS={"Owner": "Dean"})
    assert own.operator_tags == {"Owner": "Dean"}


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        InstanceConfig().REGION = "eu-west-1"  # type: ignore[misc]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
KEYS = st.sampled_from([*ServerConfig.model_fields, *InstanceConfig.model_fields]) | st.text()


@given(content=st.dictionaries(KEYS, JSON, max_size=6) | JSON, start=st.integers(0, 40))
def test_whatever_a_file_holds_it_is_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, content: Any, start: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_text(json.dumps(content)[start if start > 20 else 0 :])
    for load in (load_instance_config, load_server_config):
        with suppress(ConfigFileError):  # any other error fails the test
            load(path)


def test_profiles_are_written_and_read_again(write: Any, tmp_path: Path) -> None:
    full = {
        **PROFILE,
        "DESCRIPTION": "2 processors",
        "HOME_GIB": 50,
        "MARKET": "spot-then-on-demand",
        "GROUPS": ["ml"],
        "POOL_RUNNING": 2,
        "POOL_STOPPED": 3,
    }
    config, _ = load_server_config(write({**SERVER, "PROFILES": [full]}))
    assert config.PROFILES[0].model_dump(mode="json") == full
    path = tmp_path / "again.json"
    write_server_config(path, config)
    assert load_server_config(path) == (config, ())
