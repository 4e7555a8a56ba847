"""The tests' hub: the real configuration, ways in for a test, and what the test has sabotaged.

JupyterHub reads this file; it is not imported. What a test wants is in the JSON file that
EC2SPAWNER_TEST_OPTIONS names; see ``hubs.Hub``.
"""

import json
import os
import sys
from pathlib import Path

options = json.loads(Path(os.environ["EC2SPAWNER_TEST_OPTIONS"]).read_text())
sys.path.insert(0, options["hooks"])
import hooks  # noqa: E402

hooks.install(options)
load_subconfig(options["base_config"])  # noqa: F821
c = get_config()  # noqa: F821

c.JupyterHub.bind_url = f"http://127.0.0.1:{options['port']}"
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{options['proxy_port']}"
c.ConfigurableHTTPProxy.auth_token = options["proxy_token"]
if options["proxy_apart"]:
    c.ConfigurableHTTPProxy.should_start = False
else:
    bond = (sys.executable, "-m", "ec2spawner.localcloud.demo_child", str(os.getpid()))
    c.ConfigurableHTTPProxy.command = [*bond, *c.ConfigurableHTTPProxy.command]

if not options["logins"]:
    c.JupyterHub.authenticator_class = "dummy"
    c.DummyAuthenticator.password = options["password"]
    c.Authenticator.allow_all = True

# Requests that start a server are answered at once; the tests read the progress stream.
c.JupyterHub.tornado_settings["slow_spawn_timeout"] = 0
c.JupyterHub.services.append({"name": "test", "api_token": options["token"]})
c.JupyterHub.load_roles.append(
    {
        "name": "test-service",
        "services": ["test"],
        "scopes": [
            *("admin:users", "admin:groups", "admin:servers", "tokens", "access:servers"),
            *("list:users", "groups"),
            *("read:hub", "read:metrics", "shutdown", "proxy"),
        ],
    }
)
for section, values in options["config"].items():
    c[section].update(values)
