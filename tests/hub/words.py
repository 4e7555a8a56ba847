"""What a user may read when something fails: words, and nothing of the machinery."""

from __future__ import annotations

import re

INTERNALS = re.compile(
    r"""
    \b(i|vol|snap|subnet|sg|lt|ami)-[0-9a-f]{8,}   # ids of AWS
    | \b\d{1,3}(\.\d{1,3}){3}\b                    # addresses
    | \b\w+(Error|Exception|Timeout)\b             # classes
    | \b(Run|Start|Stop|Describe|Create|Get)[A-Z]\w+   # AWS's actions
    | \b[A-Z][a-z]+([A-Z][a-z]+)+\b(?<!JupyterHub|JupyterLab)  # AWS's error codes
    | ec2: | arn: | Traceback | 127\. | SSH | :\d{2,5}\b | /\w+/\w+
    """,
    re.VERBOSE,
)
NEXT_STEPS = ("Tell ", "tell ", "Try ", "Start your server again", "Nothing to do")


def assert_fit_for_a_user(message: str) -> None:
    """One short message with a next step and without internals."""
    found = INTERNALS.search(message)
    assert found is None, f"{found[0]!r} in: {message}"
    assert 20 < len(message) < 400, message
    assert any(step in message for step in NEXT_STEPS), f"no next step in: {message}"
