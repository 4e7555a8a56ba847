"""Run Command of Systems Manager, as far as managers are sent it: one script, and how it ended.

Owns SendCommand and GetCommandInvocation: which document, which machines have an agent, and the
form of answers. What the script does to a manager is ``managers``' affair. Must not know HTTP.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from ec2spawner.localcloud.ec2.failures import EC2Error

ACTIONS = ("SendCommand", "GetCommandInvocation")
DOCUMENT = "AWS-RunShellScript"
OUTPUT_MAX_CHARS = 24_000
"""Of what GetCommandInvocation shows (SSM API reference, 2026)."""


class Agents(Protocol):
    """The machines whose agents take commands."""

    def has_agent(self, instance_id: str) -> bool:
        """Whether it is on and its agent has said so."""

    def send(self, instance_id: str, command_id: str, script: str) -> None:
        """Have it carry out a script, from now on."""

    def command(self, instance_id: str, command_id: str) -> Mapping[str, Any] | None:
        """``status``, ``code`` and ``output`` of one; None if it was never sent there."""


def answer(action: str, text: str, agents: Agents) -> dict[str, Any]:
    """The reply to a call, or EC2Error with SSM's code."""
    document = json.loads(text or "{}")
    return _send(document, agents) if action == "SendCommand" else _get(document, agents)


def _send(document: Mapping[str, Any], agents: Agents) -> dict[str, Any]:
    name, ids = document.get("DocumentName"), document.get("InstanceIds") or []
    if name != DOCUMENT:
        raise EC2Error("InvalidDocument", f"Document with name {name} does not exist.")
    unknown = [i for i in ids if not agents.has_agent(i)]
    if unknown or not ids:
        raise EC2Error("InvalidInstanceId", f"Instances {unknown} not in a valid state for account")
    command_id = str(uuid.uuid4())
    for instance_id in ids:
        agents.send(instance_id, command_id, "\n".join(document["Parameters"]["commands"]))
    return {
        "Command": {
            "CommandId": command_id,
            "DocumentName": name,
            "InstanceIds": ids,
            "Parameters": document["Parameters"],
            "Status": "Pending",
            "StatusDetails": "Pending",
        }
    }


def _get(document: Mapping[str, Any], agents: Agents) -> dict[str, Any]:
    command_id, instance_id = document.get("CommandId", ""), document.get("InstanceId", "")
    known = agents.command(instance_id, command_id)
    if known is None:
        raise EC2Error("InvocationDoesNotExist", "")
    return {
        "CommandId": command_id,
        "InstanceId": instance_id,
        "DocumentName": DOCUMENT,
        "PluginName": "aws:runShellScript",
        "ResponseCode": known["code"],
        "Status": known["status"],
        "StatusDetails": known["status"],
        "StandardOutputContent": known["output"][:OUTPUT_MAX_CHARS],
        "StandardErrorContent": "",
    }
