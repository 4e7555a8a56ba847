"""The documents that commands are given on stdin: their parsing, strict and bounded.

Owns what a well-formed document is. Must not know hosts. Whatever passes here is safe as a file
name, a unit name and an HTTP request's path, as far as those parts are used so.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from ec2spawner.worker import hub_probe
from ec2spawner.worker.deadman import HUB_LOST_MAX_SECONDS, IDLE_MAX_SECONDS, Terms
from ec2spawner.worker.protocol import Code, Fault

DOCUMENT_MAX_BYTES = 1024 * 1024
ENVIRONMENT_MAX_BYTES = 512 * 1024  # systemd passes at most 1 MiB as a credential
VALUE_MAX_BYTES = 100 * 1024  # Linux takes 128 KiB for one "NAME=value"
ARGS_MAX = 200
MEMORY_MIN_BYTES = 64 * 1024 * 1024
TIMEOUT_MAX_SECONDS = 3600.0
KEEP_MAX_SECONDS = 8 * 86_400.0  # the longest that a hub may allow, and a day
DEFAULT_TIMEOUT_SECONDS = 120.0
DEFAULT_STOP_TIMEOUT_SECONDS = 10.0
DEFAULT_PREPARE_TIMEOUT_SECONDS = 300.0

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,255}")
_CLAIM = re.compile(r"[0-9a-f]{16}")
_VOLUME_ID = re.compile(r"vol-[0-9a-f]{8,32}")
_USERNAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_PREFIX = re.compile(r"/(?:[!-~]{0,4094}/)?")
_SECRET_NAME = re.compile(r"(?i)token|secret|password|passwd|credential|key")
_REQUIRED = {"version", "owner", "claim", "volume_id", "username", "address", "port"}
_OPTIONAL = {"environment", "args", "limits", "watchdog", "timeout_seconds"}
_NO_PART_OF_A_SERVER = {"watchdog", "timeout_seconds"}
_TERMS = {"hub_url", "hub_lost_seconds", "idle_seconds"}


@dataclass(frozen=True)
class Limits:
    """What a server may use; None is no limit."""

    memory_bytes: int | None = None
    cpu: float | None = None  # processors


@dataclass(frozen=True)
class StartDocument:
    """Whose server to start, with which home, where."""

    owner: str
    claim: str
    volume_id: str
    username: str
    address: str
    port: int
    environment: Mapping[str, str]
    args: tuple[str, ...]
    limits: Limits
    watchdog: Terms | None
    timeout_seconds: float
    digest: str  # of what makes a server: the same digest is the same server

    @property
    def prefix(self) -> str:
        """The path below which the server answers; begins and ends with a slash."""
        return self.environment.get("JUPYTERHUB_SERVICE_PREFIX", "/")

    def secrets(self) -> list[str]:
        """Values that no log or answer may show."""
        return [v for k, v in self.environment.items() if _SECRET_NAME.search(k)]


@dataclass(frozen=True)
class PrepareDocument:
    """Which hub prepares a worker that is nobody's yet, and how long that may take."""

    watchdog: Terms
    timeout_seconds: float


@dataclass(frozen=True)
class KeepDocument:
    """For how long from now the user of this claim counts as at work.

    ``at_work_seconds`` may be negative: then the user worked that long ago at the earliest. None:
    only what the user does counts.
    """

    claim: str
    at_work_seconds: float | None


def parse_start(data: bytes) -> StartDocument:
    """Read a start document; raises Fault(bad-document) that names the key."""
    raw = _object(data)
    _check_keys(raw, _REQUIRED, _OPTIONAL)
    _check_version(raw)
    username = _matching(raw, "username", _USERNAME)
    if username == "root":
        raise _bad("username: root runs no notebooks")
    return StartDocument(
        owner=_matching(raw, "owner", _OWNER),
        claim=_matching(raw, "claim", _CLAIM),
        volume_id=_matching(raw, "volume_id", _VOLUME_ID),
        username=username,
        address=_address(raw["address"]),
        port=int(_number(raw, "port", 1, 65535, whole=True)),
        environment=_environment(raw.get("environment", {})),
        args=_args(raw.get("args", [])),
        limits=_limits(raw.get("limits")),
        watchdog=parse_terms(raw["watchdog"], "watchdog.") if "watchdog" in raw else None,
        timeout_seconds=_timeout(raw, DEFAULT_TIMEOUT_SECONDS),
        digest=_digest(raw),
    )


def parse_prepare(data: bytes) -> PrepareDocument:
    """Read a prepare document; raises Fault(bad-document) that names the key."""
    raw = _object(data)
    _check_keys(raw, {"version", "watchdog"}, {"timeout_seconds"})
    _check_version(raw)
    return PrepareDocument(
        watchdog=parse_terms(raw["watchdog"], "watchdog."),
        timeout_seconds=_timeout(raw, DEFAULT_PREPARE_TIMEOUT_SECONDS),
    )


def parse_terms(raw: Any, where: str = "") -> Terms:
    """Read a hub's terms; raises Fault(bad-document) that names the key, after ``where``."""
    if not isinstance(raw, dict):
        raise _bad(f"{where or 'terms'}: must be an object")
    named = {f"{where}{key}": value for key, value in raw.items()}
    _check_keys(named, {f"{where}{key}" for key in _TERMS})
    url = named[f"{where}hub_url"]
    if not isinstance(url, str) or hub_probe.parse(url) is None:
        raise _bad(f"{where}hub_url: must be like http://10.0.0.5:8081/hub/api, and no more")
    return Terms(
        url,
        float(_number(named, f"{where}hub_lost_seconds", 1, HUB_LOST_MAX_SECONDS)),
        float(_number(named, f"{where}idle_seconds", 1, IDLE_MAX_SECONDS)),
    )


def parse_keep(data: bytes) -> KeepDocument:
    """Read a keep document; raises Fault(bad-document) that names the key."""
    raw = _object(data)
    _check_keys(raw, {"version", "claim", "at_work_seconds"})
    _check_version(raw)
    claim = _matching(raw, "claim", _CLAIM)
    if raw["at_work_seconds"] is None:
        return KeepDocument(claim, None)
    seconds = _number(raw, "at_work_seconds", -IDLE_MAX_SECONDS, KEEP_MAX_SECONDS)
    return KeepDocument(claim, float(seconds))


def parse_stop(data: bytes) -> float:
    """The seconds that a stop may take; an empty input is the default."""
    raw = _object(data) if data.strip() else {}
    _check_keys(raw, set(), {"timeout_seconds"})
    return _timeout(raw, DEFAULT_STOP_TIMEOUT_SECONDS)


def _bad(detail: str) -> Fault:
    return Fault(Code.BAD_DOCUMENT, detail)


def _check_keys(
    raw: Mapping[str, Any], required: set[str], optional: Set[str] = frozenset()
) -> None:
    if missing := required - set(raw):
        raise _bad(f"missing: {', '.join(sorted(missing))}")
    if unknown := set(raw) - required - optional:
        raise _bad(f"unknown: {', '.join(sorted(map(repr, unknown)))}")


def _check_version(raw: Mapping[str, Any]) -> None:
    if raw["version"] != 1 or isinstance(raw["version"], bool):
        raise _bad("version: this worker knows version 1 only; rebuild its image")


def _object(data: bytes) -> dict[str, Any]:
    if len(data) > DOCUMENT_MAX_BYTES:
        raise _bad(f"longer than {DOCUMENT_MAX_BYTES} bytes")
    try:
        raw = json.loads(data.decode())
    except RecursionError:
        raise _bad("nested too deeply") from None
    except ValueError as error:
        raise _bad(f"not JSON: {type(error).__name__}") from None  # no text: it may quote a secret
    if not isinstance(raw, dict):
        raise _bad("not a JSON object")
    return raw


def _digest(raw: Mapping[str, Any]) -> str:
    meant = {k: v for k, v in raw.items() if k not in _NO_PART_OF_A_SERVER}
    return hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()


def _matching(raw: Mapping[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    value = raw[key]
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _bad(f"{key}: must match {pattern.pattern}")
    return value


def _number(
    raw: Mapping[str, Any], key: str, low: float, high: float, *, whole: bool = False
) -> float:
    value = raw[key]
    kinds = int if whole else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
        raise _bad(f"{key}: must be a number from {low:g} to {high:g}")
    return value


def _timeout(raw: Mapping[str, Any], default: float) -> float:
    if "timeout_seconds" not in raw:
        return default
    return float(_number(raw, "timeout_seconds", 0, TIMEOUT_MAX_SECONDS))


def _address(value: Any) -> str:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_ntop(family, socket.inet_pton(family, value))
        except (OSError, TypeError, ValueError):
            continue
    raise _bad("address: must be an IP address")


def _is_text(value: Any) -> bool:
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        return len(value.encode()) <= VALUE_MAX_BYTES
    except UnicodeEncodeError:
        return False


def _environment(raw: Any) -> Mapping[str, str]:
    if not isinstance(raw, dict):
        raise _bad("environment: must be an object")
    for name, value in raw.items():
        if not _VARIABLE.fullmatch(name):
            raise _bad(f"environment: {name[:40]!r} is no variable name")
        if not _is_text(value):
            raise _bad(f"environment: {name} must be text of at most {VALUE_MAX_BYTES} bytes")
    if sum(len(k) + len(v.encode()) for k, v in raw.items()) > ENVIRONMENT_MAX_BYTES:
        raise _bad(f"environment: over {ENVIRONMENT_MAX_BYTES} bytes")
    if not _PREFIX.fullmatch(raw.get("JUPYTERHUB_SERVICE_PREFIX", "/")):
        raise _bad("environment: JUPYTERHUB_SERVICE_PREFIX must be an escaped path, /.../")
    return dict(raw)


def _args(raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, list) or len(raw) > ARGS_MAX or not all(map(_is_text, raw)):
        raise _bad(f"args: must be a list of at most {ARGS_MAX} texts")
    return tuple(raw)


def _limits(raw: Any) -> Limits:
    if raw is None:
        return Limits()
    if not isinstance(raw, dict) or set(raw) - {"memory_bytes", "cpu"}:
        raise _bad("limits: must be an object with memory_bytes and cpu")
    memory, cpu = raw.get("memory_bytes"), raw.get("cpu")
    named = {"limits.memory_bytes": memory, "limits.cpu": cpu}
    if memory is not None:
        _number(named, "limits.memory_bytes", MEMORY_MIN_BYTES, 2**60, whole=True)
    if cpu is not None:
        _number(named, "limits.cpu", 0.01, 4096)
    return Limits(memory, None if cpu is None else float(cpu))
