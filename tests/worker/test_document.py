"""What a start document may be, and what is refused before anything is touched."""

from __future__ import annotations

import json

import pytest

from ec2spawner.worker.deadman import Terms
from ec2spawner.worker.document import (
    DOCUMENT_MAX_BYTES,
    KeepDocument,
    Limits,
    parse_keep,
    parse_prepare,
    parse_start,
    parse_stop,
)
from ec2spawner.worker.protocol import Code, Fault

from .documents import TOKEN, encoded, raw_document

WATCHDOG = {
    "hub_url": "http://10.0.0.5:8081/hub/api",
    "hub_lost_seconds": 1800,
    "idle_seconds": 60,
}


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


def test_the_watchdog_s_terms_may_be_left_out_and_are_no_part_of_the_server() -> None:
    plain, told = parse_start(encoded()), parse_start(encoded(watchdog=WATCHDOG))
    assert plain.watchdog is None
    assert told.watchdog == Terms("http://10.0.0.5:8081/hub/api", 1800.0, 60.0)
    assert plain.digest == told.digest


BAD_TERMS = [
    None,
    [],
    "http://10.0.0.5:8081/hub/api",
    {},
    {**WATCHDOG, "surprise": 1},
    {k: v for k, v in WATCHDOG.items() if k != "idle_seconds"},
    {**WATCHDOG, "hub_url": None},
    {**WATCHDOG, "hub_url": "10.0.0.5:8081"},
    {**WATCHDOG, "hub_url": "http://jo:secret@10.0.0.5/hub/api"},
    {**WATCHDOG, "hub_url": "file:///etc/shadow"},
    {**WATCHDOG, "hub_lost_seconds": 0},
    {**WATCHDOG, "hub_lost_seconds": 604_801},
    {**WATCHDOG, "hub_lost_seconds": "1800"},
    {**WATCHDOG, "hub_lost_seconds": float("nan")},
    {**WATCHDOG, "idle_seconds": 0.5},
    {**WATCHDOG, "idle_seconds": True},
    {**WATCHDOG, "idle_seconds": float("inf")},
]


@pytest.mark.parametrize("value", BAD_TERMS)
def test_bad_terms_are_refused_and_named(value: object) -> None:
    detail = refusal(encoded(watchdog=value))
    assert "watchdog." in detail
    assert "secret" not in detail


def test_a_prepare_document_is_read() -> None:
    raw = {"version": 1, "watchdog": WATCHDOG}
    document = parse_prepare(json.dumps(raw).encode())
    assert document.watchdog.hub_lost_seconds == 1800
    assert document.timeout_seconds == 300
    assert parse_prepare(json.dumps({**raw, "timeout_seconds": 5}).encode()).timeout_seconds == 5


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        ({"version": 1}, "watchdog"),
        ({"watchdog": WATCHDOG}, "version"),
        ({"version": 2, "watchdog": WATCHDOG}, "version"),
        ({"version": 1, "watchdog": WATCHDOG, "owner": "jo-0123456789"}, "owner"),
        ({"version": 1, "watchdog": {}}, "hub_url"),
        ({"version": 1, "watchdog": WATCHDOG, "timeout_seconds": -1}, "timeout_seconds"),
        ([], "object"),
    ],
)
def test_a_bad_prepare_document_is_refused_and_named(raw: object, word: str) -> None:
    with pytest.raises(Fault, match=word) as caught:
        parse_prepare(json.dumps(raw).encode())
    assert caught.value.slug is Code.BAD_DOCUMENT


def test_a_keep_document_is_read() -> None:
    raw: dict[str, object] = {"version": 1, "claim": "0123456789abcdef", "at_work_seconds": -3.5}
    assert parse_keep(json.dumps(raw).encode()) == KeepDocument("0123456789abcdef", -3.5)
    raw["at_work_seconds"] = None
    assert parse_keep(json.dumps(raw).encode()).at_work_seconds is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"version": 2}, "version"),
        ({"claim": "x"}, "claim"),
        ({"at_work_seconds": "1"}, "at_work_seconds"),
        ({"at_work_seconds": True}, "at_work_seconds"),
        ({"at_work_seconds": 9 * 86_400}, "at_work_seconds"),
        ({"at_work_seconds": float("nan")}, "at_work_seconds"),
        ({"more": 1}, "unknown"),
    ],
)
def test_a_bad_keep_document_is_refused_and_named(change: dict[str, object], word: str) -> None:
    raw = {"version": 1, "claim": "0123456789abcdef", "at_work_seconds": 1, **change}
    with pytest.raises(Fault, match=word):
        parse_keep(json.dumps(raw).encode())
    with pytest.raises(Fault, match="missing"):
        parse_keep(b'{"version": 1, "claim": "0123456789abcdef"}')
