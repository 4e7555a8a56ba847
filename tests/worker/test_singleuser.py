"""The single-user server's start: what it is handed, and the import that it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from jupyterlab import NeverCheckForUpdate
from jupyterlab.labapp import LabApp

from ec2spawner.worker import singleuser


def test_environment_and_arguments_come_from_the_file(tmp_path: Path) -> None:
    content = {"digest": "x", "environment": {"A": "b\nc"}, "args": ["--x", "y z"]}
    (tmp_path / "server.json").write_text(json.dumps(content))
    assert singleuser.read_document(tmp_path) == ({"A": "b\nc"}, ["--x", "y z"])


def test_the_interpreter_s_programs_come_first_and_once() -> None:
    programs = str(Path(sys.executable).parent)
    environ = {"PATH": f"/usr/bin:{programs}:/bin", "RUNTIME_DIRECTORY": "/run/x"}
    singleuser.complete_environment(environ, {"A": "b"})
    assert environ == {
        "A": "b",
        "PATH": f"{programs}:/usr/bin:/bin",
        "RUNTIME_DIRECTORY": "/run/x",
        "JUPYTER_RUNTIME_DIR": "/run/x/jupyter",
    }


def test_the_hub_s_arguments_come_last_and_root_is_allowed_only_as_root() -> None:
    ours = singleuser.arguments([], 1000)
    assert singleuser.arguments(["--a"], 1000) == [*ours, "--a"]
    assert singleuser.arguments(["--a"], 0) == [*ours, "--allow-root", "--a"]
    for extension, argument in zip(singleuser.EXTENSIONS, ours[:2], strict=True):
        assert argument == f"--ServerApp.jpserver_extensions={extension}=True"


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-I", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    ).stdout


REFUSED = "from ec2spawner.worker.singleuser import refuse_slow_import as r; r()\n"


def test_without_the_slow_import_notebooks_and_uris_are_checked_as_ever() -> None:
    code = """
import json, sys
import jsonschema, nbformat
from nbformat.v4 import new_code_cell, new_notebook
good = new_notebook(cells=[new_code_cell("1")])
nbformat.validate(good)
bad = json.loads(json.dumps(good)); bad["cells"][0]["cell_type"] = "strange"
try:
    nbformat.validate(nbformat.from_dict(bad))
except nbformat.ValidationError:
    print("bad notebook refused")
checker = jsonschema.FormatChecker()
for form, value in (("date-time", "yesterday"), ("email", "x"), ("ipv4", "300.1.1.1")):
    print(form, checker.conforms(value, form))
print(checker.conforms("any", "iri"), sys.modules["rfc3987_syntax"])
"""
    refused, usual = run(REFUSED + code), run(code.replace(', sys.modules["rfc3987_syntax"]', ""))
    assert refused.splitlines()[:-1] == usual.splitlines()[:-1]
    assert refused.splitlines()[0] == "bad notebook refused"
    assert refused.splitlines()[-1] == "True None"


def test_the_server_and_its_extensions_load_without_the_slow_import() -> None:
    code = """
import sys
import jupyterhub.singleuser.extension, jupyterlab.labapp, jupyter_events
print("lark" in sys.modules, sys.modules["rfc3987_syntax"])
"""
    assert run(REFUSED + code) == "False None\n"


def test_jupyterlab_asks_no_foreign_host_for_versions_or_news() -> None:
    app = LabApp()
    app.parse_command_line(list(singleuser.NO_CALLS_HOME))
    assert app.check_for_updates_class is NeverCheckForUpdate
    assert app.news_url is None
