"""The published JSON Schemas, and whether a document that a command prints fits its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from launch_cluster.outputs import OUTPUTS, schema_name

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schemas"


@lru_cache
def validator(name: str) -> Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def command_of(arguments: Sequence[str]) -> str:
    """The command's name out of its line."""
    words = " ".join(arguments[:2])
    return words if words in OUTPUTS else arguments[0]


def check_document(command: str, document: Any) -> None:
    """AssertionError if the document is neither the command's nor an error's."""
    name = "error_output" if "error" in document else schema_name(command)
    wrong = [f"{e.json_path}: {e.message}" for e in validator(name).iter_errors(document)]
    assert wrong == [], f"{name}: {wrong}"
