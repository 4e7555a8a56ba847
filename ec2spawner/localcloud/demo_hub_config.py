"""The demo's hub: the real configuration, and what makes it a demo.

JupyterHub reads this file; it is not imported. It listens on loopback only: unless a login
provider is chosen, everybody may come in with the same password.
"""

import os
import sys

load_subconfig(os.environ["EC2SPAWNER_DEMO_BASE_CONFIG"])  # type: ignore[name-defined]  # noqa: F821
c = get_config()  # type: ignore[name-defined]  # noqa: F821

c.JupyterHub.bind_url = f"http://127.0.0.1:{os.environ['EC2SPAWNER_DEMO_PORT']}"
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{os.environ['EC2SPAWNER_DEMO_PROXY_PORT']}"
c.ConfigurableHTTPProxy.command = [
    *(sys.executable, "-m", "ec2spawner.localcloud.demo_child", str(os.getpid())),
    *c.ConfigurableHTTPProxy.command,
]

if c.JupyterHub.authenticator_class == "null":  # instance_config.json chooses none
    c.JupyterHub.authenticator_class = "dummy"
    c.DummyAuthenticator.password = "demo"  # noqa: S105 - the demo prints it
    c.Authenticator.allow_all = True
    c.Authenticator.admin_users = {"admin"}
elif not c.JupyterHub.public_url:
    address = os.environ["EC2SPAWNER_DEMO_ADDRESS"]
    c.OAuthenticator.oauth_callback_url = f"{address}/hub/oauth_callback"

if own := os.environ["EC2SPAWNER_DEMO_OWN_CONFIG"]:
    load_subconfig(own)  # type: ignore[name-defined]  # noqa: F821
