"""CPU credits: which instance types have them, and how a launch says what they may cost.

Owns the table of burstable families. Pure.
"""

from __future__ import annotations

BURSTABLE = frozenset({"t2", "t3", "t3a", "t4g"})
"""EC2 user guide, "Burstable performance instances", read 2026."""

STANDARD = "standard"
"""A machine that has spent its credits is slow until it has earned others; it costs no more."""

UNLIMITED = "unlimited"
"""Such a machine goes on, and what it borrows is billed. What t3, t3a and t4g do if nothing else is
said (EC2 user guide, "Configure burstable performance instances", read 2026)."""


def has_credits(instance_type: str) -> bool:
    """Whether machines of this type have CPU credits."""
    return instance_type.partition(".")[0] in BURSTABLE


def credit_parameters(instance_type: str, option: str) -> dict[str, dict[str, str]]:
    """What a RunInstances call for this type says of credits.

    Nothing for a type that has none: EC2 refuses the launch, whether the call says it or its launch
    template (``InstanceCreditSpecification.NotSupported``), and a call cannot unsay its template's.
    """
    return {"CreditSpecification": {"CpuCredits": option}} if has_credits(instance_type) else {}
