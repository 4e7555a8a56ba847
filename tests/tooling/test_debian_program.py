"""tools/debian_program.sh: a program out of a package, not installed, with a stand-in for apt."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools/debian_program.sh"
APT = """#!/bin/sh
# Knows the package only once its lists are new.
echo "$*" >>"{folder}/calls"
case $* in
*update*) [ -e "{folder}/is-root" ] && touch "{folder}/lists" ;;
*download*) [ -e "{folder}/lists" ] && touch tool_1.deb ;;
esac && exit 0
echo "E: no network" >&2
exit 100
"""
DPKG = """#!/bin/sh
mkdir -p "$3/usr/bin"
echo "#!/bin/sh" >"$3/usr/bin/tool-1"
chmod +x "$3/usr/bin/tool-1"
"""


class Bench:
    """A checkout with the tool, and a PATH with stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tool = folder / "tools" / TOOL.name
        self.tool.parent.mkdir()
        shutil.copy(TOOL, self.tool)
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.program("apt-get", APT.format(folder=folder))
        self.program("dpkg", DPKG)

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def run(self, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.tool, "tool-1", "tool"],
            env={**os.environ, "PATH": f"{self.bin}:{path}"},
            capture_output=True,
            text=True,
            timeout=30,
        )

    @property
    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_shellcheck_finds_nothing() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, TOOL], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_is_on_path_is_taken_and_nothing_fetched(bench: Bench) -> None:
    bench.program("tool-1", "#!/bin/sh\n")
    assert bench.run().stdout == f"{bench.bin}/tool-1\n"
    assert bench.calls == []


def test_a_package_is_fetched_once_and_unpacked_in_the_checkout(bench: Bench) -> None:
    (bench.folder / "lists").touch()
    first = bench.run()
    assert first.returncode == 0, first.stderr
    program = Path(first.stdout.strip())
    assert program == bench.folder / ".programs/tool/root/usr/bin/tool-1"
    assert os.access(program, os.X_OK)
    assert bench.run().stdout == first.stdout
    assert len(bench.calls) == 1


def test_root_gets_lists_that_are_missing(bench: Bench) -> None:
    (bench.folder / "is-root").touch()
    done = bench.run()
    assert done.returncode == 0, done.stderr
    assert [call.split()[1] for call in bench.calls] == ["download", "update", "download"]


def test_what_apt_says_is_handed_on_and_a_later_run_tries_again(bench: Bench) -> None:
    done = bench.run()
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert last == "tool-1: the package tool cannot be fetched: E: no network"
    (bench.folder / "lists").touch()
    assert bench.run().returncode == 0


def test_a_package_without_the_program_is_no_success(bench: Bench) -> None:
    (bench.folder / "lists").touch()
    bench.program("dpkg", '#!/bin/sh\nmkdir -p "$3/usr/bin"\n')
    done = bench.run()
    assert done.returncode == 1
    assert "does not hold it" in done.stderr


def test_a_system_without_apt_is_told_so(bench: Bench, tmp_path: Path) -> None:
    for name in ("dirname", "sh", "mkdir"):
        found = shutil.which(name)
        assert found
        (bench.bin / name).symlink_to(found)
    (bench.bin / "apt-get").unlink()
    done = bench.run(path="")
    assert done.returncode == 1
    assert done.stderr == "tool-1: not on PATH, and no apt-get here to fetch it by\n"
