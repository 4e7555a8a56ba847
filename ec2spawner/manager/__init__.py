"""What the hub's own machine, the manager, needs besides the hub: data, secrets, TLS, backups."""

from pathlib import Path

HUB_CONFIG = str(Path(__file__).with_name("hub_config.py"))
"""For ``load_subconfig`` in the operator's own jupyterhub_config.py."""

SHIPPED_CONFIG = str(Path(__file__).with_name("jupyterhub_config.py"))
"""The one at the top of the checkout, as it lies in the wheel: here, it is a link to it."""
