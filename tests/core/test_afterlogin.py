"""Where a login leads: to the hub's own pages and one's own servers, however the address is put."""

from __future__ import annotations

import pytest

from ec2spawner import afterlogin

HUB, ANN = "/hub/", "/user/ann/"


@pytest.mark.parametrize(
    "to",
    [
        "/hub",
        "/hub/",
        "/hub/home",
        "/hub/api/oauth2/authorize?client_id=x&redirect_uri=%2Fuser%2Feve%2Foauth_callback",
        "/hub/user-redirect/lab/tree/a%2Fb?x=..",
        "/user/ann",
        "/user/ann/",
        "/user/ann/lab/tree/my%20file..txt?reset#..",
        "/user/ann/files/a%5Cb",
        "/user/%61nn/lab",
        "/user/ann//lab",
    ],
)
def test_it_leads_to_the_hub_and_to_one_s_own(to: str) -> None:
    assert afterlogin.is_own(to, HUB, ANN)


@pytest.mark.parametrize(
    "to",
    [
        "",
        "user/ann/",
        "/",
        "//user/ann/",
        "//hub/home",
        "/services/other/",
        "/user/",
        "/user/eve",
        "/user/eve/x",
        "/user/%65ve/x",
        "/user/anna/",
        "/user/ann%2Fx",
        "/user/ANN/",
        "/users/ann/",
        "/hubs/x",
        "/hub/../user/eve/x",
        "/hub/%2e%2e/user/eve/x",
        "/hub/.%2E/user/eve/x",
        "/hub/..%2fuser/eve/x",
        "/user/ann/../eve/x",
        "/user/ann/%2e%2e/eve/x",
        "/user/ann/./../eve",
        "/user/ann/x/..",
        "/hub/..\\user\\eve",
        "/hub\\..\\user/eve",
        "\\user/ann/",
        "/hub/.\t./user/eve",
        "/hub/.\n./user/eve",
        "/\x00/hub",
        "https://hub.example.org/hub/home",
        "javascript:alert(1)",
    ],
)
def test_it_leads_nowhere_else(to: str) -> None:
    assert not afterlogin.is_own(to, HUB, ANN)


def test_where_nobody_is_known_nothing_is_one_s_own() -> None:
    assert not afterlogin.is_own(ANN, HUB, "")
    assert afterlogin.is_own("/hub/home", HUB, "")


@pytest.mark.parametrize("own", ["/user/a%2Fb/", "/user/zo%C3%AB%20m/", "/user/o%27brien/"])
def test_names_are_compared_whole(own: str) -> None:
    assert afterlogin.is_own(f"{own}lab", HUB, own)
    assert not afterlogin.is_own("/user/a/b/lab", HUB, own)


def test_a_prefix_of_the_operator_s_counts() -> None:
    assert afterlogin.is_own("/jupyter/user/ann/lab", "/jupyter/hub/", "/jupyter/user/ann/")
    assert not afterlogin.is_own("/hub/home", "/jupyter/hub/", "/jupyter/user/ann/")
