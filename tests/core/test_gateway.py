"""The gateway's contract: every way in which a call can fail, and what is made of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from botocore.utils import parse_timestamp

from core.botos import (
    READ_TIMEOUT,
    REFUSED,
    SECRET,
    THROTTLED,
    FakeBoto,
    answered,
    gateway,
)
from core.virtual import in_virtual_time
from ec2spawner import errors
from ec2spawner.cloud import (
    CODES,
    DEFAULT_DEADLINE_SECONDS,
    MAX_BACKOFF_SECONDS,
    READ_TIMEOUT_SECONDS,
    Effect,
    Gateway,
    action_name,
    classify,
    default_effect,
    make_session,
    read_time,
)

# ---- the table of codes


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("RequestLimitExceeded", errors.Throttled),
        ("Throttling", errors.Throttled),
        ("ThrottlingException", errors.Throttled),
        ("SlowDown", errors.Throttled),
        ("EC2ThrottledException", errors.Throttled),
        ("InsufficientInstanceCapacity", errors.CapacityError),
        ("InsufficientHostCapacity", errors.CapacityError),
        ("UnfulfillableCapacity", errors.CapacityError),
        ("ReservationCapacityExceeded", errors.CapacityError),
        ("Unsupported", errors.CapacityError),
        ("InsufficientFreeAddressesInSubnet", errors.SubnetFull),
        ("VcpuLimitExceeded", errors.QuotaError),
        ("MaxSpotInstanceCountExceeded", errors.QuotaError),
        ("InstanceLimitExceeded", errors.QuotaError),
        ("IncorrectInstanceState", errors.WrongState),
        ("IncorrectState", errors.WrongState),
        ("VolumeInUse", errors.WrongState),
        ("UnauthorizedOperation", errors.Denied),
        ("AccessDenied", errors.Denied),
        ("AccessDeniedException", errors.Denied),
        ("403", errors.Denied),
        ("AuthFailure", errors.CredentialsError),
        ("ExpiredToken", errors.CredentialsError),
        ("RequestExpired", errors.CredentialsError),
        ("InvalidClientTokenId", errors.CredentialsError),
        ("InvalidInstanceID.NotFound", errors.NotFound),
        ("InvalidAMIID.NotFound", errors.NotFound),
        ("InvalidSubnetID.NotFound", errors.NotFound),
        ("InvalidGroup.NotFound", errors.NotFound),
        ("InvalidVolume.NotFound", errors.NotFound),
        ("InvalidLaunchTemplateId.NotFound", errors.NotFound),
        ("ParameterNotFound", errors.NotFound),
        ("NoSuchKey", errors.NotFound),
        ("NoSuchBucket", errors.NotFound),
        ("PreconditionFailed", errors.ConditionFailed),
        ("ConditionalRequestConflict", errors.ConditionFailed),
        ("OperationAborted", errors.ConditionFailed),
        ("InvalidToken", errors.CredentialsError),
        ("RequestTimeTooSkewed", errors.CredentialsError),
        ("ResourceNotFoundException", errors.NotFound),
        ("IdempotentParameterMismatch", errors.Rejected),
        ("InvalidParameterValue", errors.Rejected),
        ("InvalidInstanceID.Malformed", errors.Rejected),
        ("SomethingNobodyKnows", errors.Rejected),
        ("", errors.Rejected),
    ],
)
def test_code_by_code(code: str, kind: type[errors.CloudError]) -> None:
    attempt = classify("RunInstances", answered(code, "because"))
    assert type(attempt.error) is kind
    assert attempt.error.aws_code == code
    assert attempt.error.action == "RunInstances"
    assert "RunInstances" in attempt.error.what
    assert "because" in attempt.error.for_operator()
    assert attempt.is_transient is (kind is errors.Throttled)
    assert attempt.maybe_done is False, "AWS answered: it had no effect"


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_of_the_table_gets_its_class(code: str) -> None:
    assert type(classify("X", answered(code)).error) is CODES[code]


@pytest.mark.parametrize(
    ("code", "status"),
    [("InternalError", 500), ("ServiceUnavailable", 503), ("Unavailable", 503), ("x", 502)],
)
def test_a_fault_of_aws_passes_and_may_have_taken_effect(code: str, status: int) -> None:
    attempt = classify("RunInstances", answered(code, status=status))
    assert type(attempt.error) is errors.Unreachable
    assert (attempt.is_transient, attempt.maybe_done) == (True, True)


def test_too_many_requests_by_whatever_name_is_throttling() -> None:
    assert classify("X", answered("NewName", status=429)).is_transient


@pytest.mark.parametrize(
    ("failure", "maybe_done"),
    [
        (REFUSED, False),
        (boto.ConnectTimeoutError(endpoint_url="x"), False),
        (boto.ProxyConnectionError(proxy_url="x"), False),
        (READ_TIMEOUT, True),
        (boto.ConnectionClosedError(endpoint_url="x"), True),
        (boto.HTTPClientError(error="x"), True),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), True),
        (boto.SSLError(endpoint_url="x", error="cut"), True),
        (boto.ResponseStreamingError(error="x"), True),
        (ResponseParserError("not xml"), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_answer_passes_and_says_whether_it_may_have_taken_effect(
    failure: Exception, maybe_done: bool
) -> None:
    attempt = classify("RunInstances", failure)
    assert type(attempt.error) is errors.Unreachable
    assert (attempt.is_transient, attempt.maybe_done) == (True, maybe_done)


@pytest.mark.parametrize(
    "failure",
    [
        boto.NoCredentialsError(),
        boto.PartialCredentialsError(provider="env", cred_var="x"),
        boto.CredentialRetrievalError(provider="sso", error_msg="expired"),
        boto.TokenRetrievalError(provider="sso", error_msg="expired"),
        boto.UnauthorizedSSOTokenError(),
        boto.SSOTokenLoadError(error_msg="x"),
        boto.MetadataRetrievalError(error_msg="x"),
        boto.ProfileNotFound(profile="school"),
        boto.NoRegionError(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_missing_or_dead_credentials_say_what_to_do(failure: Exception) -> None:
    attempt = classify("RunInstances", failure)
    assert type(attempt.error) is errors.CredentialsError
    assert attempt.error.next_step
    assert not attempt.is_transient


def test_a_defect_of_ours_is_no_error_of_aws() -> None:
    with pytest.raises(KeyError):
        classify("RunInstances", KeyError("x"))


# ---- words


def test_denied_names_the_action_and_the_policy_line() -> None:
    text = (
        "You are not authorized to perform this operation. User: arn:aws:sts::1:assumed-role/hub "
        "is not authorized to perform: iam:PassRole on resource: arn:aws:iam::1:role/w because no "
        "identity-based policy allows it. Encoded authorization failure message: 4kB" + "x" * 900
    )
    error = classify("RunInstances", answered("UnauthorizedOperation", text, 403)).error
    assert isinstance(error, errors.Denied)
    assert "RunInstances" in error.what
    assert '"iam:PassRole"' in error.next_step
    assert "xxxx" not in error.for_operator()


@pytest.mark.parametrize(
    ("service", "line"), [("ec2", "ec2:CreateTags"), ("ssm", "ssm:CreateTags")]
)
def test_denied_without_details_names_the_call(service: str, line: str) -> None:
    error = classify("CreateTags", answered("AccessDenied", "No."), service).error
    assert f'"{line}"' in error.next_step


def test_a_user_reads_nothing_of_aws() -> None:
    for code in CODES:
        text = classify("RunInstances", answered(code, "i-123 in subnet-9")).error.for_user()
        assert text.endswith(".")
        for internal in ("RunInstances", "AWS", "i-123", "subnet", code):
            assert internal not in text


def test_a_message_is_one_bounded_line() -> None:
    error = classify("X", answered("Y", "line\nanother\r\n\t" + "z" * 5000)).error
    assert "\n" not in str(error)
    assert len(str(error)) < 600


@in_virtual_time
async def test_no_secret_is_in_an_error_or_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    session = FakeBoto(answered("InvalidParameterValue", "no"))
    with pytest.raises(errors.Rejected) as caught:
        await gateway(session).call(
            "ssm", "put_parameter", {"Name": "k", "Value": SECRET, "Type": "SecureString"}
        )
    assert SECRET not in str(caught.value) + repr(caught.value) + caplog.text


# ---- once more, or not


def test_names_and_effects() -> None:
    assert action_name("run_instances") == "RunInstances"
    for name in ("describe_tags", "get_parameter", "list_stacks", "head_bucket"):
        assert default_effect(name) is Effect.READ
    for name in ("create_snapshot", "delete_volume", "run_instances"):
        assert default_effect(name) is Effect.ONCE


@pytest.mark.parametrize("effect", list(Effect))
@in_virtual_time
async def test_throttled_calls_are_made_again_more_and_more_slowly(effect: Effect) -> None:
    session = FakeBoto(*[THROTTLED] * 6, {"ok": 1})
    reply = await gateway(session).call("ec2", "describe_x", effect=effect)
    assert reply == {"ok": 1}
    pauses = [b - a for a, b in zip(session.times, session.times[1:], strict=False)]
    assert pauses == pytest.approx([0.5, 1, 2, 4, 8, 8], abs=1e-3)
    assert max(pauses) <= MAX_BACKOFF_SECONDS + 1e-3


@in_virtual_time
async def test_jitter_keeps_retries_out_of_step() -> None:
    first, second = FakeBoto(THROTTLED, {}), FakeBoto(THROTTLED, {})
    await gateway(first, 0.0).call("ec2", "describe_x")
    begun = asyncio.get_running_loop().time()
    await gateway(second, 1.0).call("ec2", "describe_x")
    assert first.times[1] - first.times[0] == pytest.approx(0.25, abs=1e-3)
    assert second.times[1] - begun == pytest.approx(0.5, abs=1e-3)


@in_virtual_time
async def test_throttled_for_ever_ends_at_the_deadline() -> None:
    session = FakeBoto(THROTTLED)
    with pytest.raises(errors.Throttled):
        await gateway(session).call("ec2", "describe_x")
    assert DEFAULT_DEADLINE_SECONDS - 9 < session.times[-1] <= DEFAULT_DEADLINE_SECONDS


@in_virtual_time
async def test_a_deadline_of_nothing_is_one_attempt() -> None:
    session = FakeBoto(REFUSED)
    with pytest.raises(errors.Unreachable):
        await gateway(session).call("ec2", "describe_x", deadline_seconds=0)
    assert len(session.requests) == 1


@pytest.mark.parametrize(
    "code", ["InsufficientInstanceCapacity", "IncorrectState", "AccessDenied", "ExpiredToken", "X"]
)
@in_virtual_time
async def test_a_refusal_is_final_at_once(code: str) -> None:
    session = FakeBoto(answered(code))
    with pytest.raises(errors.CloudError):
        await gateway(session).call("ec2", "run_instances", effect=Effect.REPEATABLE)
    assert len(session.requests) == 1


@pytest.mark.parametrize(
    ("effect", "failure", "kind", "is_repeated"),
    [
        (Effect.READ, READ_TIMEOUT, errors.Unreachable, True),
        (Effect.READ, REFUSED, errors.Unreachable, True),
        (Effect.REPEATABLE, READ_TIMEOUT, errors.OutcomeUnknown, True),
        (Effect.REPEATABLE, REFUSED, errors.Unreachable, True),
        (Effect.REPEATABLE, answered("InternalError", status=500), errors.OutcomeUnknown, True),
        (Effect.ONCE, READ_TIMEOUT, errors.OutcomeUnknown, False),
        (Effect.ONCE, REFUSED, errors.Unreachable, True),
        (Effect.ONCE, THROTTLED, errors.Throttled, True),
        (Effect.ONCE, answered("InternalError", status=500), errors.OutcomeUnknown, False),
    ],
)
@in_virtual_time
async def test_what_may_have_been_done_is_repeated_only_where_that_is_safe(
    effect: Effect, failure: Exception, kind: type[errors.CloudError], is_repeated: bool
) -> None:
    session = FakeBoto(failure)
    with pytest.raises(errors.CloudError) as caught:
        await gateway(session).call("ec2", "some_call", effect=effect)
    assert type(caught.value) is kind
    assert (len(session.requests) > 1) is is_repeated


@pytest.mark.parametrize(
    ("then", "kind"),
    [
        (REFUSED, errors.OutcomeUnknown),
        (THROTTLED, errors.OutcomeUnknown),
        (answered("ExpiredToken"), errors.OutcomeUnknown),
        (answered("InsufficientInstanceCapacity"), errors.CapacityError),
        (answered("IdempotentParameterMismatch"), errors.Rejected),
    ],
    ids=["unreachable", "throttled", "credentials", "capacity", "rejected"],
)
@in_virtual_time
async def test_once_unanswered_only_an_answer_to_the_call_settles_it(
    then: Exception, kind: type[errors.CloudError]
) -> None:
    session = FakeBoto(READ_TIMEOUT, then)
    with pytest.raises(errors.CloudError) as caught:
        await gateway(session).call("ec2", "run_instances", effect=Effect.REPEATABLE)
    assert type(caught.value) is kind


@in_virtual_time
async def test_a_repeated_call_is_the_same_call() -> None:
    session = FakeBoto(READ_TIMEOUT, THROTTLED, {"ok": 1})
    params = {"ClientToken": "t", "MaxCount": 3}
    await gateway(session).call("ec2", "run_instances", params, effect=Effect.REPEATABLE)
    assert [p for _, _, p in session.requests] == [params] * 3


@in_virtual_time
async def test_a_defect_below_the_gateway_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        await gateway(FakeBoto(ZeroDivisionError())).call("ec2", "describe_x")


@in_virtual_time
async def test_cancelling_a_waiting_call_ends_it() -> None:
    session = FakeBoto(THROTTLED)
    call = asyncio.ensure_future(gateway(session).call("ec2", "describe_x"))
    await asyncio.sleep(3)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    made = len(session.requests)
    await asyncio.sleep(60)
    assert len(session.requests) == made


# ---- what may not be sent


def refusing(after: int) -> tuple[list[errors.CloudError | None], Callable[[], Any]]:
    """A permit that is given so many times, and then not any more."""
    asked: list[errors.CloudError | None] = []

    def permit() -> errors.CloudError | None:
        asked.append(None if len(asked) < after else errors.NotTheHolder("no"))
        return asked[-1]

    return asked, permit


@pytest.mark.parametrize("effect", [Effect.ONCE, Effect.REPEATABLE])
@in_virtual_time
async def test_a_guarded_write_that_is_not_permitted_is_not_sent(effect: Effect) -> None:
    session = FakeBoto({})
    aws = gateway(session)
    asked, permit = refusing(after=1)
    aws.guard("ec2", permit)
    await aws.call("ec2", "create_tags", effect=effect)
    with pytest.raises(errors.NotTheHolder):
        await aws.call("ec2", "create_tags", effect=effect)
    assert len(session.requests) == 1
    assert len(asked) == 2


@in_virtual_time
async def test_reads_and_other_services_are_not_guarded() -> None:
    session = FakeBoto({})
    aws = gateway(session)
    asked, permit = refusing(after=0)
    aws.guard("ec2", permit)
    await aws.call("ec2", "describe_instances")
    await aws.pages("ec2", "describe_tags")
    await aws.call("s3", "put_object")
    assert len(session.requests) == 3
    assert not asked


@pytest.mark.parametrize(
    ("first", "kind"),
    [(THROTTLED, errors.NotTheHolder), (READ_TIMEOUT, errors.OutcomeUnknown)],
    ids=["without effect", "perhaps with effect"],
)
@in_virtual_time
async def test_each_repetition_is_guarded_and_what_was_sent_before_is_not_forgotten(
    first: Exception, kind: type[errors.CloudError]
) -> None:
    session = FakeBoto(first)
    aws = gateway(session)
    asked, permit = refusing(after=2)
    aws.guard("ec2", permit)
    with pytest.raises(errors.CloudError) as caught:
        await aws.call("ec2", "run_instances", effect=Effect.REPEATABLE)
    assert type(caught.value) is kind
    assert len(session.requests) == 2
    assert len(asked) == 3


@in_virtual_time
async def test_a_call_that_waits_for_a_bucket_is_guarded_at_its_end() -> None:
    session = FakeBoto({})
    aws = gateway(session)
    begun = asyncio.get_running_loop().time()

    def permit() -> errors.CloudError | None:
        late = asyncio.get_running_loop().time() - begun > 3
        return errors.AnotherHub("late") if late else None

    aws.guard("ec2", permit)
    calls = [aws.call("ec2", "run_instances", effect=Effect.REPEATABLE) for _ in range(20)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [r for r in results if isinstance(r, errors.AnotherHub)]
    assert len(session.requests) + len(refused) == 20
    assert 5 <= len(session.requests) <= 12, "5 at once, and 2 a second"


# ---- clients and pages


@in_virtual_time
async def test_one_client_a_service_without_retries_of_its_own() -> None:
    session = FakeBoto({})
    aws = gateway(session)
    assert not session.clients, "nothing is made before the first call"
    for _ in range(3):
        await aws.call("ec2", "describe_x")
        await aws.call("ssm", "get_parameter")
    assert session.sessions == 1
    assert [service for service, _ in session.clients] == ["ec2", "ssm"]
    options = session.clients[0][1]
    assert options["region_name"] == "eu-west-1"
    assert options["config"].retries["total_max_attempts"] == 1
    assert options["config"].read_timeout == READ_TIMEOUT_SECONDS
    assert "aws_access_key_id" not in options
    aws.close()


def page(params: dict[str, Any]) -> dict[str, Any]:
    number = int(params.get("NextToken", "0"))
    more = {"NextToken": str(number + 1)} if number < 4 else {}
    return {"Items": [number], **more}


@in_virtual_time
async def test_a_listing_is_complete_over_all_pages_and_failures_between_them() -> None:
    session = FakeBoto(page, THROTTLED, page, READ_TIMEOUT, page)
    replies = await gateway(session).pages("ec2", "describe_x", {"Filters": ["f"]})
    assert [r["Items"] for r in replies] == [[0], [1], [2], [3], [4]]
    assert all(p["Filters"] == ["f"] for _, _, p in session.requests)


@in_virtual_time
async def test_a_listing_that_breaks_off_is_no_listing() -> None:
    session = FakeBoto(page, page, answered("InvalidNextToken"))
    with pytest.raises(errors.Rejected):
        await gateway(session).pages("ec2", "describe_x")


@in_virtual_time
async def test_an_empty_next_token_ends_a_listing() -> None:
    session = FakeBoto({"Items": [], "NextToken": ""})
    assert len(await gateway(session).pages("ec2", "describe_x")) == 1


# ---- the real boto3


@pytest.fixture
def aws_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")

    def point(url: str) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)

    return point


async def test_boto3_without_credentials(aws_at: Callable[[str], None]) -> None:
    aws_at("http://127.0.0.1:9")
    aws = Gateway("eu-west-1")
    with pytest.raises(errors.CredentialsError) as caught:
        await aws.call("ec2", "describe_instances")
    assert "Traceback" not in str(caught.value)
    aws.close()


async def test_boto3_and_an_endpoint_where_nobody_listens(
    aws_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        aws_at(f"http://127.0.0.1:{taken.getsockname()[1]}")
        aws = Gateway("eu-west-1")
        with pytest.raises(errors.Unreachable) as caught:
            await aws.call("ec2", "describe_instances", deadline_seconds=0)
    assert SECRET not in str(caught.value)
    assert "AKIAEXAMPLE" not in str(caught.value)
    aws.close()


async def test_boto3_and_an_endpoint_that_is_no_url(
    aws_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    aws_at("not a url")
    aws = Gateway("eu-west-1")
    with pytest.raises(errors.CloudError) as caught:
        await aws.call("ec2", "describe_instances", deadline_seconds=0)
    assert caught.value.next_step
    aws.close()


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n<Describe", errors.OutcomeUnknown),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", errors.OutcomeUnknown),
        (b"SSH-2.0-what\r\n", errors.OutcomeUnknown),
        (b"", errors.OutcomeUnknown),
    ],
    ids=["cut off", "no xml", "no http", "nothing"],
)
async def test_boto3_and_an_endpoint_that_answers_garbage(
    aws_at: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    sent: bytes,
    kind: type[errors.CloudError],
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(65536))
        writer.write(sent)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        aws_at(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        aws = Gateway("eu-west-1")
        with pytest.raises(kind):
            await aws.call("ec2", "create_snapshot", {"VolumeId": "vol-1"})
        aws.close()
    assert len(received) == 1, "made once, whatever boto3 would like"


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-27T13:45:12.000Z",
        "2026-11-27T13:45:12Z",
        "2026-11-27T13:45:12.25Z",
        "2026-11-27T15:45:12+02:00",
        "Fri, 27 Nov 2026 13:45:12 GMT",
        1795787112,
    ],
)
def test_times_are_read_as_botocore_reads_them(value: object) -> None:
    assert read_time(value) == parse_timestamp(value)
    assert read_time(value).tzinfo is not None


def test_boto3s_clients_read_times_by_it() -> None:
    factory = make_session()._session.get_component("response_parser_factory")
    parser = factory.create_parser("ec2")
    assert parser._timestamp_parser is read_time
