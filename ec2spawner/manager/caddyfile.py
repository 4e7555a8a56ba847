"""Caddy's configuration: TLS by own certificate, else by domain name, else none, with a warning.

Owns the choice and the text, and the copy of an own certificate for Caddy's eyes. It is made anew
at each start and reload of Caddy, so whoever puts a certificate there reloads, and that is all.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

from ec2spawner.errors import ConfigError
from ec2spawner.manager.place import PUBLIC_PROXY, Manager

PAIRS = (("fullchain.pem", "privkey.pem"), ("cert.pem", "key.pem"), ("server.crt", "server.key"))
"""Names under which certificate and key are looked for, the first first."""
FORWARDED = ["header_up X-Scheme {scheme}", "header_up -X-Real-Ip", "header_up -Forwarded"]
"""The proxy behind adds to X-Forwarded-Proto, and the hub believes its last word; it believes
X-Scheme first. What a client says of its own address is not handed on."""
HSTS_SECONDS = 365 * 24 * 3600
SHOWN = "Caddyfile"
PLAIN_WARNING = (
    "This hub is served by plain HTTP: passwords, tokens and notebooks can be read on their way."
    " Put a certificate into {ssl}, or give a domain name: launch-cluster up --domain NAME --email"
    " ADDRESS."
)


@dataclass(frozen=True)
class Ports:
    """Where Caddy listens, and the proxy; elsewhere in tests only."""

    http: int = 80
    https: int = 443
    proxy: int = PUBLIC_PROXY[1]


@dataclass(frozen=True)
class Certificate:
    """An own certificate, with its chain, and its key, as Caddy reads them."""

    chain: Path
    key: Path
    names: tuple[str, ...]


def find_pair(folder: Path) -> tuple[Path, Path] | None:
    """The operator's certificate and key; ConfigError for one without the other."""
    for names in PAIRS:
        chain, key = (folder / name for name in names)
        if chain.exists() and key.exists():
            return chain, key
    there = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
    if not there:
        return None
    raise ConfigError(
        f"{folder} holds no certificate with its key.",
        why=f"It holds {', '.join(there)}.",
        next_step="Name them " + ", or ".join(" and ".join(pair) for pair in PAIRS) + ".",
    )


def names_of(chain: Path) -> tuple[str, ...]:
    """The host names that a certificate is for; ConfigError for what is none."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(chain.read_bytes())
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return tuple(extension.value.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        return ()
    except ValueError as error:
        raise ConfigError(
            f"{chain} is no certificate in PEM form.",
            why=str(error),
            next_step="Put the certificate there, followed by those that signed it.",
        ) from None


def copy_for_caddy(pair: tuple[Path, Path], folder: Path, uid: int, gid: int) -> Certificate:
    """A copy on tmpfs, its own to read: the original stays readable to root only."""
    bodies = [source.read_bytes() for source in pair]
    # Caddy takes a configuration anew only if its text is another.
    version = hashlib.sha256(b"\0".join(bodies)).hexdigest()[:12]
    copies = [folder / f"{kind}-{version}.pem" for kind in ("chain", "key")]
    for copy, body in zip(copies, bodies, strict=True):
        _write(copy, body, (uid, gid))
    return Certificate(copies[0], copies[1], names_of(pair[0]))


def _write(path: Path, body: bytes, owner: tuple[int, int]) -> None:
    """Follows no link that whoever owns the folder may have laid."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
        file.write(body)
        if os.geteuid() == 0:
            os.fchown(file.fileno(), *owner)
    fresh.replace(path)


def caddyfile(
    manager: Manager,
    certificate: Certificate | None,
    data: Path,
    runtime: Path,
    ports: Ports | None = None,
) -> str:
    """The text for one of the three ways."""
    ports = ports or Ports()
    is_tls = bool(certificate or manager.domain)
    options = [
        f"admin unix/{runtime / 'admin.sock'}",
        f"storage file_system {data}",
        f"http_port {ports.http}",
        f"https_port {ports.https}",
        # HTTP/3 comes by UDP, which the security group lets nobody use.
        _block("servers", ["protocols h1 h2"]),
    ]
    if certificate or not is_tls:
        options.append("auto_https off")
    if certificate and (names := [n for n in certificate.names if "*" not in n]):
        options.append(f"default_sni {names[0]}")
    if manager.email and not certificate:
        options.append(f"email {manager.email}")
    site = f":{ports.http}"
    if is_tls:
        site = f":{ports.https}" if certificate else f"https://{manager.domain}"
    tls = [f"tls {certificate.chain} {certificate.key}"] if certificate else []
    blocks = [_block("", options), _block(site, [*tls, *_served(is_tls, ports.proxy)])]
    if is_tls:
        blocks.append(_block("http://", [f"redir {_https(manager, certificate)}{{uri}} 308"]))
    return "\n".join(blocks)


def _https(manager: Manager, certificate: Certificate | None) -> str:
    own_name = manager.domain and not certificate
    return f"https://{manager.domain if own_name else '{host}'}"


def _served(is_tls: bool, proxy_port: int) -> list[str]:
    headers = [
        'X-Content-Type-Options "nosniff"',
        'Referrer-Policy "strict-origin-when-cross-origin"',
        'X-Frame-Options "SAMEORIGIN"',
        "-Server",
        "-X-Powered-By",
        "defer",
    ]
    if is_tls:
        headers.insert(0, f'Strict-Transport-Security "max-age={HSTS_SECONDS}"')
    return [
        _block("header", headers),
        # The proxy behind adds to X-Forwarded-Proto, and the hub believes its last word; it
        # believes X-Scheme first.
        _block(
            f"reverse_proxy {PUBLIC_PROXY[0]}:{proxy_port}",
            ["header_up X-Scheme {scheme}", "header_up -X-Real-Ip", "header_up -Forwarded"],
        ),
        _block("handle_errors", ['respond "The hub does not answer. Try again in a minute." 503']),
    ]


def _block(head: str, lines: list[str]) -> str:
    body = indent("\n".join(line.rstrip("\n") for line in lines), "\t")
    return f"{head} {{\n{body}\n}}\n".lstrip()


def write(
    manager: Manager,
    ssl: Path,
    data: Path,
    runtime: Path,
    owner: tuple[int, int],
    ports: Ports | None = None,
) -> str:
    """Write the configuration into ``runtime``; a warning where users come by plain HTTP."""
    pair = find_pair(ssl)
    certificate = copy_for_caddy(pair, runtime, *owner) if pair else None
    text = caddyfile(manager, certificate, data, runtime, ports)
    _write(runtime / SHOWN, text.encode(), owner)
    return "" if certificate or manager.domain else PLAIN_WARNING.format(ssl=ssl)
