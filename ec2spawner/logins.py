"""Login by GitHub, Google, CILogon or another provider of OpenID Connect, as this hub does it.

Owns who comes in, what becomes of a provider's groups, and the words where a login fails; the
protocol is oauthenticator's. Nothing that a provider handed out is kept: no token is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from jupyterhub.auth import DummyAuthenticator
from oauthenticator.cilogon import CILogonOAuthenticator
from oauthenticator.generic import GenericOAuthenticator
from oauthenticator.github import GitHubOAuthenticator
from oauthenticator.google import GoogleOAuthenticator
from oauthenticator.oauth2 import OAuthCallbackHandler
from tornado.httpclient import HTTPClientError
from tornado.web import HTTPError
from traitlets import Dict, List, Set, Unicode

from .admission import HANDLERS
from .errors import ConfigError
from .hubconfig import exit_with
from .loginconfig import check_loopback, hub_address, is_vouched_for
from .memberships import Memberships, Standing, groups_after, is_admitted, standing_of

AUTH_MODEL_KEY = "ec2spawner"
DENIED_BY_PERSON = "access_denied"  # RFC 6749, section 4.1.2.1
UNFORESEEN = (HTTPError, OSError, LookupError, AttributeError, TypeError, ValueError)
"""How oauthenticator fails at an answer that has another form than it takes for granted. The text
of such an error may hold the answer, and so a token: it is neither shown nor logged."""
MEMBER, NOT_MEMBERS = 204, (302, 404)
"""GitHub REST API, "Check organization membership for a user", 2022-11-28."""


class LoginProblem(HTTPError):
    """A login that did not come through: what people read, and what stands in the log."""

    def __init__(self, status: int, what: str, next_step: str, log: str = "") -> None:
        # The reason, which is the page's heading, would else be what is meant for the log.
        super().__init__(status, "%s", log or what, reason="Not logged in")
        self.jupyterhub_message = f"{what} {next_step}"


class ProviderFailed(LoginProblem):
    """A provider that did not say who somebody is: away, slow, or out of its mind."""

    def __init__(self, service: str, why: str) -> None:
        super().__init__(
            503,
            f"{service} could not tell this hub who you are.",
            "Nothing is lost. Try again in a minute; if it goes on, tell the people who run this"
            " hub.",
            f"Login failed: {service}: {why}",
        )


class CallbackHandler(OAuthCallbackHandler):  # type: ignore[misc]  # no types there
    """Where people come back to from the provider."""

    def check_error(self) -> None:
        """Say what happened in words of ours: whose page is shown must not be the provider's."""
        error = self.get_argument("error", "")
        if error == DENIED_BY_PERSON:
            service = self.authenticator.login_service
            raise LoginProblem(
                403,
                f"{service} was not allowed to tell this hub who you are.",
                "Log in again, and agree when it asks.",
            )
        if error:
            raise ProviderFailed(self.authenticator.login_service, repr(error[:100]))

    def check_state(self) -> None:
        """A login belongs to the browser that began it."""
        try:
            super().check_state()
        except HTTPError as error:
            raise LoginProblem(
                400,
                "This login was begun in another window or too long ago.",
                "Log in again.",
                str(error),
            ) from None

    def _request_summary(self) -> str:
        # What tornado writes into the log of a request that failed; the query has the code.
        return f"{self.request.method} {self.request.path} ({self.request.remote_ip})"

    async def auth_to_user(self, authenticated: Mapping[str, Any], user: Any = None) -> Any:
        """Put whoever came in into the groups that the provider names."""
        standing, memberships = authenticated[AUTH_MODEL_KEY]
        if self.find_user(authenticated["name"]):  # an admin may have added somebody meanwhile
            standing = replace(standing, is_known=True)
        user = await super().auth_to_user(authenticated, user)
        before = [group.name for group in user.groups]
        provider = self.authenticator.provider
        user.sync_groups(groups_after(provider, before, standing, memberships))
        return user


class Admitting:
    """What the authenticators here share; comes before oauthenticator's class.

    Whom the hub knows is looked up at each login, so that somebody whom an admin has removed, or
    whose membership alone brought him here and has ended, does not come in.
    """

    callback_handler = CallbackHandler
    provider = ""

    def get_handlers(self, app: Any) -> list[Any]:
        """Those of the login, and those by which an admin adds people."""
        return [*super().get_handlers(app), *HANDLERS]  # type: ignore[misc]

    async def add_user(self, user: Any) -> None:
        """As JupyterHub does; but of hundreds that an admin adds at once, others get a turn."""
        super().add_user(user)  # type: ignore[misc]
        await asyncio.sleep(0)

    @property
    def _service(self) -> str:
        return str(self.login_service)  # type: ignore[attr-defined]

    async def memberships(self, auth_model: Mapping[str, Any]) -> Memberships:
        """What the provider says."""
        raise NotImplementedError

    async def authenticate(self, handler: Any, data: Any = None, **more: Any) -> Any:
        """As oauthenticator does, and with what the decision needs."""
        try:
            auth_model = await super().authenticate(handler, data, **more)  # type: ignore[misc]
        except LoginProblem:
            raise
        except HTTPClientError as error:
            raise ProviderFailed(self._service, str(error.code)) from None
        except UNFORESEEN as error:
            raise ProviderFailed(self._service, type(error).__name__) from None
        user = handler.find_user(auth_model["name"])
        standing = standing_of(user and [group.name for group in user.groups])
        auth_model[AUTH_MODEL_KEY] = (standing, await self.memberships(auth_model))
        return auth_model

    async def check_allowed(self, username: str, auth_model: Mapping[str, Any]) -> bool:
        """Whether this person comes in; a 403 that says who it is if not."""
        if await super().check_allowed(username, auth_model):  # type: ignore[misc]
            return True
        standing: Standing
        memberships: Memberships
        standing, memberships = auth_model[AUTH_MODEL_KEY]
        if is_admitted(standing, memberships):
            return True
        if memberships.unknown:
            raise LoginProblem(
                503,
                f"{self._service} does not say at the moment which groups you are in.",
                "Nothing is lost. Try again in a minute.",
            )
        raise LoginProblem(
            403,
            f"{self._service} says that you are {username}, and this hub does not know that name.",
            "Ask the people who run this hub to add it.",
            f"{username!r} is not known here",
        )

    def check_verified(self, address: str, auth_model: Mapping[str, Any], claim: str) -> None:
        """An address that nobody has verified could be anybody's."""
        if self.user_info(auth_model).get(claim) is not True:
            raise LoginProblem(
                403,
                f"{self._service} has not verified your address {address}.",
                "Verify it there, and log in again.",
            )

    def user_info(self, auth_model: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the provider said of the person."""
        info: Mapping[str, Any] = auth_model["auth_state"][self.user_auth_state_key]  # type: ignore[attr-defined]
        return info


class GitHubLogin(Admitting, GitHubOAuthenticator):  # type: ignore[misc]
    """GitHub; members of organisations and teams come in."""

    provider = "github"
    organizations = Set(
        Unicode(), help="Organisations, and teams as organisation:team, whose members come in."
    ).tag(config=True)

    async def memberships(self, auth_model: Mapping[str, Any]) -> Memberships:
        """One request an organisation or team, all at once."""
        names = sorted(self.organizations)
        said = await asyncio.gather(*(self._is_member(auth_model, name) for name in names))
        groups = frozenset(name for name, is_in in zip(names, said, strict=True) if is_in)
        unknown = frozenset(name for name, is_in in zip(names, said, strict=True) if is_in is None)
        return Memberships(groups, unknown, groups)

    async def _is_member(self, auth_model: Mapping[str, Any], name: str) -> bool | None:
        """None where GitHub does not say."""
        organization, _, team = name.partition(":")
        login = quote(str(self.user_info(auth_model)["login"]), safe="")
        inside = f"/teams/{team}" if team else ""
        token = auth_model["auth_state"]["token_response"]
        try:
            answer = await self.httpfetch(
                f"{self.github_api}/orgs/{organization}{inside}/members/{login}",
                parse_json=False,
                raise_error=False,
                follow_redirects=False,  # GitHub's word for: you are not in it yourself
                headers=self.build_userdata_request_headers(
                    token["access_token"], token["token_type"]
                ),
                validate_cert=self.validate_server_cert,
            )
        except (OSError, HTTPClientError):
            return None
        if answer.code not in (MEMBER, *NOT_MEMBERS):
            self.log.warning("GitHub does not tell members of %s: %s", name, answer.code)
            return None
        return bool(answer.code == MEMBER)


class GoogleLogin(Admitting, GoogleOAuthenticator):  # type: ignore[misc]
    """Google; members of a Workspace domain come in. A user's name is the whole address."""

    provider = "google"
    member_domains = Set(Unicode(), help="Google Workspace domains whose members come in.").tag(
        config=True
    )

    async def memberships(self, auth_model: Mapping[str, Any]) -> Memberships:
        """By the ``hd`` claim, which Google sets; an address may have any domain."""
        domain = str(self.user_info(auth_model).get("hd", "")).lower()
        groups = frozenset({domain} & self.member_domains)
        return Memberships(groups, admitting=groups)

    async def check_allowed(self, username: str, auth_model: Mapping[str, Any]) -> bool:
        """Only by an address that Google has verified."""
        self.check_verified(username, auth_model, "verified_email")
        return bool(await super().check_allowed(username, auth_model))


class CILogonLogin(Admitting, CILogonOAuthenticator):  # type: ignore[misc]
    """CILogon; people of an institution come in."""

    provider = "cilogon"

    def user_info_to_username(self, user_info: Mapping[str, Any]) -> str:
        """By the institution's claim; of another institution nobody comes in."""
        institution = user_info.get("idp")
        if institution not in self.idps:
            raise LoginProblem(
                403,
                "The institution that you chose is not one from which people come to this hub.",
                "Log in again and choose another, or ask the people who run this hub.",
                f"CILogon: {institution!r} is not in CILOGON_PROVIDERS",
            )
        name = str(super().user_info_to_username(user_info))
        if not is_vouched_for(name, str(institution), self.domains):
            raise LoginProblem(
                403,
                f"Your institution says that you are {name}, which is not a name that it gives.",
                "Ask the people who run this hub.",
                f"CILogon: {name!r} is not of the DOMAINS of {institution!r}, or is of another's",
            )
        return name

    domains = Dict(
        value_trait=List(Unicode()), help="By EntityID, what may stand after the @ of a name."
    ).tag(config=True)
    open_institutions = Set(
        Unicode(), help="EntityIDs of institutions of which everybody comes in."
    ).tag(config=True)

    async def memberships(self, auth_model: Mapping[str, Any]) -> Memberships:
        """By the institution that vouches for the person."""
        institution = frozenset({str(self.user_info(auth_model)["idp"])})
        return Memberships(institution, admitting=institution & self.open_institutions)


class OIDCLogin(Admitting, GenericOAuthenticator):  # type: ignore[misc]
    """Any other provider of OpenID Connect; members of its groups come in."""

    provider = "oidc"
    groups_claim = Unicode("", help="Claim that lists a person's groups.").tag(config=True)
    member_groups = Set(Unicode(), help="Of these groups, members come in.").tag(config=True)

    async def memberships(self, auth_model: Mapping[str, Any]) -> Memberships:
        """By a claim, where one is named."""
        said = self.user_info(auth_model).get(self.groups_claim, []) if self.groups_claim else []
        listed = [said] if isinstance(said, str) else said if isinstance(said, list) else []
        groups = frozenset(group for group in listed if isinstance(group, str) and group)
        return Memberships(groups, admitting=groups & self.member_groups)

    async def check_allowed(self, username: str, auth_model: Mapping[str, Any]) -> bool:
        """Where the name is an address, only of one that was verified."""
        if self.username_claim == "email":
            self.check_verified(username, auth_model, "email_verified")
        return bool(await super().check_allowed(username, auth_model))


class LoopbackLogin(DummyAuthenticator):  # type: ignore[misc]
    """Everybody by any name, for trying things out; the hub does not start where others reach it.

    It is looked at here, and not only in the cluster's configuration, since one of the operator's
    own may set another address after that.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        hub = self.parent
        served = {
            "JupyterHub.bind_url": hub.bind_url,
            "JupyterHub.public_url": hub.public_url,
            "the hub's own port": hub_address(hub.hub_bind_url, hub.hub_ip),
        }
        try:
            check_loopback(served)
        except ConfigError as error:
            exit_with(error)
