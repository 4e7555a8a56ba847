"""Two students with real servers: neither gets into the other's, by whatever is at hand."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import requests
import websocket

from . import leaks
from .beside import Beside, Stage, Step
from .hubs import User, at_once
from .routes import OTHERS
from .test_safety_api import BODIES, assert_refused, by_token
from .visitors import Visitor, enter

PATHS = ("api/contents", "api/kernels", "api/terminals", "api/sessions", "files/secret.txt")
WORD = "the-victims-own-words"


def tokens_on(user: User) -> dict[str, str]:
    """What root on the user's machine finds: its server's environment."""
    folder = user.hub.cloud.folder / "state" / "instances" / user.worker()["id"] / "run"
    environment = json.loads((folder / "server.json").read_text())["environment"]
    return {k: v for k, v in environment.items() if "TOKEN" in k or "SECRET" in k}


def status(url: str, **more: Any) -> int:
    answer = requests.get(url, timeout=20, allow_redirects=False, **more)
    assert WORD not in answer.text
    return answer.status_code


def shakes_hands(url: str, **more: Any) -> bool:
    try:
        websocket.create_connection(
            url.replace("http:", "ws:"), timeout=20, http_no_proxy=["127.0.0.0/8"], **more
        ).close()
    except (websocket.WebSocketException, OSError):
        return False
    return True


@Beside
def apart(stage: Stage, step: Step) -> None:
    hub = stage.hub(stage.cloud)
    hub.config["JupyterHub"] = {"log_level": "DEBUG"}
    hub.config["Spawner"] |= {"debug": True}
    hub.config["Authenticator"] = {"admin_users": ["prof"]}
    hub.start()
    vic, eve = hub.user("vic"), hub.user("eve")
    at_once(vic.start, eve.start)
    vic.write("secret.txt", WORD)
    kernel = vic.kernel()
    terminal = vic.ask("POST", "api/terminals").json()["name"]
    channels = f"api/kernels/{kernel.kernel_id}/channels"
    found = tokens_on(eve)
    api_token = found["JUPYTERHUB_API_TOKEN"]
    port = f"http://{vic.worker()['private_ip']}:{hub.cloud.notebook_port}/user/vic/"
    with step("token"):
        assert vic.read("secret.txt") == WORD
        for token in (eve.token, api_token):
            for path in PATHS:
                headers = {"Authorization": f"token {token}"}
                for base in (vic.server_url(""), port):
                    assert status(base + path, headers=headers) in (302, 403), (base, path)
                    assert status(f"{base}{path}?token={token}") in (302, 403), (base, path)
    with step("cookie"):
        visitor: Visitor = enter(hub, "eve")
        visitor.go("/user/eve/lab")  # the server gives cookies of its own
        assert visitor.go("/user/eve/api/contents").status_code == 200
        own = {c.name: c.value or "" for c in visitor.session.cookies}
        renamed = {re.sub("eve", "vic", name): value for name, value in own.items()}
        for path in PATHS:
            for cookies in (own, renamed):
                for base in (vic.server_url(""), port):
                    assert status(base + path, cookies=cookies) in (302, 403), (base, path)
        assert visitor.go("/user/vic/lab").status_code in (403, 404)
    with step("websocket"):
        ways: list[dict[str, Any]] = [
            {"header": [f"Authorization: token {token}"]} for token in (eve.token, api_token)
        ]
        ways += [{"cookie": "; ".join(f"{k}={v}" for k, v in renamed.items())}, {}]
        good = {"header": [f"Authorization: token {vic.token}"]}
        for path in (channels, f"terminals/websocket/{terminal}"):
            for base in (vic.server_url(""), port):
                assert shakes_hands(base + path, **good), "what is refused would work"
                for way in ways:
                    assert not shakes_hands(base + path, **way), (base, path, way)
    with step("name"):
        headers = {"Authorization": f"token {eve.token}"}
        for name in ("VIC", "v%69c", "%76ic", "eve/../vic", "eve/%2e%2e/vic", "vic/", "v\u0131c"):
            answer = requests.get(
                f"{hub.url}/user/{name}/files/secret.txt", headers=headers, timeout=20
            )
            assert WORD not in answer.text, name
    with step("machine"):
        hub.api("POST", "groups/ml")
        before = {k: vic.model()[k] for k in ("name", "admin", "groups", "servers")}
        for method, path in OTHERS:
            more = {} if method == "GET" else {"json": BODIES}
            assert_refused(by_token(hub, api_token, method, path, **more), method, path)
        after = vic.model()
        assert after["servers"].keys() == before.pop("servers").keys()
        assert {k: after[k] for k in before} == before
        rights = {"Authorization": f"token {api_token}"}
        api = f"{hub.url}/hub/api"
        for method, path in [
            *[("GET", p) for p in ("users/vic", "groups", "proxy", "services/test")],
            *[("POST", p) for p in ("users/vic/activity", "users/vic/server", "users/eve/tokens")],
            *[("DELETE", p) for p in ("users/vic/server", "users/eve")],
            ("POST", "shutdown"),
        ]:
            body = {"last_activity": "2020-01-01T00:00:00Z"}
            answer = requests.request(
                method, f"{api}/{path}", headers=rights, json=body, timeout=20
            )
            assert answer.status_code in (403, 404), (method, path, answer.text)
        assert vic.is_ready()
    with step("secrets"):
        # jupyterhub-session-id, which the hub logs, and _xsrf let nobody in by themselves.
        logins = {name: value for name, value in own.items() if name.startswith("jupyterhub-")}
        logins.pop("jupyterhub-session-id")
        of_servers = {
            f"{user.name}'s server's {name}": (user.name, value)
            for user in (vic, eve)
            for name, value in tokens_on(user).items()
        }
        secrets = {
            **{name: value for name, (_, value) in of_servers.items()},
            **logins,
            "eve's token": eve.token,
            "vic's token": vic.token,
            "the tests' token": hub.token,
            "the proxy's token": leaks.proxy_token(hub),
            "the cookie secret": leaks.cookie_secret(hub),
            "the cluster's key": leaks.private_key(hub.cloud),
            "the culler's token": leaks.culler_token(hub),
        }
        assert len(secrets) >= 11
        assert min(len(value) for value in secrets.values()) >= 20
        texts = {"hub and proxy": hub.story(), "cloud": hub.cloud.log.read_text()}
        texts["state"] = json.dumps(hub.cloud.control("GET", "state"))
        texts["user data and tags"] = leaks.told_to_ec2(hub.cloud)
        instances = hub.cloud.folder / "state" / "instances"
        for user in (vic, eve):
            for log in (instances / user.worker()["id"]).glob("*.log"):
                texts[str(log)] = log.read_text(errors="replace")
        assert "[D " in texts["hub and proxy"]
        prof = enter(hub, "prof")
        for page in ("home", "token", "spawn", "admin", "machines"):
            for who, browser in (("eve", visitor), ("an admin", prof)):
                texts[f"/hub/{page} of {who}"] = browser.go(f"/hub/{page}").text
        for path in ("users?include_stopped_servers", "users/vic", "groups", "services", "user"):
            texts[f"{path} of an admin"] = prof.api("GET", path).text
        texts["machines of an admin"] = hub.api("GET", "ec2spawner/machines").text
        assert '"vic"' in texts["users?include_stopped_servers of an admin"]
        assert "vic" in texts["/hub/machines of an admin"]
        told = [(w, name) for w, text in texts.items() for name, s in secrets.items() if s in text]
        assert told == []
    with step("processes"):
        owners = {name: owner for name, (owner, _) in of_servers.items()}
        assert "vic" in {seen.user for seen in leaks.processes()}, "her kernel can be seen"
        assert leaks.held(secrets, {}), "what is found would be told"
        assert leaks.held(secrets, owners) == []


@pytest.mark.parametrize("way", ["token", "cookie", "websocket", "name"])
def test_nobody_gets_into_the_server_of_another_by(way: str) -> None:
    apart.outcome(way)


def test_the_token_on_a_compromised_machine_is_refused_for_all_that_is_others() -> None:
    apart.outcome("machine")


def test_no_secret_is_in_a_log_at_debug_a_tag_user_data_or_a_page_of_anybody() -> None:
    apart.outcome("secrets")


def test_no_secret_is_in_an_argument_or_in_the_environment_of_who_need_not_have_it() -> None:
    apart.outcome("processes")
