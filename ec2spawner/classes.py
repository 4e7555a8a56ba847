"""A class of the week, as ``CLASS_SCHEDULE`` lists it.

Owns the keys of one class, their bounds and defaults. Must not know which classes are now
(``schedule``), nor who comes.
"""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from .configmodel import Frozen

CLASSES_MAX = 200
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class ScheduledClass(Frozen):
    """One class of the week: machines for its group, or for a number of people, run in time."""

    WEEKDAY: str = Field(description="Day of the week on which it begins.")
    TIME: str = Field(description="When it begins, by the clocks of its time zone.")
    TIME_ZONE: str = Field(description="Time zone of TIME.")
    MINUTES_AHEAD: int = Field(
        default=15, ge=0, le=180, description="So long before it begins, machines are started."
    )
    KEEP_MINUTES: int = Field(
        default=30,
        ge=1,
        le=720,
        description="So long after it begins, machines wait for who is late.",
    )
    GROUP: str | None = Field(
        default=None,
        min_length=1,
        max_length=255,
        description="Group of the hub whose members come.",
    )
    COUNT: int | None = Field(
        default=None, ge=1, le=2000, description="How many come, where nobody knows who."
    )

    @field_validator("WEEKDAY")
    @classmethod
    def _is_weekday(cls, value: str) -> str:
        if value not in WEEKDAYS:
            raise ValueError("is no weekday such as monday, in small letters")
        return value

    @field_validator("TIME")
    @classmethod
    def _is_time(cls, value: str) -> str:
        if not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", value):
            raise ValueError("is no time from 00:00 to 23:59")
        return value

    @field_validator("TIME_ZONE")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):  # unknown, no name of a zone at all, or a folder
            raise ValueError("is no time zone that this computer knows") from None
        return value

    @model_validator(mode="after")
    def _is_for_somebody(self) -> ScheduledClass:
        if (self.GROUP is None) == (self.COUNT is None):
            both = "has neither GROUP nor COUNT" if self.GROUP is None else "has GROUP and COUNT"
            raise ValueError(f"{both}; one of them says for whom it is")
        return self
