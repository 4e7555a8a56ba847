"""What EC2's instance metadata tells a worker about itself: whether EC2 may take it back, and when.

Owns the talk with the metadata service (IMDSv2, with a token) and the strict reading of its
answer. Must not know what is done about it. Standard library only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone

from ec2spawner.worker.protocol import Code, Fault

ADDRESS = ("169.254.169.254", 80)
TOKEN_PATH = "/latest/api/token"  # noqa: S105 - a path, not a password
NOTICE_PATH = "/latest/meta-data/spot/instance-action"
LIFE_CYCLE_PATH = "/latest/meta-data/instance-life-cycle"
# EC2 user guide, "Use the Instance Metadata Service", "Spot Instance interruption notices" and
# "Instance metadata categories", 2026
TOKEN_TTL_SECONDS = 60
TIMEOUT_SECONDS = 2.0
ANSWER_MAX_BYTES = 1024
ACTIONS = ("stop", "terminate", "hibernate")
LIFE_CYCLES = ("on-demand", "spot", "scheduled", "capacity-block")
_NOT_FOUND = 404
_OK = 200


@dataclass(frozen=True)
class Interruption:
    """EC2 will take this spot instance back; it says so two minutes before, if it can."""

    action: str  # one of ACTIONS
    at: float  # epoch seconds, about


def parse_interruption(text: str) -> Interruption:
    """The notice; Fault for anything that EC2 does not document."""
    try:
        raw = json.loads(text)
        action, moment = raw["action"], raw["time"]
        if action not in ACTIONS:
            raise ValueError(f"action {action!r}")
        at = datetime.strptime(moment, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except (ValueError, KeyError, TypeError) as error:
        raise Fault(Code.INTERNAL, f"an interruption notice that is none: {error!r}") from None
    return Interruption(action, at.timestamp())


def is_spot(address: tuple[str, int] = ADDRESS) -> bool:
    """Ask the metadata service how this instance is paid for."""
    life_cycle = _ask(address, LIFE_CYCLE_PATH)
    if life_cycle not in LIFE_CYCLES:
        raise Fault(Code.INTERNAL, f"a life cycle that is none: {life_cycle!r}")
    return life_cycle == "spot"


def interruption_notice(address: tuple[str, int] = ADDRESS) -> Interruption | None:
    """Ask the metadata service; None while EC2 has no such thing in mind."""
    text = _ask(address, NOTICE_PATH)
    return None if text is None else parse_interruption(text)


def _ask(address: tuple[str, int], wanted: str) -> str | None:
    """What the metadata service has at ``wanted``; None where it has nothing."""
    from http.client import HTTPConnection, HTTPException  # slow to import, and rarely needed

    connection = HTTPConnection(*address, timeout=TIMEOUT_SECONDS)  # through no proxy

    def ask(method: str, path: str, header: str, value: str) -> tuple[int, str]:
        connection.request(method, path, headers={header: value})
        reply = connection.getresponse()
        text = reply.read(ANSWER_MAX_BYTES + 1)
        if len(text) > ANSWER_MAX_BYTES:
            raise Fault(Code.INTERNAL, "the instance metadata answers without end")
        return reply.status, text.decode("ascii", "replace")

    ttl = str(TOKEN_TTL_SECONDS)
    try:
        status, token = ask("PUT", TOKEN_PATH, "X-aws-ec2-metadata-token-ttl-seconds", ttl)
        if status == _OK:
            status, text = ask("GET", wanted, "X-aws-ec2-metadata-token", token)
            if status == _NOT_FOUND:
                return None
    except (OSError, HTTPException, ValueError) as error:  # a token may be no header's value
        raise Fault(Code.INTERNAL, f"the instance metadata does not answer: {error!r}") from None
    finally:
        connection.close()
    if status != _OK:
        raise Fault(Code.INTERNAL, f"the instance metadata answers {status}")
    return text
