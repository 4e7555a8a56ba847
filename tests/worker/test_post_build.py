"""A course's postBuild, as the image's provisioning runs it. Needs root, for it becomes another."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "ec2spawner/worker/image/provision.sh"
USER = "nobody"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that others may enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def run(place: Path, post_build: str) -> subprocess.CompletedProcess[str]:
    found = re.search(r"^run_post_build\(\) \{\n.*?^\}\n", SCRIPT.read_text(), re.M | re.S)
    assert found
    course, notebook = place / "course", place / "notebook"
    course.mkdir(mode=0o700)
    (course / "postBuild").write_text(f"#!/bin/sh\nset -e\n{post_build}")
    (course / "data.csv").write_text("1\n")
    (notebook / "bin").mkdir(parents=True)
    head = f"set -eu\ncourse={course}\nnotebook={notebook}\nusername={USER}\n"
    return subprocess.run(
        ["sh", "-c", f"{head}{found[0]}run_post_build"],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(place), "HOME": "/root"},
    )


def test_it_runs_as_the_notebook_user_and_may_write_to_the_environment_only(place: Path) -> None:
    said = "id -un; id -G; echo $HOME; touch $HOME/x; cp data.csv NOTEBOOK/; command -v tool"
    tool = place / "notebook/bin/tool"
    result = run(
        place,
        said.replace("NOTEBOOK", str(place / "notebook")).replace(
            "command -v", f"printf '#!/bin/sh\\n' >{tool}; chmod +x {tool}; command -v"
        )
        + "\nif touch /root/left 2>/dev/null; then exit 9; fi\n",
    )
    assert result.returncode == 0, result.stderr
    user, groups, home, found = result.stdout.splitlines()
    assert user == USER
    assert len(groups.split()) == 1
    assert home.startswith(f"{place}/")
    assert found == str(tool)
    kept = place / "notebook/data.csv"
    assert (kept.read_text(), kept.stat().st_uid, tool.stat().st_uid) == ("1\n", 0, 0)
    assert sorted(entry.name for entry in place.iterdir()) == ["course", "notebook"]


def test_one_that_fails_fails_the_build(place: Path) -> None:
    assert run(place, "exit 3\n").returncode == 3
