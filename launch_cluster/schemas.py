"""``python -m launch_cluster.schemas``: what is generated from the models of both files.

Owns docs/configuration.md and the JSON Schemas in docs/schemas: of both files, which editors read
by the ``$schema`` key, and of what commands print. Generated, so that they cannot say something
else than the models do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ec2spawner.people import CILogonProvider, OIDCProvider
from ec2spawner.profiles import ProfileChoice
from ec2spawner.settings import (
    INSTANCE_CONFIG_NAME,
    OBSOLETE_INSTANCE_KEYS,
    OBSOLETE_SERVER_KEYS,
    SERVER_CONFIG_NAME,
    Choices,
    InstanceConfig,
    ServerConfig,
)

from .outputs import OUTPUTS, ErrorOutput, schema_name

DOCS = Path(__file__).resolve().parent.parent / "docs"
DRAFT = "https://json-schema.org/draft/2020-12/schema"

HEAD = f"""<!-- Made by `python -m launch_cluster.schemas` from ec2spawner/settings.py. -->

# The two configuration files

`{INSTANCE_CONFIG_NAME}` is what you choose; the launch command reads it. `{SERVER_CONFIG_NAME}` is
what the cluster is; the launch command writes it and the hub reads it: the file that the
environment variable `EC2SPAWNER_CONFIG` names, else the one beside `jupyterhub_config.py`, else
`/etc/jupyterhub/{SERVER_CONFIG_NAME}`. In it, `JUPYTER_NOTEBOOK_TIMEOUT`, `CLASS_SCHEDULE`, and the
keys about people (from `AUTHENTICATOR` to `SUBDOMAINS`) may be edited after the launch: they take
effect when the hub is restarted, and later launches keep them. Only what
`{INSTANCE_CONFIG_NAME}` says about people comes before what was edited.

A key that is not known, a wrong type or an impossible value is refused, with what to write instead;
all faults of a file are named at once. Files of cloudJHub are read: keys that have lost their
meaning are passed over with a notice. For completion and checks in an editor, the schemas are in
`docs/schemas/`."""


def schema_of(kind: type[Choices], title: str) -> dict[str, Any]:
    """The JSON Schema of one file."""
    schema = kind.model_json_schema()
    for entry in schema["properties"].values():
        entry.pop("x-instead", None)
        entry.pop("title", None)
    obsolete = OBSOLETE_INSTANCE_KEYS if kind is InstanceConfig else OBSOLETE_SERVER_KEYS
    schema["properties"] |= {
        key: {"deprecated": True, "description": f"No longer used: {why}."}
        for key, why in obsolete.items()
    }
    schema["properties"]["$schema"] = {"type": "string"}
    home = schema["properties"]["USER_HOME_EBS_SIZE"]
    home["minimum"] = 0  # cloudJHub's default, read as 10
    return {"$schema": DRAFT, **schema, "title": title, "description": _summary(kind)}


def _summary(kind: type[BaseModel]) -> str:
    return str(kind.__doc__).replace("``", "").splitlines()[0]


def table_of(fields: Mapping[str, Any]) -> str:
    """Keys as a Markdown table: name, default, what may be written, meaning."""
    rows = ["| key | default | value | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        default = (
            ""
            if field.is_required()
            else f"`{json.dumps(field.get_default(call_default_factory=True))}`"
        )
        extra = field.json_schema_extra or {}
        rows.append(
            f"| `{name}` | {default} | {extra.get('x-instead', '')} | {field.description} |"
        )
    return "\n".join(rows)


def output_schema(kind: type[BaseModel], command: str) -> dict[str, Any]:
    """The JSON Schema of what a command prints with ``--output json``."""
    schema = kind.model_json_schema(mode="serialization")
    title = f"launch-cluster {command} --output json"
    return {"$schema": DRAFT, **schema, "title": title, "description": _summary(kind)}


def documentation() -> str:
    """docs/configuration.md."""
    shared = dict(Choices.model_fields)
    parts = [HEAD, "## In both files", table_of(shared)]
    parts += ["### Keys of a profile in `PROFILES`", table_of(ProfileChoice.model_fields)]
    parts += ["### Keys of an institution in `CILOGON_PROVIDERS`"]
    parts += [table_of(CILogonProvider.model_fields)]
    parts += ["### Keys of `OIDC`", table_of(OIDCProvider.model_fields)]
    for kind, name, obsolete in (
        (InstanceConfig, INSTANCE_CONFIG_NAME, OBSOLETE_INSTANCE_KEYS),
        (ServerConfig, SERVER_CONFIG_NAME, OBSOLETE_SERVER_KEYS),
    ):
        own = {key: field for key, field in kind.model_fields.items() if key not in shared}
        parts += [f"## Only in `{name}`", table_of(own)]
        lines = [f"- `{key}`: {why}." for key, why in obsolete.items()]
        parts += [f"### Keys of cloudJHub's `{name}` that are passed over", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def generated() -> dict[Path, str]:
    """Every generated file and its text."""
    schemas = {
        "instance_config": schema_of(InstanceConfig, INSTANCE_CONFIG_NAME),
        "server_config": schema_of(ServerConfig, SERVER_CONFIG_NAME),
        "error_output": output_schema(ErrorOutput, "COMMAND"),
        **{schema_name(name): output_schema(kind, name) for name, kind in OUTPUTS.items()},
    }
    return {
        DOCS / "configuration.md": documentation(),
        **{
            DOCS / "schemas" / f"{name}.schema.json": json.dumps(schema, indent=2) + "\n"
            for name, schema in schemas.items()
        },
    }


def main() -> None:
    """Write them all."""
    for path, text in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
