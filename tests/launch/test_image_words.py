"""What ``launch-cluster image`` says: JSON of a known form, and one message for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from .conftest import Calls
from .shops import Run, Shop

# ---- what is said

TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT}
OR_NONE = {"type": ["string", "null"]}


def document_of(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


OUTCOME = {"enum": ["nothing to do", "planned", "done", "partly done"]}
IMAGE = document_of(
    image_id={"type": "string", "pattern": "^ami-[0-9a-f]+$"},
    name=TEXT,
    state={"enum": ["pending", "available", "failed"]},
    created={"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT"},
    architecture={"enum": ["x86_64", "arm64"]},
    root_gib={"type": "integer"},
    encrypted={"type": "boolean"},
    snapshots=TEXTS,
    base=OR_NONE,
    content=OR_NONE,
    course=OR_NONE,
    version=OR_NONE,
    jupyterhub=OR_NONE,
    jupyterlab=OR_NONE,
    used_by=TEXTS,
)
SCHEMAS = {
    "build": document_of(
        cluster=TEXT,
        region=TEXT,
        outcome=OUTCOME,
        image_id=OR_NONE,
        built={"type": "boolean"},
        reason=TEXT,
        base=TEXT,
        content={"type": "string", "pattern": "^[0-9a-f]{64}$"},
        course=OR_NONE,
        encrypted={"type": "boolean"},
        done=TEXTS,
        notices=TEXTS,
    ),
    "list": document_of(
        cluster=TEXT, parameter=TEXT, current=OR_NONE, images={"type": "array", "items": IMAGE}
    ),
    "prune": document_of(
        cluster=TEXT,
        outcome=OUTCOME,
        images=TEXTS,
        snapshots=TEXTS,
        courses=TEXTS,
        kept={"type": "array", "items": document_of(image_id=TEXT, reason=TEXT)},
        done=TEXTS,
        failed=TEXTS,
    ),
    "share": document_of(
        cluster=TEXT,
        outcome=OUTCOME,
        image_id=TEXT,
        snapshots=TEXTS,
        account={"type": "string", "pattern": r"^\d{12}$"},
        encrypted={"type": "boolean"},
    ),
}


@pytest.mark.parametrize(
    "arguments",
    [
        ("build", "--again", "--unencrypted", "--yes"),
        ("build", "--again", "--dry-run"),
        ("build",),
        ("list",),
        ("share", "210987654321", "--dry-run"),
        ("share", "210987654321", "--yes"),
        ("prune", "--keep", "1", "--dry-run"),
        ("prune", "--keep", "1", "--yes"),
    ],
)
def test_json_output_is_one_document_of_a_known_form(
    shop: Shop, run: Run, arguments: tuple[str, ...]
) -> None:
    name, *rest = arguments
    if name == "share":
        assert shop.build("--unencrypted").exit_code == 0
    where = [*rest[:1], shop.name, *rest[1:]] if name == "share" else [shop.name, *rest]
    result = run("image", name, *where, "--output", "json")
    assert result.exit_code == 0, result.stderr
    jsonschema.validate(json.loads(result.stdout), SCHEMAS[name])


# ---- what cannot be


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("build", "X"), ["CLUSTER_NAME: 'X'"]),
        (("build",), ["No server_config.json was found"]),
        (("build", "x1", "--base-ami", "ubuntu"), ["'ubuntu' is not an id"]),
        (("build", "x1", "--apt", "absent.txt"), ["--apt: absent.txt cannot be read"]),
        (("build", "x1", "--apt", "empty"), ["--apt: empty is empty"]),
        (("build", "x1", "--apt", "shell"), ["--apt: shell names '$(id)'"]),
        (("build", "x1", "--apt", "bytes"), ["--apt: bytes is not text"]),
        (("build", "x1", "--apt", "large"), ["--apt: large is too large", "256 KiB"]),
        (("build", "x1", "--apt", "."), ["--apt: . cannot be read"]),
        (("build", "x1", "--post-build", "text"), ["does not say what runs it", "#!/bin/bash"]),
        (
            ("build", "x1", "--requirements", "text", "--environment", "text"),
            ["--environment", "cannot be used together with --requirements"],
        ),
        (("build", "x1", "--apt", "text", "--no-course"), ["--no-course"]),
        (("build", "x1", "--config", "absent.json"), ["absent.json cannot be used"]),
        (("list", "Biology 101"), ["CLUSTER_NAME"]),
        (("list",), ["No server_config.json was found"]),
        (("prune", "x1", "--config", "absent.json"), ["absent.json cannot be used"]),
        (("share", "1234", "x1"), ["ACCOUNT: '1234' is not an AWS account", "12 digits"]),
        (("share", "123456789o12", "x1"), ["is not an AWS account"]),
    ],
)
def test_a_malformed_command_is_refused_before_aws_is_asked(
    run: Run, aws: Path, calls: Calls, arguments: tuple[str, ...], words: list[str]
) -> None:
    (aws / "empty").write_text("\n")
    (aws / "shell").write_text("gdal-bin\n$(id)\n")
    (aws / "bytes").write_bytes(b"\xff\xfe")
    (aws / "large").write_text("x" * 300_000)
    (aws / "text").write_text("numpy\n")
    result = run("image", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("error: ") == 1
    for word in words:
        assert word in result.stderr, result.stderr
    assert calls.made == []


@pytest.mark.parametrize("arguments", [("prune", "x1", "--keep", "-1"), ("build", "--bse", "x")])
def test_what_click_refuses_is_a_usage_error(
    run: Run, aws: Path, arguments: tuple[str, ...]
) -> None:
    assert run("image", *arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("build", "absent", "--yes"), ["There is no cluster absent", "launch-cluster up absent"]),
        (("share", "210987654321", "absent", "--yes"), ["A worker image is not among"]),
    ],
)
def test_a_cluster_that_is_not_there_is_told(
    run: Run, aws: Path, calls: Calls, arguments: tuple[str, ...], words: list[str]
) -> None:
    result = run("image", *arguments)
    assert result.exit_code == 1
    for word in words:
        assert word in result.stderr, result.stderr
    assert calls.changing == []


def test_a_cluster_without_images_has_an_empty_list_and_nothing_to_prune(
    run: Run, aws: Path
) -> None:
    assert "has no worker images" in run("image", "list", "absent").stdout
    assert "Nothing to do" in run("image", "prune", "absent", "--yes").stdout
