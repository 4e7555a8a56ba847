"""The kinds of machines between which users may choose, as ``PROFILES`` lists them.

Owns the keys of one profile, their bounds and defaults. Must not know who chooses, nor EC2.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from .configmodel import Frozen, check_shown

PROFILES_MAX = 20
TYPES_MAX = 10
"""Each further type is a further rung that a user may have to wait for."""
POOL_MAX = 1000
VOLUME_MAX_GIB = 16384  # AWS EBS user guide, "Quotas": gp3 takes at least 16 TiB, 2026
INSTANCE_TYPE = r"^[a-z][a-z0-9-]*\.[a-z0-9-]+$"

Market = Literal["on-demand", "spot", "spot-then-on-demand"]


class ProfileChoice(Frozen):
    """One kind of machine."""

    SLUG: str = Field(
        pattern=r"^[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?$",
        description="Name of the profile in tags and requests: small letters, digits and dashes.",
    )
    NAME: str = Field(
        min_length=1, max_length=60, description='What users read, for example "Large, 8 GB".'
    )
    DESCRIPTION: str = Field("", max_length=300, description="What it is good for, for users.")
    INSTANCE_TYPES: tuple[Annotated[str, Field(pattern=INSTANCE_TYPE)], ...] = Field(
        min_length=1,
        max_length=TYPES_MAX,
        description="EC2 instance types of one architecture, the best first: where one has no room,"
        " the next is taken.",
    )
    HOME_GIB: int | None = Field(
        None,
        ge=1,
        le=VOLUME_MAX_GIB,
        description="Home volume of whoever begins with this profile, in GiB; null:"
        " USER_HOME_EBS_SIZE. A home that is there keeps its size.",
    )
    MARKET: Market = Field(
        "on-demand",
        description='How the machines are paid for: "on-demand", "spot", or'
        ' "spot-then-on-demand". AWS may take a spot machine back; the files stay.',
    )
    GROUPS: tuple[Annotated[str, Field(min_length=1, max_length=255)], ...] = Field(
        (),
        description="Groups of the hub whose members may choose it, and admins; none: everybody.",
    )

    POOL_RUNNING: int = Field(
        0,
        ge=0,
        le=POOL_MAX,
        description="Spare machines that run: a first login takes one within seconds.",
    )
    POOL_STOPPED: int = Field(
        0,
        ge=0,
        le=POOL_MAX,
        description="Spare machines that were booted once and are stopped: cheap, and started"
        " faster than a new one.",
    )

    @field_validator("NAME", "DESCRIPTION")
    @classmethod
    def _is_read(cls, value: str) -> str:
        return check_shown(value)

    @field_validator("GROUPS")
    @classmethod
    def _are_read(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_shown(name) for name in value)

    @field_validator("INSTANCE_TYPES")
    @classmethod
    def _are_different(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        doubles = sorted({t for t in value if value.count(t) > 1})
        if doubles:
            raise ValueError(f"names {doubles[0]} twice")
        return value


def check_profiles(profiles: tuple[ProfileChoice, ...]) -> tuple[ProfileChoice, ...]:
    """Return profiles whose slugs differ; ValueError with the reason."""
    slugs = [profile.SLUG for profile in profiles]
    doubles = sorted({slug for slug in slugs if slugs.count(slug) > 1})
    if doubles:
        raise ValueError(f"has two profiles with the SLUG {doubles[0]!r}")
    return profiles
