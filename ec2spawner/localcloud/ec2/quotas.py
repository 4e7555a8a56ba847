"""EC2's quotas: the classes of families that share one of vCPUs, with AWS's codes and names.

Owns the table. Pure. How large each is here, the capacity file says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

MARKETS = ("on-demand", "spot")


@dataclass(frozen=True)
class Quota:
    """One quota of Service Quotas: of vCPUs, or, without a market, of Elastic IPs."""

    code: str
    name: str
    market: str = ""
    class_: str = ""


# docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html, read 2026, with the codes
# of its links to Service Quotas.
_TABLE = (
    ("standard", "L-1216C47A", "L-34B43A08", "Standard (A, C, D, H, I, M, R, T, Z)"),
    ("g", "L-DB2E81BA", "L-3819A6DF", "G and VT"),
    ("p", "L-417A185B", "L-7212CCBC", "P"),
    ("x", "L-7295265B", "L-E3A00192", "X"),
    ("f", "L-74FC7D96", "L-88CF9481", "F"),
    ("inf", "L-1945791B", "L-B5D1601B", "Inf"),
    ("trn", "L-2C3B7624", "L-6B0D517C", "Trn"),
    ("dl", "L-6E869C2A", "L-85EED4F7", "DL"),
    ("hpc", "L-F7808C92", "", "HPC"),
    ("high-memory", "L-43DA4232", "", "High Memory"),
    ("p5", "", "L-C4BD4855", "P5"),
)
CLASSES = tuple(row[0] for row in _TABLE)
_FAMILIES = {"gr": "g", "vt": "g", "u": "high-memory"}

QUOTAS: Mapping[str, Quota] = {
    **{
        code: Quota(code, f"Running On-Demand {name} instances", "on-demand", class_)
        for class_, code, _, name in _TABLE
        if code
    },
    **{
        code: Quota(code, f"All {name} Spot Instance Requests", "spot", class_)
        for class_, _, code, name in _TABLE
        if code
    },
    # docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html, 2026
    "L-0263D0A3": Quota("L-0263D0A3", "EC2-VPC Elastic IPs"),
}
"""By code."""


@lru_cache(maxsize=4096)
def class_of(instance_type: str, market: str) -> str:
    """The class that an instance counts for; P5 has one of its own on the spot market."""
    if market == "spot" and instance_type.startswith("p5"):
        return "p5"
    found = re.match(r"[a-z]+", instance_type)
    family = found[0] if found else ""
    family = _FAMILIES.get(family, family)
    return family if family in CLASSES else "standard"
