"""Where a secret may be seen: processes of this computer, user data and tags of the cloud."""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from .clouds import Cloud
from .hubs import Hub


@dataclass(frozen=True)
class Seen:
    """A process: its arguments, and its environment as far as it may be read."""

    arguments: str
    environment: str

    @property
    def user(self) -> str:
        """The hub's user as whose server, or part of it, it runs; "" if it is none."""
        entries = dict(e.partition("=")[::2] for e in self.environment.split("\0"))
        return entries.get("JUPYTERHUB_USER", "")


def processes() -> list[Seen]:
    """All that can be seen from here."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another account's
            texts = [(folder / name).read_bytes() for name in ("cmdline", "environ")]
            found.append(Seen(*(text.decode(errors="replace") for text in texts)))
    return found


def client(cloud: Cloud, service: str) -> Any:
    """AWS as the operator speaks to it."""
    return boto3.client(
        service,
        region_name="us-east-1",
        endpoint_url=cloud.endpoint,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def private_key(cloud: Cloud) -> str:
    """A line of the private half of the cluster's SSH key."""
    name = cloud.server_config["SSH_KEY_PARAMETER"]
    found = client(cloud, "ssm").get_parameter(Name=name, WithDecryption=True)
    lines = [line for line in found["Parameter"]["Value"].split("\n") if len(line) > 40]
    return str(lines[len(lines) // 2])


def proxy_token(hub: Hub) -> str:
    return str(json.loads((hub.folder / "options.json").read_text())["proxy_token"])


def cookie_secret(hub: Hub) -> str:
    return (hub.folder / "jupyterhub_cookie_secret").read_text().strip()


def culler_token(hub: Hub) -> str:
    """What the hub's idle culler logs in with."""
    assert hub.process
    of_this_hub = f"--hub-pid={hub.process.pid}\0"
    for seen in processes():
        if "ec2spawner.culler" in seen.arguments and of_this_hub in f"{seen.arguments}\0":
            entries = dict(e.partition("=")[::2] for e in seen.environment.split("\0"))
            return entries["JUPYTERHUB_API_TOKEN"]
    raise AssertionError("the culler does not run")


MAY_HOLD = {
    ("the proxy's token", "configurable-http-proxy"): "it checks what the hub asks it for",
    ("the culler's token", "ec2spawner.culler"): "it asks the hub for who is idle",
}
"""By secret and what is among the arguments: who has it in its environment, and why."""


def held(secrets: dict[str, str], owners: dict[str, str]) -> list[tuple[str, str]]:
    """Secret and arguments of each process that has it in them, or needlessly in its environment.

    ``owners`` are the users whose servers must have a secret: it lets them into the hub.
    """
    leaks = []
    for seen in processes():
        for name, value in secrets.items():
            may = any(n == name and part in seen.arguments for n, part in MAY_HOLD)
            may = may or (name in owners and owners[name] == seen.user)
            if value in seen.arguments or (value in seen.environment and not may):
                leaks.append((name, seen.arguments.replace("\0", " ")[:100]))
    return leaks


def told_to_ec2(cloud: Cloud) -> str:
    """User data of every instance and launch template, and every tag, decoded."""
    ec2, texts = client(cloud, "ec2"), []
    instances = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    for instance in instances:
        found = ec2.describe_instance_attribute(
            InstanceId=instance["InstanceId"], Attribute="userData"
        )
        texts.append(_decoded(found["UserData"].get("Value", "")))
    for template in ec2.describe_launch_templates()["LaunchTemplates"]:
        for version in ec2.describe_launch_template_versions(
            LaunchTemplateId=template["LaunchTemplateId"]
        )["LaunchTemplateVersions"]:
            texts.append(_decoded(version["LaunchTemplateData"].get("UserData", "")))
    assert instances
    assert any(texts)
    tags = ec2.describe_tags()["Tags"]
    assert any(tag["Key"] == "ec2spawner:owner" for tag in tags)
    return "\n".join([*texts, json.dumps(tags)])


def _decoded(user_data: str) -> str:
    return base64.b64decode(user_data).decode(errors="replace")
