"""What the operator chooses about machines: types, disks, spares, and how long things are kept.

Owns those keys of both configuration files, their bounds and defaults. Must not know the files.
"""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator

from .classes import CLASSES_MAX, ScheduledClass
from .configmodel import Frozen, a_number, a_text
from .model import TAG_VALUE_MAX
from .profiles import (
    INSTANCE_TYPE,
    POOL_MAX,
    PROFILES_MAX,
    VOLUME_MAX_GIB,
    ProfileChoice,
    check_profiles,
)

HOME_DEFAULT_GIB = 10
ROOT_MIN_GIB = 8  # root snapshot of Ubuntu's and Debian's EC2 images, 2026
TAG_KEY_MAX = 128  # characters; AWS EC2 user guide, "Tag restrictions", 2026
COST_TAGS_MAX = 30  # EC2 allows 50 tags a resource; the rest is the cluster's own

_DAY_SECONDS = 86_400


class MachineChoices(Frozen):
    """What the operator chooses about machines, disks and times."""

    REGION: str = a_text(
        "us-east-1",
        r"^[a-z]{2}(-[a-z]+)+-\d+$",
        'the name of an AWS Region, for example "us-east-1"',
        "AWS Region of the cluster.",
    )
    WORKER_INSTANCE_TYPE: str = a_text(
        "t3.medium",
        INSTANCE_TYPE,
        'an EC2 instance type, for example "t3.medium"',
        "Type of a user's machine.",
    )
    WORKER_EBS_SIZE: int = a_number(
        12, ROOT_MIN_GIB, VOLUME_MAX_GIB, "GiB", "Root disk of a user's machine, in GiB."
    )
    USER_HOME_EBS_SIZE: int = a_number(
        HOME_DEFAULT_GIB,
        1,
        VOLUME_MAX_GIB,
        "GiB",
        "Home volume of a user, in GiB; every home is a volume of its own. 0 is read as 10.",
    )
    WORKER_USERNAME: str = a_text(
        "jovyan",
        r"^[a-z_][a-z0-9_-]{0,31}$",
        'the name of a Linux user other than root or ec2spawner, for example "jovyan"',
        "Linux user under which notebooks run on a worker.",
    )
    WORKER_SSH_PORT: int = a_number(
        22, 1, 65535, "", "Port on which a worker's SSH server listens."
    )
    WORKER_NOTEBOOK_PORT: int = a_number(
        8888, 1024, 65535, "", "Port on which a user's server listens."
    )
    WORKER_SUDO: bool = Field(
        default=False,
        description="Whether the notebook user may use sudo on the worker.",
        json_schema_extra={"x-instead": "true or false, without quotes"},
    )
    SERVER_OWNER: str = a_text(
        "",
        r"^[\w .:/=+@-]*$",
        f"at most {TAG_VALUE_MAX} letters, digits, spaces and .:/=+-@_",
        "Who answers for the cluster; set as the tag Owner.",
    )
    COST_TAGS: dict[str, str] = Field(
        default_factory=dict,
        max_length=COST_TAGS_MAX,
        description="Tags of your own on everything that the cluster makes.",
        json_schema_extra={
            "x-instead": 'an object of texts, for example {"CostCenter": "4711"}; keys must not'
            ' begin with "aws:" or "ec2spawner:", and not be "Name"'
        },
    )
    PROFILES: tuple[ProfileChoice, ...] = Field(
        default=(),
        max_length=PROFILES_MAX,
        description="Kinds of machines that users may choose between, the usual one first; without"
        " any, all have WORKER_INSTANCE_TYPE. See the table below.",
        json_schema_extra={
            "x-instead": 'a list such as [{"SLUG": "usual", "NAME": "Usual",'
            ' "INSTANCE_TYPES": ["t3.medium"]}]'
        },
    )
    POOL_RUNNING: int = a_number(
        0,
        0,
        POOL_MAX,
        "",
        "Spare machines that run: a first login takes one within seconds. With PROFILES, each"
        " profile has its own.",
    )
    POOL_STOPPED: int = a_number(
        0,
        0,
        POOL_MAX,
        "",
        "Spare machines that were booted once and are stopped: cheap, and started faster than a"
        " new one. With PROFILES, each profile has its own.",
    )
    JUPYTER_NOTEBOOK_TIMEOUT: int = a_number(
        3600,
        1,
        30 * _DAY_SECONDS,
        "seconds",
        "Idle time after which a user's machine is stopped, in seconds.",
    )
    START_TIMEOUT_SECONDS: int = a_number(
        600, 10, 7200, "seconds", "Longest time a start may take, in seconds."
    )
    REAPER_GRACE_SECONDS: int = a_number(
        300, 1, _DAY_SECONDS, "seconds", "A machine that nobody wants is stopped after this time."
    )
    HUB_LOST_SECONDS: int = a_number(
        1800,
        1,
        7 * _DAY_SECONDS,
        "seconds",
        "A machine on which nobody works switches itself off when the hub has been out of its reach"
        " for this time; longer than the hub is away for an upgrade.",
    )
    DELETE_GRACE_DAYS: int = a_number(
        7, 0, 365, "days", "A deleted user's home is snapshotted and removed after this time."
    )
    SNAPSHOT_EXPIRE_DAYS: int = a_number(
        30, 1, 3650, "days", "A snapshot of a removed home is kept for this time."
    )
    KEEP_BROKEN_HOURS: int = a_number(
        24,
        0,
        720,
        "hours",
        "A machine that did not serve its user and was replaced is kept, stopped, for this time, so"
        " that you can look at it.",
    )

    CLASS_SCHEDULE: tuple[ScheduledClass, ...] = Field(
        default=(),
        max_length=CLASSES_MAX,
        description="Classes of the week: before each begins, its machines are started.",
        json_schema_extra={
            "x-instead": 'a list such as [{"WEEKDAY": "monday", "TIME": "09:15",'
            ' "TIME_ZONE": "Europe/Berlin", "MINUTES_AHEAD": 15, "GROUP": "biology101",'
            ' "KEEP_MINUTES": 30}], with either GROUP or COUNT (of people)'
        },
    )

    ALLOW_ZONE_MOVE: bool = Field(
        default=False,
        description="Whether a user's home is copied to another zone, by a snapshot, when AWS has"
        " no machine for the user where it lies. That takes some minutes, which the user reads; the"
        " old volume is removed after DELETE_GRACE_DAYS.",
        json_schema_extra={"x-instead": "true or false, without quotes"},
    )

    REFRESH_WORKERS: bool = Field(
        default=False,
        description="Whether a stopped machine of an older image gives way to a new one when its"
        " user comes: the home stays, what was installed outside it goes, and that start takes as"
        " long as a first one. Spare machines of an older image always give way.",
        json_schema_extra={"x-instead": "true or false, without quotes"},
    )

    @field_validator("PROFILES")
    @classmethod
    def _are_different(cls, value: tuple[ProfileChoice, ...]) -> tuple[ProfileChoice, ...]:
        return check_profiles(value)

    @field_validator("POOL_RUNNING", "POOL_STOPPED")
    @classmethod
    def _is_said_once(cls, value: int, info: ValidationInfo) -> int:
        if value and info.data.get("PROFILES"):
            raise ValueError("is for a cluster without PROFILES: write it into a profile")
        return value

    @field_validator("WORKER_NOTEBOOK_PORT")
    @classmethod
    def _is_another_port(cls, value: int, info: ValidationInfo) -> int:
        if value == info.data.get("WORKER_SSH_PORT"):
            raise ValueError("is WORKER_SSH_PORT too")
        return value

    @field_validator("WORKER_USERNAME")
    @classmethod
    def _is_free_name(cls, value: str) -> str:
        if value in ("root", "ec2spawner"):
            raise ValueError("is taken: that user manages the worker")
        return value

    @field_validator("SERVER_OWNER")
    @classmethod
    def _fits_a_tag(cls, value: str) -> str:
        if len(value) > TAG_VALUE_MAX:
            raise ValueError(f"has {len(value)} characters")
        return value

    @field_validator("COST_TAGS")
    @classmethod
    def _are_allowed_tags(cls, value: dict[str, str]) -> dict[str, str]:
        for key, text in value.items():
            if key.lower().startswith(("aws:", "ec2spawner:")) or key == "Name":
                raise ValueError(f"has the key {key!r}, which is reserved")
            if not 0 < len(key) <= TAG_KEY_MAX or len(text) > TAG_VALUE_MAX:
                raise ValueError(
                    f"has the key {key[:20]!r}; a key has 1 to {TAG_KEY_MAX} characters and a"
                    f" value at most {TAG_VALUE_MAX}"
                )
        return value

    @property
    def operator_tags(self) -> dict[str, str]:
        """COST_TAGS, and SERVER_OWNER as ``Owner``: what every resource bears besides our own."""
        owner = {"Owner": self.SERVER_OWNER} if self.SERVER_OWNER else {}
        return {**owner, **self.COST_TAGS}
