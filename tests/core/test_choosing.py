"""Who may have which kind of machine, and the form with the choice."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from ec2spawner.choosing import allowed, choose, form, options_of, price_words
from ec2spawner.costs import Price, Prices, instance
from ec2spawner.errors import ProfileRefused
from ec2spawner.placement import Market, Profile

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


def prices(**usd: float) -> Prices:
    known = {instance(t.replace("_", ".")): Price(v, "2026", "AWS") for t, v in usd.items()}
    return Prices("us-east-1", known)


def test_the_price_of_an_hour_is_told_where_it_is_known_for_every_type() -> None:
    both = Profile("both", ("t3.medium", "m7i.large"), 10)
    known = prices(t3_medium=0.0416, m7i_large=0.1008, g5_xlarge=1.006)
    assert price_words(USUAL, known) == "$0.042 an hour."
    assert price_words(both, known) == "$0.042 to $0.101 an hour."
    assert price_words(GPU, known) == "$1.01 an hour."
    assert price_words(both, prices(t3_medium=0.0416)) == ""
    assert price_words(USUAL, None) == ""


def test_on_the_spot_market_no_more_is_promised_than_the_price_on_demand() -> None:
    spot = Profile("spot", ("t3.medium",), 10, (Market.SPOT, Market.ON_DEMAND))
    assert price_words(spot, prices(t3_medium=0.0416)) == "At most $0.042 an hour."


def test_the_form_shows_the_price_beside_the_description() -> None:
    page = form((USUAL, LARGE), "usual", prices(t3_medium=0.0416))
    assert page.count("an hour") == 1
    assert page.index("2 processors, 4 GB") < page.index("$0.042 an hour.")
