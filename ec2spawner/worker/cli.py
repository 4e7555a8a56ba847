"""The command ``ec2spawner-worker``: the only thing that the hub runs on a worker.

Owns the reading of stdin and the choice of the host. Exit codes: 0 done, 1 failed (the last line
on stdout says why), 2 usage. The start of this command is on every student's way: only what is
needed is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import IO

from ec2spawner.worker.document import DOCUMENT_MAX_BYTES
from ec2spawner.worker.host import Host
from ec2spawner.worker.protocol import Code, Events, Fault

COMMANDS = ("keep", "notices", "prepare", "start", "status", "stop", "watchdog")
USAGE = f"usage: ec2spawner-worker {'|'.join(COMMANDS)}   (documents on stdin; see docs)\n"


def choose_host(environ: Mapping[str, str]) -> Host:
    """The emulated machine that the environment names, or else this one."""
    if directory := environ.get("EC2SPAWNER_MACHINE"):
        from ec2spawner.worker.process_host import ProcessHost

        return ProcessHost.of(directory)
    from ec2spawner.worker.systemd_host import SystemdHost

    return SystemdHost()


def run(command: str, source: IO[bytes], events: Events, environ: Mapping[str, str]) -> int:
    """Carry one command out; returns the exit code."""
    from ec2spawner.worker import commands, document

    secrets: Sequence[str] = ()
    try:
        if command == "status":
            commands.report_status(choose_host(environ), events)
        elif command == "stop":
            seconds = document.parse_stop(_read(source))
            commands.stop(choose_host(environ), seconds, events)
        elif command == "keep":
            commands.keep(choose_host(environ), document.parse_keep(_read(source)), events)
        elif command == "prepare":
            commands.prepare(choose_host(environ), document.parse_prepare(_read(source)), events)
        elif command == "watchdog":
            from ec2spawner.worker import watchdog

            watchdog.look_once(choose_host(environ), events)
        elif command == "notices":
            from ec2spawner.worker import notices

            notices.watch(choose_host(environ), events)
        else:
            wanted = document.parse_start(_read(source))
            secrets = wanted.secrets()
            commands.Start(choose_host(environ), wanted, events).run()
    except Fault as fault:
        events.error(fault, secrets)
        return 1
    except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the hub gets its line
        events.error(Fault(Code.INTERNAL, f"{type(error).__name__}: {error}"), secrets)
        return 1
    return 0


def _read(source: IO[bytes]) -> bytes:
    return source.read(DOCUMENT_MAX_BYTES + 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments == ["--version"]:
        from ec2spawner.version import __version__

        sys.stdout.write(f"ec2spawner-worker {__version__}\n")
        return 0
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        sys.stderr.write(USAGE)
        return 0 if arguments == ["--help"] else 2
    # Unbuffered, so that nothing is left to write when the hub has hung up.
    with os.fdopen(1, "wb", buffering=0, closefd=False) as out:
        return run(arguments[0], sys.stdin.buffer, Events(out), os.environ)


if __name__ == "__main__":
    sys.exit(main())
