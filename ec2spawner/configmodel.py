"""What is wrong with a configuration file's values, in words for whoever edits it.

Owns the translation of pydantic's findings into faults: the key, its value, why, and what to write
instead, which each field says under ``x-instead``. Must not know which keys there are.
"""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .configfile import Fault, json_kind, shown


class Frozen(BaseModel):
    """A part of a configuration file: strict, closed, and never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def check_shown(text: str) -> str:
    """Return a text that people read on one line; ValueError with the reason for any other."""
    if not text.isprintable():
        raise ValueError("has control characters, or more than one line")
    if text and not text.strip():
        raise ValueError("has nothing but spaces")
    return text


def a_number(default: int, low: int, high: int, unit: str, about: str) -> Any:
    """A whole number with bounds, and the words that say what may be written."""
    of_unit = f" of {unit}" if unit else ""
    instead = f"a whole number{of_unit} from {low} to {high}, for example {default}"
    return Field(
        default,
        ge=low,
        le=high,
        description=about,
        json_schema_extra={"x-instead": instead},
        validate_default=True,  # a default may go ill with another key's value
    )


def a_text(default: Any, pattern: str | None, instead: str, about: str) -> Any:
    """A text of a given form, and the words that say what may be written."""
    return Field(
        default, pattern=pattern, description=about, json_schema_extra={"x-instead": instead}
    )


def faults_of(error: ValidationError, kind: type[BaseModel]) -> list[Fault]:
    """What pydantic found, in words for whoever edits the file; missing keys come last."""
    entries: list[dict[str, Any]] = [dict(e) for e in error.errors(include_url=False)]
    parents = {entry["loc"][:depth] for entry in entries for depth in range(len(entry["loc"]))}
    found = [
        _fault_of(entry, kind)
        for entry in entries
        # pydantic counts only the good entries of a list: "too short" would say nothing new
        if not (entry["type"] == "too_short" and entry["loc"] in parents)
    ]
    order = {"is missing": 1}
    return sorted(found, key=lambda fault: order.get(fault.reason, 0))


def _fault_of(entry: dict[str, Any], kind: type[BaseModel]) -> Fault:
    if not entry["loc"]:  # JSON that Python reads and pydantic does not: too deep, half a character
        return Fault("the file", "", f"is not usable JSON: {entry['msg']}")
    top = str(entry["loc"][0])
    key = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in entry["loc"]
    ).lstrip(".")
    if entry["type"] == "extra_forbidden":
        return Fault(key, "", "is not a known key", _nearest(key, kind))
    instead = _instead_of(top, kind)
    if entry["type"] == "missing":
        return Fault(key, "", "is missing", instead)
    return Fault(key, shown(entry["input"]), _reason_of(entry), instead)


def _nearest(key: str, kind: type[BaseModel]) -> str:
    near = difflib.get_close_matches(key.upper(), kind.model_fields, n=1, cutoff=0.6)
    return f"{near[0]}, if that is meant, or leave it out" if near else ""


def _instead_of(top: str, kind: type[BaseModel]) -> str:
    field = kind.model_fields.get(top)
    extra = field.json_schema_extra if field else None
    return str(extra.get("x-instead", "")) if isinstance(extra, dict) else ""


def _reason_of(entry: dict[str, Any]) -> str:
    context = entry.get("ctx", {})
    if entry["type"] == "value_error":
        return str(context["error"])
    if entry["type"] == "greater_than_equal":
        return f"is less than {context['ge']}"
    if entry["type"] == "less_than_equal":
        return f"is more than {context['le']}"
    if entry["type"].endswith("_type"):
        return f"is {json_kind(entry['input'])}"
    if entry["type"] in ("too_short", "too_long"):
        return f"has {len(entry['input'])} entries"
    return "does not have the form that is needed"
