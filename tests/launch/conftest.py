"""One emulated cloud for a file of tests of the commands; each test has a cluster of its own."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result

from ec2spawner.cloud import Effect, Gateway, default_effect
from ec2spawner.localcloud.managers import PORTS
from launch_cluster import building, cli
from launch_cluster import bundle as bundle_module
from launch_cluster.answering import HTTP_PORT
from launch_cluster.commands import common
from launch_cluster.reporter import Reporter

from .clouds import served
from .documents import check_document, command_of
from .shops import Shop

READS = frozenset({"get_caller_identity"})
_numbers = count(1)
_clusters = count(1)
_shared: dict[str, str] = {}  # by the cloud in which it is


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an emulated cloud whose machines are stubs and boot at once.

    One for each file of tests, so that its listings stay short.
    """
    with served(tmp_path_factory.mktemp("cloud")) as (address, _):
        yield address


def _hub_port() -> int:
    """Where the emulated managers' hubs answer: on port 80, if that may be had here."""
    with socket.socket() as attempt:
        try:
            attempt.bind(("127.78.255.254", PORTS[0]))
        except OSError:
            return PORTS[1]
    return PORTS[0]


@pytest.fixture(scope="session")
def hub_suffix() -> str:
    """What follows a manager's public address in the hub's URL."""
    port = _hub_port()
    return "" if port == HTTP_PORT else f":{port}"


@pytest.fixture
def aws(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment with credentials and the emulated cloud; the empty folder in which we are."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "EC2SPAWNER_HTTP_PORT": str(_hub_port()),
        "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("EC2SPAWNER_CONFIG", raising=False)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(common, "CHECKOUT", folder)
    return folder


class Killed(BaseException):
    """What a process that was killed does not notice."""


@dataclass
class Calls:
    """What the command asked of AWS; a test may let a call fail, or act just before or after it."""

    made: list[str] = field(default_factory=list)
    requests: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    before: dict[str, Callable[[], None]] = field(default_factory=dict)
    after: dict[str, Callable[[], None]] = field(default_factory=dict)
    is_dead: bool = False  # the process was killed: nothing that it still does reaches AWS

    @property
    def changing(self) -> list[str]:
        """The calls that could change something."""
        return [
            name
            for name in self.made
            if default_effect(name) is not Effect.READ and name not in READS
        ]


class KeptClients:
    """A boto3 session that makes one client for each service of a cloud: making one takes as long
    as many calls."""

    def __init__(self) -> None:
        self._session = boto3.session.Session(
            aws_access_key_id="test", aws_secret_access_key="test"
        )
        self._kept: dict[tuple[str | None, ...], Any] = {}
        self._lock = threading.Lock()

    def client(self, service: str, *, region_name: str | None, **more: Any) -> Any:
        """As boto3's."""
        key = (service, region_name, os.environ["AWS_ENDPOINT_URL"])
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._session.client(service, region_name=region_name, **more)
            return self._kept[key]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@pytest.fixture(scope="session")
def shared_session() -> Any:
    """One boto3 session for all: reading its models takes longer than a launch."""
    return KeptClients()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, shared_session: Any) -> Calls:
    """The calls that the command under test makes."""
    calls = Calls()

    class RecordingGateway(Gateway):
        def __init__(self, region: str | None = None) -> None:
            super().__init__(region, session_factory=lambda: shared_session)

        async def call(self, service: str, operation: str, params: Any = None, **more: Any) -> Any:
            if calls.is_dead:
                raise Killed
            calls.made.append(operation)
            calls.requests.append((operation, params or {}))
            if operation in calls.before:
                calls.before[operation]()
            reply = await super().call(service, operation, params, **more)
            if operation in calls.after:
                calls.after[operation]()
            return reply

    monkeypatch.setattr(common, "Gateway", RecordingGateway)
    return calls


@pytest.fixture(scope="session")
def bundle() -> bundle_module.Bundle:
    """The package for builders, put together once: its wheel takes a second."""
    return bundle_module.make_bundle(bundle_module.find_sources())


@pytest.fixture(autouse=True)
def quick_builds(monkeypatch: pytest.MonkeyPatch, bundle: bundle_module.Bundle) -> None:
    """Images are built without pauses that people do not notice."""
    monkeypatch.setattr(bundle_module, "make_bundle", lambda sources: bundle)
    monkeypatch.setattr(building, "POLL_SECONDS", (0.02,))
    monkeypatch.setattr(building, "LOOK_AGAIN_SECONDS", 0.02)


@pytest.fixture
def documents(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was handed to be printed as JSON, whether or not that was asked for."""
    handed: list[Any] = []
    print_it = Reporter.result

    def result(reporter: Reporter, document: dict[str, Any]) -> None:
        handed.append(json.loads(json.dumps(document)))
        print_it(reporter, document)

    monkeypatch.setattr(Reporter, "result", result)
    return handed


@pytest.fixture
def run(documents: list[Any]) -> Callable[..., Result]:
    """Runs ``launch-cluster`` in this process; what it says as JSON fits the command's schema."""

    def run(*arguments: str, answer: str = "") -> Result:
        documents.clear()
        result = CliRunner().invoke(cli.main, arguments, input=answer)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        for document in documents:
            check_document(command_of(arguments), document)
        return result

    return run


@pytest.fixture
def cluster() -> str:
    """Name of a cluster that no other test uses."""
    return f"test{next(_numbers)}"


@pytest.fixture
def gateway(aws: Path, shared_session: Any) -> Iterator[Gateway]:
    """A gateway to the emulated cloud, for looking at it and making things in it."""
    gateway = Gateway(region="us-east-1", session_factory=lambda: shared_session)
    yield gateway
    gateway.close()


@pytest.fixture
def make_shop(
    run: Callable[..., Result], gateway: Gateway, aws: Path, calls: Calls
) -> Callable[[], Shop]:
    def make_shop() -> Shop:
        name = f"image{next(_clusters)}"
        result = run("up", name, "--no-manager", "--yes")
        assert result.exit_code == 0, result.stderr
        calls.made.clear()
        calls.requests.clear()
        return Shop(run, gateway, aws, name)

    return make_shop


@pytest.fixture
def shop(
    make_shop: Callable[[], Shop],
    run: Callable[..., Result],
    gateway: Gateway,
    aws: Path,
    endpoint: str,
) -> Shop:
    """A cluster that the tests of builds share: each builds an image of its own in it."""
    if endpoint not in _shared:
        _shared[endpoint] = make_shop().name
    return Shop(run, gateway, aws, _shared[endpoint])
