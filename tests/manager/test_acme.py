"""Certificates that Caddy gets by itself, from Debian's ``pebble``: one order, kept, renewed.

Pebble resolves every name to this computer by its companion's DNS server, and looks there for the
proof, as Let's Encrypt does.
"""

from __future__ import annotations

import json
import socket
import ssl as tls
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
from cryptography import x509
from hub.processes import Process, clean_environment, eventually, free_port, start_process

from ec2spawner.manager import caddyfile
from ec2spawner.manager.caddyfile import SHOWN, Front
from ec2spawner.manager.place import Manager

from .conftest import find_program
from .test_caddyfile import make_certificate

NAME = "hub.uni.example"
MANAGER = Manager("biology101", "us-east-1", "bucket", domain=NAME, email="ann@uni.example")
SHORT_SECONDS = 9
ORDERS = "orders in the db"


@dataclass
class Pebble:
    """An authority and its DNS server; its root is another at each start."""

    folder: Path
    process: Process
    names: Process
    port: int
    control: int

    @property
    def log(self) -> str:
        return (self.folder / "pebble.log").read_text()

    @property
    def orders(self) -> int:
        return self.log.count(ORDERS)

    def close(self) -> None:
        for process in (self.process, self.names):
            process.close()


@dataclass
class Site:
    """Caddy as the manager's, on ports that pebble looks at; and what a browser sees of it."""

    folder: Path
    caddy: Path
    front: Front
    root: str  # of the authority
    process: Process | None = field(default=None)

    def start(self) -> None:
        runtime = self.folder / "run"
        runtime.mkdir(parents=True, exist_ok=True)
        nothing = self.folder / "ssl"
        caddyfile.write(MANAGER, nothing, self.folder / "data", runtime, (0, 0), self.front)
        self.process = start_process(
            [str(self.caddy), "run", "--adapter", "caddyfile", "--config", str(runtime / SHOWN)],
            self.folder,
            self.folder / "caddy.log",
            clean_environment(HOME=str(self.folder), XDG_DATA_HOME=str(self.folder)),
        )

    def stop(self) -> None:
        assert self.process
        self.process.end()

    def certificate(self) -> x509.Certificate | None:
        """What it shows to whoever asks for the name and trusts the authority; None for none."""
        assert self.process
        assert self.process.is_alive, (self.folder / "caddy.log").read_text()
        context = tls.create_default_context(cadata=self.root)
        try:
            with (
                socket.create_connection(("127.0.0.1", self.front.https), timeout=5) as plain,
                context.wrap_socket(plain, server_hostname=NAME) as secure,
            ):
                shown = secure.getpeercert(binary_form=True)
        except OSError:  # nobody there yet, or no certificate yet
            return None
        return x509.load_der_x509_certificate(shown) if shown else None

    def until_shown(self) -> x509.Certificate:
        shown = eventually(self.certificate, 30, f"a certificate for {NAME}")
        assert isinstance(shown, x509.Certificate)
        return shown

    def page(self) -> tuple[int, str]:
        """Status and text of the hub's page."""
        context = tls.create_default_context(cadata=self.root)
        with (
            socket.create_connection(("127.0.0.1", self.front.https), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=NAME) as secure,
        ):
            secure.sendall(f"GET / HTTP/1.0\r\nHost: {NAME}\r\n\r\n".encode())
            answer = b"".join(iter(lambda: secure.recv(65536), b"")).decode()
        return int(answer.split()[1]), answer


def start_pebble(folder: Path, ports: tuple[int, int], seconds: int) -> Pebble:
    """An authority whose certificates hold for so long, and which looks at these ports."""
    pebble, companion = (find_program(name, "pebble") for name in ("pebble", "pebble-challtestsrv"))
    names, port, control = free_port(), free_port(), free_port()
    make_certificate(folder, "localhost")
    config = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{control}",
        "certificate": str(folder / "fullchain.pem"),
        "privateKey": str(folder / "privkey.pem"),
        "httpPort": ports[0],
        "tlsPort": ports[1],
        "certificateValidityPeriod": seconds,
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": config}))
    off = ("-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", "")
    dns = start_process(
        [
            *(str(companion), "-dns01", f"127.0.0.1:{names}", *off),
            *("-management", f"127.0.0.1:{free_port()}"),
        ],
        folder,
        folder / "names.log",
        clean_environment(),
    )
    authority = start_process(
        [
            *(str(pebble), "-config", str(folder / "pebble.json")),
            *("-dnsserver", f"127.0.0.1:{names}"),
        ],
        folder,
        folder / "pebble.log",
        clean_environment(PEBBLE_VA_NOSLEEP="1", PEBBLE_WFE_NONCEREJECT="0"),
    )
    made = Pebble(folder, authority, dns, port, control)
    eventually(lambda: "ACME directory available" in made.log, 20, "the authority answers")
    return made


@pytest.fixture
def seconds() -> int:
    """For how long a certificate holds."""
    return 24 * 3600


@pytest.fixture
def pebble(tmp_path: Path, seconds: int, site_ports: tuple[int, int]) -> Iterator[Pebble]:
    pebble = start_pebble(tmp_path / "pebble", site_ports, seconds)
    yield pebble
    pebble.close()


@pytest.fixture
def site_ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture
def site(
    tmp_path: Path, caddy: Path, pebble: Pebble, site_ports: tuple[int, int]
) -> Iterator[Site]:
    own = pebble.folder / "fullchain.pem"
    control = f"https://localhost:{pebble.control}/roots/0"
    root = requests.get(control, verify=str(own), timeout=10).text
    url = f"https://localhost:{pebble.port}/dir"
    front = Front(*site_ports, proxy=free_port(), acme_url=url, acme_root=own)
    site = Site(tmp_path / "site", caddy, front, root)
    yield site
    if site.process:
        site.process.close()


def test_a_name_alone_brings_a_certificate_and_a_restart_asks_for_no_other(
    site: Site, pebble: Pebble
) -> None:
    site.start()
    first = site.until_shown()
    names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [NAME]
    status, answer = site.page()
    assert status == 503, answer  # Caddy's own words: there is no hub here
    assert "The hub does not answer" in answer
    assert "strict-transport-security: max-age=31536000" in answer.lower()
    assert pebble.orders == 1
    site.stop()
    site.start()
    assert site.until_shown().serial_number == first.serial_number
    time.sleep(0.5)  # for an order that must not come
    assert pebble.orders == 1


def test_an_authority_that_is_away_takes_nothing_from_who_has_a_certificate(
    site: Site, pebble: Pebble
) -> None:
    site.start()
    first = site.until_shown()
    site.stop()
    pebble.process.end()
    site.start()
    assert site.until_shown().serial_number == first.serial_number


@pytest.mark.parametrize("seconds", [SHORT_SECONDS])
def test_a_certificate_near_its_end_is_renewed(site: Site, pebble: Pebble, seconds: int) -> None:
    site.start()
    first = site.until_shown()
    site.stop()
    # Caddy renews in the last third; it looks when it starts, and every ten minutes.
    time.sleep(seconds * 0.7)
    site.start()
    eventually(lambda: pebble.orders == 2, 20, "another order")

    def is_another() -> bool:
        shown = site.certificate()
        return shown is not None and shown.serial_number != first.serial_number

    eventually(is_another, 20, "another certificate")
