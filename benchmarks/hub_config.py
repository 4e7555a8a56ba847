"""The benchmarks' hub: the real configuration, a way in, and what is measured from inside.

JupyterHub reads this file; it is not imported. EC2SPAWNER_BENCH_OPTIONS names a JSON file; see
``bed.Hub``.
"""

import json
import os
import sys
from pathlib import Path

options = json.loads(Path(os.environ["EC2SPAWNER_BENCH_OPTIONS"]).read_text())
sys.path.insert(0, options["repository"])
from benchmarks import inside, nothing, one_call  # noqa: E402
from ec2spawner import wiring  # noqa: E402

others = {"nothing": nothing.NothingSpawner, "one-call": one_call.OneCallSpawner}
if options["spawner"] in others:
    wiring.begin = lambda config_path: None  # no fleet either
load_subconfig(options["base_config"])  # type: ignore[name-defined]  # noqa: F821
c = get_config()  # type: ignore[name-defined]  # noqa: F821
if options["spawner"] in others:
    c.JupyterHub.spawner_class = others[options["spawner"]]

c.JupyterHub.bind_url = f"http://127.0.0.1:{options['port']}"
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{options['proxy_port']}"
bond = (sys.executable, "-m", "ec2spawner.localcloud.demo_child", str(os.getpid()))
c.ConfigurableHTTPProxy.command = [*bond, *c.ConfigurableHTTPProxy.command]
c.JupyterHub.hub_ip = "127.0.0.1"
c.JupyterHub.hub_port = options["api_port"]

c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
# Requests that start a server are answered at once; the progress stream tells the rest.
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}
c.Spawner.poll_interval = options["poll_seconds"]
c.JupyterHub.services.append({"name": "benchmark", "api_token": options["token"]})
c.JupyterHub.load_roles.append(
    {
        "name": "benchmark",
        "services": ["benchmark"],
        "scopes": [
            *("admin:users", "admin:groups", "admin:servers", "access:servers"),
            "read:metrics",
        ],
    }
)

inside.Inside().begin(options["inside_port"])
