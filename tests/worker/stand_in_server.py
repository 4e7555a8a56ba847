"""Stands in for the single-user server: starts in 30 ms, and fails in the ways it is told.

What it is told stands in the file ``told`` in its home: die, deaf, mute, swallow, stubborn, or
offspring.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

home = Path.cwd()
told = (home / "told").read_text() if (home / "told").exists() else ""
given = json.loads((Path(os.environ["CREDENTIALS_DIRECTORY"]) / "server.json").read_text())
with (home / "starts").open("a") as starts:
    starts.write(f"{os.getpid()}\n")
(home / "environment").write_text(json.dumps({"own": dict(os.environ), "given": given}))

if "die" in told:
    sys.exit(f"I am {given['environment']['JUPYTERHUB_API_TOKEN']} and cannot live")
if "swallow" in told:  # the first one only
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0) if heard else heard.append(1))
if "stubborn" in told:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "offspring" in told:
    # As kernels and terminals are: sessions of their own, and a grandchild that lost its parent.
    code = "import subprocess as s; s.Popen(['sleep', '4711'], start_new_session=True)"
    subprocess.Popen([sys.executable, "-I", "-S", "-c", code], start_new_session=True).wait()
    subprocess.Popen(["sleep", "4711"], start_new_session=True)

address, _, port = given["environment"]["JUPYTERHUB_SERVICE_URL"].split("/")[2].rpartition(":")
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((address, int(port)))
if "deaf" not in told:
    listener.listen(8)
while True:
    if "deaf" in told:
        signal.pause()
    connection, _ = listener.accept()
    asked = connection.recv(4096).split(b" ")[1]
    head = b"" if "mute" in told else b"X-JupyterHub-Version: 6.1.1\r\n"
    good = asked == b"/user/jo/api"
    connection.sendall(b"HTTP/1.1 200 OK\r\n" + (head if good else b"") + b"\r\n{}")
    connection.close()
