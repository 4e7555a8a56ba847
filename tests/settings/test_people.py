"""Keys about people: what is refused, with key, value, reason and what to write instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ec2spawner.configfile import ConfigFileError
from ec2spawner.people import AUTHENTICATORS
from ec2spawner.settings import load_instance_config

OIDC = {
    "AUTHORIZE_URL": "https://login.example.org/authorize",
    "TOKEN_URL": "https://login.example.org/token",
    "USERINFO_URL": "https://login.example.org/userinfo",
    "USERNAME_CLAIM": "preferred_username",
}
IDP = {"ENTITY_ID": "https://idp.example.org/shibboleth"}

OTHER_IDP = {"ENTITY_ID": "https://idp.example.net/shibboleth"}


def load(folder: Path, values: dict[str, Any]) -> Any:
    path = folder / "instance_config.json"
    path.write_text(json.dumps(values))
    return load_instance_config(path)[0]


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        ({"AUTHENTICATOR": "native"}, 'AUTHENTICATOR: "native"', "nativeauthenticator 1.3 answers"),
        ({"AUTHENTICATOR": "GitHub"}, 'AUTHENTICATOR: "GitHub"', "github, google, cilogon, oidc"),
        ({"AUTHENTICATOR": None}, "AUTHENTICATOR: null", "is null"),
        ({"AUTHENTICATOR": ["github"]}, "AUTHENTICATOR", "is a list"),
        ({"AUTHENTICATOR": "oidc"}, "OIDC: null", "is missing for the authenticator oidc"),
        ({"OIDC": {**OIDC, "TOKEN_URL": "http://x.org/"}}, "OIDC.TOKEN_URL", "not an https://"),
        ({"OIDC": {**OIDC, "TOKEN_URL": "x"}}, "OIDC.TOKEN_URL", "is not an http"),
        ({"OIDC": {"NAME": "x"}}, "OIDC.USERINFO_URL", "is missing"),
        ({"OIDC": {**OIDC, "CLIENT_SECRET": "x"}}, "OIDC.CLIENT_SECRET", "is not a known key"),
        ({"OIDC": {**OIDC, "USERNAME_CLAIM": ""}}, "OIDC.USERNAME_CLAIM", "form"),
        ({"OIDC": {**OIDC, "SCOPES": []}}, "OIDC.SCOPES", "has 0 entries"),
        ({"OIDC": {**OIDC, "SCOPES": ["a b"]}}, "OIDC.SCOPES[0]", "form"),
        ({"OIDC": {**OIDC, "NAME": ""}}, "OIDC.NAME", ""),
        (
            {"OIDC": {**OIDC, "ALLOWED_GROUPS": ["staff"]}},
            "OIDC.ALLOWED_GROUPS",
            "is set, and GROUPS_CLAIM is not",
        ),
        ({"PUBLIC_URL": "hub.example.org"}, "PUBLIC_URL", "is not an http:// or https://"),
        ({"PUBLIC_URL": "https://x.org/hub"}, "PUBLIC_URL", "has a path"),
        ({"PUBLIC_URL": "https://u:p@x.org"}, "PUBLIC_URL", "has more than scheme, host"),
        ({"PUBLIC_URL": "ftp://x.org"}, "PUBLIC_URL", "is not an http:// or https://"),
        ({"PUBLIC_URL": "https://bücher.example"}, "PUBLIC_URL", "xn--"),
        ({"ADMIN_USERS": "ann"}, 'ADMIN_USERS: "ann"', "is a text"),
        ({"ADMIN_USERS": ["a/b"]}, "ADMIN_USERS", "'a/b', which cannot be a user's name"),
        ({"ADMIN_USERS": [""]}, "ADMIN_USERS", "cannot be a user's name"),
        ({"ADMIN_USERS": [" ann"]}, "ADMIN_USERS", "cannot be a user's name"),
        (
            {"ADMIN_USERS": ["a<b"]},
            "ADMIN_USERS",
            "'a<b', which cannot be a user's name: it has a <",
        ),
        ({"ADMIN_USERS": ["ann", ".."]}, "ADMIN_USERS", "it has nothing but dots"),
        ({"ADMIN_USERS": ["%2E."]}, "ADMIN_USERS", "it has nothing but dots"),
        ({"ADMIN_USERS": ["an\u200bn"]}, "ADMIN_USERS", "a character that cannot be seen"),
        ({"ADMIN_USERS": ["x" * 256]}, "ADMIN_USERS", "more than 255 characters"),
        ({"ADMIN_USERS": [1]}, "ADMIN_USERS[0]: 1", "is a number"),
        ({"ADMIN_ACCESS": "yes"}, 'ADMIN_ACCESS: "yes"', "true or false, without quotes"),
        ({"GITHUB_ORGANIZATIONS": "uni"}, "GITHUB_ORGANIZATIONS", "is a text"),
        ({"GITHUB_ORGANIZATIONS": ["uni/lab"]}, "GITHUB_ORGANIZATIONS", "'uni/lab', which does"),
        ({"GITHUB_ORGANIZATIONS": ["uni:a:b"]}, "GITHUB_ORGANIZATIONS", "'uni:a:b', which does"),
        ({"GITHUB_ORGANIZATIONS": ["../x"]}, "GITHUB_ORGANIZATIONS", "which does not have"),
        ({"GOOGLE_HOSTED_DOMAINS": ["gmail"]}, "GOOGLE_HOSTED_DOMAINS", "'gmail', which does not"),
        ({"GOOGLE_HOSTED_DOMAINS": ["@x.org"]}, "GOOGLE_HOSTED_DOMAINS", "which does not have"),
        ({"CILOGON_PROVIDERS": [{}]}, "CILOGON_PROVIDERS[0].ENTITY_ID", "is missing"),
        (
            {"CILOGON_PROVIDERS": [{"ENTITY_ID": "uni.example"}]},
            "CILOGON_PROVIDERS[0].ENTITY_ID",
            "form",
        ),
        ({"CILOGON_PROVIDERS": [IDP, IDP]}, "CILOGON_PROVIDERS", "shibboleth' twice"),
        (
            {"CILOGON_PROVIDERS": [{**IDP, "USERNAME_CLAIM": "uid"}, OTHER_IDP]},
            "CILOGON_PROVIDERS",
            "has several, and uid of 'https://idp.example.org/shibboleth' may be",
        ),
        (
            {"CILOGON_PROVIDERS": [IDP, {**OTHER_IDP, "USERNAME_CLAIM": "email"}]},
            "CILOGON_PROVIDERS",
            "and email of 'https://idp.example.net/shibboleth' may be the name of somebody",
        ),
        (
            {"CILOGON_PROVIDERS": [{**IDP, "DOMAINS": ["@uni.example"]}]},
            "CILOGON_PROVIDERS[0].DOMAINS",
            "'@uni.example', which does not have",
        ),
        (
            {"CILOGON_PROVIDERS": [{**IDP, "USERNAME_CLAIM": "sub"}]},
            "CILOGON_PROVIDERS[0].USERNAME_CLAIM",
            "no user's name: take eppn",
        ),
        *(
            ({"OIDC": {**OIDC, "TOKEN_URL": url}}, "OIDC.TOKEN_URL", "not an https://")
            for url in ("http://127.evil.example/t", "http://localhost.evil.example/t")
        ),
        ({"OIDC": {**OIDC, "USERNAME_CLAIM": None}}, "OIDC.USERNAME_CLAIM", ""),
        ({"NAMED_SERVERS_MAX": -1}, "NAMED_SERVERS_MAX: -1", "is less than 0"),
        ({"STARTS_PER_MINUTE": 0}, "STARTS_PER_MINUTE: 0", "is less than 1"),
        ({"KEEP_ALIVE_MAX_HOURS": 169}, "KEEP_ALIVE_MAX_HOURS: 169", "is more than 168"),
        ({"KEEP_ALIVE_MAX_HOURS": 1.5}, "KEEP_ALIVE_MAX_HOURS: 1.5", "decimal"),
        ({"SUBDOMAINS": 1}, "SUBDOMAINS: 1", "true or false, without quotes"),
        ({"CLIENT_SECRET": "x"}, "CLIENT_SECRET", "is not a known key"),
    ],
)
def test_an_impossible_value_is_refused(
    tmp_path: Path, values: dict[str, Any], key: str, words: str
) -> None:
    with pytest.raises(ConfigFileError) as caught:
        load(tmp_path, values)
    faults = [str(fault) for fault in caught.value.faults]
    assert any(fault.startswith(key) and words in fault for fault in faults), faults


@pytest.mark.parametrize("name", ["", *AUTHENTICATORS])
def test_every_authenticator_can_be_written(tmp_path: Path, name: str) -> None:
    assert name == load(tmp_path, {"AUTHENTICATOR": name, "OIDC": OIDC}).AUTHENTICATOR


def test_names_are_read_as_the_hub_writes_them(tmp_path: Path) -> None:
    config = load(tmp_path, {"ADMIN_USERS": ["Ann", "Zoë Müller"]})
    assert config.ADMIN_USERS == ("ann", "zoë müller")
    assert load(tmp_path, {"GOOGLE_HOSTED_DOMAINS": ["Uni.Example"]}).GOOGLE_HOSTED_DOMAINS == (
        "uni.example",
    )


@pytest.mark.parametrize(
    "providers",
    [
        [{**IDP, "USERNAME_CLAIM": "uid"}],
        [IDP, OTHER_IDP],
        [{**IDP, "USERNAME_CLAIM": "email", "DOMAINS": ["Uni.Example"]}, OTHER_IDP],
    ],
)
def test_institutions_whose_names_differ_go_together(tmp_path: Path, providers: list[Any]) -> None:
    read = load(tmp_path, {"CILOGON_PROVIDERS": providers}).CILOGON_PROVIDERS
    assert len(read) == len(providers)
    assert (("uni.example",) if "DOMAINS" in providers[0] else ()) == read[0].DOMAINS


def test_no_key_holds_a_secret() -> None:
    from ec2spawner.settings import Choices

    assert not [key for key in Choices.model_fields if "SECRET" in key or "TOKEN" in key]
