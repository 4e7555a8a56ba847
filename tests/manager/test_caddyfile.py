"""Caddy's configuration: which of the three ways, and that Caddy itself takes it."""

from __future__ import annotations

import stat
import subprocess
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hub.processes import clean_environment, eventually, free_port, start_process

from ec2spawner.errors import ConfigError
from ec2spawner.manager import caddyfile
from ec2spawner.manager.caddyfile import PAIRS, SHOWN, Certificate, Front
from ec2spawner.manager.place import Manager

PLAIN = Manager("biology101", "us-east-1", "bucket", "vol-0123456789abcdef0")
NAMED = Manager("biology101", "us-east-1", "bucket", domain="hub.example.org", email="a@b.org")


def make_certificate(folder: Path, *names: str, pair: tuple[str, str] = PAIRS[0]) -> None:
    """A certificate signed by itself, as an operator puts it there."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub")])
    now = datetime.now(timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )
    if names:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(n) for n in names])
        built = built.add_extension(alternatives, critical=False)
    folder.mkdir(exist_ok=True)
    signed = built.sign(key, hashes.SHA256())
    (folder / pair[0]).write_bytes(signed.public_bytes(Encoding.PEM))
    (folder / pair[1]).write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


@pytest.fixture
def ssl(tmp_path: Path) -> Path:
    return tmp_path / "ssl"


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def write(
    manager: Manager, ssl: Path, runtime: Path, front: Front | None = None
) -> tuple[str, str]:
    """The configuration, and the warning."""
    warning = caddyfile.write(manager, ssl, runtime / "data", runtime, (0, 0), front)
    return (runtime / SHOWN).read_text(), warning


def test_plain_http_comes_with_a_warning_only(ssl: Path, runtime: Path) -> None:
    text, warning = write(PLAIN, ssl, runtime)
    assert "plain HTTP" in warning
    assert str(ssl) in warning
    assert ":80 {" in text
    assert "https" not in text.replace("auto_https off", "").replace("https_port", "")
    assert "Strict-Transport-Security" not in text  # it would lock everybody out


def test_a_domain_brings_https_by_itself(ssl: Path, runtime: Path) -> None:
    text, warning = write(NAMED, ssl, runtime)
    assert warning == ""
    assert "https://hub.example.org {" in text
    assert "email a@b.org" in text
    assert "auto_https off" not in text
    assert "redir https://hub.example.org{uri} 308" in text


@pytest.mark.parametrize("pair", PAIRS)
def test_an_own_certificate_comes_first(ssl: Path, runtime: Path, pair: tuple[str, str]) -> None:
    make_certificate(ssl, "hub.uni.example", pair=pair)
    text, warning = write(NAMED, ssl, runtime)
    assert warning == ""
    assert f"tls {runtime}/chain-" in text
    assert "default_sni hub.uni.example" in text
    assert "auto_https off" in text
    assert "redir https://{host}{uri} 308" in text
    assert "Strict-Transport-Security" in text


@pytest.mark.parametrize("kept", [0, 1])
def test_half_a_certificate_is_refused_and_never_served_as_plain_http(
    ssl: Path, runtime: Path, kept: int
) -> None:
    make_certificate(ssl, "hub.uni.example")
    (ssl / PAIRS[0][1 - kept]).unlink()
    with pytest.raises(ConfigError, match=PAIRS[0][kept]):
        write(PLAIN, ssl, runtime)
    assert not (runtime / SHOWN).exists()


def test_what_is_no_certificate_is_refused(ssl: Path, runtime: Path) -> None:
    make_certificate(ssl, "hub.uni.example")
    (ssl / PAIRS[0][0]).write_text("-----BEGIN NONSENSE-----")
    with pytest.raises(ConfigError, match="PEM"):
        write(PLAIN, ssl, runtime)


def test_a_certificate_without_names_and_one_with_a_wildcard_do_too(
    ssl: Path, runtime: Path
) -> None:
    make_certificate(ssl)
    assert "default_sni" not in write(PLAIN, ssl, runtime)[0]
    make_certificate(ssl, "*.uni.example")
    assert "default_sni" not in write(PLAIN, ssl, runtime)[0]


def test_the_key_is_copied_for_one_reader_and_follows_no_link(ssl: Path, runtime: Path) -> None:
    make_certificate(ssl, "hub.uni.example")
    elsewhere = runtime.parent / "elsewhere"
    (runtime / f".{SHOWN}.new").symlink_to(elsewhere)
    write(PLAIN, ssl, runtime)
    (key,) = runtime.glob("key-*.pem")
    assert stat.S_IMODE(key.stat().st_mode) == 0o400
    assert key.read_bytes() == (ssl / PAIRS[0][1]).read_bytes()
    assert not elsewhere.exists()


def test_a_renewed_certificate_is_another_configuration_and_the_same_one_is_not(
    ssl: Path, runtime: Path
) -> None:
    make_certificate(ssl, "hub.uni.example")
    first, again = write(PLAIN, ssl, runtime)[0], write(PLAIN, ssl, runtime)[0]
    make_certificate(ssl, "hub.uni.example")
    assert first == again != write(PLAIN, ssl, runtime)[0]


WAYS = {
    "plain": (PLAIN, Front()),
    "domain": (NAMED, Front()),
    "certificate": (PLAIN, Front()),
    "own authority": (PLAIN, Front(8080, 8443, 8000, signs_itself=True)),
}


@pytest.mark.parametrize("way", WAYS)
def test_caddy_takes_it(caddy: Path, ssl: Path, runtime: Path, way: str) -> None:
    if way == "certificate":
        make_certificate(ssl, "hub.uni.example")
    manager, front = WAYS[way]
    write(manager, ssl, runtime, front)
    done = subprocess.run(
        [
            *(str(caddy), "validate", "--adapter", "caddyfile"),
            *("--config", str(runtime / SHOWN)),
        ],
        env={"HOME": str(runtime), "XDG_DATA_HOME": str(runtime), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "not formatted" not in done.stderr


def test_names_are_only_those_of_hosts(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path / "c", tmp_path / "k", ("*.a.org", "b.org"))
    text = caddyfile.caddyfile(PLAIN, certificate, tmp_path, tmp_path)
    assert "default_sni b.org" in text


def test_no_promise_of_https_is_made_by_plain_http_or_the_demo(ssl: Path, runtime: Path) -> None:
    demo = Front(8080, 8443, 8000, signs_itself=True)
    for front in (Front(), demo):
        text, _ = write(PLAIN, ssl, runtime, front)
        assert "Strict-Transport-Security" not in text


HUB = "hub.uni.example"
BELOW = Front(users_below=HUB)


@pytest.mark.parametrize(("front", "host"), [(Front(), "hub.example.org"), (None, HUB)])
def test_by_plain_http_health_alone_is_asked_of_the_hub_and_without_secrets(
    ssl: Path, runtime: Path, front: Front | None, host: str
) -> None:
    if front is None:
        make_certificate(ssl, HUB, f"*.{HUB}")
    text, _ = write(NAMED, ssl, runtime, front or BELOW)
    plain = text[text.index("http:// {") :]
    assert "path /hub/health\n" in plain
    kept_out = ("header_up -Cookie", "header_up -Authorization", "header_down -Set-Cookie")
    assert all(line in plain for line in kept_out)
    assert f"header_up Host {host}\n" in plain


def test_the_demo_needs_no_certificate_and_is_this_computer_s_alone(
    ssl: Path, runtime: Path
) -> None:
    text, warning = write(PLAIN, ssl, runtime, Front(8080, 8443, 8000, signs_itself=True))
    assert warning == ""
    assert "https://localhost:8443, https://127.0.0.1:8443 {" in text
    assert "\tbind 127.0.0.1\n" in text
    assert "skip_install_trust" in text  # it changes nothing on this computer
    assert "http://" not in text


@pytest.mark.parametrize(
    "names", [(HUB, f"*.{HUB}"), ("*.uni.example", f"*.{HUB}"), (f"*.{HUB.upper()}", HUB)]
)
def test_users_names_are_served_by_a_certificate_for_them(
    ssl: Path, runtime: Path, names: tuple[str, ...]
) -> None:
    make_certificate(ssl, *names)
    text, _ = write(NAMED, ssl, runtime, BELOW)
    assert "\n:443 {" in text  # whatever the name
    assert "redir https://{host}{uri} 308" in text


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ((HUB,), f"*.{HUB}"),
        ((f"*.{HUB}",), HUB),
        (("*.uni.example",), f"*.{HUB}"),  # a star is one label
        ((), f"{HUB} and *.{HUB}"),
    ],
)
def test_users_names_without_a_certificate_for_them_are_refused(
    ssl: Path, runtime: Path, names: tuple[str, ...], missing: str
) -> None:
    make_certificate(ssl, *names)
    with pytest.raises(ConfigError) as error:
        write(NAMED, ssl, runtime, BELOW)
    assert error.value.what == f"SUBDOMAINS needs a certificate for {missing}."
    assert "The one that is there is for" in error.value.why
    assert not (runtime / SHOWN).exists()


@pytest.mark.parametrize("manager", [PLAIN, NAMED])
def test_users_names_with_no_own_certificate_are_refused(
    ssl: Path, runtime: Path, manager: Manager
) -> None:
    with pytest.raises(ConfigError, match=HUB) as error:
        write(manager, ssl, runtime, BELOW)
    assert "no authority gives one" in error.value.why
    assert "/etc/jupyterhub/ssl" in error.value.next_step


class Worker(BaseHTTPRequestHandler):
    """A student's server that wants a service worker for the whole host."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Service-Worker-Allowed", "/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_no_server_has_a_service_worker_for_the_whole_host(
    caddy: Path, ssl: Path, runtime: Path
) -> None:
    with HTTPServer(("127.0.0.1", 0), Worker) as behind:
        threading.Thread(target=behind.serve_forever, daemon=True).start()
        front = Front(free_port(), free_port(), behind.server_port)
        write(PLAIN, ssl, runtime, front)
        process = start_process(
            [str(caddy), "run", "--adapter", "caddyfile", "--config", str(runtime / SHOWN)],
            runtime,
            runtime / "caddy.log",
            clean_environment(HOME=str(runtime), XDG_DATA_HOME=str(runtime)),
        )
        try:
            url = f"http://127.0.0.1:{front.http}/user/eve/sw.js"
            eventually(lambda: _status(url) == 200, 20, "Caddy answers")
            answer = requests.get(url, timeout=20)
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "Service-Worker-Allowed" not in answer.headers
        finally:
            process.close()
            behind.shutdown()


def _status(url: str) -> int | None:
    try:
        return requests.get(url, timeout=5).status_code
    except requests.ConnectionError:
        return None
