"""A manager on which upgrade.sh runs for real, with stand-ins for systemd, Python and Debian.

Owns a root of files and a PATH. A hub is a line in a file: which release runs. The stand-ins of the
releases' Python do to the database what a hub of theirs does: a newer one changes it.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .packages import MANAGER

OLD, SHA = "old0000000000000", "a" * 64
WRAPPED = (
    *("ln", "mv", "cp", "rm", "mkdir", "cmp", "install", "readlink", "basename", "sync", "cat"),
    *("sed", "grep", "flock", "tail"),
)
COUNTING = """#!/bin/sh
# Ends all of it by SIGKILL at the chosen command.
echo >>"$COUNTER"
n=0
while read -r _; do n=$((n + 1)); done <"$COUNTER"
[ "$FATAL" = 0 ] || [ $n -lt "$FATAL" ] || kill -9 0
exec {real} "$@"
"""
SYSTEMCTL = """#!/bin/sh
case "$1 $2" in
"restart ec2spawner-hub.service")
    release=$(/bin/readlink "$EC2SPAWNER_ROOT/opt/ec2spawner/current")
    echo "${release##*/}" >"$EC2SPAWNER_ROOT/hub"
    /bin/cat "$EC2SPAWNER_ROOT/etc/jupyterhub/server_config.json" >"$EC2SPAWNER_ROOT/hub.config"
    # A newer hub changes the database at its start.
    read -r schema <"$EC2SPAWNER_ROOT/opt/ec2spawner/current/schema"
    [ "$schema" = old ] || echo "$schema" >"$EC2SPAWNER_ROOT/database.schema" ;;
"stop ec2spawner-hub.service") echo stopped >"$EC2SPAWNER_ROOT/hub" ;;
"restart ec2spawner-proxy.service")
    echo restarted >>"$EC2SPAWNER_ROOT/proxy.restarts"
    /bin/ln -sfn "$(/bin/readlink "$EC2SPAWNER_ROOT/opt/ec2spawner/proxy")/bin/node" \\
        "$EC2SPAWNER_ROOT/proc/7/exe" ;;
show*) echo 7 ;;
esac
echo "$*" >>"$EC2SPAWNER_ROOT/systemctl.log"
"""
PYTHON = """#!/bin/sh
# -I -m ec2spawner.manager COMMAND…
root=$EC2SPAWNER_ROOT
shift 3
case $1 in
package) [ -e "$root/package" ] || exit 1
    [ -e "$3" ] || /bin/cp -R "$root/package" "$3" ;;
copy) [ ! -e "$root/no-copy" ] || exit 3
    [ ! -e "$root/disk-full" ] || exit 1
    /bin/cat "$root/database.schema" >"$2.new" && /bin/mv "$2.new" "$2" ;;
restore) [ ! -e "$root/no-copy" ] || exit 3
    /bin/cat "$2" >"$root/database.schema.new"
    /bin/mv "$root/database.schema.new" "$root/database.schema" ;;
refresh) if [ -e "$root/news" ]; then
        /usr/bin/cmp -s "$root/news" "$root/etc/jupyterhub/server_config.json" &&
            echo "nothing new in the bucket" && exit
        /bin/cp "$root/news" "$root/etc/jupyterhub/server_config.json"; echo "new: it"
    else echo "nothing new in the bucket"; fi ;;
routing) [ ! -e "$root/by-host" ] || echo PROXY_OPTIONS=--host-routing ;;
health) running=$(/bin/cat "$root/hub")
    [ "$running" != stopped ] && [ ! -e "$root/opt/ec2spawner/releases/$running/broken" ] ;;
esac
"""


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@dataclass
class Outcome:
    code: int
    output: str


class Bench:
    """One such machine, with the release OLD in use and a package to upgrade to."""

    def __init__(self, folder: Path, *, is_broken: bool = False, other_proxy: bool = False) -> None:
        self.root = folder / "root"
        self.base = self.root / "opt/ec2spawner"
        self._bin = folder / "bin"
        self._counter = folder / "counter"
        self._counter.parent.mkdir(parents=True, exist_ok=True)
        self._programs()
        self._machine()
        self.new = self._package(is_broken, other_proxy)

    def _programs(self) -> None:
        for name in WRAPPED:
            real = shutil.which(name)
            assert real
            program(self._bin / name, COUNTING.format(real=real))
        program(self._bin / "systemctl.real", SYSTEMCTL)
        program(self._bin / "systemctl", COUNTING.format(real=self._bin / "systemctl.real"))
        program(self._bin / "journalctl", "#!/bin/sh\n")
        program(self._bin / "dpkg-query", "#!/bin/sh\necho installed\n")
        program(self._bin / "getent", "#!/bin/sh\n")

    def _machine(self) -> None:
        for name in ("etc/ec2spawner", "etc/jupyterhub", "var/lib/jupyterhub/backup", "proc/7"):
            (self.root / name).mkdir(parents=True)
        (self.root / "etc/ec2spawner/manager.env").write_text("EC2SPAWNER_DOMAIN=\n")
        (self.root / "etc/jupyterhub/server_config.json").write_text("old\n")
        (self.root / "database.schema").write_text("old\n")
        self._release(OLD, "old", "proxy-1")
        self._call("sh", str(self.base / "releases" / OLD / "manager/provision.sh"), "switch", OLD)
        (self.root / "proc/7/exe").symlink_to(self.base / "proxies/proxy-1/bin/node")
        (self.root / "hub").write_text(f"{OLD}\n")
        (self.root / "hub.config").write_text("old\n")

    def _release(self, name: str, schema: str, proxy: str) -> Path:
        folder = self.base / "releases" / name
        program(folder / "bin/python", PYTHON)
        shutil.copytree(MANAGER, folder / "manager", ignore=shutil.ignore_patterns("*.lock"))
        unit = folder / "manager/units/ec2spawner-hub.service"
        unit.write_text(f"{unit.read_text()}# {schema}\n")
        (folder / "schema").write_text(f"{schema}\n")
        (self.base / "proxies" / proxy / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "proxy").symlink_to(self.base / "proxies" / proxy)
        (folder / ".whole").touch()
        return folder

    def _package(self, is_broken: bool, other_proxy: bool) -> str:
        package = self.root / "package"
        (package / "proxy").mkdir(parents=True)
        (package / "proxy/package-lock.json").write_text("{}")
        for name in ("ec2spawner-2-py3-none-any.whl", "hub.lock"):
            (package / name).write_text("new")
        ignored = shutil.ignore_patterns("*.lock", "__pycache__")
        shutil.copytree(MANAGER, package / "provision/manager", ignore=ignored)
        named = self._call(
            "sh", f"{package}/provision/manager/provision.sh", "name", BUNDLE=package
        )
        name = named.output.strip()
        folder = self._release(name, "new", "proxy-2" if other_proxy else "proxy-1")
        if is_broken:
            (folder / "broken").touch()
        return name

    def _call(self, *words: str, **environment: Path | str) -> Outcome:
        done = subprocess.run(
            words,
            env={
                "PATH": f"{self._bin}:/usr/sbin:/usr/bin:/sbin:/bin",
                "EC2SPAWNER_ROOT": str(self.root),
                "COUNTER": str(self._counter),
                "FATAL": "0",
                **{name: str(value) for name, value in environment.items()},
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            start_new_session=True,
        )
        return Outcome(done.returncode, done.stdout)

    def upgrade(self, *words: str, fatal: int = 0) -> Outcome:
        """Run upgrade.sh; killed at its ``fatal``-th command, if there is one."""
        self._counter.write_text("")
        script = str(self.base / "upgrade.sh")
        return self._call("sh", script, *(words or ("--run", SHA)), FATAL=str(fatal))

    @property
    def commands(self) -> int:
        """How many the last run made."""
        return len(self._counter.read_text())

    @property
    def was_killed(self) -> int:
        return -signal.SIGKILL

    # ---- what is so now

    @property
    def current(self) -> str:
        return (self.base / "current").readlink().name

    @property
    def hub(self) -> str:
        return (self.root / "hub").read_text().strip()

    @property
    def schema(self) -> str:
        return (self.root / "database.schema").read_text().strip()

    @property
    def unit(self) -> str:
        text = (self.root / "etc/systemd/system/ec2spawner-hub.service").read_text()
        return text.splitlines()[-1].removeprefix("# ")

    @property
    def config(self) -> str:
        return (self.root / "etc/jupyterhub/server_config.json").read_text().strip()

    @property
    def hub_config(self) -> str:
        """What the hub that runs has read."""
        return (self.root / "hub.config").read_text().strip()

    @property
    def proxy_restarts(self) -> int:
        file = self.root / "proxy.restarts"
        return len(file.read_text().splitlines()) if file.exists() else 0

    @property
    def enabled(self) -> list[str]:
        """What systemd was told to enable, sorted."""
        words = [line.split() for line in (self.root / "systemctl.log").read_text().splitlines()]
        return sorted(line[2] for line in words if line[:2] == ["--quiet", "enable"])

    @property
    def is_settled(self) -> bool:
        return not (self.base / "upgrade.state").exists()

    def start_hub(self) -> None:
        self._call("systemctl", "restart", "ec2spawner-hub.service")

    def close(self) -> None:
        shutil.rmtree(self.root.parent)
