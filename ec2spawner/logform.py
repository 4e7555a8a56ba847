"""The form of the hub's log: one event a line, whatever students put into names and requests.

Owns how a message is written. Must not know who logs.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

from jupyterhub.log import CoroutineLogFormatter

MESSAGE_MAX = 16_000
"""Characters of one message; a traceback comes beside it."""


def shown(text: str, most: int = MESSAGE_MAX) -> str:
    """The text on one line, with escapes for what a terminal would obey, and not without end."""
    if len(text) > most:
        text = f"{text[:most]} ... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class OneLine(CoroutineLogFormatter):  # type: ignore[misc]  # jupyterhub ships no types
    """JupyterHub's own form, but for what is not printable."""

    def format(self, record: logging.LogRecord) -> str:
        """The event; tornado indents the lines of its traceback."""
        safe = copy.copy(record)
        safe.msg, safe.args = shown(record.getMessage()), ()
        safe.exc_text = None  # it may have been made by another formatter
        return str(super().format(safe))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """The traceback, line by line."""
        return "\n".join(map(shown, str(super().formatException(ei)).split("\n")))
