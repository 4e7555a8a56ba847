"""One rule for names: what people are told is what the hub does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyterhub.auth import DummyAuthenticator

from ec2spawner.names import name_fault, normalize, user_fault, username_pattern

HUB = DummyAuthenticator(username_pattern=username_pattern())


@pytest.mark.parametrize("name", ["zoë müller", "a.b+c@x.org", "o'brien", "李", "...a", "x" * 255])
def test_names_of_people_are_names(name: str) -> None:
    assert user_fault(name) is None
    assert HUB.validate_username(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "%2e%2e", "a/b", " a", "a ", "a\n", "x" * 256),
        *("<b>", "a<b", "a>b", "a</script>", "a\x1b[2J", "a\nb", "a\u200bb", "a\xa0b", "\ud800"),
    ],
)
def test_what_is_no_name_is_none(name: str) -> None:
    assert user_fault(name)
    assert not HUB.validate_username(name)


@given(st.text(max_size=300).map(normalize) | st.text(".%2eE/ <>a", max_size=6).map(normalize))
def test_the_words_and_the_hub_agree_on_every_name(name: str) -> None:
    assert (user_fault(name) is None) is HUB.validate_username(name)


def test_a_group_may_have_what_only_a_page_of_a_user_must_not() -> None:
    assert name_fault("a<b") is None
