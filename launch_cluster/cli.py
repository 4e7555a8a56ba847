"""The command line ``launch-cluster``: its sub-commands, each in a module of ``commands``."""

from __future__ import annotations

import click

from ec2spawner.version import __version__

from .commands.cost import cost
from .commands.down import down
from .commands.image import image
from .commands.plan import plan
from .commands.status import status
from .commands.terminate_workers import terminate_workers
from .commands.up import up
from .commands.users import users

COMMANDS = (up, plan, status, image, cost, users, terminate_workers, down)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="ec2spawner")
def main() -> None:
    """Build, change and end a JupyterHub cluster on EC2.

    AWS credentials come from the standard chain (environment, profile, role).
    """


for _command in COMMANDS:
    main.add_command(_command)
