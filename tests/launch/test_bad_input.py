"""What an operator can get wrong, and what AWS may refuse: one message, one exit code."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import Result

from ec2spawner.cloud import Gateway
from ec2spawner.errors import Denied

from .conftest import Calls

Run = Callable[..., Result]
UP = ("up", "--no-manager", "--yes")
FULL = ("up", "--yes")
END = ("terminate-workers", "--yes")


def is_one_clear_message(result: Result, *words: str) -> bool:
    assert "Traceback" not in result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert "Next: " in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
    return True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*UP, "Biology 101"), ["CLUSTER_NAME: 'Biology 101'", "'biology-101'"]),
        ((*UP, "x" * 25), ["24 at most"]),
        ((*UP, "foo-network"), ["'foo-network' ends in \"-network\"", "for example 'foo'"]),
        ((*UP, "Foo-Network-network"), ["cannot be a cluster's name", "for example 'foo'"]),
        ((*UP, "x1", "ubuntu"), ["BASE_AMI: 'ubuntu' is not an id", "ami-0123456789abcdef0"]),
        ((*UP, "x1", "", "subnet-1,vpc-0123456789abcdef0"), ["'subnet-1'", "'vpc-0123456789"]),
        ((*UP, "x1", "", "", "public"), ["PUBLIC_SUBNET_ID: 'public'"]),
        ((*UP, "x1", "--region", "mars"), ["--region: mars is not usable"]),
        ((*UP, "x1", "--vpc-cidr", "10.0.0.0"), ["--vpc-cidr: '10.0.0.0'", "10.77.0.0/16"]),
        ((*UP, "x1", "--vpc-cidr", "10.0.0.1/16"), ["--vpc-cidr", "host bits set"]),
        ((*UP, "x1", "--vpc-cidr", "10.0.0.0/28"), ["has a size that does not do"]),
        ((*UP, "x1", "--vpc-cidr", "ten"), ["--vpc-cidr: 'ten' is not a network"]),
        ((*UP, "x1", "--hub-connect-url", "hub"), ["--hub-connect-url: 'hub'"]),
        ((*UP, "x1", "--hub-address", "hub"), ["--hub-address: 'hub'"]),
        ((*UP, "x1", "--builder-role", "builders"), ["--builder-role: 'builders'", "the ARN of"]),
        ((*UP, "x1", "--worker-ssh-port", "0"), ["--worker-ssh-port: 0 is not usable"]),
        (
            (*UP, "x1", "--worker-ssh-port", "8888"),
            ["--worker-ssh-port: 8888 is not usable", "other than WORKER_NOTEBOOK_PORT (8888)"],
        ),
        ((*UP, "x1", "--students", "-1"), ["--students: -1 is not usable", "from 0 to 100000"]),
        ((*UP, "x1", "--unchecked-image"), ["--unchecked-image is for CUSTOM_WORKER_AMI"]),
        (("plan", "x1", "--students", "100001"), ["--students: 100001 is not usable"]),
        (("doctor", "x1", "--students", "-1"), ["--students: -1 is not usable"]),
        (("plan", "x1", "--hours-a-week", "169"), ["--hours-a-week: 169", "0 to 168"]),
        ((*UP, "x1", "--weeks", "nan"), ["--weeks: nan is not usable"]),
        ((*UP, "x1", "--config", "absent.json"), ["absent.json cannot be used", "No such file"]),
        ((*UP, "x1", "--config-out", "no/folder.json"), ["--config-out", "folder"]),
        ((*UP, "x1", "--config-out", "instance_config.json"), ["--config-out"]),
        ((*UP, "foo-manager"), ["'foo-manager' ends in \"-manager\"", "for example 'foo'"]),
        ((*UP, "x1", "--domain", "hub.org"), ["--domain is for the manager, but --no-manager"]),
        ((*UP, "x1", "--replace-manager"), ["--replace-manager is for the manager"]),
        ((*UP, "x1", "--nat", "instance", "--vpc-id", "vpc-0123456789abcdef0"), ["--nat is for"]),
        ((*UP, "x1", "--vpc-id", "vpc-1"), ["--vpc-id: 'vpc-1' is not an id"]),
        (
            (*UP, "x1", "--vpc-id", "vpc-0123456789abcdef0", "--vpc-cidr", "10.0.0.0/16"),
            ["--vpc-cidr is for a VPC that is made"],
        ),
        ((*FULL, "x1", "--domain", "hub"), ["--domain: 'hub' is not a host name"]),
        ((*FULL, "x1", "--domain", "10.0.0.1"), ["--domain: '10.0.0.1' is not a host name"]),
        ((*FULL, "x1", "--domain", "https://a.org"), ["--domain: 'https://a.org' is not"]),
        ((*FULL, "x1", "--email", "me"), ["--email: 'me' is not an address"]),
        ((*FULL, "x1", "--email", "a@b.org", "--domain", ""), ["which need --domain"]),
        ((*FULL, "x1", "--ssh-cidr", "0.0.0.0/0"), ["would open port 22 to the world"]),
        ((*FULL, "x1", "--ssh-cidr", "10.0.0.1/8"), ["--ssh-cidr", "host bits set"]),
        ((*FULL, "x1", "--manager-role", "hub"), ["--manager-role: 'hub' is not the ARN of a"]),
        ((*FULL, "x1", "--permissions-boundary", "b"), ["--permissions-boundary: 'b' is not"]),
        ((*FULL, "x1", "--no-manager", "--permissions-boundary", "b"), ["'b' is not the ARN"]),
        ((*FULL, "x1", "--key-name", "schlüssel"), ["--key-name: 'schlüssel' is not"]),
        (
            (*FULL, "x1", "--hub-connect-url", "http://10.0.0.1:8081"),
            ["--hub-connect-url", "a manager has an address of its own"],
        ),
        ((*END, "Biology 101"), ["CLUSTER_NAME"]),
        ((*END, "foo-network"), ["'foo-network' ends in \"-network\""]),
        ((*END,), ["No server_config.json was found"]),
        ((*END, "x1", "--no-snapshots"), ["--no-snapshots", "--delete-homes"]),
        ((*END, "--config", "absent.json"), ["absent.json cannot be used"]),
    ],
)
def test_a_malformed_command_is_refused_before_aws_is_asked(
    run: Run, aws: Path, calls: Calls, arguments: tuple[str, ...], words: list[str]
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert is_one_clear_message(result, *words)
    assert calls.made == []


def test_all_that_is_wrong_with_a_command_is_named_at_once(run: Run, aws: Path) -> None:
    result = run(*UP, "X", "ubuntu", "--vpc-cidr", "ten", "--hub-address", "hub")
    assert result.exit_code == 2
    assert result.stderr.count("\n  - ") == 4


def test_an_unknown_option_is_a_usage_error(run: Run, aws: Path) -> None:
    result = run(*UP, "x1", "--vpc-cdir", "10.0.0.0/16")
    assert result.exit_code == 2
    assert "--vpc-cidr" in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty"]),
        ('{"WORKER_EBS_SIZE": 4', ["ends too early"]),
        ('{"WORKER_EBS_SIZE": 4}', ["- WORKER_EBS_SIZE: 4 is less than 8. Write"]),
        ('{"WORKER_SSH_PORT": 8888}', ["- WORKER_NOTEBOOK_PORT: 8888 is WORKER_SSH_PORT too"]),
        ('{"JUPYTER_NOTEBOOK_TIMEOUT": -1, "X": 1}', ["- JUPYTER_NOTEBOOK_TIMEOUT: -1", "- X is"]),
    ],
)
def test_a_wrong_instance_config_is_refused_with_its_faults(
    run: Run, aws: Path, calls: Calls, text: str, words: list[str]
) -> None:
    (aws / "instance_config.json").write_text(text)
    result = run(*UP, "x1")
    assert result.exit_code == 2
    assert is_one_clear_message(result, "instance_config.json cannot be used", *words)
    assert calls.made == []


@pytest.mark.parametrize("command", [FULL, ("plan",)])
def test_on_a_manager_nobody_comes_in_by_any_name(
    run: Run, aws: Path, calls: Calls, command: tuple[str, ...]
) -> None:
    (aws / "instance_config.json").write_text('{"AUTHENTICATOR": "dummy"}')
    result = run(*command, "x1")
    assert result.exit_code == 2
    assert is_one_clear_message(result, "AUTHENTICATOR: 'dummy' lets everybody in by any name")
    assert calls.made == []
    result = run(*command, "x1", "--no-manager", "--worker-ssh-port", "8888")  # another fault
    assert "AUTHENTICATOR" not in result.stderr


def test_what_aws_does_not_know_is_named_all_at_once(run: Run, aws: Path, calls: Calls) -> None:
    (aws / "instance_config.json").write_text('{"WORKER_INSTANCE_TYPE": "t9.medium"}')
    result = run(*UP, "x1", "ami-00000000000000000", "subnet-00000000000000000")
    assert result.exit_code == 1
    assert is_one_clear_message(
        result,
        "- WORKER_INSTANCE_TYPE t9.medium is not a type in us-east-1",
        "- The image ami-00000000000000000 does not exist in us-east-1",
        "- The subnet subnet-00000000000000000 does not exist in us-east-1",
        "nothing was changed",
    )
    assert calls.changing == []


def test_a_custom_image_that_is_not_there_or_does_not_fit_is_refused(
    run: Run, aws: Path, calls: Calls, gateway: Gateway
) -> None:
    file = aws / "instance_config.json"
    file.write_text('{"CUSTOM_WORKER_AMI": "ami-00000000000000000"}')
    result = run(*UP, "x1")
    assert result.exit_code == 1
    assert is_one_clear_message(result, "- CUSTOM_WORKER_AMI ami-0", "then an image is built")
    filters = [{"Name": "architecture", "Values": ["arm64"]}]
    params = {"Owners": ["099720109477"], "Filters": filters}
    found = asyncio.run(gateway.call("ec2", "describe_images", params))["Images"]
    file.write_text(json.dumps({"CUSTOM_WORKER_AMI": found[0]["ImageId"]}))
    result = run(*UP, "x1")
    assert result.exit_code == 1
    assert is_one_clear_message(result, "is for arm64, but t3.medium runs x86_64")
    assert calls.changing == []


def test_an_image_of_which_nobody_can_tell_what_it_holds_is_refused_unless_that_is_meant(
    run: Run, aws: Path, calls: Calls, gateway: Gateway
) -> None:
    filters = [{"Name": "architecture", "Values": ["x86_64"]}]
    params = {"Owners": ["099720109477"], "Filters": filters}
    found = asyncio.run(gateway.call("ec2", "describe_images", params))["Images"]
    choices = json.dumps({"CUSTOM_WORKER_AMI": found[0]["ImageId"]})
    (aws / "instance_config.json").write_text(choices)
    for command in (UP, ("plan", "--no-manager")):
        result = run(*command, "x1")
        assert result.exit_code == 1
        assert is_one_clear_message(
            result, f"CUSTOM_WORKER_AMI {found[0]['ImageId']} bears no tags", "--unchecked-image"
        )
    result = run("plan", "x1", "--no-manager", "--unchecked-image")
    assert result.exit_code == 0, result.stderr
    assert "does not say that it is a worker image" in result.stderr
    assert calls.changing == []


def test_a_type_without_nvme_is_refused_for_homes_are_found_by_it(run: Run, aws: Path) -> None:
    (aws / "instance_config.json").write_text('{"WORKER_INSTANCE_TYPE": "t2.micro"}')
    result = run(*UP, "x1")
    assert result.exit_code == 1
    assert is_one_clear_message(result, "t2.micro has no NVMe volumes", "t3.medium")


def test_a_file_of_another_cluster_is_not_overwritten(run: Run, aws: Path, cluster: str) -> None:
    assert run(*UP, cluster).exit_code == 0
    before = (aws / "server_config.json").read_bytes()
    result = run(*UP, f"{cluster}-b")
    assert result.exit_code == 1
    assert is_one_clear_message(result, f"describes another cluster, {cluster}", "--config-out")
    assert (aws / "server_config.json").read_bytes() == before


def test_another_network_for_a_cluster_that_has_one_is_refused(
    run: Run, aws: Path, cluster: str
) -> None:
    assert run(*UP, cluster).exit_code == 0
    result = run(*UP, cluster, "--vpc-cidr", "10.99.0.0/16")
    assert result.exit_code == 1
    assert is_one_clear_message(result, "would replace the cluster's network, which has 10.77.0.0")


# ---- AWS itself refuses


class Refusal:
    """An endpoint that answers every call alike."""

    def __init__(self) -> None:
        self.status = 403
        self.body = b""


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch, aws: Path) -> Iterator[Refusal]:
    refusal = Refusal()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(refusal.status)
            self.send_header("Content-Length", str(len(refusal.body)))
            self.end_headers()
            self.wfile.write(refusal.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield refusal
    server.shutdown()
    thread.join()
    server.server_close()


def xml_error(code: str, message: str) -> bytes:
    return (
        '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
        f"<Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    ).encode()


@pytest.mark.parametrize("command", [UP, END])
@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        ("ExpiredToken", "The security token included in the request is expired", ["expired"]),
        ("InvalidClientTokenId", "The security token is invalid.", ["aws sts get-caller-identity"]),
        (
            "AccessDenied",
            "User: arn:aws:iam::1:user/a is not authorized to perform: sts:GetCallerIdentity",
            ['allows "sts:GetCallerIdentity"'],
        ),
    ],
)
def test_credentials_that_aws_refuses_end_the_command_with_what_to_do(
    run: Run,
    refusing: Refusal,
    cluster: str,
    command: tuple[str, ...],
    code: str,
    message: str,
    words: list[str],
) -> None:
    refusing.body = xml_error(code, message)
    result = run(*command, cluster)
    assert result.exit_code == 1
    assert is_one_clear_message(result, code, *words)


def test_no_credentials_at_all(
    run: Run, aws: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    result = run(*UP, cluster)
    assert result.exit_code == 1
    assert is_one_clear_message(result, "No usable AWS credentials were found")


def test_a_profile_that_does_not_exist(
    run: Run, aws: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    result = run(*UP, cluster)
    assert result.exit_code == 1
    assert is_one_clear_message(result, "nobody", "profile")


@pytest.mark.parametrize("endpoint_url", ["http://127.0.0.1:{port}", "nonsense"])
def test_an_endpoint_that_cannot_be_reached(
    run: Run, aws: Path, cluster: str, monkeypatch: pytest.MonkeyPatch, endpoint_url: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint_url.format(port=port))
    monkeypatch.setattr("launch_cluster.looking.FIRST_CALL_DEADLINE_SECONDS", 0.1)
    result = run(*UP, cluster)
    assert result.exit_code == 1
    assert is_one_clear_message(result)


@pytest.mark.parametrize(
    "operation",
    [
        "describe_stacks",
        "describe_instance_types",
        "get_parameter",
        "describe_key_pairs",
        "create_change_set",
    ],
)
def test_a_missing_right_is_named_with_its_policy_line_and_nothing_is_made(
    run: Run, aws: Path, cluster: str, calls: Calls, operation: str
) -> None:
    def deny() -> None:
        raise Denied(
            f"The AWS credentials in use may not do {operation} (AccessDenied).",
            next_step='Add a policy statement that allows "x:Y" to the role or user in use.',
        )

    calls.before[operation] = deny
    result = run(*UP, cluster)
    assert result.exit_code == 1
    assert is_one_clear_message(result, operation, 'allows "x:Y"')
    assert set(calls.changing) <= {operation}


def test_an_error_is_a_document_too_if_json_was_asked_for(run: Run, aws: Path) -> None:
    result = run(*UP, "X", "--output", "json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "config"
    assert "CLUSTER_NAME" in error["why"]
    assert error["next_step"]


@pytest.mark.parametrize("option", ["--dry-run", "--yes"])
@pytest.mark.parametrize("command", [("plan", "x1"), ("image", "list", "x1")])
def test_what_changes_nothing_takes_no_option_about_changes(
    run: Run, command: tuple[str, ...], option: str
) -> None:
    result = run(*command, option)
    assert result.exit_code == 2
    assert f"No such option '{option}'" in result.stderr
