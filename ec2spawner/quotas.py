"""EC2's vCPU quotas: which one an instance type draws on.

Owns the table of families and quota codes. Pure. How large a quota is, AWS says (``EC2.quota``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Quota:
    """The quota codes of one class of families; "" where AWS has none for that market."""

    on_demand: str
    spot: str


# docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html, read 2026; the codes are
# in its links to Service Quotas.
STANDARD = Quota("L-1216C47A", "L-34B43A08")
_G = Quota("L-DB2E81BA", "L-3819A6DF")
OTHERS: Mapping[str, Quota] = MappingProxyType(
    {
        "g": _G,
        "gr": _G,
        "vt": _G,
        "p": Quota("L-417A185B", "L-7212CCBC"),
        "x": Quota("L-7295265B", "L-E3A00192"),
        "f": Quota("L-74FC7D96", "L-88CF9481"),
        "inf": Quota("L-1945791B", "L-B5D1601B"),
        "trn": Quota("L-2C3B7624", "L-6B0D517C"),
        "dl": Quota("L-6E869C2A", "L-85EED4F7"),
        "hpc": Quota("L-F7808C92", ""),
        "u": Quota("L-43DA4232", ""),
    }
)
"""Families that are not "Standard (A, C, D, H, I, M, R, T, Z)", by the letters they begin with."""
P5_SPOT = "L-C4BD4855"  # "All P5 Spot Instance Requests": apart from those of P4, P3 and P2


def quota_code(instance_type: str, market: str = "on-demand") -> str:
    """The code of the vCPU quota that such an instance counts for; "" if AWS has none."""
    found = re.match(r"[a-z]+", instance_type)
    family = found[0] if found else ""
    quota = OTHERS.get(family, STANDARD)
    if market != "spot":
        return quota.on_demand
    return P5_SPOT if instance_type.startswith("p5") else quota.spot
