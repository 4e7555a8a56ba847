"""Every key of both files has values that it refuses, with its place; a new key needs a row."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from cluster_config import CLUSTER
from pydantic import BaseModel

from ec2spawner.configfile import ConfigFileError
from ec2spawner.settings import (
    InstanceConfig,
    ServerConfig,
    load_instance_config,
    load_server_config,
)

PROFILE: dict[str, Any] = {"SLUG": "big", "NAME": "Big", "INSTANCE_TYPES": ["m7i.large"]}
CLASS: dict[str, Any] = {
    "WEEKDAY": "monday",
    "TIME": "09:15",
    "TIME_ZONE": "Europe/Berlin",
    "GROUP": "biology101",
}
IDP: dict[str, Any] = {"ENTITY_ID": "https://idp.example.org/shibboleth"}
OIDC: dict[str, Any] = {
    "AUTHORIZE_URL": "https://login.example.org/authorize",
    "TOKEN_URL": "https://login.example.org/token",
    "USERINFO_URL": "https://login.example.org/userinfo",
    "USERNAME_CLAIM": "email",
}
BASE: dict[str, Any] = {
    **CLUSTER,
    "PROFILES": [PROFILE],
    "CLASS_SCHEDULE": [CLASS],
    "CILOGON_PROVIDERS": [IDP],
    "OIDC": OIDC,
}
ESCAPE = "a\x1b[2Jb"
NO_NUMBER: list[Any] = ["1", 1.5, True, None, [], {}, -1, 10**12]
NO_TEXT: list[Any] = [7, True, None, [], {}]
NO_FLAG: list[Any] = ["yes", 1, 0, None, [], {}]
NO_LIST: list[Any] = ["x", 7, True, None, {}]
NO_URL: list[Any] = [
    "",
    "x",
    "ftp://x.org",
    "https://",
    "https://a b.org",
    "http://x.org",
    *NO_TEXT,
]
NO_TYPE: list[Any] = ["", "medium", "t3.medium ", "T3.medium", "t3.medium\n", "t3.", *NO_TEXT]


def no_id(kind: str) -> list[Any]:
    good = f"{kind}-0123456789abcdef0"
    return ["", kind, f"{kind}-xyz", "i-0123456789abcdef0", f"{good}\n", f" {good}", *NO_TEXT]


BAD: dict[str, list[Any]] = {
    # what the cluster is
    "CLUSTER_NAME": ["", "Bio", "1a", "a_b", "x" * 25, "a-", "x-network", "x-manager", *NO_TEXT],
    "VPC_ID": no_id("vpc"),
    "WORKER_SUBNETS": [[], ["subnet-0123456789abcdef0"], CLUSTER["WORKER_SUBNETS"] * 2, *NO_LIST],
    "WORKER_SUBNETS[].SUBNET_ID": no_id("subnet"),
    "WORKER_SUBNETS[].ZONE": ["", "a", "us-east-1", "us-east-1a\n", "US-EAST-1A", ESCAPE, *NO_TEXT],
    "WORKER_SECURITY_GROUP_ID": no_id("sg"),
    "MANAGER_SECURITY_GROUP_ID": no_id("sg"),
    "LAUNCH_TEMPLATE_ID": no_id("lt"),
    "WORKER_AMI_ID": no_id("ami"),
    "ROOT_DEVICE_NAME": ["", "sda1", "/dev/", "/dev/../x", "/dev/sda1\n", "/dev/SDA", *NO_TEXT],
    "SSH_KEY_PARAMETER": ["", "key", "/a b", "/a\n", "/a;b", "/", *NO_TEXT],
    "BUCKET": ["", "ab", "Bucket", "a_b", "-ab", "ab-", "x" * 64, "a..b", "192.0.2.1", *NO_TEXT],
    "HUB_CONNECT_URL": ["", "x", "ftp://x", "http://a b", "http://u:p@x", 7, True, [], {}],
    "HUB_LISTEN_ADDRESS": ["", "x", "1.2.3", "1.2.3.4:80", "localhost", "1.2.3.4\n", *NO_TEXT],
    # machines
    "MANAGER_INSTANCE_TYPE": NO_TYPE,
    "CUSTOM_WORKER_AMI": no_id("ami")[1:],
    "REGION": ["", "Virginia", "us-east", "us-east-1a", "us-east-1\n", *NO_TEXT],
    "WORKER_INSTANCE_TYPE": NO_TYPE,
    "WORKER_EBS_SIZE": [7, 0, 16385, *NO_NUMBER],
    "USER_HOME_EBS_SIZE": [16385, *NO_NUMBER],
    "WORKER_USERNAME": ["", "root", "ec2spawner", "Ann", "a b", "1a", "a\n", "x" * 33, *NO_TEXT],
    "WORKER_SSH_PORT": [0, 65536, *NO_NUMBER],
    "WORKER_NOTEBOOK_PORT": [22, 1023, 65536, *NO_NUMBER],
    "WORKER_SUDO": NO_FLAG,
    "SERVER_OWNER": ["<b>", "a\nb", ESCAPE, "x" * 257, *NO_TEXT],
    "COST_TAGS": [
        {"aws:x": "y"},
        {"": "y"},
        {"a": 1},
        {"a": "x" * 257},
        {"x" * 129: ""},
        [],
        "x",
        7,
    ],
    "PROFILES": [[7], ["x"], [PROFILE] * 2, [PROFILE] * 21, *NO_LIST],
    "PROFILES[].SLUG": ["", "Big", "a b", "-a", "a-", "1", "a\n", "x" * 33, *NO_TEXT],
    "PROFILES[].NAME": ["", " ", "x" * 61, ESCAPE, "a\nb", *NO_TEXT],
    "PROFILES[].DESCRIPTION": ["x" * 301, ESCAPE, *NO_TEXT],
    "PROFILES[].INSTANCE_TYPES": [[], ["big"], ["t3.medium"] * 2, [7], *NO_LIST],
    "PROFILES[].HOME_GIB": [0, 16385, *(v for v in NO_NUMBER if v is not None)],
    "PROFILES[].MARKET": ["", "Spot", "black", *NO_TEXT],
    "PROFILES[].GROUPS": [[""], ["x" * 256], [7], [None], [ESCAPE], *NO_LIST],
    "PROFILES[].POOL_RUNNING": [1001, *NO_NUMBER],
    "PROFILES[].POOL_STOPPED": [1001, *NO_NUMBER],
    "POOL_RUNNING": [1, 1001, *NO_NUMBER],
    "POOL_STOPPED": [1, 1001, *NO_NUMBER],
    # times
    "JUPYTER_NOTEBOOK_TIMEOUT": [0, 30 * 86400 + 1, *NO_NUMBER],
    "START_TIMEOUT_SECONDS": [9, 7201, *NO_NUMBER],
    "REAPER_GRACE_SECONDS": [0, 86401, *NO_NUMBER],
    "HUB_LOST_SECONDS": [0, 7 * 86400 + 1, *NO_NUMBER],
    "DELETE_GRACE_DAYS": [366, *NO_NUMBER],
    "SNAPSHOT_EXPIRE_DAYS": [0, 3651, *NO_NUMBER],
    "KEEP_BROKEN_HOURS": [721, *NO_NUMBER],
    "ALLOW_ZONE_MOVE": NO_FLAG,
    "REFRESH_WORKERS": NO_FLAG,
    "CLASS_SCHEDULE": [[7], ["monday"], [CLASS] * 201, *NO_LIST],
    "CLASS_SCHEDULE[].WEEKDAY": ["", "Monday", "montag", *NO_TEXT],
    "CLASS_SCHEDULE[].TIME": ["", "9:15", "24:00", "09:15\n", *NO_TEXT],
    "CLASS_SCHEDULE[].TIME_ZONE": ["", "Europe", "../x", "a\x00b", *NO_TEXT],
    "CLASS_SCHEDULE[].MINUTES_AHEAD": [181, *NO_NUMBER],
    "CLASS_SCHEDULE[].KEEP_MINUTES": [0, 721, *NO_NUMBER],
    "CLASS_SCHEDULE[].GROUP": ["", "x" * 256, 7, True, [], {}],
    "CLASS_SCHEDULE[].COUNT": [0, 2001, *(v for v in NO_NUMBER if v is not None)],
    # people
    "AUTHENTICATOR": ["native", "GitHub", "github ", *NO_TEXT],
    "PUBLIC_URL": ["x", "ftp://x.org", "https://x.org/hub", "https://u:p@x.org", *NO_TEXT],
    "ADMIN_USERS": [["a/b"], [""], [" a"], [7], ["<b>"], [ESCAPE], ["x" * 256], *NO_LIST],
    "ADMIN_ACCESS": NO_FLAG,
    "GITHUB_ORGANIZATIONS": [["a/b"], [""], ["a:b:c"], ["a\n"], [7], *NO_LIST],
    "GOOGLE_HOSTED_DOMAINS": [["gmail"], [""], ["@x.org"], ["x.org\n"], [7], *NO_LIST],
    "CILOGON_PROVIDERS": [[7], ["x"], [IDP] * 2, *NO_LIST],
    "CILOGON_PROVIDERS[].ENTITY_ID": ["", "uni.example", "https://", "https://a b", *NO_TEXT],
    "CILOGON_PROVIDERS[].USERNAME_CLAIM": ["", "a b", "a\n", "x" * 201, *NO_TEXT],
    "CILOGON_PROVIDERS[].DOMAINS": [["uni"], [""], ["@x.org"], ["x.org\n"], [7], *NO_LIST],
    "CILOGON_PROVIDERS[].ALLOW_ALL": NO_FLAG,
    "OIDC": ["x", 7, True, []],
    "OIDC.NAME": ["", " ", "x" * 61, ESCAPE, *NO_TEXT],
    "OIDC.AUTHORIZE_URL": NO_URL,
    "OIDC.TOKEN_URL": NO_URL,
    "OIDC.USERINFO_URL": NO_URL,
    "OIDC.USERNAME_CLAIM": ["", "a b", "a\n", "x" * 201, *NO_TEXT],
    "OIDC.SCOPES": [[], ["a b"], [""], [7], ["a\n"], *NO_LIST],
    "OIDC.GROUPS_CLAIM": ["a b", "a\n", "x" * 201, *NO_TEXT],
    "OIDC.ALLOWED_GROUPS": [["staff"], [""], [7], *NO_LIST],
    "NAMED_SERVERS_MAX": [101, *NO_NUMBER],
    "STARTS_PER_MINUTE": [0, 101, *NO_NUMBER],
    "KEEP_ALIVE_MAX_HOURS": [169, *NO_NUMBER],
    "SUBDOMAINS": NO_FLAG,
}
OF_THE_OPERATOR = {*InstanceConfig.model_fields} - {*ServerConfig.model_fields}
ROWS = [(key, value) for key, values in BAD.items() for value in values]


def keys_of(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """All keys, those of what is in a list or an object too: "PROFILES[].NAME"."""
    for name, field in model.model_fields.items():
        yield f"{before}{name}"
        inner, mark = field.annotation, "."
        while inner is not None and not isinstance(inner, type):
            found = [a for a in get_args(inner) if a not in (type(None), Ellipsis)]
            mark = "[]." if getattr(inner, "__origin__", None) is tuple else mark
            inner = found[0] if found else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from keys_of(inner, f"{before}{name}{mark}")


def changed(key: str, value: Any) -> dict[str, Any]:
    """The configuration with another value at that place."""
    values = copy.deepcopy(BASE)
    if key in OF_THE_OPERATOR:
        return {key: value}
    top, _, inner = key.replace("[]", "").partition(".")
    if not inner:
        values[top] = value
    elif "[]" in key:
        values[top][0][inner] = value
    else:
        values[top][inner] = value
    return values


def faults(folder: Path, key: str, value: Any) -> list[str]:
    path = folder / "config.json"
    path.write_text(json.dumps(changed(key, value)))
    load = load_instance_config if key in OF_THE_OPERATOR else load_server_config
    with pytest.raises(ConfigFileError) as caught:
        load(path)
    return [str(fault) for fault in caught.value.faults]


def test_every_key_has_rows() -> None:
    known = {*keys_of(InstanceConfig), *keys_of(ServerConfig)}
    assert {"PROFILES[].NAME", "OIDC.SCOPES", "VPC_ID", "MANAGER_INSTANCE_TYPE"} < known
    assert known == {*BAD}


def test_what_the_rows_change_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(BASE))
    assert load_server_config(path)[0].PROFILES


@pytest.mark.parametrize(("key", "value"), ROWS, ids=[f"{k}={str(v)[:20]!r}" for k, v in ROWS])
def test_a_bad_value_is_refused_with_its_place_and_in_words(
    tmp_path: Path, key: str, value: Any
) -> None:
    place = re.compile(re.escape(key).replace(r"\[\]", r"\[\d+\]"))
    found = faults(tmp_path, key, value)
    assert any(place.match(fault) or "CLASS_SCHEDULE[" in fault for fault in found), found
    for fault in found:
        assert re.search(r"\b(is|has|does|have|ends|names)\b", fault), fault
        assert fault.isprintable(), fault
        assert "ValueError" not in fault
