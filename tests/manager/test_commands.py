"""What the manager's commands say of names of users' servers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ec2spawner import settings
from ec2spawner.manager import __main__ as commands

CLUSTER = {
    "CLUSTER_NAME": "biology101",
    "REGION": "us-east-1",
    "VPC_ID": "vpc-0123456789abcdef0",
    "WORKER_SUBNETS": [{"SUBNET_ID": "subnet-0123456789abcdef0", "ZONE": "us-east-1a"}],
    "WORKER_SECURITY_GROUP_ID": "sg-0123456789abcdef0",
    "MANAGER_SECURITY_GROUP_ID": "sg-0123456789abcdef1",
    "LAUNCH_TEMPLATE_ID": "lt-0123456789abcdef0",
    "WORKER_AMI_ID": "ami-0123456789abcdef0",
    "SSH_KEY_PARAMETER": "/ec2spawner/biology101/ssh-key",
    "BUCKET": "biology101-bucket",
}
BY_HOST, BY_PATH = "PROXY_OPTIONS=--host-routing\n", "PROXY_OPTIONS=\n"
NAMED = {**CLUSTER, "SUBDOMAINS": True, "PUBLIC_URL": "https://hub.uni.example"}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "server_config.json"
    monkeypatch.setattr(settings, "SYSTEM_CONFIG", path)
    monkeypatch.delenv("EC2SPAWNER_DOMAIN", raising=False)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps(NAMED), BY_HOST),
        (json.dumps(CLUSTER), BY_PATH),
        (None, BY_PATH),  # it comes later, and then the proxy is started
        ("{", BY_PATH),  # the hub says what is wrong with it
    ],
)
def test_the_proxy_tells_servers_apart_by_host_only_where_they_have_names(
    config: Path, capsys: pytest.CaptureFixture[str], text: str | None, said: str
) -> None:
    if text is not None:
        config.write_text(text)
    assert commands.main(["routing"]) == 0
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(("domain", "host"), [("", "hub.uni.example"), ("a.b.org", "a.b.org")])
def test_caddy_is_told_below_which_host(
    config: Path, monkeypatch: pytest.MonkeyPatch, domain: str, host: str
) -> None:
    monkeypatch.setenv("EC2SPAWNER_DOMAIN", domain)
    config.write_text(json.dumps(NAMED))
    assert commands._users_below() == host
    config.write_text(json.dumps(CLUSTER))
    assert commands._users_below() == ""
