"""JupyterHub's configuration of logins, from a cluster's choices. Pure.

Owns which authenticator is taken, its settings, the callback address, and what is refused. Must
not know where id and secret come from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ec2spawner.addresses import is_loopback
from ec2spawner.errors import ConfigError
from ec2spawner.oauthclient import OAuthClient
from ec2spawner.people import OAUTH_AUTHENTICATORS, PeopleChoices

CALLBACK_PATH = "/hub/oauth_callback"
REQUEST_SECONDS = 10
"""Longest that the hub waits for one answer of a provider; somebody looks at a blank page."""

DUMMY_LETS = "It lets everybody in by any name."

Sections = dict[str, dict[str, Any]]


def is_oauth(choices: PeopleChoices) -> bool:
    """Whether logins need the id and secret of an OAuth application."""
    return choices.AUTHENTICATOR in OAUTH_AUTHENTICATORS


def callback_url(public_url: str) -> str:
    """What the OAuth application must be told; "" where the hub's address is not known."""
    return public_url.rstrip("/") + CALLBACK_PATH if public_url else ""


def login_sections(choices: PeopleChoices, client: OAuthClient | None, public_url: str) -> Sections:
    """Sections of JupyterHub's configuration. Raises ConfigError."""
    if is_oauth(choices):
        return _oauth_sections(choices, client, public_url)
    common = {"allow_existing_users": True, "admin_users": set(choices.ADMIN_USERS)}
    if choices.AUTHENTICATOR == "dummy":
        return {
            "JupyterHub": {"authenticator_class": "ec2spawner.logins.LoopbackLogin"},
            "Authenticator": {**common, "allow_all": True},
        }
    # Nobody comes in until a configuration of the operator's own says who somebody is.
    return {"JupyterHub": {"authenticator_class": "null"}, "Authenticator": common}


def _oauth_sections(
    choices: PeopleChoices, client: OAuthClient | None, public_url: str
) -> Sections:
    if client is None:
        raise ConfigError(
            f"The id and secret for the authenticator {choices.AUTHENTICATOR} are missing.",
            why="Neither OAUTH_CLIENT_ID and OAUTH_CLIENT_SECRET are set, nor the cluster's SSM"
            " parameters oauth-client-id and oauth-client-secret.",
            next_step="Register an OAuth application at the provider, with the callback address"
            f" {callback_url(public_url) or 'https://YOUR-HUB' + CALLBACK_PATH}, and put its id"
            " and secret there.",
        )
    name, own = _of_provider(choices)
    return {
        "JupyterHub": {"authenticator_class": f"ec2spawner.logins.{name}"},
        # Whom the hub knows is asked of its database by the authenticators here.
        "Authenticator": {
            "allow_existing_users": False,
            "any_allow_config": True,
            "admin_users": set(choices.ADMIN_USERS),
            "enable_auth_state": False,  # what a provider hands out is not kept
        },
        "OAuthenticator": {
            "client_id": client.id,
            "client_secret": client.secret,
            "oauth_callback_url": callback_url(public_url),
            "http_request_kwargs": {
                "connect_timeout": REQUEST_SECONDS,
                "request_timeout": REQUEST_SECONDS,
            },
        },
        name: own,
    }


def _of_provider(choices: PeopleChoices) -> tuple[str, dict[str, Any]]:
    if choices.AUTHENTICATOR == "github":
        organizations = set(choices.GITHUB_ORGANIZATIONS)
        scope = ["read:org"] if organizations else []
        return "GitHubLogin", {"organizations": organizations, "scope": scope}
    if choices.AUTHENTICATOR == "google":
        domains = set(choices.GOOGLE_HOSTED_DOMAINS)
        # "hosted_domain" would lock out whom an admin has named; the whole address is the name.
        return "GoogleLogin", {
            "member_domains": domains,
            "hosted_domain": [],
            "strip_domain": False,
        }
    if choices.AUTHENTICATOR == "cilogon":
        return "CILogonLogin", _of_cilogon(choices)
    return "OIDCLogin", _of_oidc(choices)


def _of_cilogon(choices: PeopleChoices) -> dict[str, Any]:
    providers = choices.CILOGON_PROVIDERS
    claims = {p.ENTITY_ID: {"username_claim": p.USERNAME_CLAIM} for p in providers}
    return {
        "idps": {id_: {"username_derivation": claim} for id_, claim in claims.items()},
        "open_institutions": {p.ENTITY_ID for p in providers if p.ALLOW_ALL},
        "domains": {p.ENTITY_ID: list(p.DOMAINS) for p in providers},
    }


def is_vouched_for(name: str, institution: str, domains: Mapping[str, Collection[str]]) -> bool:
    """Whether an institution may say that somebody is ``name``, by the domains of each.

    One without domains may have any name, but for those of a domain that is another's.
    """
    local, _, domain = name.lower().rpartition("@")
    own = domains.get(institution, ())
    if own:
        return bool(local) and domain in own
    return not any(domain in others for others in domains.values())


def _of_oidc(choices: PeopleChoices) -> dict[str, Any]:
    oidc = choices.OIDC
    assert oidc is not None  # noqa: S101 - the model sees to it
    return {
        "login_service": oidc.NAME,
        "authorize_url": oidc.AUTHORIZE_URL,
        "token_url": oidc.TOKEN_URL,
        "userdata_url": oidc.USERINFO_URL,
        "username_claim": oidc.USERNAME_CLAIM,
        "scope": list(oidc.SCOPES),
        "groups_claim": oidc.GROUPS_CLAIM,
        "member_groups": set(oidc.ALLOWED_GROUPS),
    }


def bind_url(choices: PeopleChoices) -> str:
    """Where users come to: everywhere, but for an authenticator that lets everybody in."""
    return "http://127.0.0.1:8000" if choices.AUTHENTICATOR == "dummy" else "http://:8000"


def check_manager(choices: PeopleChoices) -> None:
    """ConfigError if a manager's hub would let everybody in: the world comes to it, by Caddy."""
    if choices.AUTHENTICATOR == "dummy":
        raise ConfigError(
            "The authenticator dummy is refused on a manager.",
            why=DUMMY_LETS,
            next_step="Choose another AUTHENTICATOR.",
        )


def hub_address(hub_bind_url: str, hub_ip: str) -> str:
    """Where the hub's own port is served, log-in page and all, as a URL; JupyterHub's settings."""
    host = hub_ip or "::"  # JupyterHub takes "" for all addresses
    return hub_bind_url or (f"http://[{host}]" if ":" in host else f"http://{host}")


def check_loopback(addresses: Mapping[str, str]) -> None:
    """ConfigError if the authenticator dummy would be served where others reach it.

    ``addresses`` are the URLs under which the hub is served, by what says so; "" says nothing.
    """
    for what, url in addresses.items():
        if url and not is_loopback(url):
            raise ConfigError(
                f"The authenticator dummy is refused: {what} is {url}.",
                why=f"{DUMMY_LETS} That is not an address of this computer alone.",
                next_step="Choose another AUTHENTICATOR, or have bind_url and HUB_LISTEN_ADDRESS be"
                " 127.0.0.1.",
            )
