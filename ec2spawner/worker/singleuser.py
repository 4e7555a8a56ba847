"""The single-user server's start on a worker: ``python -I -m ec2spawner.worker.singleuser``.

Owns the hand-over of the start document's environment and arguments, which come as a file that
only this user can read, so that no unit, no argv and no log holds the API token. Must not know
how the unit was started.

It also refuses one import. jsonschema looks for ``rfc3987_syntax`` to check the formats ``iri``
and ``iri-reference``, and does without where it is not installed; importing it compiles a grammar
and takes longer than the rest of the server together. No schema of Jupyter's (notebooks, events,
settings) uses these formats. The refusal holds in this process only: kernels import it as ever.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

EXTENSIONS = ("ec2spawner.worker.activity_extension", "ec2spawner.worker.notice_extension")
NO_CALLS_HOME = (
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.news_url=None",
)
"""JupyterLab asks no foreign host for versions and news: who works here cannot update it anyway."""
SLOW_OPTIONAL_IMPORT = "rfc3987_syntax"
_DOCUMENT = "server.json"


def read_document(directory: Path) -> tuple[dict[str, str], list[str]]:
    """Environment and arguments that were left for this start."""
    raw = json.loads((directory / _DOCUMENT).read_text())
    return dict(raw["environment"]), list(raw["args"])


def complete_environment(environ: MutableMapping[str, str], given: Mapping[str, str]) -> None:
    """Add what was given, the programs beside this interpreter, and a place that is never full."""
    environ.update(given)
    programs = str(Path(sys.executable).parent)
    path = environ.get("PATH", os.defpath).split(os.pathsep)
    environ["PATH"] = os.pathsep.join([programs, *(p for p in path if p != programs)])
    if runtime := environ.get("RUNTIME_DIRECTORY"):
        environ.setdefault("JUPYTER_RUNTIME_DIR", str(Path(runtime) / "jupyter"))


def arguments(given: list[str], uid: int) -> list[str]:
    """The server's own arguments first: the hub's may overrule them."""
    loaded = [f"--ServerApp.jpserver_extensions={name}=True" for name in EXTENSIONS]
    ours = [*loaded, *NO_CALLS_HOME]
    if uid == 0:  # only on an emulated machine whose owner is root
        ours.append("--allow-root")
    return [*ours, *given]


def refuse_slow_import() -> None:
    """Make the import fail as if the package were not installed."""
    sys.modules[SLOW_OPTIONAL_IMPORT] = None  # type: ignore[assignment]  # as Python documents it


def main() -> None:
    """Become the single-user server."""
    environment, args = read_document(Path(os.environ["CREDENTIALS_DIRECTORY"]))
    complete_environment(os.environ, environment)
    refuse_slow_import()
    sys.argv = ["jupyterhub-singleuser", *arguments(args, os.geteuid())]
    from jupyterhub.singleuser import main as serve

    serve()


if __name__ == "__main__":
    main()
