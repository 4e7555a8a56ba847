"""A JSON file that people edit: read with every fault named, written whole or not at all.

Owns syntax, encoding, doubled keys, and the atomic write. Must not know which keys a file has.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigError

FILE_SIZE_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a file: which key, its value, why, and what to write instead."""

    key: str
    value: str
    reason: str
    instead: str = ""

    def __str__(self) -> str:
        subject = f"{self.key}: {self.value}" if self.value else self.key
        instead = f" Write {self.instead}." if self.instead else ""
        return f"{subject} {self.reason}.{instead}"


class ConfigFileError(ConfigError):
    """A configuration file that cannot be used; ``faults`` are all that was found in it."""

    def __init__(self, path: Path, faults: Iterable[Fault], next_step: str) -> None:
        self.path = path
        self.faults = tuple(faults)
        super().__init__(
            f"{path} cannot be used.",
            why=" ".join(str(fault) for fault in self.faults),
            next_step=next_step,
        )


def read_object(path: Path, next_step: str) -> tuple[dict[str, Any], list[Fault]]:
    """The file's JSON object, and the keys that it holds twice; else ConfigFileError."""
    twice: list[Fault] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        doubles = sorted({key for key in keys if keys.count(key) > 1})
        twice.extend(Fault(key, "", "is there twice", "it once") for key in doubles)
        return dict(pairs)

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    text = _read_text(path, next_step)
    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ConfigFileError(path, [_syntax_fault(text, error)], next_step) from None
    except (ValueError, RecursionError) as error:
        fault = Fault("the file", "", f"is not usable JSON: {error}"[:200])
        raise ConfigFileError(path, [fault], next_step) from None
    if not isinstance(value, dict):
        fault = Fault("the file", "", f"holds {json_kind(value)}", 'an object: {"KEY": value, …}')
        raise ConfigFileError(path, [fault], next_step)
    return value, twice


def _read_text(path: Path, next_step: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_SIZE_MAX_BYTES + 1)
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        raise ConfigFileError(path, [Fault("the file", "", reason)], next_step) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 text (byte {error.start})"
        raise ConfigFileError(path, [Fault("the file", "", reason)], next_step) from None
    if len(data) > FILE_SIZE_MAX_BYTES or not text.strip():
        reason = "is empty" if len(data) <= FILE_SIZE_MAX_BYTES else "is larger than 1 MiB"
        raise ConfigFileError(path, [Fault("the file", "", reason)], next_step)
    return text


def _syntax_fault(text: str, error: json.JSONDecodeError) -> Fault:
    where = f"line {error.lineno}, column {error.colno}"
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return Fault("the file", "", f"ends too early ({where}: {error.msg}); it was cut off")
    return Fault("the file", "", f"is not JSON ({where}: {error.msg})")


def write_atomically(path: Path, text: str) -> None:
    """Replace the file by ``text``, mode 0644: a reader sees all of it or the old one; OSError."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def json_kind(value: Any) -> str:
    """What a JSON value is, in words."""
    for kinds, name in (
        (bool, "true or false"),
        (int, "a number"),
        (float, "a number with a decimal point"),
        (str, "a text"),
        (list, "a list"),
        (dict, "an object"),
    ):
        if isinstance(value, kinds):
            return name
    return "null"


def shown(value: Any) -> str:
    """A value as it stands in the file, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
