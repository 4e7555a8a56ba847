"""EC2's filters and pages: which records a listing shows, and in which portions.

Owns the matching of values (``*`` and ``?`` as wildcards, any value of a filter, all filters)
and page tokens. Pure. What a filter's name means for a record is the caller's.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from ec2spawner.localcloud.ec2.failures import bad_combination, bad_value

T = TypeVar("T")
Values = Iterable[str]
Getter = Callable[[T], Values]


@lru_cache(maxsize=1024)
def _pattern(value: str) -> re.Pattern[str]:
    escaped = re.escape(value).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(escaped, re.DOTALL)


def _matcher(wanted: Sequence[str]) -> Callable[[Values], bool]:
    plain = frozenset(v for v in wanted if "*" not in v and "?" not in v)
    patterns = [_pattern(v) for v in wanted if v not in plain]

    def matches(values: Values) -> bool:
        return any(v in plain or any(p.fullmatch(v) for p in patterns) for v in values)

    return matches


def tag_getters(name: str) -> Getter[Any] | None:
    """The getter of a filter on tags, if ``name`` is one."""
    if name.startswith("tag:"):
        key = name[len("tag:") :]
        return lambda r: (r.tags[key],) if key in r.tags else ()
    if name == "tag-key":
        return lambda r: r.tags.keys()
    if name == "tag-value":
        return lambda r: r.tags.values()
    return None


def choose(
    records: Iterable[T],
    filters: Sequence[Mapping[str, Any]],
    getters: Mapping[str, Getter[T]],
    *,
    has_tags: bool = True,
) -> list[T]:
    """The records that pass every filter; an unknown filter is an InvalidParameterValue.

    ``has_tags``: whether the action has filters on tags, which most have.
    """
    chosen = list(records)
    for one in filters or ():
        name = one.get("Name")
        if not name:
            raise bad_value("The filter 'null' is invalid")
        getter = (tag_getters(name) if has_tags else None) or getters.get(name)
        if getter is None:
            raise bad_value(f"The filter '{name}' is invalid")
        matches = _matcher(one.get("Values") or [])
        chosen = [r for r in chosen if matches(getter(r))]
    return chosen


def page(
    records: Sequence[T], params: Mapping[str, Any], ids_name: str, least: int = 5
) -> tuple[Sequence[T], str | None]:
    """One page of records ordered by ``sequence``, and the token of the next.

    MaxResults is 5 to 1000 and goes with no ids (API reference of DescribeInstances, 2026).
    Without it everything is one page, as in EC2.
    """
    size = params.get("MaxResults")
    token = params.get("NextToken")
    if size is not None:
        if params.get(ids_name):
            raise bad_combination(
                f"The parameter {ids_name} cannot be used with the parameter maxResults"
            )
        if not least <= size <= 1000:
            raise bad_value(
                f"Value ( {size} ) for parameter maxResults is invalid. "
                f"Expecting a value between {least} and 1000."
            )
    after = _read_token(token) if token else -1
    rest = [r for r in records if _sequence(r) > after] if token else records
    if size is None or len(rest) <= size:
        return rest, None
    shown = rest[:size]
    return shown, base64.b64encode(f"after:{_sequence(shown[-1])}".encode()).decode()


def _sequence(record: Any) -> int:
    return int(record.sequence)


def _read_token(token: str) -> int:
    try:
        text = base64.b64decode(token, validate=True).decode()
        prefix, _, number = text.partition(":")
        if prefix == "after":
            return int(number)
    except (ValueError, binascii.Error):
        pass
    raise bad_value(f"Invalid value '{token}' for the parameter nextToken")
