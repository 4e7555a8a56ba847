"""How people come in: what of it is set, what the hub lacks for it, and the words for that. Pure.

Owns what ``up``, ``doctor`` and ``plan`` say of AUTHENTICATOR, ADMIN_USERS and the OAuth
application's id and secret. Must not call AWS, nor know what a provider is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ec2spawner.oauthclient import ID_PARAMETER, ID_VARIABLE, SECRET_PARAMETER, SECRET_VARIABLE
from ec2spawner.people import OAUTH_AUTHENTICATORS
from ec2spawner.settings import INSTANCE_CONFIG_NAME

from .answering import Site, Want
from .facts import Facts
from .hosting import lives
from .planning import Finding, in_the_file
from .request import UpRequest

WANTED = "waits for the OAuth id and secret"
"""For a line of progress, which has little room."""


def client_parameters(cluster: str) -> tuple[str, str]:
    """The SSM parameters in which a manager's hub looks for its id and secret."""
    return ID_PARAMETER.format(cluster), SECRET_PARAMETER.format(cluster)


@dataclass(frozen=True)
class Entry:
    """What is set of logins; ``lacks``: SSM parameters of the OAuth client that are missing."""

    cluster: str
    region: str
    authenticator: str = ""
    has_admins: bool = False
    lacks: tuple[str, ...] = ()

    @property
    def is_shut(self) -> bool:
        """Whether the hub does not start, unless it has the client in its environment."""
        return self.authenticator in OAUTH_AUTHENTICATORS and bool(self.lacks)

    @property
    def commands(self) -> list[str]:
        """What puts the parameters that are missing."""
        values = dict(
            zip(client_parameters(self.cluster), ("ID", "file://secret.txt"), strict=True)
        )
        return [
            f"aws ssm put-parameter --region {self.region} --type SecureString --name {name}"
            f" --value {values[name]}"
            for name in self.lacks
        ]


def entry_of(request: UpRequest, facts: Facts) -> Entry:
    """What the cluster has, or will have."""
    return Entry(
        request.cluster,
        request.choices.REGION,
        in_the_file("AUTHENTICATOR", request, facts),
        bool(in_the_file("ADMIN_USERS", request, facts)),
        facts.manager.lacks if facts.manager else (),
    )


def want_of(entry: Entry, site: Site) -> Want | None:
    """What the hub at ``site`` cannot start without; None: nothing is missing."""
    if not entry.is_shut:
        return None
    point = f"Let {site.domain} point to {site.address} (an A record)."
    lines = (
        f"The hub needs the id and secret of an OAuth application ({entry.authenticator}), and SSM"
        " does not have them.",
        f"Address: {site.address}",
        *([point] if site.domain else []),
        f"OAuth callback URL: {site.callback}",
        "Register the application with it, and put what it gives (the secret by a file"
        " secret.txt), in another terminal:",
        *(f"  {command}" for command in entry.commands),
        "The hub comes up by itself within a minute after that.",
    )
    next_step = (
        f"The OAuth application's client is missing. Register one with the callback URL"
        f" {site.callback}, and put its id and secret: {'; '.join(entry.commands)}. Then run the"
        " same command again: it waits on."
    )
    return Want(WANTED, lines, next_step)


def of_client(request: UpRequest, facts: Facts) -> Iterator[Finding]:
    """A client that is missing; nothing stands in the way of a launch by that."""
    entry = entry_of(request, facts)
    if request.manager is None or not entry.is_shut:
        return
    when = "`up` prints its callback URL before it waits for the hub; then put them:"
    if lives(facts.manager):
        when = "A manager that is there goes back to its former settings without it. Put them now:"
    yield Finding(
        f"The OAuth client of AUTHENTICATOR {entry.authenticator}",
        f"is missing in SSM ({', '.join(entry.lacks)}): the hub does not start without, unless"
        f" {ID_VARIABLE} and {SECRET_VARIABLE} are in its environment",
        f"{when} {'; '.join(entry.commands)}",
    )


def first_things(entry: Entry, site: Site) -> list[str]:
    """What to do before anybody can log in at a hub that answers; []: nothing."""
    unset = [] if entry.authenticator else ["AUTHENTICATOR"]
    unset += [] if entry.has_admins else ["ADMIN_USERS"]
    if not unset:
        return []
    why = "nobody is an admin" if entry.authenticator else "nobody can log in"
    things = [f"Set {' and '.join(unset)} in {INSTANCE_CONFIG_NAME}: until then {why}."]
    if entry.lacks and not entry.authenticator:
        things.append(
            f"Register an OAuth application with the callback URL {site.callback}, and put its id"
            f" and secret into SSM: {'; '.join(entry.commands)}"
        )
    return [*things, f"Then run again: launch-cluster up {entry.cluster}"]
