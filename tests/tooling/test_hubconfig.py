"""jupyterhub_config.py: what it makes of a cluster's server_config.json, and of a bad one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster_config import CLUSTER
from jupyterhub import scopes
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from ec2spawner import bounds, hubconfig, manager, names

ROOT = Path(__file__).parents[2]


def load(monkeypatch: pytest.MonkeyPatch, folder: Path, more: str = "", **choices: Any) -> Config:
    """The configuration as JupyterHub reads it, by way of a file that adds to it."""
    (folder / "server_config.json").write_text(json.dumps({**CLUSTER, **choices}))
    monkeypatch.setenv("EC2SPAWNER_CONFIG", str(folder / "server_config.json"))
    mine = folder / "mine.py"
    mine.write_text(f"load_subconfig({str(ROOT / 'jupyterhub_config.py')!r})\n{more}\n")
    return PyFileConfigLoader(str(mine)).load_config()


def test_nobody_gets_in_before_an_authenticator_is_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    c = load(monkeypatch, tmp_path)
    assert c.JupyterHub.authenticator_class == "null"
    more = {"username_pattern": names.username_pattern()}
    assert c.Authenticator == {"allow_existing_users": True, "admin_users": set(), **more}
    assert c.JupyterHubHTTPClient == bounds.HTTP_CLIENT


def test_servers_outlive_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    c = load(monkeypatch, tmp_path)
    assert c.JupyterHub.spawner_class == "ec2"
    assert c.JupyterHub.cleanup_servers is False


def test_another_file_can_add_to_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    more = 'c = get_config()\nc.JupyterHub.services.append({"name": "more"})'
    c = load(monkeypatch, tmp_path, more)
    assert [s["name"] for s in c.JupyterHub.services] == ["idle-culler", "more"]


def test_addresses_come_from_the_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    c = load(monkeypatch, tmp_path, HUB_CONNECT_URL="http://10.0.0.5:9081")
    assert (c.JupyterHub.hub_ip, c.JupyterHub.hub_port) == ("0.0.0.0", 9081)
    assert c.JupyterHub.hub_connect_ip == "127.0.0.1"
    assert c.Spawner.hub_connect_url == "http://10.0.0.5:9081"


def test_without_an_address_workers_use_the_hubs_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    c = load(monkeypatch, tmp_path)
    assert c.JupyterHub.hub_port == 8081
    assert "hub_connect_ip" not in c.JupyterHub
    assert "hub_connect_url" not in c.Spawner


def test_jupyterhubs_limit_on_a_start_comes_after_the_spawners(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    c = load(monkeypatch, tmp_path, START_TIMEOUT_SECONDS=100)
    assert c.Spawner.start_timeout > 100


def test_culler_takes_the_time_out_and_has_only_its_rights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    c = load(monkeypatch, tmp_path, JUPYTER_NOTEBOOK_TIMEOUT=1800)
    (service,) = c.JupyterHub.services
    assert service["command"][3:6] == ["--timeout=1800", "--cull-every=300", "--first-after=615"]
    (role,) = c.JupyterHub.load_roles
    assert role["services"] == [service["name"]]
    assert set(role["scopes"]) <= set(scopes.scope_definitions)
    assert role["scopes"] == [
        "list:users",
        "read:users:activity",
        "read:servers",
        "delete:servers",
    ]


@pytest.mark.parametrize("timeout", [1, 2, 10, 59, 600, 3600, 100_000])
def test_nobody_at_work_looks_idle_because_a_report_is_old(timeout: int) -> None:
    interval = hubconfig.activity_interval_seconds(timeout)
    resolution = hubconfig.activity_resolution_seconds(timeout)
    assert interval >= 1  # 0 would switch the reports off
    assert resolution >= 1  # 0 would record reports older than the last
    if timeout >= 10:
        jitter = 1.1  # the server's own
        assert interval * jitter + resolution < timeout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "missing.json"),
        ("", "server_config.json"),
        ('{"CLUSTER_NAME": "x"', "server_config.json"),
        (json.dumps({**CLUSTER, "JUPYTER_NOTEBOOK_TIMEOUT": -1}), "JUPYTER_NOTEBOOK_TIMEOUT"),
        (json.dumps({**CLUSTER, "WORKER_TYPE": "t3.medium"}), "WORKER_TYPE"),
    ],
)
def test_hub_ends_with_one_message_where_the_file_is_bad(
    tmp_path: Path, text: str | None, said: str
) -> None:
    path = tmp_path / ("missing.json" if text is None else "server_config.json")
    if text is not None:
        path.write_text(text)
    script = (
        "import os, pathlib, sys, ec2spawner.hubconfig as h\n"
        "h.read_config_or_exit(os.environ, pathlib.Path(sys.argv[1]))"
    )
    result = run([sys.executable, "-c", script, str(tmp_path)], path)
    assert result.returncode == 1
    assert said in result.stderr
    assert "Next: " in result.stderr
    assert "Traceback" not in result.stderr


def test_the_real_hub_ends_so_too(tmp_path: Path) -> None:
    config = str(ROOT / "jupyterhub_config.py")
    path = tmp_path / "missing.json"
    result = run([sys.executable, "-m", "jupyterhub", "--config", config], path)
    assert result.returncode == 1
    assert "missing.json" in result.stderr
    assert "Traceback" not in result.stderr


def run(command: list[str], config: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EC2SPAWNER_CONFIG": str(config)}
    return subprocess.run(
        command, cwd=config.parent, env=environment, capture_output=True, text=True, timeout=30
    )


def test_proxy_beside_the_configuration_comes_first(tmp_path: Path) -> None:
    script = tmp_path / ".node/node_modules/configurable-http-proxy/bin/configurable-http-proxy"
    script.parent.mkdir(parents=True)
    script.touch()
    command = hubconfig.proxy_command(tmp_path / "jupyterhub_config.py")
    assert command == [str(tmp_path / ".node/bin/node"), str(script)]


def test_proxy_on_the_path_is_the_other_choice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "configurable-http-proxy"
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hubconfig.proxy_command(tmp_path / "jupyterhub_config.py") == [str(program)]


# ---- logins


def test_a_provider_s_client_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OAUTH_CLIENT_ID", "the-id")
    monkeypatch.setenv("OAUTH_CLIENT_SECRET", "the-secret")
    c = load(monkeypatch, tmp_path, AUTHENTICATOR="github", PUBLIC_URL="https://hub.example.org")
    assert c.JupyterHub.authenticator_class == "ec2spawner.logins.GitHubLogin"
    assert c.JupyterHub.public_url == "https://hub.example.org"
    assert c.OAuthenticator.client_id == "the-id"
    assert c.OAuthenticator.client_secret == "the-secret"
    assert c.OAuthenticator.oauth_callback_url == "https://hub.example.org/hub/oauth_callback"
    assert c.GitHubLogin.scope == []  # it needs to know no organisation
    limits = {"connect_timeout": 10, "request_timeout": 10}  # of a provider that says nothing
    assert c.OAuthenticator.http_request_kwargs == limits


def test_who_is_asked_for_organisations_lets_the_hub_see_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OAUTH_CLIENT_ID", "the-id")
    monkeypatch.setenv("OAUTH_CLIENT_SECRET", "the-secret")
    c = load(monkeypatch, tmp_path, AUTHENTICATOR="github", GITHUB_ORGANIZATIONS=["uni"])
    assert c.GitHubLogin.scope == ["read:org"]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OAUTH_CLIENT_ID": "x"}, "OAUTH_CLIENT_SECRET is not set"),
        ({"OAUTH_CLIENT_SECRET": "x"}, "OAUTH_CLIENT_ID is not set"),
    ],
)
def test_half_a_client_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    words: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        load(monkeypatch, tmp_path, AUTHENTICATOR="github")
    assert words in capsys.readouterr().err


def test_without_a_client_the_callback_address_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ec2spawner.oauthclient.client_now", lambda *_: None)
    with pytest.raises(SystemExit):
        load(monkeypatch, tmp_path, AUTHENTICATOR="google", PUBLIC_URL="https://hub.example.org")
    assert "https://hub.example.org/hub/oauth_callback" in capsys.readouterr().err


def test_dummy_listens_on_loopback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    c = load(monkeypatch, tmp_path, AUTHENTICATOR="dummy")
    assert c.JupyterHub.bind_url == "http://127.0.0.1:8000"


LOOPBACK = {"bind_url": "http://127.0.0.1:8000"}
PORT = "the hub's own port"


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        ({"bind_url": "http://:8000"}, "bind_url"),
        ({"bind_url": "http://0.0.0.0:8000"}, "bind_url"),
        ({"bind_url": "http://10.0.0.5:8000"}, "bind_url"),
        ({"bind_url": "http://[::]:8000"}, "bind_url"),
        ({"bind_url": "http://hub.example.org"}, "bind_url"),
        ({**LOOPBACK, "public_url": "https://hub.example.org"}, "public_url"),
        ({**LOOPBACK, "hub_ip": "0.0.0.0"}, f"{PORT} is http://0.0.0.0"),
        ({**LOOPBACK, "hub_ip": ""}, f"{PORT} is http://[::]"),
        ({**LOOPBACK, "hub_ip": "10.0.0.5"}, f"{PORT} is http://10.0.0.5"),
        ({**LOOPBACK, "hub_ip": "::"}, f"{PORT} is http://[::]"),
        ({**LOOPBACK, "hub_ip": "hub.internal"}, PORT),
        ({**LOOPBACK, "hub_bind_url": "http://:8081"}, f"{PORT} is http://:8081"),
        ({**LOOPBACK, "hub_bind_url": "http://10.0.0.5:8081"}, PORT),
    ],
)
def test_dummy_is_refused_where_others_reach_it(
    capsys: pytest.CaptureFixture[str], addresses: dict[str, str], said: str
) -> None:
    from jupyterhub.app import JupyterHub

    from ec2spawner.logins import LoopbackLogin

    with pytest.raises(SystemExit):
        LoopbackLogin(parent=JupyterHub(**addresses))
    assert "The authenticator dummy is refused" in (told := capsys.readouterr().err)
    assert said in told


@pytest.mark.parametrize(
    "addresses",
    [
        LOOPBACK,
        {"bind_url": "http://[::1]:80"},
        {"bind_url": "http://localhost"},
        {**LOOPBACK, "hub_ip": "127.77.0.1"},
        {**LOOPBACK, "hub_ip": "::1"},
        {**LOOPBACK, "hub_ip": "0.0.0.0", "hub_bind_url": "http://127.0.0.1:8081"},
        {**LOOPBACK, "hub_bind_url": "unix+http://%2Frun%2Fhub.sock"},
    ],
)
def test_dummy_is_for_this_computer(addresses: dict[str, str]) -> None:
    from jupyterhub.app import JupyterHub

    from ec2spawner.logins import LoopbackLogin

    LoopbackLogin(parent=JupyterHub(**addresses))


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1"])
def test_dummy_is_refused_on_a_manager_whatever_its_addresses(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    address: str,
) -> None:
    choices = {**CLUSTER, "AUTHENTICATOR": "dummy", "HUB_LISTEN_ADDRESS": address}
    (tmp_path / "server_config.json").write_text(json.dumps(choices))
    told = {"CONFIG": str(tmp_path / "server_config.json"), "CLUSTER": "x", "REGION": "us-east-1"}
    for name, value in {**told, "BUCKET": "b"}.items():
        monkeypatch.setenv(f"EC2SPAWNER_{name}", value)
    monkeypatch.setattr("ec2spawner.oauthclient.client_now", lambda *_: None)
    with pytest.raises(SystemExit):
        PyFileConfigLoader(manager.HUB_CONFIG).load_config()
    assert "The authenticator dummy is refused on a manager." in capsys.readouterr().err
