"""What the hub's own machine, the manager, needs besides the hub: data, secrets, TLS, backups."""

from pathlib import Path

HUB_CONFIG = str(Path(__file__).with_name("hub_config.py"))
"""For ``load_subconfig`` in the operator's own jupyterhub_config.py."""
