"""The hub on the manager: the cluster's configuration, and what is so on every manager.

JupyterHub reads this file by way of /etc/jupyterhub/jupyterhub_config.py; it is not imported.
The proxy is a service of its own here: a restart of the hub drops no connection.
"""

import os
import sys
from functools import partial
from pathlib import Path

from ec2spawner import hubconfig, loginconfig, oauthclient
from ec2spawner.cloud import Gateway
from ec2spawner.errors import EC2SpawnerError
from ec2spawner.manager import SHIPPED_CONFIG, place
from ec2spawner.settings import find_server_config, load_server_config

try:
    manager = place.Manager.of(os.environ)
    cluster, _ = load_server_config(find_server_config(os.environ, Path(SHIPPED_CONFIG)))
    loginconfig.check_manager(cluster)
    client = oauthclient.client_now(partial(Gateway, manager.region), manager.cluster)
except EC2SpawnerError as error:
    hubconfig.exit_with(error)

# Last, so that a hub that cannot be does not begin to look after its machines.
load_subconfig(SHIPPED_CONFIG)  # type: ignore[name-defined]  # noqa: F821
c = get_config()  # type: ignore[name-defined]  # noqa: F821

# ec2spawner-proxy.service listens for Caddy on loopback; its token comes by the environment.
c.JupyterHub.bind_url = "http://{}:{}".format(*place.PUBLIC_PROXY)
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = place.PROXY_API_URL
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False

# Caddy says who asks, and whether by HTTPS; it hears nothing of that from outside.
c.JupyterHub.trusted_downstream_ips = ["127.0.0.1", "::1"]
if c.JupyterHub.public_url:
    c.OAuthenticator.oauth_callback_url = loginconfig.callback_url(c.JupyterHub.public_url)

# By this the launch command sees that an upgrade is done.
if release := place.release_in(Path(sys.prefix)):
    c.JupyterHub.tornado_settings.update({"headers": {place.RELEASE_HEADER: release}})

# On the data volume, which outlives this machine.
hub_folder = place.DATA / place.HUB_FOLDER
c.JupyterHub.cookie_secret_file = str(hub_folder / place.COOKIE_SECRET)
c.JupyterHub.db_url = place.database_url(os.environ)
c.JupyterHub.upgrade_db = True  # upgrade.sh has made a copy before

if client:
    c.OAuthenticator.client_id = client.id
    c.OAuthenticator.client_secret = client.secret
