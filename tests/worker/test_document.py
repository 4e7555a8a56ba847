"""What a start document may be, and what is refused before anything is touched."""

from __future__ import annotations

import json

import pytest

from ec2spawner.worker.document import DOCUMENT_MAX_BYTES, Limits, parse_start, parse_stop
from ec2spawner.worker.protocol import Code, Fault

from .documents import TOKEN, encoded, raw_document


def refusal(data: bytes) -> str:
    with pytest.raises(Fault) as caught:
        parse_start(data)
    assert caught.value.slug is Code.BAD_DOCUMENT
    return caught.value.detail


def test_a_good_document_is_read_whole() -> None:
    document = parse_start(encoded(limits={"memory_bytes": 2**30, "cpu": 1}))
    assert document.owner == "jo-0123456789"
    assert document.limits == Limits(2**30, 1.0)
    assert document.prefix == "/user/jo/"
    assert document.args == ("--LabApp.news_url=", "a b")
    assert document.timeout_seconds == 20
    assert document.secrets() == [TOKEN]


def test_what_may_be_left_out() -> None:
    raw = raw_document()
    for key in ("environment", "args", "limits", "timeout_seconds"):
        del raw[key]
    document = parse_start(json.dumps(raw).encode())
    assert (document.prefix, document.args, document.limits) == ("/", (), Limits())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2),
        ("version", True),
        ("version", "1"),
        ("owner", ""),
        ("owner", "../etc"),
        ("owner", "a b"),
        ("owner", "a" * 257),
        ("claim", "0123456789ABCDEF"),
        ("claim", "0123"),
        ("claim", "0123456789abcdef\n"),
        ("volume_id", "vol-../../etc"),
        ("volume_id", "vol-0123456789abcdef0/.."),
        ("volume_id", "/dev/sda"),
        ("volume_id", None),
        ("username", "../root"),
        ("username", "root"),
        ("username", "jo van"),
        ("username", "jo;reboot"),
        ("username", "-rf"),
        ("username", "a@b"),
        ("username", "jovyan\n"),
        ("username", "j" * 33),
        ("address", "example.org"),
        ("address", "127.0.0.1; id"),
        ("address", 7),
        ("address", None),
        ("address", "127.0.0.1\0"),
        ("port", 0),
        ("port", 65536),
        ("port", "8888"),
        ("port", True),
        ("port", 80.5),
        ("environment", []),
        ("environment", {"A B": "c"}),
        ("environment", {"A=B": "c"}),
        ("environment", {"": "c"}),
        ("environment", {"A": 1}),
        ("environment", {"A": "nul\0"}),
        ("environment", {"A": "\ud800"}),
        ("environment", {"A": "x" * (100 * 1024 + 1)}),
        ("environment", {f"A{n}": "x" * 100 * 1024 for n in range(6)}),
        ("environment", {"JUPYTERHUB_SERVICE_PREFIX": "/a b/"}),
        ("environment", {"JUPYTERHUB_SERVICE_PREFIX": "/a\r\nHost: x/"}),
        ("environment", {"JUPYTERHUB_SERVICE_PREFIX": "a"}),
        ("args", "--debug"),
        ("args", [1]),
        ("args", ["nul\0"]),
        ("args", ["x"] * 201),
        ("limits", []),
        ("limits", {"memory_bytes": 1}),
        ("limits", {"memory_bytes": 1.5e9}),
        ("limits", {"cpu": 0}),
        ("limits", {"cpu": True}),
        ("limits", {"disk": 1}),
        ("timeout_seconds", -1),
        ("timeout_seconds", 3601),
        ("timeout_seconds", "120"),
        ("surprise", 1),
    ],
)
def test_a_bad_value_is_refused_and_named(key: str, value: object) -> None:
    detail = refusal(encoded(**{key: value}))
    assert key in detail
    assert TOKEN not in detail


@pytest.mark.parametrize("key", ["version", "owner", "claim", "volume_id", "username", "port"])
def test_a_missing_key_is_named(key: str) -> None:
    raw = raw_document()
    del raw[key]
    assert key in refusal(json.dumps(raw).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        f'{{"token": "{TOKEN}", '.encode(),
        b"[" * 100_000,
        b'{"version": NaN}',
    ],
)
def test_what_is_no_document_is_refused_without_being_quoted(data: bytes) -> None:
    assert TOKEN not in refusal(data)


def test_an_oversized_document_is_refused() -> None:
    assert "longer" in refusal(encoded() + b" " * DOCUMENT_MAX_BYTES)


def test_the_digest_tells_servers_apart_but_not_time_outs() -> None:
    first = parse_start(encoded())
    assert parse_start(encoded(timeout_seconds=7)).digest == first.digest
    assert parse_start(encoded(port=8889)).digest != first.digest
    assert parse_start(encoded(environment={"A": "b"})).digest != first.digest


@pytest.mark.parametrize(
    ("data", "seconds"), [(b"", 10), (b" \n", 10), (b"{}", 10), (b'{"timeout_seconds": 2}', 2)]
)
def test_a_stop_document_is_optional(data: bytes, seconds: float) -> None:
    assert parse_stop(data) == seconds


def test_a_stop_document_with_something_else_is_refused() -> None:
    with pytest.raises(Fault, match="unknown"):
        parse_stop(b'{"force": true}')
