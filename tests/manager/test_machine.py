"""A manager made in a Debian 12 by the real scripts, and booted: ``make test-image-full``.

The tests follow each other on one machine. Its hub talks to the emulated cloud on this computer.
"""

from __future__ import annotations

import gzip
import json
import os
import shlex
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
import websocket
from hub.clouds import Cloud, Network
from image import roots
from image.guests import HOST, Guest, open_to_tests

from .echo import Echo
from .packages import MANAGER, REPOSITORY, change_wheel, pack
from .test_caddyfile import make_certificate

pytestmark = pytest.mark.skipif(
    os.environ.get("EC2SPAWNER_TEST_IMAGE") != "full", reason="make test-image-full runs it"
)

VOLUME = "vol-0123456789abcdef0"
CLUSTER = {
    "CLUSTER": "hubtest",
    "REGION": "us-east-1",
    "BUCKET": "ec2spawner-hubtest-123456789012-us-east-1",
    "DATA_VOLUME_ID": VOLUME,
}
ROOT_GIB = 5
HUB_SECONDS = 600
"""A hub's start on emulated processors."""
BROKEN = "raise SystemExit('this release is broken')\n"
METADATA = """
import socket
server = socket.create_server(("169.254.169.254", 81))  # Caddy has port 80 of all addresses
while True:
    connection, _ = server.accept()
    connection.sendall(b"somebody's rights")
    connection.close()
"""
ASK = """
import socket
print(socket.create_connection(("169.254.169.254", 81), 20).recv(9).decode())
"""


@pytest.fixture(scope="module")
def can_run() -> None:
    if reason := roots.lack():
        pytest.skip(reason)


@dataclass(frozen=True)
class Packages:
    """Three packages: one to begin with, a later one, and one whose hub does not start."""

    folder: Path

    def __getitem__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def packages(can_run: None, tmp_path_factory: pytest.TempPathFactory) -> Packages:
    folder = tmp_path_factory.mktemp("packages")
    roots.unpack_bundle(folder / "first")
    for name in ("later", "broken"):
        shutil.copytree(folder / "first", folder / name)
    change_wheel(folder / "later", "ec2spawner/later.py", '"""Only a later release has it."""\n')
    change_wheel(folder / "broken", "ec2spawner/manager/hub_config.py", BROKEN)
    return Packages(folder)


def provision(root: Path, package: Path, *words: str) -> str:
    script = f"{roots.GIVEN}/provision/manager/provision.sh"
    done = roots.enter(root, package, ["sh", script, *words], {**CLUSTER, "BUNDLE": roots.GIVEN})
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def listing(root: Path) -> dict[str, tuple[int, float]]:
    """What would change if a second run did anything."""
    places = ("etc", "opt", "usr/lib/systemd", "var/lib")
    paths = [path for place in places for path in (root / place).rglob("*")]
    return {
        str(path.relative_to(root)): (path.lstat().st_ino, path.lstat().st_mtime)
        for path in paths
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture(scope="module")
def root(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provisioned with the first package; the others lie beside it, as ``stage`` leaves them."""
    root = tmp_path_factory.mktemp("root") / "root"
    sources = [p for p in (REPOSITORY / "ec2spawner").rglob("*.py") if "localcloud" not in p.parts]
    made_of = [*sources, *(p for p in MANAGER.rglob("*") if p.is_file() and p.suffix != ".pyc")]
    fingerprint = roots.digest(
        roots.digest_of([*made_of, REPOSITORY / "pyproject.toml"]),
        *((roots.TOOLS / script).read_bytes() for script in ("make_root.sh", "in_root.sh")),
        Path(__file__).read_bytes(),
    )
    archive = roots.cache() / f"manager-{fingerprint}.tar"
    with roots.Lock("manager"):
        if not archive.exists():
            roots.unpack_base(root)
            provision(root, packages["first"])
            for other in ("later", "broken"):
                provision(root, packages[other], "stage")
            for name in ("first", "later", "broken"):
                shutil.copytree(packages[name], root / "opt/tests" / name)
            roots.pack(root, archive)
        else:
            roots.unpack(archive, root)
            for package in ("first", "later", "broken"):  # as the root has them
                shutil.rmtree(packages[package])
                shutil.copytree(root / "opt/tests" / package, packages[package])
    return root


def client(cloud: Cloud, service: str) -> Any:
    return boto3.Session().client(
        service,
        endpoint_url=cloud.endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


@pytest.fixture(scope="module")
def cloud(can_run: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    network = Network()
    cloud = Cloud(tmp_path_factory.mktemp("cloud") / "cloud", "stub", 9)
    try:
        cloud.start()
        cloud.launch_cluster(network.cidr)
        for half in ("id", "secret"):
            client(cloud, "ssm").put_parameter(
                Name=f"/ec2spawner/hubtest/oauth-client-{half}",
                Value=f"the-{half}",
                Type="SecureString",
            )
        yield cloud
    finally:
        cloud.close()
        network.close()


@pytest.fixture(scope="module")
def guest(
    root: Path, packages: Packages, cloud: Cloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("guest")
    open_to_tests(root)
    with (root / "etc/ec2spawner/manager.env").open("a") as file:
        port = cloud.endpoint.rpartition(":")[2]
        file.write(f"AWS_ENDPOINT_URL=http://{HOST}:{port}\n")
        file.write("AWS_ACCESS_KEY_ID=test\nAWS_SECRET_ACCESS_KEY=test\n")
        file.write(f"EC2SPAWNER_HEALTH_SECONDS={HUB_SECONDS}\n")
    disk = roots.make_disk(root, folder / "root.img", ROOT_GIB)
    data = folder / "data.img"
    with data.open("wb") as blank:
        blank.truncate(1 << 30)
    guest = Guest(folder, root, disk, {VOLUME.replace("-", ""): data}, (80, 443))
    try:
        yield guest.boot()
    finally:
        guest.close()
        for image in (disk, data):
            image.unlink()


def page(guest: Guest, path: str = "/hub/health") -> int:
    """How the hub's page is answered through Caddy; 0 for not at all."""
    url = f"http://127.0.0.1:{guest.ports[80]}{path}"
    try:
        return requests.get(url, timeout=60, allow_redirects=False).status_code
    except requests.RequestException:
        return 0


def await_hub(guest: Guest) -> None:
    python = "/opt/ec2spawner/current/bin/python -I -m ec2spawner.manager"
    guest.must(f"{python} health {HUB_SECONDS}", HUB_SECONDS + 60)
    assert page(guest) == 200


# ---- made


def test_a_second_run_of_provisioning_changes_nothing(root: Path, packages: Packages) -> None:
    before = listing(root)
    provision(root, packages["first"])
    after = listing(root)
    assert {path for path in {**before, **after} if before.get(path) != after.get(path)} == set()


def test_systemd_has_nothing_to_say_about_its_units(root: Path, packages: Packages) -> None:
    units = sorted(path.name for path in (MANAGER / "units").iterdir())
    done = roots.enter(root, packages["first"], ["systemd-analyze", "verify", *units])
    assert (done.returncode, done.stdout) == (0, "")


# ---- booted


def test_it_waits_for_the_configuration_without_failing(guest: Guest) -> None:
    said = guest.until("journalctl -u ec2spawner-config | grep 'Waiting for s3://'", 120)
    assert f"s3://{CLUSTER['BUCKET']}/config/server_config.json" in said
    guest.until("systemctl is-active ec2spawner-caddy", 300)
    for unit in ("ec2spawner-proxy", "ec2spawner-hub"):  # what they are told is in it
        assert guest.run(f"systemctl is-active {unit}").output.strip() == "inactive"
    assert page(guest, "/hub/login") == 503


def test_the_blank_volume_was_formatted_and_holds_the_secrets(guest: Guest) -> None:
    found = guest.must("findmnt --noheadings --output SOURCE,FSTYPE,OPTIONS /var/lib/jupyterhub")
    assert found.startswith("/dev/nvme0n1 ext4 ")
    assert {"nodev", "nosuid", "noexec"} <= set(found.split()[2].split(","))
    modes = guest.must(
        "cd /var/lib/jupyterhub; stat -c '%a %U %n' hub/cookie_secret secrets/proxy.env"
    )
    assert modes.splitlines() == [
        "600 ec2spawner-hub hub/cookie_secret",
        "600 root secrets/proxy.env",
    ]


def test_the_page_answers_once_the_configuration_is_there(guest: Guest, cloud: Cloud) -> None:
    config = {**cloud.server_config, "HUB_CONNECT_URL": "http://10.0.2.15:8081"}
    config["HUB_LISTEN_ADDRESS"] = "0.0.0.0"
    client(cloud, "s3").put_object(
        Bucket=CLUSTER["BUCKET"],
        Key="config/server_config.json",
        Body=json.dumps(config).encode(),
    )
    guest.until("test -e /etc/jupyterhub/server_config.json", 60)
    await_hub(guest)
    assert guest.must("systemctl --failed --quiet").strip() == ""
    users = guest.must("ps -eo user:20,args | grep -E 'jupyterhub --conf|bin/node|caddy run'")
    assert {"ec2spawner-hub", "ec2spawner-proxy", "caddy"} <= {
        line.split()[0] for line in users.splitlines()
    }


def test_plain_http_is_warned_of(guest: Guest) -> None:
    guest.must("journalctl -u ec2spawner-caddy -p warning | grep 'served by plain HTTP'")


def test_only_root_and_the_hub_reach_the_metadata(guest: Guest) -> None:
    guest.must("ip address add 169.254.169.254/32 dev lo")
    guest.write("/usr/local/lib/tests-metadata.py", METADATA)
    guest.must(
        "systemd-run --unit=tests-metadata /usr/bin/python3 /usr/local/lib/tests-metadata.py"
    )
    ask = f"/usr/bin/python3 -c {shlex.quote(ASK)}"
    assert guest.until(ask, 60) == "somebody'\n"
    for user, answers in {
        "ec2spawner-hub": True,
        "ec2spawner-proxy": False,
        "caddy": False,
        "nobody": False,
    }.items():
        done = guest.run(f"setpriv --reuid={user} --clear-groups {ask}")
        assert (done.code == 0) is answers, f"{user}: {done.output}"
        assert answers or "refused" in done.output


def test_a_restart_of_the_hub_drops_no_connection(guest: Guest) -> None:
    with Echo() as echo:
        add_route(guest, "/user/ada", f"http://{HOST}:{echo.port}")
        socket = websocket.create_connection(
            f"ws://127.0.0.1:{guest.ports[80]}/user/ada/echo", timeout=60
        )
        socket.send("before")
        assert socket.recv() == "before"
        guest.must("systemctl restart ec2spawner-hub")
        socket.send("meanwhile")
        assert socket.recv() == "meanwhile"
        await_hub(guest)
        socket.send("after")
        assert socket.recv() == "after"
        socket.close()
        assert echo.connections == 1


def add_route(guest: Guest, path: str, target: str) -> None:
    body = json.dumps({"target": target})
    script = (
        "import os, urllib.request as u; u.urlopen(u.Request("
        f"'http://127.0.0.1:8001/api/routes{path}', {body.encode()!r}, "
        "{'Authorization': 'token ' + os.environ['CONFIGPROXY_AUTH_TOKEN']}))"
    )
    secret = "/var/lib/jupyterhub/secrets/proxy.env"
    guest.must(f"set -a; . {secret}; /usr/bin/python3 -c {shlex.quote(script)}")


def test_the_backup_lies_in_the_bucket(guest: Guest, cloud: Cloud, tmp_path: Path) -> None:
    guest.must("systemctl start ec2spawner-backup", 300)
    s3 = client(cloud, "s3")
    (found,) = s3.list_objects_v2(Bucket=CLUSTER["BUCKET"], Prefix="backup/hub/")["Contents"]
    body = s3.get_object(Bucket=CLUSTER["BUCKET"], Key=found["Key"])["Body"].read()
    (tmp_path / "copy.sqlite").write_bytes(gzip.decompress(body))
    newest = s3.get_object(Bucket=CLUSTER["BUCKET"], Key="backup/newest/hub.sqlite.gz")[
        "Body"
    ].read()
    assert newest == body
    database = sqlite3.connect(tmp_path / "copy.sqlite")
    (count,) = database.execute("SELECT count(*) FROM services").fetchone()
    database.close()
    assert count >= 1


def test_an_own_certificate_is_served_after_a_reload(guest: Guest, tmp_path: Path) -> None:
    make_certificate(tmp_path, "localhost")
    for name in ("fullchain.pem", "privkey.pem"):
        guest.write(f"/etc/jupyterhub/ssl/{name}", (tmp_path / name).read_text())
    guest.must("chmod 600 /etc/jupyterhub/ssl/privkey.pem; systemctl reload ec2spawner-caddy", 300)
    url = f"https://localhost:{guest.ports[443]}/hub/health"
    assert requests.get(url, verify=str(tmp_path / "fullchain.pem"), timeout=60).status_code == 200
    assert page(guest, "/hub/api/") == 308
    assert page(guest, "/hub/health") == 200  # also asked for by its address, without a name
    guest.must("rm /etc/jupyterhub/ssl/*; systemctl reload ec2spawner-caddy", 300)
    assert page(guest, "/hub/api/") == 200


def put_package(cloud: Cloud, folder: Path, archive: Path) -> str:
    sha256 = pack(folder, archive)
    client(cloud, "s3").put_object(
        Bucket=CLUSTER["BUCKET"], Key=f"package/{sha256}.tar.gz", Body=archive.read_bytes()
    )
    return sha256


def state_of(guest: Guest) -> list[str]:
    return guest.must(
        "readlink /opt/ec2spawner/current; cd /var/lib/jupyterhub;"
        " sha256sum hub/cookie_secret secrets/proxy.env;"
        " systemctl show --property=MainPID ec2spawner-proxy;"
        " ls /opt/ec2spawner | grep upgrade.state || true"
    ).splitlines()


def test_a_broken_package_is_taken_back(
    guest: Guest, cloud: Cloud, packages: Packages, tmp_path: Path
) -> None:
    before = state_of(guest)
    sha256 = put_package(cloud, packages["broken"], tmp_path / "package.tar.gz")
    guest.must("echo EC2SPAWNER_HEALTH_SECONDS=90 >>/etc/ec2spawner/manager.env")
    done = guest.run(f"/opt/ec2spawner/upgrade.sh {sha256}", 1500)
    assert done.code == 1, done.output
    assert "the hub does not answer" in done.output
    assert "this release is broken" in done.output
    assert "failed: back at" in done.output
    await_hub(guest)
    assert state_of(guest) == before
    guest.must(f"sed -i '$s/=.*/={HUB_SECONDS}/' /etc/ec2spawner/manager.env")


def test_a_package_that_is_not_what_it_is_called_is_refused(
    guest: Guest, cloud: Cloud, tmp_path: Path
) -> None:
    before = state_of(guest)
    client(cloud, "s3").put_object(
        Bucket=CLUSTER["BUCKET"], Key=f"package/{'a' * 64}.tar.gz", Body=b"something else"
    )
    done = guest.run(f"/opt/ec2spawner/upgrade.sh {'a' * 64}", 600)
    assert done.code == 1
    assert "is not what it is called" in done.output
    assert state_of(guest) == before


def test_a_later_package_comes_into_use_and_drops_no_connection(
    guest: Guest, cloud: Cloud, packages: Packages, tmp_path: Path
) -> None:
    before = state_of(guest)
    sha256 = put_package(cloud, packages["later"], tmp_path / "package.tar.gz")
    with Echo() as echo:
        add_route(guest, "/user/ada", f"http://{HOST}:{echo.port}")
        socket = websocket.create_connection(
            f"ws://127.0.0.1:{guest.ports[80]}/user/ada/echo", timeout=60
        )
        output = guest.must(f"/opt/ec2spawner/upgrade.sh {sha256}", 1500)
        assert "is in use" in output
        socket.send("after")
        assert socket.recv() == "after"
        socket.close()
        assert echo.connections == 1
    assert state_of(guest)[1:] == before[1:]
    guest.must("/opt/ec2spawner/current/bin/python -I -c 'import ec2spawner.later'")
    assert "is in use already" in guest.must(f"/opt/ec2spawner/upgrade.sh {sha256}", 900)


def test_an_upgrade_that_is_killed_is_settled(
    guest: Guest, cloud: Cloud, packages: Packages, tmp_path: Path
) -> None:
    before = state_of(guest)
    sha256 = put_package(cloud, packages["first"], tmp_path / "package.tar.gz")
    unit = f"ec2spawner-upgrade@{sha256}.service"
    guest.must(f"systemctl start --no-block {unit}")
    guest.until("test -e /opt/ec2spawner/upgrade.state", 300)
    guest.must(f"systemctl kill --kill-whom=main --signal=KILL {unit}")
    guest.until("test ! -e /opt/ec2spawner/upgrade.state", HUB_SECONDS + 300)
    assert "settled: " in guest.must(f"journalctl -u {unit}")
    await_hub(guest)
    assert state_of(guest)[1:] == before[1:]


def test_after_a_power_cut_all_of_it_is_back(guest: Guest) -> None:
    before = state_of(guest)
    guest.power_cut()
    guest.boot()
    guest.until("systemctl is-active ec2spawner-hub", 300)
    await_hub(guest)
    after = state_of(guest)
    assert [line for line in after if "MainPID" not in line] == [
        line for line in before if "MainPID" not in line
    ]
    assert guest.must("systemctl --failed --quiet").strip() == ""
