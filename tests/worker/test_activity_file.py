"""The server's file as root reads it: what a student may have put there in its place."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ec2spawner.worker import activity_file
from ec2spawner.worker.activity_file import FILE_NAME, read, write

UID = os.getuid()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path, 1234.5678)
    assert read(tmp_path / FILE_NAME, UID) == 1234.5678
    write(tmp_path, 2000.0)
    assert read(tmp_path / FILE_NAME, UID) == 2000.0
    assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"1234.5",
        b"null",
        b"[]",
        b"{}",
        b'{"worked_at": null}',
        b'{"worked_at": "1"}',
        b'{"worked_at": true}',
        b'{"worked_at": -1}',
        b'{"worked_at": 1e300}',
        b'{"worked_at": NaN}',
        b'{"worked_at": Infinity}',
        b'{"worked_at": 1, "x": 2}',
        b'{"worked_at": 1}' + b" " * 300,
        b"[" * 250,
        b"\xff\xfe",
        b'{"worked_at": ' + b"1" * 230 + b"}",
    ],
)
def test_what_is_no_such_file_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    assert read(tmp_path / FILE_NAME, UID) is None


def test_an_endless_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / FILE_NAME).open("wb") as sparse:
        sparse.truncate(1 << 40)
    assert read(tmp_path / FILE_NAME, UID) is None


def test_a_link_a_pipe_a_socket_and_a_folder_are_not_followed_or_waited_for(
    tmp_path: Path,
) -> None:
    path = tmp_path / FILE_NAME
    assert read(path, UID) is None
    write(tmp_path, 1.0)
    path.rename(tmp_path / "good")
    path.symlink_to(tmp_path / "good")
    assert read(path, UID) is None
    path.unlink()
    os.mkfifo(path)
    assert read(path, UID) is None
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert read(path, UID) is None
    path.unlink()
    path.mkdir()
    assert read(path, UID) is None


def test_another_s_file_says_nothing(tmp_path: Path) -> None:
    write(tmp_path, 1.0)
    assert read(tmp_path / FILE_NAME, UID + 1) is None


def test_it_is_in_nobody_else_s_sight(tmp_path: Path) -> None:
    write(tmp_path, 1.0)
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert activity_file.WRITE_SECONDS <= 30
