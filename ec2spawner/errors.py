"""Every failure that the product expects, as one class each.

Owns the words of an error: ``what`` happened, ``why`` as far as is known, and the ``next_step``.
Users are shown ``what`` and ``next_step``; operators read all three in the log. Must not know
who raises them. No error text ever holds a secret.
"""

from __future__ import annotations

import math


class EC2SpawnerError(Exception):
    """Base of all expected failures; ``code`` is a short, stable slug for metrics and JSON."""

    code = "error"

    def __init__(self, what: str, *, why: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.next_step = next_step

    def for_user(self) -> str:
        """One short text without internals: what happened, and what to do next."""
        return f"{self.what} {self.next_step}".strip()

    def for_operator(self) -> str:
        """The whole story on one line."""
        parts = [self.what]
        if self.why:
            parts.append(f"Why: {self.why}")
        if self.next_step:
            parts.append(f"Next: {self.next_step}")
        return " ".join(parts)

    def __str__(self) -> str:
        return self.for_operator()


class ConfigError(EC2SpawnerError):
    """A configuration file or option that cannot be used as it is."""

    code = "config"


class CloudError(EC2SpawnerError):
    """A call to AWS that failed; ``action`` and ``aws_code`` say which and how."""

    code = "cloud"
    words = (
        "Your machine could not be provided: the set-up of this hub has a fault.",
        "Tell the people who run this hub; your files are safe.",
    )
    """What a user reads instead of AWS's terms: what happened, and what to do."""

    def __init__(
        self, what: str, *, why: str = "", next_step: str = "", action: str = "", aws_code: str = ""
    ) -> None:
        super().__init__(what, why=why, next_step=next_step)
        self.action = action
        self.aws_code = aws_code

    def for_user(self) -> str:
        """The class's own words: which call failed says nothing to a user."""
        return " ".join(self.words)


class Throttled(CloudError):
    """AWS refused for now because of too many calls."""

    code = "throttled"
    words = (
        "The Amazon cloud is busy at the moment.",
        "Start your server again in a minute.",
    )


class CapacityError(CloudError):
    """AWS has no such machine free in this place; another place may have one."""

    code = "capacity"
    words = (
        "The Amazon cloud has no machine of this kind free at the moment.",
        "Start your server again in a few minutes; your files are safe.",
    )


class SubnetFull(CapacityError):
    """The subnet has no free address; another subnet may have one."""

    code = "subnet-full"
    words = (
        "The network of this hub has no place for another machine.",
        "Try again later, or tell the people who run this hub; your files are safe.",
    )


class QuotaError(CloudError):
    """The account may not run more; no other place helps."""

    code = "quota"
    words = (
        "This hub may not run more machines than it does at the moment.",
        "Try again later, or tell the people who run this hub; your files are safe.",
    )


class NotFound(CloudError):
    """The named thing does not exist (or cannot be seen yet)."""

    code = "not-found"


class WrongState(CloudError):
    """The thing exists, but its state does not allow the call now."""

    code = "wrong-state"


class Denied(CloudError):
    """The credentials do not allow the action."""

    code = "denied"


class CredentialsError(CloudError):
    """No credentials, or credentials that AWS does not accept (any more)."""

    code = "credentials"


class Unreachable(CloudError):
    """AWS did not answer; the call was of a kind that can safely be made again."""

    code = "unreachable"
    words = (
        "The Amazon cloud does not answer at the moment.",
        "Start your server again in a few minutes; your files are safe.",
    )


class OutcomeUnknown(CloudError):
    """No answer came to a call that may have taken effect; look before it is made again."""

    code = "outcome-unknown"
    words = (
        "The Amazon cloud does not answer at the moment.",
        "Start your server again in a few minutes; your files are safe.",
    )


class ConditionFailed(CloudError):
    """The object in the bucket is not what the write was to replace: somebody else wrote first."""

    code = "condition"


class NotTheHolder(Unreachable):
    """The hub's lease on the cluster has run out, or is not there yet: the call was not sent."""

    code = "not-the-holder"


class AnotherHub(CloudError):
    """Another hub serves the cluster: this one changes nothing."""

    code = "another-hub"
    words = (
        "Another hub serves this cluster.",
        "Tell the people who run this hub; your files are safe.",
    )


class Rejected(CloudError):
    """AWS understood the call and will never carry it out as it is."""

    code = "rejected"


class WorkerError(EC2SpawnerError):
    """A worker that cannot serve its user."""

    code = "worker"


class WorkerUnreachable(WorkerError):
    """The worker does not answer over SSH."""

    code = "worker-unreachable"


class HostKeyMismatch(WorkerError):
    """The worker shows another host key than at the first contact."""

    code = "host-key"


class WorkerGarbage(WorkerError):
    """The worker's answer is not what ``ec2spawner-worker`` writes."""

    code = "worker-garbage"


class WorkerRefused(WorkerError):
    """``ec2spawner-worker`` ran and said why it cannot; ``reason`` is its slug."""

    code = "worker-refused"

    def __init__(self, what: str, *, reason: str, why: str = "", next_step: str = "") -> None:
        super().__init__(what, why=why, next_step=next_step)
        self.reason = reason


class StartTimeout(EC2SpawnerError):
    """The machine was not ready within the time allowed for a start."""

    code = "start-timeout"


class NameTaken(EC2SpawnerError):
    """A new name under which there are machines or files of somebody else."""

    code = "name-taken"


class LaunchFailed(EC2SpawnerError):
    """An owner's machine cannot be provided now; the ladder has no rung left."""

    code = "launch-failed"


class TooManyDeleted(EC2SpawnerError):
    """A user of whom so many removed homes are still kept that no further one is made."""

    code = "too-many-deleted"


class ProfileRefused(EC2SpawnerError):
    """A user may not have the kind of machine that was asked for, or it does not exist."""

    code = "profile-refused"


class KeepRefused(EC2SpawnerError):
    """A machine that may not be kept up, or not for so long."""

    code = "keep-refused"


class KeepFailed(EC2SpawnerError):
    """A machine that could not be told to stay up, or not to."""

    code = "keep-failed"


class TooOften(EC2SpawnerError):
    """Somebody who asks for more within a minute than they may."""

    code = "too-often"

    def __init__(self, what: str, *, why: str = "", wait_seconds: float) -> None:
        seconds = math.ceil(wait_seconds)
        super().__init__(what, why=why, next_step=f"Try again in {seconds} s.")
        self.wait_seconds = seconds
