"""EC2's refusals, with the codes and words that EC2 uses.

Owns the error type that the semantics raise; the wire turns it into EC2's XML.
"""

from __future__ import annotations

from collections.abc import Iterable


class EC2Error(Exception):
    """A refusal by EC2: ``code`` as boto3's ClientError shows it, and the HTTP ``status``."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


_KINDS = {
    "i": ("InvalidInstanceID", "instance ID"),
    "vol": ("InvalidVolume", "volume"),
    "snap": ("InvalidSnapshot", "snapshot"),
    "ami": ("InvalidAMIID", "image id"),
    "sir": ("InvalidSpotInstanceRequestID", "spot instance request ID"),
    "eni": ("InvalidNetworkInterfaceID", "networkInterface ID"),
}


def not_found(ids: Iterable[str]) -> EC2Error:
    """The error for ids that do not exist; all ``ids`` are of one kind."""
    listed = sorted(ids)
    code, noun = _KINDS.get(listed[0].partition("-")[0], ("InvalidID", "ID"))
    if noun == "image id":
        return EC2Error(f"{code}.NotFound", f"The image id '[{', '.join(listed)}]' does not exist")
    if len(listed) == 1:
        return EC2Error(f"{code}.NotFound", f"The {noun} '{listed[0]}' does not exist.")
    return EC2Error(f"{code}.NotFound", f"The {noun}s '{', '.join(listed)}' do not exist")


def malformed(resource_id: str, kind: str) -> EC2Error:
    """The error for an id that cannot be one; ``kind`` is its prefix, such as "i"."""
    code, _ = _KINDS[kind]
    return EC2Error(f"{code}.Malformed", f'Invalid id: "{resource_id}" (expecting "{kind}-...")')


def missing(parameter: str) -> EC2Error:
    """The error for a parameter that must be given."""
    return EC2Error("MissingParameter", f"The request must contain the parameter {parameter}")


def bad_value(message: str) -> EC2Error:
    """The error for a parameter with a value that EC2 does not take."""
    return EC2Error("InvalidParameterValue", message)


def bad_combination(message: str) -> EC2Error:
    """The error for parameters that cannot be used together."""
    return EC2Error("InvalidParameterCombination", message)


def wrong_state(message: str) -> EC2Error:
    """The error for a call that the state of the instance does not allow."""
    return EC2Error("IncorrectInstanceState", message)
