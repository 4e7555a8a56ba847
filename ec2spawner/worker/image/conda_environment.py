"""Makes the notebooks' environment of a course's environment.yml: FILE PREFIX.

Run while an image is built, by the Python that conda.lock's packages are installed for. Owns the
reading of the file; rattler solves and installs. What follows "pip:" in it is written to
PREFIX/pip-requirements.txt, for pip to install.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

NEEDED = ("ipykernel >=6.29", "ipywidgets >=8.1", "pip", "python")
DEFAULT_CHANNELS = ("conda-forge",)
NO_CHANNELS = ("nodefaults",)


def parse(text: str) -> tuple[list[str], list[str], list[str]]:
    """Channels, conda's packages and pip's, as the file asks for them."""
    import yaml

    raw = yaml.safe_load(text)
    if not isinstance(raw, dict):
        raise SystemExit("environment.yml: must be a mapping with dependencies")
    channels = [str(c) for c in raw.get("channels") or () if c not in NO_CHANNELS]
    packages: list[str] = []
    requirements: list[str] = []
    for entry in raw.get("dependencies") or ():
        if isinstance(entry, str):
            packages.append(entry)
        elif isinstance(entry, dict) and set(entry) == {"pip"}:
            requirements += [str(one) for one in entry["pip"] or ()]
        else:
            raise SystemExit(f"environment.yml: dependencies: {entry!r} is neither text nor pip:")
    return channels or list(DEFAULT_CHANNELS), packages, requirements


async def make(channels: list[str], packages: list[str], prefix: Path) -> None:
    """Solve and install; raises what rattler raises."""
    import rattler

    records: list[Any] = await rattler.solve(
        channels, packages, virtual_packages=rattler.VirtualPackage.detect()
    )
    await rattler.install(records, prefix, show_progress=False, execute_link_scripts=True)


def main() -> None:
    """Carry the command line out."""
    file, prefix = Path(sys.argv[1]), Path(sys.argv[2])
    channels, packages, requirements = parse(file.read_text(encoding="utf-8"))
    asyncio.run(make(channels, [*packages, *NEEDED], prefix))
    lines = "".join(f"{one}\n" for one in requirements)
    (prefix / "pip-requirements.txt").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
