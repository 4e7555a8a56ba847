"""The gateway to AWS: every call of the product passes here, and boto3 is imported nowhere else.

Owns clients, threads, deadlines, the table from AWS's error codes to our classes, and the one
retry. Must not know what a worker is: typed EC2 operations are in ``ec2.py``. Which AWS it talks to
is boto3's business (``AWS_ENDPOINT_URL``, profile, region).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import partial
from typing import Any

import boto3
import botocore.session
from botocore import exceptions as boto_errors
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError
from botocore.utils import parse_timestamp

from ec2spawner import errors, metrics
from ec2spawner.throttle import ON_WAIT, Throttle, Turn

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 20
DEFAULT_DEADLINE_SECONDS = 60.0
THREADS = 16
FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 8.0

CODES: Mapping[str, type[errors.CloudError]] = {
    # throttled
    "RequestLimitExceeded": errors.Throttled,
    "Throttling": errors.Throttled,
    "ThrottlingException": errors.Throttled,
    "ThrottledException": errors.Throttled,
    "TooManyRequestsException": errors.Throttled,
    "SlowDown": errors.Throttled,
    "PriorRequestNotComplete": errors.Throttled,
    "EC2ThrottledException": errors.Throttled,
    "SnapshotCreationPerVolumeRateExceeded": errors.Throttled,
    # capacity of one place: another place may do
    "InsufficientInstanceCapacity": errors.CapacityError,
    "InsufficientHostCapacity": errors.CapacityError,
    "InsufficientReservedInstanceCapacity": errors.CapacityError,
    "InsufficientCapacity": errors.CapacityError,
    "InsufficientVolumeCapacity": errors.CapacityError,
    "UnfulfillableCapacity": errors.CapacityError,
    "ReservationCapacityExceeded": errors.CapacityError,
    "Unsupported": errors.CapacityError,
    "InsufficientFreeAddressesInSubnet": errors.SubnetFull,
    # quota of the account: no other place helps
    "VcpuLimitExceeded": errors.QuotaError,
    "InstanceLimitExceeded": errors.QuotaError,
    "MaxSpotInstanceCountExceeded": errors.QuotaError,
    "SpotMaxPriceTooLow": errors.CapacityError,
    "VolumeLimitExceeded": errors.QuotaError,
    "MaxIOPSLimitExceeded": errors.QuotaError,
    "SnapshotLimitExceeded": errors.QuotaError,
    "LimitExceededException": errors.QuotaError,
    # state
    "IncorrectInstanceState": errors.WrongState,
    "IncorrectState": errors.WrongState,
    "VolumeInUse": errors.WrongState,
    "IncorrectSpotRequestState": errors.WrongState,
    # rights
    "UnauthorizedOperation": errors.Denied,
    "AccessDenied": errors.Denied,
    "AccessDeniedException": errors.Denied,
    "403": errors.Denied,  # S3's answer to HeadBucket has no body
    "OperationNotPermitted": errors.Rejected,
    # credentials
    "AuthFailure": errors.CredentialsError,
    "ExpiredToken": errors.CredentialsError,
    "ExpiredTokenException": errors.CredentialsError,
    "RequestExpired": errors.CredentialsError,
    "InvalidClientTokenId": errors.CredentialsError,
    "UnrecognizedClientException": errors.CredentialsError,
    "InvalidAccessKeyId": errors.CredentialsError,
    "SignatureDoesNotMatch": errors.CredentialsError,
    "OptInRequired": errors.CredentialsError,
    "InvalidToken": errors.CredentialsError,
    "RequestTimeTooSkewed": errors.CredentialsError,
    # S3's conditions (If-Match, If-None-Match); the last two: another write is under way
    "PreconditionFailed": errors.ConditionFailed,
    "ConditionalRequestConflict": errors.ConditionFailed,
    "OperationAborted": errors.ConditionFailed,
    # not there
    "ParameterNotFound": errors.NotFound,
    "NoSuchBucket": errors.NotFound,
    "NoSuchKey": errors.NotFound,
    "NoSuchResourceException": errors.NotFound,  # a service or quota that is none
    "404": errors.NotFound,
}
"""AWS error code to class (API references of EC2 and S3, "Error codes", 2026; see ``classify``)."""

SERVER_FAULTS = frozenset(
    {
        *("InternalError", "InternalFailure", "InternalServerError"),
        *("ServiceUnavailable", "Unavailable"),
        "RequestTimeout",  # S3: it has not got the whole request in time
    }
)
"""Codes with which AWS says that it failed itself: the call may have taken effect or not."""

BODY_MAX_BYTES = 1024 * 1024
"""Of a streamed reply (S3's GetObject), which is read whole; what we keep there is smaller."""

UNANSWERED = (
    boto_errors.HTTPClientError,
    boto_errors.IncompleteReadError,
    boto_errors.SSLError,
    ResponseParserError,
)
"""The request may have arrived, and no whole answer came; other connection errors come before."""

NO_CREDENTIALS = (
    boto_errors.NoCredentialsError,
    boto_errors.PartialCredentialsError,
    boto_errors.CredentialRetrievalError,
    boto_errors.TokenRetrievalError,
    boto_errors.NoAuthTokenError,
    boto_errors.MetadataRetrievalError,
    boto_errors.ProfileNotFound,
    boto_errors.SSOError,
)

NEXT_STEPS: Mapping[type[errors.CloudError], str] = {
    errors.Throttled: "Try again in a minute; a hub does so by itself.",
    errors.CapacityError: "Try again in a few minutes, or add instance types or zones.",
    errors.SubnetFull: "Add a subnet with free addresses to the cluster.",
    errors.QuotaError: "Ask AWS for a higher quota (console: Service Quotas).",
    errors.CredentialsError: "Renew or configure the AWS credentials (aws sts get-caller-identity "
    "shows which are in use).",
    errors.Unreachable: "Check the network, and AWS_ENDPOINT_URL if it is set.",
    errors.OutcomeUnknown: "Look what is there before it is done again; a hub does so by itself.",
}


Permit = Callable[[], errors.CloudError | None]
"""Why nothing may be changed now; None while it may. Called in any thread."""


class Effect(Enum):
    """What making a call twice would do."""

    READ = "read"
    REPEATABLE = "repeatable"  # idempotent, or carries a client token
    ONCE = "once"


@dataclass(frozen=True)
class Attempt:
    """How one attempt of a call failed: its error, and whether it may have taken effect."""

    error: errors.CloudError
    is_transient: bool
    maybe_done: bool


def classify(action: str, failure: Exception, service: str = "ec2") -> Attempt:
    """What a failure of boto3 means for ``action`` (``RunInstances``, ...)."""
    if isinstance(failure, ClientError):
        return _classify_answer(action, failure, service)
    if isinstance(failure, UNANSWERED):
        return Attempt(_unreachable(action, failure), is_transient=True, maybe_done=True)
    if isinstance(failure, boto_errors.ConnectionError):
        return Attempt(_unreachable(action, failure), is_transient=True, maybe_done=False)
    if isinstance(failure, NO_CREDENTIALS):
        why = f"No usable AWS credentials were found ({failure})."
        return _final(errors.CredentialsError, action, "", why)
    if isinstance(failure, boto_errors.NoRegionError):
        return _final(errors.CredentialsError, action, "", "No AWS region is set.")
    if isinstance(failure, boto_errors.BotoCoreError):
        final = _final(errors.Rejected, action, type(failure).__name__, str(failure))
        if not isinstance(failure, boto_errors.ParamValidationError):
            final.error.next_step = "Check the AWS configuration: profile, region, endpoint."
        return final
    raise failure


def _final(kind: type[errors.CloudError], action: str, code: str, why: str) -> Attempt:
    return Attempt(_error(kind, action, code, why), is_transient=False, maybe_done=False)


def _classify_answer(action: str, failure: ClientError, service: str) -> Attempt:
    info = failure.response.get("Error", {})
    code, text = str(info.get("Code", "")), str(info.get("Message", ""))
    status = failure.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    kind = class_of_code(code)
    if kind is None and status == 429:
        kind = errors.Throttled
    if kind is None and (code in SERVER_FAULTS or status >= 500):
        return Attempt(
            _error(errors.Unreachable, action, code, text), is_transient=True, maybe_done=True
        )
    kind = kind or errors.Rejected
    error = (
        _denied(action, code, text, service)
        if kind is errors.Denied
        else _error(kind, action, code, text)
    )
    return Attempt(error, is_transient=kind is errors.Throttled, maybe_done=False)


def class_of_code(code: str) -> type[errors.CloudError] | None:
    """The class of an AWS error code; None for a code that the table does not know."""
    if code in CODES:
        return CODES[code]
    if code.endswith((".NotFound", ".Unknown")) or code.endswith("NotFoundException"):
        return errors.NotFound
    return None


def _error(kind: type[errors.CloudError], action: str, code: str, text: str) -> errors.CloudError:
    return kind(
        f"AWS did not carry out {action}" + (f" ({code})." if code else "."),
        why=_readable(text),
        next_step=NEXT_STEPS.get(kind, ""),
        action=action,
        aws_code=code,
    )


def _denied(action: str, code: str, text: str, service: str) -> errors.CloudError:
    # AWS words it "... is not authorized to perform: ec2:RunInstances on resource: ..."; the
    # policy line is more often in the text than the action's own name (PassRole, CreateTags).
    found = re.search(r"perform: ([a-z0-9-]+:\w+)", text)
    line = found[1] if found else f"{service}:{action}"
    return errors.Denied(
        f"The AWS credentials in use may not do {action} ({code}).",
        why=_readable(text),
        next_step=f'Add a policy statement that allows "{line}" to the role or user in use.',
        action=action,
        aws_code=code,
    )


def _unreachable(action: str, failure: Exception) -> errors.CloudError:
    return _error(errors.Unreachable, action, "", str(failure))


def _readable(text: str) -> str:
    """One bounded line, without AWS's encoded authorization message, which no person can read."""
    text = re.sub(r"Encoded authorization failure message: \S+", "", text)
    return " ".join(text.split())[:400]


def action_name(operation: str) -> str:
    """boto3's ``run_instances`` as AWS's ``RunInstances``."""
    return "".join(part.capitalize() for part in operation.split("_"))


def default_effect(operation: str) -> Effect:
    """What is known of an operation by its name alone; a write is made once unless it is told."""
    reads = ("describe_", "get_", "list_", "head_", "simulate_")
    return Effect.READ if operation.startswith(reads) else Effect.ONCE


def make_session() -> Any:
    """A session of boto3 whose clients read times quickly: botocore's own parser takes any form of
    a date, and with it half of the time that a listing is read in."""
    session = botocore.session.Session()
    factory = session.get_component("response_parser_factory")
    factory.set_parser_defaults(timestamp_parser=read_time)
    return boto3.session.Session(botocore_session=session)


def read_time(value: Any) -> datetime:
    """A time out of an answer of AWS: in the form that EC2 uses at once, any other by botocore."""
    if isinstance(value, str) and value.endswith("Z"):
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(f"{value[:-1]}+00:00")
    moment: datetime = parse_timestamp(value)
    return moment


@dataclass(frozen=True)
class _Request:
    """What is sent at each attempt of one call."""

    service: str
    operation: str
    params: Mapping[str, Any]
    instances: int
    effect: Effect


class Gateway:
    """Makes AWS calls off the event loop: within EC2's limits, with deadlines, repeated if safe."""

    def __init__(
        self,
        region: str | None = None,
        *,
        session_factory: Callable[..., Any] = make_session,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        slack_seconds: float = 0.0,
    ) -> None:
        self._region = region
        self._session_factory = session_factory
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._throttle = Throttle(clock(), slack_seconds)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="aws")
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[str, Any] = {}
        self._permits: dict[str, Permit] = {}

    def guard(self, service: str, permit: Permit) -> None:
        """From now on, ask before each attempt of each call that can change something there.

        What ``permit`` gives ends the call, which is not sent. It is asked in the thread that
        sends, at the last moment.
        """
        self._permits[service] = permit

    async def call(
        self,
        service: str,
        operation: str,
        params: Mapping[str, Any] | None = None,
        *,
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
        effect: Effect | None = None,
        instances: int = 0,
    ) -> dict[str, Any]:
        """AWS's reply to one call; ``instances``: how many EC2 counts it for.

        Raises a ``CloudError``: ``OutcomeUnknown`` when no attempt was answered and one may have
        taken effect, ``Unreachable`` when none can have.
        """
        action = action_name(operation)
        effect = effect or default_effect(operation)
        give_up_at = self._clock() + deadline_seconds
        backoff = FIRST_BACKOFF_SECONDS
        maybe_done = False
        request = _Request(service, operation, params or {}, instances, effect)
        while True:
            failed = await self._attempt(request, action)
            if isinstance(failed, dict):
                return failed
            maybe_done = maybe_done or failed.maybe_done
            wait = backoff * (0.5 + self._jitter() / 2)
            out_of_time = self._clock() + wait > give_up_at
            once = effect is Effect.ONCE and failed.maybe_done
            if not failed.is_transient or out_of_time or once:
                raise self._verdict(failed, effect, maybe_done, action)
            log.debug("%s failed (%s), again in %.1f s", action, failed.error.code, wait)
            await self._sleep(wait)
            backoff = min(backoff * 2, MAX_BACKOFF_SECONDS)

    @staticmethod
    def _verdict(
        failed: Attempt, effect: Effect, maybe_done: bool, action: str
    ) -> errors.CloudError:
        # Refused credentials, or a repetition that was not permitted, say nothing of an attempt
        # before, which may have taken effect.
        says_nothing = (errors.CredentialsError, errors.NotTheHolder, errors.AnotherHub)
        is_answer = not (failed.is_transient or isinstance(failed.error, says_nothing))
        if maybe_done and not is_answer and effect is not Effect.READ:
            return _error(errors.OutcomeUnknown, action, failed.error.aws_code, failed.error.why)
        return failed.error

    def turn(self, action: str, left_share: float = 0.0) -> Turn:
        """How many calls of an EC2 action would be sent at once now."""
        return self._throttle.turn(action, left_share, self._clock())

    def show_buckets(self) -> None:
        """Have the metrics show what EC2's limits admit, whenever they are read."""
        for (action, what), level in self._throttle.levels().items():
            shown = metrics.BUCKET_TOKENS.labels(action, what)
            shown.set_function(partial(self._now, level))

    def _now(self, level: Callable[[float], float]) -> float:
        return level(self._clock())

    async def _attempt(self, request: _Request, action: str) -> dict[str, Any] | Attempt:
        if request.service == "ec2":
            wait = self._throttle.reserve(action, request.instances, self._clock())
            if wait > 0:
                if on_wait := ON_WAIT.get():
                    on_wait(wait)
                await self._sleep(wait)
        loop = asyncio.get_running_loop()
        try:
            reply: dict[str, Any] = await loop.run_in_executor(self._threads, self._send, request)
        except errors.CloudError as refused:
            return Attempt(refused, is_transient=False, maybe_done=False)
        except (ClientError, boto_errors.BotoCoreError, ResponseParserError) as failure:
            failed = classify(action, failure, request.service)
            metrics.AWS_CALLS.labels(action, failed.error.code).inc()
            return failed
        metrics.AWS_CALLS.labels(action, "ok").inc()
        return reply

    def _send(self, request: _Request) -> dict[str, Any]:
        client = self._client(request.service)
        permit = self._permits.get(request.service)
        if permit and request.effect is not Effect.READ and (refused := permit()):
            raise refused
        reply: dict[str, Any] = getattr(client, request.operation)(**request.params)
        if hasattr(reply.get("Body"), "read"):  # a stream: its rest comes from the network, too
            reply["Body"] = reply["Body"].read(BODY_MAX_BYTES)
        return reply

    def _client(self, service: str) -> Any:
        # boto3's clients are thread-safe, making them is not.
        with self._lock:
            if service not in self._clients:
                self._session = self._session or self._session_factory()
                self._clients[service] = self._make_client(service)
            return self._clients[service]

    def _make_client(self, service: str) -> Any:
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=READ_TIMEOUT_SECONDS,
            max_pool_connections=THREADS,
            retries={"total_max_attempts": 1, "mode": "standard"},
        )
        try:
            return self._session.client(service, region_name=self._region, config=config)
        except ValueError as error:  # what boto3 makes of an AWS_ENDPOINT_URL that is no URL
            if isinstance(error, boto_errors.BotoCoreError):
                raise
            raise boto_errors.InvalidEndpointConfigurationError(msg=str(error)) from error

    async def pages(
        self,
        service: str,
        operation: str,
        params: Mapping[str, Any] | None = None,
        *,
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
        token_key: str = "NextToken",  # noqa: S107 - a field's name, not a password
    ) -> list[dict[str, Any]]:
        """All pages of a listing, one call after the other; raises like ``call``."""
        replies: list[dict[str, Any]] = []
        token: str | None = None
        while True:
            request = {**(params or {}), **({token_key: token} if token else {})}
            reply = await self.call(service, operation, request, deadline_seconds=deadline_seconds)
            replies.append(reply)
            token = reply.get(token_key)
            if not token:
                return replies

    async def warm(self, *services: str) -> None:
        """Make the clients now, so that no user waits for it (about 0.2 s each)."""
        loop = asyncio.get_running_loop()
        for service in services:
            await loop.run_in_executor(self._threads, self._client, service)

    def close(self) -> None:
        """Let the threads end after the calls that are under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)
