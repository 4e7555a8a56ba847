"""Caddy's configuration: TLS by own certificate, else by domain name, else none, with a warning.

Owns the choice and the text, headers and cookies included, and the copy of an own certificate for
Caddy's eyes. It is made anew at each start and reload of Caddy, so whoever puts a certificate there
reloads, and that is all. The demo has the same, signed by an authority of Caddy's own.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

from ec2spawner.errors import ConfigError
from ec2spawner.manager.health import PATH as HEALTH
from ec2spawner.manager.place import PUBLIC_PROXY, Manager

PAIRS = (("fullchain.pem", "privkey.pem"), ("cert.pem", "key.pem"), ("server.crt", "server.key"))
"""Names under which certificate and key are looked for, the first first."""
FORWARDED = ["header_up X-Scheme {scheme}", "header_up -X-Real-Ip", "header_up -Forwarded"]
"""The proxy behind adds to X-Forwarded-Proto, and the hub believes its last word; it believes
X-Scheme first. What a client says of its own address is not handed on."""
HSTS_SECONDS = 365 * 24 * 3600
NOT_LOOPBACK = [
    "not host 127.0.0.1 ::1",
    "not header_regexp Host (?i)(^|\\.)localhost\\.?(:\\d+)?$",
]
"""Names of whatever listens on a reader's own computer: no promise of HTTPS is made for them."""
COOKIES = [
    'Set-Cookie "(?i);\\s*Secure(;|$)" "$1"',
    'Set-Cookie "$" "; Secure"',
    'Set-Cookie "(?i)^(_xsrf=.*);\\s*SameSite=\\w+" "$1"',
    'Set-Cookie "^(_xsrf=.*)$" "$1; SameSite=Lax"',
]
"""By HTTPS: each attribute once, also where JupyterHub and a user's server set none (6.1:
``_xsrf``)."""
POLICIES = {
    "not path /user/*": "base-uri 'self'; object-src 'none'",
    "path /user/*": "base-uri 'self'",
}
"""Of the hub's pages, and of users' servers, where JupyterLab 4 shows a PDF by ``<object>``. They
go beside the policy that hub and server send themselves, and say nothing of what that one speaks
of: frames and reports."""
SHOWN = "Caddyfile"
PLAIN_WARNING = (
    "This hub is served by plain HTTP: passwords, tokens and notebooks can be read on their way."
    " Put a certificate into {ssl}, or give a domain name: launch-cluster up --domain NAME --email"
    " ADDRESS."
)


@dataclass(frozen=True)
class Front:
    """Where Caddy listens, what is behind it, and who signs; as a manager has it."""

    http: int = 80
    https: int = 443
    proxy: int = PUBLIC_PROXY[1]
    users_below: str = ""
    """Host below which each user's server has a name of its own; "" where none has."""
    signs_itself: bool = False
    """For the demo: an authority of Caddy's own, for names of this computer."""
    acme_url: str = ""
    """In tests: another authority than Caddy's usual one, and the root of its own certificate."""
    acme_root: Path | None = None


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


def check_wildcard(host: str, certificate: Certificate | None) -> None:
    """ConfigError unless the certificate is for a host and for all names right below it."""
    names = certificate.names if certificate else ()
    missing = [name for name in (host, f"*.{host}") if not any(_covers(n, name) for n in names)]
    if not missing:
        return
    why = "A certificate that Caddy gets by itself is for one name: no authority gives one for"
    why += f" *.{host} without a change of the domain's DNS records."
    if certificate:
        why = f"The one that is there is for {', '.join(names) or 'no name'}."
    raise ConfigError(
        f"SUBDOMAINS needs a certificate for {' and '.join(missing)}.",
        why=why,
        next_step=f"Put one for {host} and *.{host} into /etc/jupyterhub/ssl, or set SUBDOMAINS to"
        " false.",
    )


def _covers(name: str, wanted: str) -> bool:
    name = name.lower()
    return name == wanted or ("*" not in wanted and name == f"*.{wanted.partition('.')[2]}")


def caddyfile(
    manager: Manager,
    certificate: Certificate | None,
    data: Path,
    runtime: Path,
    front: Front | None = None,
) -> str:
    """The text for one of the ways. ConfigError where users' names lack a certificate."""
    front = front or Front()
    if front.users_below:
        check_wildcard(front.users_below, certificate)
    is_tls = bool(certificate or manager.domain or front.signs_itself)
    tls = [f"tls {certificate.chain} {certificate.key}"] if certificate else []
    if front.signs_itself:
        tls = [f"bind {PUBLIC_PROXY[0]}", "tls internal"]
    blocks = [
        _block("", [*_common(data, runtime, front), *_signing(manager, certificate, front)]),
        _block(_site(manager, certificate, front), [*tls, *_served(is_tls, front)]),
    ]
    if is_tls and not front.signs_itself:
        blocks.append(_block("http://", _plain(manager, certificate, front)))
    return "\n".join(blocks)


def _common(data: Path, runtime: Path, front: Front) -> list[str]:
    admin = "off" if front.signs_itself else f"unix/{runtime / 'admin.sock'}"
    return [
        f"admin {admin}",
        f"storage file_system {data}",
        f"http_port {front.http}",
        f"https_port {front.https}",
        # HTTP/3 comes by UDP, which the security group lets nobody use.
        _block("servers", ["protocols h1 h2"]),
    ]


def _signing(manager: Manager, certificate: Certificate | None, front: Front) -> list[str]:
    """Options: whose word a browser is asked to take."""
    if front.signs_itself:
        return ["auto_https disable_redirects", "skip_install_trust"]
    if certificate:
        names = [name for name in certificate.names if "*" not in name]
        return ["auto_https off", *(f"default_sni {name}" for name in names[:1])]
    if not manager.domain:
        return ["auto_https off"]
    options = [f"email {manager.email}"] if manager.email else []
    options += [f"acme_ca {front.acme_url}"] if front.acme_url else []
    return [*options, *([f"acme_ca_root {front.acme_root}"] if front.acme_root else [])]


def _site(manager: Manager, certificate: Certificate | None, front: Front) -> str:
    if front.signs_itself:
        return f"https://localhost:{front.https}, https://127.0.0.1:{front.https}"
    if certificate:
        return f":{front.https}"
    return f"https://{manager.domain}" if manager.domain else f":{front.http}"


def _https(manager: Manager, certificate: Certificate | None) -> str:
    own_name = manager.domain and not certificate
    return f"https://{manager.domain if own_name else '{host}'}"


def _plain(manager: Manager, certificate: Certificate | None, front: Front) -> list[str]:
    """By plain HTTP, beside HTTPS: whether the hub is well, also by its address; all else leads on.

    What a browser sends to prove who it is stays out, as does what the hub would have it keep.
    """
    host = front.users_below or manager.domain
    kept_out = ["header_up -Cookie", "header_up -Authorization", "header_down -Set-Cookie"]
    named = [f"header_up Host {host}"] if host else []
    health = _block(
        f"reverse_proxy {PUBLIC_PROXY[0]}:{front.proxy}", [*FORWARDED, *kept_out, *named]
    )
    return [
        _block("@health", ["method GET HEAD", f"path {HEALTH}"]),
        _block("handle @health", [health]),
        _block("handle", [f"redir {_https(manager, certificate)}{{uri}} 308"]),
    ]


def _served(is_tls: bool, front: Front) -> list[str]:
    headers = [
        'X-Content-Type-Options "nosniff"',
        'Referrer-Policy "strict-origin-when-cross-origin"',
        'X-Frame-Options "SAMEORIGIN"',
        "-Server",
        "-X-Powered-By",
        "-Service-Worker-Allowed",
        *(COOKIES if is_tls else []),
        "defer",
    ]
    always = [_block("header", headers)]
    if is_tls and not front.signs_itself:
        lasting = f'Strict-Transport-Security "max-age={HSTS_SECONDS}"'
        always += [_block("header @lasting", [lasting, "defer"])]
    sorry = 'respond "The hub does not answer. Try again in a minute." 503'
    return [
        _block("@lasting", NOT_LOOPBACK),
        *always,
        *_policies(),
        _block(f"reverse_proxy {PUBLIC_PROXY[0]}:{front.proxy}", FORWARDED),
        _block("handle_errors", [*always, sorry]),
    ]


def _policies() -> list[str]:
    lines = []
    for number, (which, policy) in enumerate(POLICIES.items()):
        added = [f'+Content-Security-Policy "{policy}"', "defer"]
        lines += [f"@pages{number} {which}", _block(f"header @pages{number}", added)]
    return lines


def _block(head: str, lines: list[str]) -> str:
    body = indent("\n".join(line.rstrip("\n") for line in lines), "\t")
    return f"{head} {{\n{body}\n}}\n".lstrip()


def write(
    manager: Manager,
    ssl: Path,
    data: Path,
    runtime: Path,
    owner: tuple[int, int],
    front: Front | None = None,
) -> str:
    """Write the configuration into ``runtime``; a warning where users come by plain HTTP."""
    pair = find_pair(ssl)
    certificate = copy_for_caddy(pair, runtime, *owner) if pair else None
    text = caddyfile(manager, certificate, data, runtime, front)
    _write(runtime / SHOWN, text.encode(), owner)
    is_tls = certificate or manager.domain or (front and front.signs_itself)
    return "" if is_tls else PLAIN_WARNING.format(ssl=ssl)
