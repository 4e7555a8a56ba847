"""Forks a ``jupyterhub`` for each request on a socket; a program of ``processes.Nursery``.

Everything that a hub imports is imported here, once. A forked hub is from there on what the
command ``jupyterhub`` is: same code, own process, session, environment, folder and log.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def become_hub(request: dict[str, Any], parent: int) -> None:
    """Never returns."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.setsid()
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    sys.argv = ["jupyterhub", *request["arguments"]]
    code = 1
    try:
        from jupyterhub.app import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    import botocore.session
    import jupyterhub.apihandlers
    import jupyterhub.app
    import jupyterhub.handlers  # noqa: F401

    import ec2spawner.spawner
    import ec2spawner.wiring  # noqa: F401

    # EC2's description is 2 MB of JSON, which each hub would read anew.
    loader = botocore.session.create_loader()
    for service in ("ec2", "ssm", "s3"):
        loader.load_service_model(service, "service-2")
    botocore.session.create_loader = lambda *_: loader

    connection = socket.socket(fileno=int(sys.argv[1]))
    requests = connection.makefile("rb")
    parent = os.getpid()
    while line := requests.readline():
        reap()
        pid = os.fork()
        if pid == 0:
            connection.close()
            become_hub(json.loads(line), parent)
        connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")
        requests.readline()  # the asker holds a descriptor of it now


if __name__ == "__main__":
    main()
