"""Logins by Google, CILogon and a university's OpenID Connect: by which claims people come in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from .clouds import Cloud
from .hubs import Hub
from .processes import Nursery
from .providers import OIDCProvider
from .visitors import Visitor, words_of

BY_MAIL = {"USERNAME_CLAIM": "email", "DOMAINS": ["mail.example"]}
IDP, OTHER_IDP = "https://idp.example.org/shibboleth", "https://idp.example.net/shibboleth"


@pytest.fixture(scope="module")
def provider(folder: Path) -> Iterator[OIDCProvider]:
    provider = OIDCProvider(folder / "oidc")
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def make_hub(stub_cloud: Cloud, folder: Path, nursery: Nursery) -> Iterator[Callable[..., Hub]]:
    hubs: list[Hub] = []

    def make(authenticator: str, config: dict[str, Any], **choices: Any) -> Hub:
        hub = Hub(stub_cloud, folder / f"{authenticator}-hub", nursery)
        hub.choices |= {"AUTHENTICATOR": authenticator, "PUBLIC_URL": hub.url, **choices}
        hub.config |= config
        hub.environment = {"OAUTH_CLIENT_ID": "client", "OAUTH_CLIENT_SECRET": "secret"}
        hubs.append(hub)
        return hub.start()

    yield make
    for hub in hubs:
        hub.close()


def urls_of(provider: OIDCProvider) -> dict[str, str]:
    return {
        "authorize_url": f"{provider.url}/oauth2/authorize",
        "token_url": f"{provider.url}/oauth2/token",
        "userdata_url": f"{provider.url}/userinfo",
    }


@pytest.fixture(scope="module")
def google(make_hub: Callable[..., Hub], provider: OIDCProvider) -> Hub:
    seconds = {"connect_timeout": 1.0, "request_timeout": 1.0}
    config = {"GoogleLogin": {**urls_of(provider), "http_request_kwargs": seconds}}
    return make_hub("google", config, GOOGLE_HOSTED_DOMAINS=["Uni.example"])


@pytest.fixture(scope="module")
def cilogon(make_hub: Callable[..., Hub], provider: OIDCProvider) -> Hub:
    providers = [
        {"ENTITY_ID": IDP, "ALLOW_ALL": True},
        {"ENTITY_ID": f"{IDP}/guests"},
        {"ENTITY_ID": f"{IDP}/mail", "ALLOW_ALL": True, **BY_MAIL},
    ]
    return make_hub("cilogon", {"CILogonLogin": urls_of(provider)}, CILOGON_PROVIDERS=providers)


@pytest.fixture(scope="module")
def oidc(make_hub: Callable[..., Hub], provider: OIDCProvider) -> Hub:
    keys = {"AUTHORIZE_URL": "authorize_url", "TOKEN_URL": "token_url"}
    urls = {key: urls_of(provider)[name] for key, name in keys.items()}
    choices = {
        **urls,
        "USERINFO_URL": f"{provider.url}/userinfo",
        "NAME": "Example University",
        "USERNAME_CLAIM": "email",
        "GROUPS_CLAIM": "member_of",
        "ALLOWED_GROUPS": ["staff"],
    }
    return make_hub("oidc", {}, OIDC=choices)


def enter(hub: Hub, person: str | None) -> tuple[Visitor, requests.Response]:
    """Somebody logs in, and says yes at the provider; None says no."""
    visitor = Visitor(hub)
    form = visitor.log_in("/hub/token")
    assert form.status_code == 200, form.text
    answer = {"sub": person} if person else {"action": "deny"}
    return visitor, visitor.session.post(form.url, data=answer, timeout=20)


def status_of(hub: Hub, person: str | None) -> int:
    return enter(hub, person)[1].status_code


def groups_of(hub: Hub, name: str) -> list[str]:
    groups: list[str] = hub.api("GET", f"users/{name}").json()["groups"]
    return sorted(groups)


# ---- Google


def test_google_s_members_come_in_by_the_claim_that_google_sets(
    google: Hub, provider: OIDCProvider
) -> None:
    google_says = {"email": "ann@uni.example", "verified_email": True}
    provider.says("ann", **google_says, hd="uni.example")
    assert status_of(google, "ann") == 200
    assert groups_of(google, "ann@uni.example") == ["by-membership:google", "google:uni.example"]


@pytest.mark.parametrize("hd", [{}, {"hd": "other.example"}, {"hd": ""}, {"hd": None}])
def test_an_address_of_the_domain_is_not_enough(
    google: Hub, provider: OIDCProvider, hd: dict[str, Any]
) -> None:
    provider.says("eve", email="eve@uni.example", verified_email=True, **hd)
    visitor, answer = enter(google, "eve")
    assert answer.status_code == 403
    assert "Google says that you are eve@uni.example" in words_of(answer)
    assert not visitor.is_in()


def test_an_address_that_google_has_not_verified_is_nobody_s(
    google: Hub, provider: OIDCProvider
) -> None:
    google.api("POST", "users/bob@mail.example")
    provider.says("bob", email="bob@mail.example", verified_email=False, hd="uni.example")
    assert status_of(google, "bob") == 403
    provider.says("bob", email="bob@mail.example")
    assert status_of(google, "bob") == 403
    provider.says("bob", email="bob@mail.example", verified_email=True)
    assert status_of(google, "bob") == 200  # added by an admin, whatever the domain


def test_two_domains_never_share_a_name(google: Hub, provider: OIDCProvider) -> None:
    for domain in ("uni.example", "mail.example"):
        google.api("POST", f"users/kim@{domain}")
        provider.says(f"kim-{domain}", email=f"kim@{domain}", verified_email=True)
        visitor, _ = enter(google, f"kim-{domain}")
        assert visitor.api("GET", "user").json()["name"] == f"kim@{domain}"


def test_who_says_no_at_google_reads_what_to_do(google: Hub) -> None:
    answer = enter(google, None)[1]
    assert answer.status_code == 403
    assert "Google was not allowed to tell this hub who you are" in words_of(answer)


def test_a_google_that_does_not_answer_is_told_in_words(
    google: Hub, provider: OIDCProvider
) -> None:
    provider.says("ulf", email="ulf@mail.example", verified_email=True)
    google.api("POST", "users/ulf@mail.example")
    visitor = Visitor(google)
    form = visitor.log_in("/hub/token")
    back = visitor.session.post(form.url, data={"sub": "ulf"}, allow_redirects=False)
    provider.pause()
    try:
        answer = visitor.session.get(back.headers["Location"], timeout=20)
    finally:
        provider.go_on()
    assert answer.status_code == 503
    assert "Google could not tell this hub who you are" in words_of(answer)
    assert not visitor.is_in()


def test_the_hub_goes_on_after_a_restart_and_knows_its_people(
    google: Hub, provider: OIDCProvider
) -> None:
    provider.says("cem", email="cem@mail.example", verified_email=True)
    google.api("POST", "users/cem@mail.example")
    visitor, answer = enter(google, "cem")
    assert answer.status_code == 200
    google.restart()
    assert visitor.is_in()
    assert status_of(google, "cem") == 200
    provider.says("eva", email="eva@mail.example", verified_email=True)
    assert status_of(google, "eva") == 403


# ---- CILogon


def test_of_an_open_institution_everybody_comes_in(cilogon: Hub, provider: OIDCProvider) -> None:
    provider.says("dora", idp=IDP, eppn="dora@example.org")
    assert status_of(cilogon, "dora") == 200
    assert f"cilogon:{IDP}" in groups_of(cilogon, "dora@example.org")


def test_of_another_institution_only_whom_an_admin_has_named(
    cilogon: Hub, provider: OIDCProvider
) -> None:
    provider.says("gast", idp=f"{IDP}/guests", eppn="gast@example.org")
    assert status_of(cilogon, "gast") == 403
    cilogon.api("POST", "users/gast@example.org")
    assert status_of(cilogon, "gast") == 200


def test_an_institution_that_is_not_named_brings_nobody(
    cilogon: Hub, provider: OIDCProvider
) -> None:
    cilogon.api("POST", "users/fake@example.org")
    provider.says("fake", idp=OTHER_IDP, eppn="fake@example.org")
    answer = enter(cilogon, "fake")[1]
    assert answer.status_code == 403
    assert "not one from which people come to this hub" in words_of(answer)


@pytest.mark.parametrize(
    "says",
    [
        {"idp": f"{IDP}/mail", "email": "prof@example.org"},  # a name of the other institution's
        {"idp": f"{IDP}/mail", "email": "prof@mail.example@example.org"},
        {"idp": f"{IDP}/mail", "email": "prof"},
        {"idp": f"{IDP}/mail", "email": "@mail.example"},
        {"idp": IDP, "eppn": "prof@mail.example"},
        {"idp": f"{IDP}/guests", "eppn": "Prof@MAIL.example"},
    ],
)
def test_nobody_comes_in_by_a_name_that_another_institution_gives(
    cilogon: Hub, provider: OIDCProvider, says: dict[str, str]
) -> None:
    for name in ("prof@example.org", "prof@mail.example"):
        cilogon.api("POST", f"users/{name}")
    provider.says("prof", **says)
    answer = enter(cilogon, "prof")[1]
    assert answer.status_code == 403
    assert "not a name that it gives" in words_of(answer)


def test_each_institution_s_own_people_come_in(cilogon: Hub, provider: OIDCProvider) -> None:
    provider.says("emil", idp=f"{IDP}/mail", email="Emil@Mail.example")
    assert status_of(cilogon, "emil") == 200
    provider.says("emil", idp=IDP, eppn="emil@example.org")
    assert status_of(cilogon, "emil") == 200
    for name in ("emil@mail.example", "emil@example.org"):
        assert cilogon.api("GET", f"users/{name}").status_code == 200


# ---- any other provider


def test_groups_of_a_claim_become_groups_and_let_in(oidc: Hub, provider: OIDCProvider) -> None:
    known = {"email": "ines@uni.example", "email_verified": True}
    provider.says("ines", **known, member_of=["staff", "lab", "", 7, "x" * 300])
    assert status_of(oidc, "ines") == 200
    assert groups_of(oidc, "ines@uni.example") == ["by-membership:oidc", "oidc:lab", "oidc:staff"]
    provider.says("ines", **known, member_of=["lab"])
    assert status_of(oidc, "ines") == 403


@pytest.mark.parametrize("member_of", [None, {}, {"staff": True}, 1, True, "student"])
def test_a_claim_of_another_form_lets_nobody_in(
    oidc: Hub, provider: OIDCProvider, member_of: Any
) -> None:
    provider.says("jan", email="jan@x.example", email_verified=True, member_of=member_of)
    assert status_of(oidc, "jan") == 403


@pytest.mark.parametrize("verified", [{}, {"email_verified": False}, {"email_verified": "true"}])
def test_an_address_that_nobody_has_verified_is_nobody_s(
    oidc: Hub, provider: OIDCProvider, verified: dict[str, Any]
) -> None:
    oidc.api("POST", "users/lou@x.example")
    provider.says("lou", email="lou@x.example", **verified)
    answer = enter(oidc, "lou")[1]
    assert answer.status_code == 403
    assert "has not verified your address" in words_of(answer)


def test_a_person_without_the_claim_is_told_in_words(oidc: Hub, provider: OIDCProvider) -> None:
    provider.says("zed", name="Zed")
    answer = enter(oidc, "zed")[1]
    assert answer.status_code == 503
    assert "Example University could not tell this hub who you are" in words_of(answer)


def test_a_name_that_is_markup_is_nobody_s(oidc: Hub, provider: OIDCProvider) -> None:
    provider.says("mark", email="<img src=x onerror=alert(1)>@x.example", email_verified=True)
    visitor, answer = enter(oidc, "mark")
    assert answer.status_code == 403
    assert "<img src=x" not in answer.text
    assert not visitor.is_in()


def test_what_a_provider_says_is_shown_as_text(oidc: Hub, provider: OIDCProvider) -> None:
    provider.says("odd", email="&lt;img src=x&gt;'@x.example", email_verified=True)
    answer = enter(oidc, "odd")[1]
    assert answer.status_code == 403
    assert "&amp;lt;img src=x&amp;gt;&#39;@x.example" in answer.text
