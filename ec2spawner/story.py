"""What a waiting user reads: words, percentage and estimate for each step of a start.

Pure words and arithmetic. Must not know how a start is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

STAGE_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "unknown": "Asking the Amazon cloud about your machine.",
        "aws-away": "The Amazon cloud does not answer at the moment; the hub keeps trying.",
        "launching": "Getting a machine for you.",
        "home-busy": "Waiting until your old machine lets go of your files.",
        "replaced": "Your machine does not answer; you are getting another one with the same "
        "files.",
        "exchanged": "Your machine cannot be started now; you are getting another one with the "
        "same files.",
        "stuck": "Your old machine takes long to switch itself off. You get your files on another "
        "one as soon as it has.",
        "copying": "The Amazon cloud has no machine free where your files are; copying them to "
        "another place, which takes some minutes.",
        "copied": "Your files are copied; getting a machine for you there.",
        "starting": "Starting your machine.",
        "stopping": "Your machine is just stopping; it will start again right after.",
        "booting": "Your machine is booting.",
        "running": "Your machine is running, connecting to it.",
        "connected": "Your machine answers.",
        "home": "Opening your files.",
        "format": "Preparing your new home directory.",
        "mount": "Opening your files.",
        "server": "Starting the notebook server.",
        "wait": "Starting the notebook server.",
    }
)
KIND_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "launch": "Getting a machine for you, usually {usual}.",
        "start": "Starting your machine, usually {usual}.",
        "running": "Starting your notebook server, usually {usual}.",
    }
)
OPENING_STAGES: Mapping[str, str] = MappingProxyType(
    {"launch": "launching", "start": "starting", "running": "running"}
)
"""The stage that the first line tells of already."""
UNUSUAL_STAGES = frozenset({"copying", "copied"})
"""These are no part of a usual start: no estimate holds."""
WAITING_STAGES = frozenset({"aws-away"})
"""Nothing can go on meanwhile: the time does not count, and no estimate holds."""
URGENT_STAGES = frozenset({"stuck", *UNUSUAL_STAGES})
"""These are told even where a step on the worker was told after them."""
LATE_SHARE = 1.5
LATE_SECONDS = 10.0
"""A start is said to take long after this share of the usual time, and so much more than it."""
MAX_PERCENT = 95
"""The rest is for the hub's own last look at the server."""


def opening(kind: str, usual_seconds: float) -> str:
    """The first line: what happens and how long it usually takes."""
    return KIND_WORDS[kind].format(usual=duration(usual_seconds))


def line(stage: str, elapsed_seconds: float, usual_seconds: float) -> str:
    """What is read while a stage lasts: the estimate stays in sight, as long as it holds."""
    words = STAGE_WORDS.get(stage, "")
    if not words or stage in WAITING_STAGES | UNUSUAL_STAGES:
        return words
    if elapsed_seconds > max(LATE_SHARE * usual_seconds, usual_seconds + LATE_SECONDS):
        return f"{words} It takes longer than usual."
    return f"{words} A start usually takes {duration(usual_seconds)}."


def in_line(place: int, seconds: float) -> str:
    """What is read while EC2's request limits are the bottleneck."""
    return f"You are {ordinal(place)} in line for the Amazon cloud, about {duration(seconds)}."


def copying(percent_done: int | None) -> str:
    """What is read while the home is copied to another zone."""
    words = STAGE_WORDS["copying"]
    return f"{words} {percent_done} % are done." if percent_done else words


def ordinal(number: int) -> str:
    """A number as a place: "1st", "12th", "23rd"."""
    teens = 10 <= number % 100 <= 20
    ending = "th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def percent(elapsed_seconds: float, usual_seconds: float) -> int:
    """How far a start is: even up to the usual time, then ever slower, never done."""
    share = elapsed_seconds / max(usual_seconds, 0.1)
    reached = 0.8 * share if share <= 1 else 1 - 0.2 / share
    return min(MAX_PERCENT, max(1, round(100 * reached)))


def duration(seconds: float) -> str:
    """A duration as people say it: "20 s", "2 min"."""
    if seconds < 90:
        rounded = round(seconds) if seconds < 10 else 5 * round(seconds / 5)
        return f"{max(1, rounded)} s"
    return f"{round(seconds / 60)} min"
