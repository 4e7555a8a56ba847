"""Who may come in and what people may do: keys of both configuration files.

Owns those keys, their bounds and defaults. Must not know the hub, nor how a provider is asked
(``logins`` does). No key holds a secret: the provider's id and secret come from elsewhere.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, JsonValue, ValidationInfo, field_validator

from .addresses import check_hub_url, is_loopback
from .configmodel import Frozen, a_number, a_text, check_shown
from .names import normalize, user_fault

AUTHENTICATORS = ("github", "google", "cilogon", "oidc", "dummy")
OAUTH_AUTHENTICATORS = AUTHENTICATORS[:-1]
UNIQUE_CLAIM = "eppn"
"""Of CILogon's claims, the one that two institutions do not have alike: the name with the
institution's own scope (cilogon.org/oidc, read 2026). Its ``sub`` is unique too, but an address,
which is no user's name."""
LIST_MAX = 100  # entries of a list of organisations, domains or admins

_GITHUB_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})"
_ORGANIZATION = rf"^{_GITHUB_NAME}(?::[A-Za-z0-9_][A-Za-z0-9_-]{{0,99}})?$"
_DOMAIN = r"^(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]$"
_CLAIM = r"^[\w:./-]{1,200}$"

_NATIVE = (
    'is refused: jupyterhub-nativeauthenticator 1.3 answers every login with "500" on JupyterHub 6'
)
_YES_OR_NO: dict[str, JsonValue] = {"x-instead": "true or false, without quotes"}


def _provider_url(value: str) -> str:
    check_hub_url(value)
    if not value.startswith("https://") and not is_loopback(value):
        raise ValueError("is not an https:// address: who is who must not be read on its way")
    return value


class OIDCProvider(Frozen):
    """A login service that speaks OpenID Connect."""

    NAME: str = Field(
        "your university account",
        min_length=1,
        max_length=60,
        description='What the button says after "Sign in with".',
    )
    AUTHORIZE_URL: str = Field(description="Where people are sent to log in.")
    TOKEN_URL: str = Field(description="Where the hub exchanges the code that they come back with.")
    USERINFO_URL: str = Field(description="Where the hub asks who they are.")
    USERNAME_CLAIM: str = Field(
        pattern=_CLAIM,
        description="Claim that is the user's name here, for example preferred_username or email."
        " It must be one that people cannot choose for themselves at this provider, and that is"
        " never given to another.",
    )
    SCOPES: tuple[Annotated[str, Field(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]{1,200}$")], ...] = Field(
        ("openid", "email", "profile"),
        min_length=1,
        max_length=LIST_MAX,
        description="What the hub asks the provider for.",
    )
    GROUPS_CLAIM: str = Field(
        "",
        pattern=r"^[\w:./-]{0,200}$",
        description="Claim that lists a person's groups; each becomes a group of the hub named"
        ' "oidc:" and its name.',
    )
    ALLOWED_GROUPS: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        default=(),
        max_length=LIST_MAX,
        description="Groups, as GROUPS_CLAIM lists them, whose members may come in.",
    )

    @field_validator("NAME")
    @classmethod
    def _is_read(cls, value: str) -> str:
        return check_shown(value)

    @field_validator("AUTHORIZE_URL", "TOKEN_URL", "USERINFO_URL")
    @classmethod
    def _is_url(cls, value: str) -> str:
        return _provider_url(value)

    @field_validator("ALLOWED_GROUPS")
    @classmethod
    def _can_be_seen(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if value and not info.data.get("GROUPS_CLAIM"):
            raise ValueError("is set, and GROUPS_CLAIM is not")
        return value


class CILogonProvider(Frozen):
    """An institution that people may come from by way of CILogon."""

    ENTITY_ID: str = Field(
        pattern=r"^(https?://|urn:)\S{1,300}$",
        description="Its EntityID, from https://cilogon.org/idplist.",
    )
    USERNAME_CLAIM: str = Field(
        "eppn",
        pattern=_CLAIM,
        description='Claim that is the user\'s name here, or "email". With several institutions,'
        " one that no two of them have alike: eppn, or any with DOMAINS.",
    )
    DOMAINS: tuple[str, ...] = Field(
        default=(),
        max_length=LIST_MAX,
        description="What may stand after the @ in a name from it. No other institution's people"
        " come in by such a name. Empty: whatever no other one has.",
    )
    ALLOW_ALL: bool = Field(
        default=False,
        description="Whether everybody of it may come in; else those whom the hub knows.",
    )

    @field_validator("USERNAME_CLAIM")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if value == "sub":
            raise ValueError("is sub, which is an address at CILogon and no user's name: take eppn")
        return value

    @field_validator("DOMAINS")
    @classmethod
    def _are_domains(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _all_like(_DOMAIN, tuple(domain.lower() for domain in value))


class PeopleChoices(Frozen):
    """What the operator chooses about people."""

    AUTHENTICATOR: str = a_text(
        "",
        None,
        f'"" (nobody can log in until a configuration of your own says how) or one of'
        f" {', '.join(AUTHENTICATORS)}",
        "How people log in. github, google, cilogon and oidc (any other provider of OpenID Connect)"
        " need the id and secret of an OAuth application, in OAUTH_CLIENT_ID and"
        " OAUTH_CLIENT_SECRET of the hub's environment or in SSM. dummy lets everybody in by any"
        " name and is refused on an address that is not loopback.",
    )
    PUBLIC_URL: str = a_text(
        "",
        None,
        'the address in the browser, for example "https://hub.example.org", or "" if a manager'
        " with --domain serves it",
        "Under which address people reach the hub. The callback address of the OAuth application is"
        " this with /hub/oauth_callback.",
    )
    ADMIN_USERS: tuple[str, ...] = Field(
        default=(),
        max_length=LIST_MAX,
        description="Users who are admins from the start; they can name others in the hub's panel.",
        json_schema_extra={"x-instead": 'a list of names, for example ["ann", "bob@example.org"]'},
    )
    ADMIN_ACCESS: bool = Field(
        default=False,
        description="Whether admins may enter a user's server and make tokens in a user's name.",
        json_schema_extra=_YES_OR_NO,
    )
    GITHUB_ORGANIZATIONS: tuple[str, ...] = Field(
        default=(),
        max_length=LIST_MAX,
        description="GitHub organisations and teams whose members may come in; each becomes a group"
        ' of the hub, such as "github:uni-bio:lab".',
        json_schema_extra={
            "x-instead": 'a list such as ["uni-bio", "uni-chem:lab"]: an organisation, or'
            " organisation:team as in the team's address"
        },
    )
    GOOGLE_HOSTED_DOMAINS: tuple[str, ...] = Field(
        default=(),
        max_length=LIST_MAX,
        description="Google Workspace domains whose members may come in; each becomes a group of"
        ' the hub, such as "google:example.org".',
        json_schema_extra={"x-instead": 'a list of domains, for example ["example.org"]'},
    )
    CILOGON_PROVIDERS: tuple[CILogonProvider, ...] = Field(
        default=(),
        max_length=LIST_MAX,
        description="Institutions that people may come from by way of CILogon. See the table"
        " below.",
        json_schema_extra={
            "x-instead": 'a list such as [{"ENTITY_ID": "https://idp.example.org/shibboleth",'
            ' "ALLOW_ALL": true}]'
        },
    )
    OIDC: OIDCProvider | None = Field(
        default=None,
        description="The provider of the authenticator oidc. See the table below.",
        json_schema_extra={
            "x-instead": 'an object such as {"NAME": "Example University", "AUTHORIZE_URL":'
            ' "https://login.example.org/authorize", "TOKEN_URL":'
            ' "https://login.example.org/token", "USERINFO_URL":'
            ' "https://login.example.org/userinfo", "USERNAME_CLAIM": "preferred_username"}'
        },
        validate_default=True,
    )
    NAMED_SERVERS_MAX: int = a_number(
        4, 0, 100, "", "Servers, each a machine of its own, that a user may have besides the usual."
    )
    STARTS_PER_MINUTE: int = a_number(
        6,
        1,
        100,
        "",
        "Starts of servers that a user may ask for within a minute; admins may ask for more.",
    )
    KEEP_ALIVE_MAX_HOURS: int = a_number(
        12,
        0,
        7 * 24,
        "hours",
        "For how long a user may keep an idle machine up, from the hub's home page; 0: not at all.",
    )
    SUBDOMAINS: bool = Field(
        default=False,
        description="Whether each user's server has a host name of its own below PUBLIC_URL's, so"
        " that no page of a user's can act as another user. Needs a certificate and a DNS record"
        " for *.that-name.",
        json_schema_extra=_YES_OR_NO,
    )

    @field_validator("AUTHENTICATOR")
    @classmethod
    def _is_an_authenticator(cls, value: str) -> str:
        if value == "native":
            raise ValueError(_NATIVE)
        if value and value not in AUTHENTICATORS:
            raise ValueError("is not an authenticator that is known here")
        return value

    @field_validator("PUBLIC_URL")
    @classmethod
    def _is_public_url(cls, value: str) -> str:
        if not value:
            return value
        check_hub_url(value)
        if value.count("/") > 2:
            raise ValueError("has a path; the hub has the whole host")
        return value

    @field_validator("ADMIN_USERS")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(normalize(name) for name in value)
        for name in names:
            if fault := user_fault(name):
                raise ValueError(f"has {name[:40]!r}, which cannot be a user's name: it {fault}")
        return names

    @field_validator("GITHUB_ORGANIZATIONS")
    @classmethod
    def _are_organizations(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _all_like(_ORGANIZATION, value)

    @field_validator("GOOGLE_HOSTED_DOMAINS")
    @classmethod
    def _are_domains(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _all_like(_DOMAIN, tuple(domain.lower() for domain in value))

    @field_validator("CILOGON_PROVIDERS")
    @classmethod
    def _differ_by_id(cls, value: tuple[CILogonProvider, ...]) -> tuple[CILogonProvider, ...]:
        ids = [provider.ENTITY_ID for provider in value]
        if doubles := sorted({one for one in ids if ids.count(one) > 1}):
            raise ValueError(f"names {doubles[0]!r} twice")
        for one in value if len(value) > 1 else ():
            if one.USERNAME_CLAIM != UNIQUE_CLAIM and not one.DOMAINS:
                raise ValueError(
                    f"has several, and {one.USERNAME_CLAIM} of {one.ENTITY_ID!r} may be the name of"
                    " somebody else's at another: take eppn, or name the institution's DOMAINS"
                )
        return value

    @field_validator("OIDC")
    @classmethod
    def _goes_with_oidc(
        cls, value: OIDCProvider | None, info: ValidationInfo
    ) -> OIDCProvider | None:
        if value is None and info.data.get("AUTHENTICATOR") == "oidc":
            raise ValueError("is missing for the authenticator oidc")
        return value


def _all_like(pattern: str, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"has {value[:60]!r}, which does not have the form that is needed")
    return values
