"""The hub's own file: whole at every moment, the newest text stays, nothing unreadable is lost."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from core.virtual import in_virtual_time
from ec2spawner import journal as journal_module
from ec2spawner.journal import REMEMBERED_STARTS, USUAL_SECONDS, Journal, Promise
from ec2spawner.wishes import TagWrite


def promise(number: int = 1, ids: tuple[str, ...] = ("i-1", "vol-1")) -> Promise:
    tags = (("ec2spawner:deleted", "123 row"), ("gone", None))
    return Promise(f"ann-{number}", 1000.5, TagWrite(ids, tags, "ann/Zoë was deleted"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.json"


@in_virtual_time
async def test_a_promise_is_on_disk_when_it_is_made(path: Path) -> None:
    made = Journal(path)
    made.promise(promise(1))
    made.promise(promise(2, ids=()))
    assert Journal(path).promises == (promise(1), promise(2, ids=()))


@in_virtual_time
async def test_everything_survives_a_restart(path: Path) -> None:
    made = Journal(path)
    made.pin("i-1", "ssh-ed25519 AAAA")
    made.note_start("launch", 12.34)
    made.promise(promise())
    await made.close()
    again = Journal(path)
    assert again.promises == (promise(),)
    assert again.pinned("i-1") == "ssh-ed25519 AAAA"
    assert again.usual_seconds("launch") == 12.3


@in_virtual_time
async def test_many_changes_are_written_together_and_soon(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = 0
    whole = journal_module._write

    def counted(*args: Any) -> None:
        nonlocal writes
        writes += 1
        whole(*args)

    monkeypatch.setattr(journal_module, "_write", counted)
    made = Journal(path)
    for n in range(500):
        made.pin(f"i-{n}", "key")
    await asyncio.sleep(1)
    assert writes == 1
    assert Journal(path).pinned("i-499") == "key"
    await asyncio.sleep(60)
    assert writes == 1, "nothing changed, nothing is written"


@in_virtual_time
async def test_what_changes_while_the_file_is_written_is_written_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = journal_module._write
    made = Journal(path)

    def changing(*args: Any) -> None:
        whole(*args)
        made.pin("i-late", "key")
        monkeypatch.setattr(journal_module, "_write", whole)

    monkeypatch.setattr(journal_module, "_write", changing)
    made.pin("i-early", "key")
    await asyncio.sleep(5)
    assert Journal(path).pinned("i-late") == "key"


async def test_a_late_write_does_not_put_an_older_text_over_a_promise(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SAVE_SECONDS", 0.0)
    go_on = threading.Event()
    with ThreadPoolExecutor(1) as busy:
        asyncio.get_running_loop().set_default_executor(busy)
        busy.submit(go_on.wait, 5)
        made = Journal(path)
        made.pin("i-1", "key")
        await asyncio.sleep(0.05)  # its text is made, and waits for a thread
        made.promise(promise())
        go_on.set()
        await asyncio.get_running_loop().run_in_executor(busy, lambda: None)
        assert Journal(path).promises == (promise(),)
        await made.close()
    assert Journal(path).promises == (promise(),)


@in_virtual_time
async def test_promises_are_changed_dropped_and_kept_in_order(path: Path) -> None:
    made = Journal(path)
    for n in range(3):
        made.promise(promise(n, ids=()))
    made.replace(promise(1, ids=()), promise(1, ids=("i-7",)))
    made.replace(promise(0, ids=()), None)
    await asyncio.sleep(1)
    expected = (promise(1, ids=("i-7",)), promise(2, ids=()))
    assert made.promises == expected
    assert Journal(path).promises == expected


# ---- dying


class Killed(BaseException):
    """SIGKILL, as near as a test comes to it: nothing is caught, nothing is cleaned up."""


STEPS = ["mkstemp", "fdopen", "fsync", "replace", "sync folder"]


@pytest.mark.parametrize("step", STEPS)
@in_virtual_time
async def test_killed_between_any_two_steps_leaves_a_readable_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    made = Journal(path)
    made.promise(promise(1))

    def killed(*args: Any, **kwargs: Any) -> Any:
        raise Killed

    places: dict[str, tuple[Any, str]] = {
        "mkstemp": (journal_module.tempfile, "mkstemp"),
        "fdopen": (journal_module.os, "fdopen"),
        "fsync": (journal_module.os, "fsync"),
        "replace": (Path, "replace"),
        "sync folder": (journal_module, "_sync_folder"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*places[step], killed)
        with pytest.raises(Killed):
            made.promise(promise(2))
    found = Journal(path).promises
    assert found in [(promise(1),), (promise(1), promise(2))]
    assert found == (promise(1),) or step == "sync folder"
    assert not list(path.parent.glob("*.unreadable*"))


def test_killed_while_writing_leaves_the_old_text(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Journal(path)
    made.promise(promise(1))
    before = path.read_bytes()
    opened = os.fdopen

    def half(*args: Any, **kwargs: Any) -> Any:
        file = opened(*args, **kwargs)
        write = file.write

        def half_of_it(text: str) -> int:
            write(text[: len(text) // 2])
            file.flush()
            raise Killed

        file.write = half_of_it
        return file

    with monkeypatch.context() as patch:
        patch.setattr(journal_module.os, "fdopen", half)
        with pytest.raises(Killed):
            made.promise(promise(2))
    assert path.read_bytes() == before


@in_virtual_time
async def test_a_full_disk_is_told_and_costs_nothing_that_stood(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = Journal(path)
    made.promise(promise(1))

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal_module.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            made.promise(promise(2))
        made.pin("i-1", "key")
        await asyncio.sleep(2)
        assert "cannot be written" in caplog.text
    assert Journal(path).promises == (promise(1),)
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no half files are left"
    made.pin("i-2", "key")
    await asyncio.sleep(2)
    assert Journal(path).pinned("i-1") == "key", "it is written once there is room"


# ---- a file that cannot be read

GOOD = {"promises": [], "host_keys": {}, "start_seconds": {}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b"\xff\xfe",
        b"{}",
        b"[" * 100_000,
        json.dumps({**GOOD, "promises": [{}]}).encode(),
        json.dumps({**GOOD, "promises": 7}).encode(),
        json.dumps({**GOOD, "host_keys": []}).encode(),
        json.dumps({**GOOD, "start_seconds": {"launch": ["soon"]}}).encode(),
        json.dumps({**GOOD, "start_seconds": {"launch": 7}}).encode(),
    ],
    ids=range(13),
)
def test_an_unreadable_file_is_kept_aside_and_the_hub_goes_on(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)
    made = Journal(path)
    assert made.promises == ()
    made.promise(promise())
    assert Journal(path).promises == (promise(),)
    (aside,) = path.parent.glob("*.unreadable*")
    assert aside.read_bytes() == content
    assert str(aside) in caplog.text


def test_a_second_unreadable_file_does_not_push_the_first_out(path: Path) -> None:
    for text in ("first", "second", "third"):
        path.write_text(text)
        Journal(path)
    kept = {p.read_text() for p in path.parent.glob("*.unreadable*")}
    assert kept == {"first", "second", "third"}


# ---- pins and estimates


@in_virtual_time
async def test_pins_of_what_is_gone_are_dropped(path: Path) -> None:
    made = Journal(path)
    for i in ("i-1", "i-2"):
        made.pin(i, f"key of {i}")
    made.forget_pins({"i-1", "i-3"})
    assert (made.pinned("i-1"), made.pinned("i-2")) == (None, "key of i-2")
    await made.close()
    assert Journal(path).pinned("i-1") is None


@pytest.mark.parametrize("kind", sorted(USUAL_SECONDS))
@in_virtual_time
async def test_the_usual_time_is_the_median_of_the_last_starts(path: Path, kind: str) -> None:
    made = Journal(path)
    assert made.usual_seconds(kind) == USUAL_SECONDS[kind]
    for seconds in [900.0] * 3 + [10.0] * REMEMBERED_STARTS:
        made.note_start(kind, seconds)
    assert made.usual_seconds(kind) == 10.0


def test_reading_a_journal_needs_no_loop_and_makes_no_file(path: Path) -> None:
    Journal(path)
    assert not path.exists()
