"""The locks: exact, hashed, without any address, and in step with what they are made from."""

import json
import re
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "tools" / "requirements.lock"
PROXY = ROOT / "launch_cluster" / "manager" / "proxy"


def locked() -> list[tuple[Requirement, list[str]]]:
    """Each locked requirement with its hashes."""
    text = REQUIREMENTS.read_text().replace("\\\n", " ")
    entries = []
    for line in text.splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        entries.append((Requirement(requirement), hashes))
    return entries


def test_no_lock_holds_an_address() -> None:
    locks = [REQUIREMENTS, PROXY / "package.json", PROXY / "package-lock.json"]
    for lock in locks:
        assert "://" not in lock.read_text(), lock
        assert " @ " not in lock.read_text(), lock
        assert "--index" not in lock.read_text(), lock
        assert "--find-links" not in lock.read_text(), lock


def test_every_python_package_has_one_version_and_hashes() -> None:
    entries = locked()
    assert len(entries) > 100
    for requirement, hashes in entries:
        assert [s.operator for s in requirement.specifier] == ["=="], requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes), requirement


def test_every_proxy_package_has_a_version_and_a_hash() -> None:
    packages = json.loads((PROXY / "package-lock.json").read_text())["packages"]
    wanted = json.loads((PROXY / "package.json").read_text())["dependencies"]
    assert packages.pop("")["dependencies"] == wanted
    assert packages["node_modules/configurable-http-proxy"]["version"] == "5.3.0"
    for name, package in packages.items():
        assert package["version"], name
        assert package["integrity"].startswith("sha512-"), name


def test_lock_meets_what_the_project_asks_for() -> None:
    wanted = [Requirement(r) for r in requires("ec2spawner") or ()]
    assert len(wanted) > 20
    for want in wanted:
        versions = [
            next(iter(r.specifier)).version
            for r, _ in locked()
            if canonicalize_name(r.name) == canonicalize_name(want.name)
        ]
        assert versions, f"{want} is not locked; run `make lock`"
        assert all(want.specifier.contains(v) for v in versions), want
