"""The locks: exact, hashed, without any address, and in step with what they are made from."""

import io
import json
import re
import sys
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from launch_cluster import bundle
from tools.extra import asked_for

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "tools" / "requirements.lock"
PROXY = ROOT / "launch_cluster" / "manager" / "proxy"
IMAGE = ROOT / "ec2spawner" / "worker" / "image"
WORKER, NOTEBOOK = IMAGE / "worker.lock", IMAGE / "notebook.lock"


def locked(lock: Path = REQUIREMENTS) -> list[tuple[Requirement, list[str]]]:
    """Each locked requirement with its hashes."""
    text = lock.read_text().replace("\\\n", " ")
    entries = []
    for line in text.splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        entries.append((Requirement(requirement), hashes))
    return entries


def test_no_lock_holds_an_address() -> None:
    locks = [REQUIREMENTS, WORKER, NOTEBOOK, PROXY / "package.json", PROXY / "package-lock.json"]
    for lock in locks:
        assert "://" not in lock.read_text(), lock
        assert " @ " not in lock.read_text(), lock
        assert "--index" not in lock.read_text(), lock
        assert "--find-links" not in lock.read_text(), lock


@pytest.mark.parametrize(("lock", "least"), [(REQUIREMENTS, 100), (WORKER, 80), (NOTEBOOK, 20)])
def test_every_python_package_has_one_version_and_hashes(lock: Path, least: int) -> None:
    entries = locked(lock)
    assert len(entries) > least
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
        if want.name == "ec2spawner":  # an extra that consists of others
            continue
        versions = [
            next(iter(r.specifier)).version
            for r, _ in locked()
            if canonicalize_name(r.name) == canonicalize_name(want.name)
        ]
        assert versions, f"{want} is not locked; run `make lock`"
        assert all(want.specifier.contains(v) for v in versions), want


def test_a_worker_s_lock_meets_what_a_worker_asks_for_but_for_the_slow_import() -> None:
    names = {canonicalize_name(r.name) for r, _ in locked(WORKER)}
    worker = [Requirement(text) for text in asked_for("worker")]
    assert len(worker) >= 4
    assert {canonicalize_name(w.name) for w in worker} <= names
    assert "rfc3987-syntax" not in names
    assert not {"boto3", "click", "asyncssh"} & names


def test_the_launch_command_needs_nothing_that_an_installation_lacks() -> None:
    """``pip install ec2spawner && launch-cluster``, without any extra."""
    graph = grimp.build_graph("ec2spawner", "launch_cluster", include_external_packages=True)
    graph.remove_import(importer="ec2spawner", imported="ec2spawner.spawner")  # when asked for
    commands = {"launch_cluster", *graph.find_descendants("launch_cluster")}
    needed = commands.union(*(graph.find_upstream_modules(name) for name in commands))
    foreign = {name.partition(".")[0] for name in needed} - {"ec2spawner", "launch_cluster"}
    packages = packages_distributions()
    distributions = {
        canonicalize_name(packages[name][0]) for name in foreign - sys.stdlib_module_names
    }
    always = [r for r in map(Requirement, requires("ec2spawner") or ()) if r.marker is None]
    assert {"click", "boto3", "pydantic", "rich"} <= distributions
    assert distributions - {canonicalize_name(r.name) for r in always} <= {"botocore"}  # boto3's


@pytest.mark.parametrize("lock", [WORKER, NOTEBOOK])
def test_workers_have_the_versions_that_were_tested(lock: Path) -> None:
    """As far as both locks have a package; on the Python of the image."""
    tested = {(canonicalize_name(r.name), str(r.specifier)) for r, _ in locked()}
    names = {name for name, _ in tested}
    ours = {(canonicalize_name(r.name), str(r.specifier)) for r, _ in locked(lock)}
    assert {one for one in ours if one[0] in names} <= tested


def test_what_makes_image_and_manager_is_in_the_wheel(tmp_path: Path) -> None:
    sources = bundle.find_sources()
    with zipfile.ZipFile(io.BytesIO(bundle.make_wheel(sources))) as wheel:
        there = set(wheel.namelist())
    for folder in (IMAGE, ROOT / "launch_cluster" / "manager"):
        files = [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        assert len(files) > 15
        missing = {str(p.relative_to(ROOT)) for p in files} - there
        assert missing == set()
