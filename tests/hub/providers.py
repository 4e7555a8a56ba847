"""Providers of logins on loopback: GitHub as far as a hub asks it, and how it can fail; OIDC.

Owns its people, organisations and teams, and what it was asked. Answers as GitHub's documentation
says: "Authorizing OAuth apps" and REST API "Members", 2022-11-28.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import signal
import sys
import threading
import time
from collections.abc import Mapping
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests

from .processes import clean_environment, eventually, free_port, start_process

CLIENT_ID = "Iv1.0123456789abcdef"
CLIENT_SECRET = "the-secret-of-the-application-5f1d"
SLOW_SECONDS = 3.0
API = "/api/v3"


class FakeGitHub:
    """One GitHub. ``visitor`` is who sits in front of the browser; None: a page asks."""

    def __init__(self) -> None:
        self.visitor: str | None = None
        self.members: dict[str, set[str]] = {}  # by organisation, or organisation:team
        self.faults: dict[str, str] = {}  # by the beginning of a path: a status, "slow", …
        self.denies = False
        self.ends = threading.Event()
        self.codes: dict[str, dict[str, str]] = {}
        self.tokens: dict[str, dict[str, str]] = {}
        self.redirects: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self.ends.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def secrets(self) -> list[str]:
        """All that it has handed out, and what it was shown."""
        return [CLIENT_SECRET, *self.tokens, *self.codes]

    # ---- what it is asked

    def authorize(self, query: Mapping[str, str], visitor: str | None) -> str:
        """Where the browser goes next."""
        assert query["client_id"] == CLIENT_ID
        back = query["redirect_uri"]
        self.redirects.append(back)
        if self.denies or visitor == "":
            answer = {"error": "access_denied", "error_description": "<b>They said no</b>"}
            return f"{back}?{urlencode({**answer, 'state': query['state']})}"
        code = secrets.token_hex(10)
        assert visitor is not None
        self.codes[code] = {"login": visitor, **query}
        return f"{back}?{urlencode({'code': code, 'state': query['state']})}"

    def token(self, form: Mapping[str, str]) -> dict[str, str]:
        """A token for a code, once."""
        asked = self.codes.get(form["code"], {})
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        is_right = (form["client_id"], form["client_secret"]) == (CLIENT_ID, CLIENT_SECRET)
        if not is_right or asked.pop("code_challenge", None) != challenge:
            return {"error": "bad_verification_code", "error_description": "It is incorrect."}
        token = f"gho_{secrets.token_hex(18)}"
        self.tokens[token] = asked
        return {
            "access_token": token,
            "token_type": "bearer",
            "scope": asked.get("scope", "").replace(" ", ","),
        }

    def is_member(self, path: str, token: Mapping[str, str]) -> int:
        """The status of a question for a membership."""
        parts = path.split("/")  # orgs, name, [teams, team,] members, login
        place = parts[1] if parts[2] == "members" else f"{parts[1]}:{parts[3]}"
        if "read:org" not in token.get("scope", ""):
            return 302
        return 204 if parts[-1] in self.members.get(place, set()) else 404


def _handler_of(github: FakeGitHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
            if self._fails(parts.path):
                return
            if parts.path == "/login/oauth/authorize":
                self._authorize(query)
            elif parts.path.startswith(API):
                self._api(parts.path[len(API) + 1 :])
            else:
                self._send(404, b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            path = urlsplit(self.path).path
            if self._fails(path):
                return
            assert path == "/login/oauth/access_token"
            self._json(github.token(dict(parse_qsl(body.decode()))))

        def _fails(self, path: str) -> bool:
            fault = next((f for p, f in github.faults.items() if path.startswith(p)), "")
            if fault == "slow":
                time.sleep(SLOW_SECONDS)
            elif fault == "never":
                github.ends.wait()
                self.close_connection = True
            elif fault == "garbage":
                self._send(200, b'["<script>alert(1)</script>"]', "application/json")
            elif fault == "hangup":
                self.close_connection = True
                self.connection.close()
            elif fault:
                self._send(int(fault), b'{"message": "We are having a problem"}')
            return bool(fault) and fault != "slow"

        def _authorize(self, query: dict[str, str]) -> None:
            visitor = query.pop("as", github.visitor)
            if visitor is None:
                self._send(200, _page(query).encode(), "text/html")
                return
            self.send_response(302)
            self.send_header("Location", github.authorize(query, visitor))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _api(self, path: str) -> None:
            kind, _, token = self.headers.get("Authorization", "").partition(" ")
            known = github.tokens.get(token)
            if kind != "Bearer" or known is None:
                self._send(401, b'{"message": "Bad credentials"}')
            elif path == "user":
                self._json({"login": known["login"], "id": 1, "email": "somebody@example.org"})
            else:
                self._send(github.is_member(path, known), b"")

        def _json(self, body: Mapping[str, Any]) -> None:
            self._send(200, json.dumps(body).encode(), "application/json")

        def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(0 if status == 204 else len(body)))
            self.end_headers()
            if status != 204:
                self.wfile.write(body)

    return Handler


def _page(query: Mapping[str, str]) -> str:
    """Who are you, for a browser."""
    hidden = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value, quote=True)}">'
        for name, value in query.items()
    )
    return (
        "<!doctype html><html lang='en'><title>GitHub, a fake</title><h1>Sign in to GitHub</h1>"
        f"<form action='/login/oauth/authorize'>{hidden}"
        "<label>Username <input name='as' required></label><button>Authorize</button></form>"
        f"<form action='/login/oauth/authorize'>{hidden}<input type='hidden' name='as' value=''>"
        "<button>Cancel</button></form></html>"
    )


class OIDCProvider:
    """oidc-provider-mock as a process: Google, CILogon and a university, by who asks how."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock"]
        command += ["--port", str(self.port)]
        self._process = start_process(
            command, folder, folder / "oidc-provider.log", clean_environment()
        )
        self._http = requests.Session()
        self._http.trust_env = False
        eventually(self._answers, 20, "the provider answers")

    def _answers(self) -> bool:
        try:
            return self._http.get(self.url, timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def says(self, person: str, **claims: Any) -> None:
        """What it tells of one person."""
        answer = self._http.put(f"{self.url}/users/{person}", json=claims, timeout=5)
        assert answer.status_code == 204, answer.text

    def pause(self) -> None:
        """Have it answer nobody until ``go_on``."""
        self._process.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.signal(signal.SIGCONT)

    def close(self) -> None:
        self._process.end(5)
        self._process.close()
        self._http.close()
