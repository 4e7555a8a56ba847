"""IAM's SimulatePrincipalPolicy, which moto lacks: the emulated account may do everything.

Owns the answer's form (IAM API reference, 2026). Must not know HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from xml.sax.saxutils import escape

ACTION = "SimulatePrincipalPolicy"
_NAMESPACE = "https://iam.amazonaws.com/doc/2010-05-08/"


def answer(flat: Mapping[str, str]) -> str:
    """The reply to a call with these parameters: each action is allowed."""
    names = [value for key, value in flat.items() if key.startswith("ActionNames.member.")]
    members = "".join(
        f"<member><EvalActionName>{escape(name)}</EvalActionName>"
        "<EvalResourceName>*</EvalResourceName><EvalDecision>allowed</EvalDecision></member>"
        for name in names
    )
    result = f"<IsTruncated>false</IsTruncated><EvaluationResults>{members}</EvaluationResults>"
    return (
        f'<{ACTION}Response xmlns="{_NAMESPACE}"><{ACTION}Result>{result}</{ACTION}Result>'
        f"</{ACTION}Response>"
    )
