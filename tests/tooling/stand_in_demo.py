"""The demo with small programs in the place of cloud, launch command and hub; run as a program.

Each stand-in takes its behaviour from the environment variable STAND_IN_<NAME>.
"""

import os
import pathlib
import sys

from ec2spawner.localcloud import demo, demo_tls

SERVER = """
import http.server, os, signal, subprocess, sys, time
port, kind = int(sys.argv[1]), sys.argv[2]
if kind == "slow":
    time.sleep(0.3)
if kind == "dies":
    print("the reason is here"); sys.exit(3)
if kind == "leaves-children":
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    signal.signal(signal.SIGTERM, lambda *a: os._exit(0))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"here")
        if kind == "dies-later" and self.path == "/die":
            print("died when asked to", flush=True); os._exit(4)
print("serving", open("../server_config.json").read() if "HUB" in sys.argv else "", flush=True)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""

LAUNCH = """
import pathlib, sys, time
time.sleep(0.2)
pathlib.Path(sys.argv[1]).write_text(sys.argv[2])
raise SystemExit(int(sys.argv[2].split()[0]))
"""


class StandInDemo(demo.Demo):
    def _server(self, name: str, port: int) -> list[str]:
        kind = os.environ.get(f"STAND_IN_{name}", "")
        return [sys.executable, "-c", SERVER, str(port), kind, name]

    def _cloud_command(self) -> list[str]:
        return self._server("CLOUD", self.ports.cloud)

    def _launch_command(self) -> list[str]:
        code = os.environ.get("STAND_IN_LAUNCH", "0")
        return [sys.executable, "-c", LAUNCH, str(self.server_config), code]

    def _is_hub_ready(self) -> bool:
        return demo.answers(self.ports.proxy, "/hub/login", 200)

    def _hub_command(self) -> list[str]:
        return self._server("HUB", self.ports.proxy)


if __name__ == "__main__":
    if tool := os.environ.get("STAND_IN_TOOL"):
        demo_tls.TOOL = pathlib.Path(tool)
    demo.Demo = StandInDemo
    sys.exit(demo.main())
