"""Who may have which kind of machine, and the form with the choice."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from ec2spawner.choosing import allowed, choose, form, options_of
from ec2spawner.errors import ProfileRefused
from ec2spawner.placement import Profile

USUAL = Profile("usual", ("t3.medium",), 10, name="Usual", description="2 processors, 4 GB")
LARGE = Profile("large", ("m7i.large",), 10, name='Large <b>"&')
GPU = Profile("gpu", ("g5.xlarge",), 10, groups=frozenset({"ml", "staff"}))
ALL = (USUAL, LARGE, GPU)


@pytest.mark.parametrize(
    ("groups", "is_admin", "expected"),
    [
        ((), False, (USUAL, LARGE)),
        (("art",), False, (USUAL, LARGE)),
        (("art", "ml"), False, ALL),
        ((), True, ALL),
    ],
)
def test_a_group_opens_its_profiles(
    groups: tuple[str, ...], is_admin: bool, expected: tuple[Profile, ...]
) -> None:
    assert allowed(ALL, groups, is_admin=is_admin) == expected


def test_who_names_none_gets_the_usual_one() -> None:
    assert choose({}, ALL) is USUAL
    assert choose({"profile": None, "other": 1}, ALL) is USUAL
    assert choose({}, (GPU,)) is GPU


@pytest.mark.parametrize("named", ["gpu", "GPU", "", 7, ["usual"], {"a": 1}, True, "x" * 10_000])
def test_what_is_not_offered_is_refused_whatever_is_sent(named: Any) -> None:
    with pytest.raises(ProfileRefused) as caught:
        choose({"profile": named}, (USUAL, LARGE))
    assert len(caught.value.for_operator()) < 500
    assert "usual, large" in caught.value.why


def test_who_may_have_none_is_told_so() -> None:
    with pytest.raises(ProfileRefused, match="no machines for you"):
        choose({}, ())


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.inputs: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "input":
            self.inputs.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_form_offers_each_profile_and_marks_the_last_choice() -> None:
    page = _Page(form(ALL, "large"))
    assert [i["value"] for i in page.inputs] == ["usual", "large", "gpu"]
    assert [i["value"] for i in page.inputs if "checked" in i] == ["large"]
    assert "2 processors, 4 GB" in page.text
    assert 'Large <b>"&' in page.text
    assert "b" not in page.tags
    assert [i["value"] for i in _Page(form(ALL, "gone")).inputs if "checked" in i] == ["usual"]


def test_without_a_choice_there_is_no_form() -> None:
    assert form((USUAL,), "") == ""
    assert form((), "") == ""


def test_a_sent_form_is_read() -> None:
    assert options_of({"profile": ["large"]}) == {"profile": "large"}
    assert options_of({}) == {}
