"""What the manager's commands say of names of users' servers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cluster_config import CLUSTER

from ec2spawner import settings
from ec2spawner.manager import __main__ as commands

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
