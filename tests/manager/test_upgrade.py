"""upgrade.sh: forwards, back, and killed at every one of its commands."""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .upgrading import OLD, SHA, Bench

FULL = os.environ.get("EC2SPAWNER_TEST_IMAGE") == "full"
"""All places to be killed at, which takes minutes; else some, others each time."""
PARTS = 16 if FULL else 1


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def is_old(bench: Bench) -> bool:
    return (bench.current, bench.hub, bench.schema, bench.unit, bench.config) == (
        OLD,
        OLD,
        "old",
        "old",
        "old",
    )


def is_new(bench: Bench, config: str = "old") -> bool:
    return (bench.current, bench.hub, bench.schema, bench.unit, bench.config) == (
        bench.new,
        bench.new,
        "new",
        "new",
        config,
    )


def test_an_upgrade_changes_all_of_it(bench: Bench) -> None:
    (bench.root / "news").write_text("new\n")
    done = bench.upgrade()
    assert done.code == 0, done.output
    assert is_new(bench, config="new")
    assert bench.is_settled
    assert f"done: {bench.new} is in use" in done.output


def test_the_proxy_is_left_alone_unless_it_is_another(bench: Bench, tmp_path: Path) -> None:
    bench.upgrade()
    assert bench.proxy_restarts == 0
    other = Bench(tmp_path / "other", other_proxy=True)
    assert "drops what is open" in other.upgrade().output
    assert other.proxy_restarts == 1


def test_the_proxy_is_another_where_servers_are_to_be_told_apart_by_host(bench: Bench) -> None:
    (bench.root / "by-host").touch()  # so says the configuration now
    (bench.root / "news").write_text("new\n")
    bench.upgrade()
    assert bench.proxy_restarts == 1
    routing = bench.root / "run/ec2spawner-proxy/routing.env"
    routing.parent.mkdir(parents=True)
    routing.write_text("PROXY_OPTIONS=--host-routing\n")  # as the unit writes it
    (bench.root / "news").write_text("newer\n")
    bench.upgrade()
    assert bench.proxy_restarts == 1
    (bench.root / "by-host").unlink()
    (bench.root / "news").write_text("newest\n")
    bench.upgrade()
    assert bench.proxy_restarts == 2


def test_again_it_does_nothing(bench: Bench) -> None:
    bench.upgrade()
    log = (bench.root / "systemctl.log").read_text()
    done = bench.upgrade()
    assert done.code == 0
    assert "is in use already" in done.output
    assert is_new(bench)
    restarts = (bench.root / "systemctl.log").read_text().removeprefix(log)
    assert "hub" not in restarts


def test_a_change_of_the_configuration_alone_restarts_the_hub(bench: Bench) -> None:
    bench.upgrade()
    (bench.root / "news").write_text("newer\n")
    assert bench.upgrade().code == 0
    assert is_new(bench, config="newer")


def test_a_refresh_takes_over_the_configuration_and_needs_no_package(bench: Bench) -> None:
    bench.upgrade()
    (bench.root / "package").rename(bench.root / "elsewhere")
    (bench.root / "news").write_text("newer\n")
    done = bench.upgrade("--run", "refresh")
    assert done.code == 0, done.output
    assert is_new(bench, config="newer")
    assert bench.hub_config == "newer"
    assert {p.name for p in (bench.base / "releases").iterdir()} == {OLD, bench.new}
    log = (bench.root / "systemctl.log").read_text()
    again = bench.upgrade("--run", "refresh")
    assert "is in use already" in again.output
    assert "hub" not in (bench.root / "systemctl.log").read_text().removeprefix(log)


def test_a_configuration_that_no_hub_lives_with_is_taken_back(bench: Bench) -> None:
    (bench.base / "releases" / OLD / "broken").touch()
    (bench.root / "news").write_text("newer\n")
    done = bench.upgrade("--run", "refresh")
    assert (done.code, bench.config, bench.hub_config) == (1, "old", "old")
    assert f"failed: back at {OLD}" in done.output
    assert bench.is_settled


def test_a_refresh_that_is_killed_leaves_no_hub_with_another_configuration(
    tmp_path: Path,
) -> None:
    counted = Bench(tmp_path / "count")
    (counted.root / "news").write_text("newer\n")
    counted.upgrade("--run", "refresh")
    total = counted.commands
    assert total > 30
    for fatal in range(1, total) if FULL else random.sample(range(1, total), 8):
        bench = Bench(tmp_path / str(fatal))
        (bench.root / "news").write_text("newer\n")
        bench.upgrade("--run", "refresh", fatal=fatal)
        settled = bench.upgrade("--settle", "refresh")
        assert bench.is_settled, (fatal, settled)
        assert bench.hub_config == bench.config, (fatal, settled)
        assert bench.hub == OLD, fatal
        assert bench.upgrade("--run", "refresh").code == 0
        assert (bench.config, bench.hub_config) == ("newer", "newer"), fatal
        bench.close()


def test_a_refresh_that_is_killed_when_its_files_are_new_gives_them_to_the_hub(
    bench: Bench,
) -> None:
    """The hub answers all the time, so that it alone does not tell."""
    (bench.root / "etc/jupyterhub/server_config.json").write_text("newer\n")
    (bench.base / "upgrade.state").write_text(f"{OLD} {OLD} refresh\n")
    assert bench.upgrade("--settle", "refresh").code == 0
    assert (bench.is_settled, bench.hub_config) == (True, "newer")


def test_a_hub_that_does_not_answer_brings_the_old_one_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path, is_broken=True, other_proxy=True)
    (bench.root / "news").write_text("new\n")
    done = bench.upgrade()
    assert done.code == 1
    assert f"failed: back at {OLD}" in done.output
    assert is_old(bench)
    assert bench.is_settled
    assert bench.proxy_restarts == 2  # there and back


def test_a_package_that_cannot_be_had_changes_nothing(bench: Bench) -> None:
    (bench.root / "package").rename(bench.root / "elsewhere")
    assert bench.upgrade().code != 0
    assert is_old(bench)
    assert bench.is_settled


def test_a_database_that_cannot_be_saved_ends_it_before_anything(bench: Bench) -> None:
    (bench.root / "disk-full").touch()
    done = bench.upgrade()
    assert done.code != 0
    assert "could not be saved" in done.output
    assert is_old(bench)
    assert bench.is_settled


def test_a_database_elsewhere_is_left_to_whoever_runs_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, is_broken=True)
    (bench.root / "no-copy").touch()
    assert bench.upgrade().code == 1
    assert (bench.current, bench.hub, bench.schema) == (OLD, OLD, "new")  # as docs/manager.md says


def test_what_is_older_than_the_last_release_goes(bench: Bench) -> None:
    stale = bench.base / "releases/older00000000000"
    stale.mkdir()
    bench.upgrade()
    assert not stale.exists()
    assert {p.name for p in (bench.base / "releases").iterdir()} == {OLD, bench.new}
    assert (bench.base / "proxies/proxy-1").exists()


def test_the_last_release_outlives_a_repetition(bench: Bench) -> None:
    for _ in range(2):
        bench.upgrade()
    assert {p.name for p in (bench.base / "releases").iterdir()} == {OLD, bench.new}


def test_of_two_at_once_the_second_is_refused(bench: Bench) -> None:
    with (bench.base / "upgrade.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = bench.upgrade()
    assert done.code == 1
    assert "another upgrade is on its way" in done.output
    assert is_old(bench)


def test_what_another_one_has_begun_is_its_own_to_settle(bench: Bench) -> None:
    (bench.base / "upgrade.state").write_text(f"{OLD} {bench.new} {'b' * 64}\n")
    assert bench.upgrade("--settle", SHA).code == 0
    assert not bench.is_settled


@pytest.mark.parametrize("word", ["", "--what", "xyz", f"{SHA}; reboot"])
def test_what_is_no_digest_is_refused(bench: Bench, word: str) -> None:
    assert bench.upgrade(word).code != 0
    assert is_old(bench)


def commands_of(folder: Path, is_broken: bool) -> int:
    bench = Bench(folder, is_broken=is_broken)
    bench.upgrade()
    count = bench.commands
    bench.close()
    return count


def killed(folder: Path, is_broken: bool, fatal: int, is_boot: bool) -> Iterator[str]:
    """What is wrong after a kill at one command and what comes after it."""
    bench = Bench(folder, is_broken=is_broken)
    (bench.root / "news").write_text("new\n")
    first = bench.upgrade(fatal=fatal)
    if first.code != bench.was_killed:
        yield f"not killed: {first}"
    if is_boot:
        settled = bench.upgrade("--settle-before-the-hub")
        bench.start_hub()
    else:
        settled = bench.upgrade("--settle", SHA)
        if bench.hub == "stopped":
            yield "the hub is left stopped"
    if settled.code != 0 or not bench.is_settled:
        yield f"not settled: {settled}"
    if not is_old(bench) and not (is_new(bench, config="new") and not is_broken):
        yield f"neither old nor new: {[bench.current, bench.hub, bench.schema, bench.unit]}"
    again = bench.upgrade()
    if is_broken and (again.code != 1 or not is_old(bench)):
        yield f"again: {again}"
    if not is_broken and (again.code != 0 or not is_new(bench, config="new")):
        yield f"again: {again}"
    bench.close()


@pytest.mark.parametrize("is_broken", [False, True])
@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_any_command_it_comes_out_right(
    tmp_path: Path, is_broken: bool, part: int
) -> None:
    total = commands_of(tmp_path / "count", is_broken)
    assert total > 50
    places = [(fatal, is_boot) for fatal in range(1, total) for is_boot in (False, True)]
    places = places[part::PARTS] if FULL else random.sample(places, 12)

    def one(place: tuple[int, bool]) -> list[str]:
        wrong = killed(tmp_path / f"{place[0]}-{place[1]}", is_broken, *place)
        return [f"killed at {place}: {what}" for what in wrong]

    with ThreadPoolExecutor(2) as threads:
        wrong = [line for lines in threads.map(one, places) for line in lines]
    assert wrong == []
