"""Which kind of machine a user gets: the rules of groups, and the form with the choice.

Pure. Owns who may have which profile, and the words of a refusal. Must not know the hub's
handlers, nor where machines come from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from markupsafe import Markup

from ec2spawner.costs import Prices, instance
from ec2spawner.errors import ProfileRefused
from ec2spawner.placement import Market, Profile

OPTION = "profile"
"""Key of ``user_options``, and name of the form's field."""

SLUG_MAX = 32
"""Characters of a profile's SLUG."""

_FORM = Markup(
    '<fieldset class="mb-3"><legend class="fs-5">Which machine?</legend>{choices}</fieldset>'
)
_CHOICE = Markup(
    '<div class="form-check my-2">'
    '<input class="form-check-input" type="radio" name="{option}" id="profile-{slug}"'
    ' value="{slug}"{checked}>'
    '<label class="form-check-label" for="profile-{slug}"><strong>{name}</strong>{about}</label>'
    "</div>"
)
_ABOUT = Markup('<span class="d-block text-body-secondary">{text}</span>')


def allowed(
    profiles: Iterable[Profile], groups: Collection[str], *, is_admin: bool
) -> tuple[Profile, ...]:
    """The profiles that a member of these groups may have, the usual one first."""
    return tuple(p for p in profiles if is_admin or not p.groups or not p.groups.isdisjoint(groups))


def choose(options: Mapping[str, Any], offered: tuple[Profile, ...]) -> Profile:
    """The profile that a user's options name, or the usual one; ``ProfileRefused`` with words.

    ``options`` come from a request as they are: any JSON.
    """
    if not offered:
        raise ProfileRefused(
            "There are no machines for you in this hub.",
            why="no profile is open to any of the user's groups",
            next_step="Tell the people who run this hub, if there should be.",
        )
    named = options.get(OPTION)
    if named is None:
        return offered[0]
    for profile in offered:
        if profile.slug == named:
            return profile
    raise ProfileRefused(
        "You cannot have the kind of machine that was asked for.",
        why=f"{OPTION} {str(named)[:80]!r} is none of {', '.join(p.slug for p in offered)}",
        next_step="Start your server again and choose another.",
    )


def price_words(profile: Profile, prices: Prices | None) -> str:
    """What an hour of such a machine costs; "" where the price of one of its types is not known.

    Only prices on demand are known; on the spot market a machine costs no more than that (EC2 user
    guide, "Spot Instances", 2026: without a maximum price of one's own).
    """
    known = [prices.usd(instance(t)) if prices else None for t in profile.instance_types]
    usd = [price for price in known if price is not None]
    if not usd or len(usd) < len(known):
        return ""
    lowest, highest = _dollars(min(usd)), _dollars(max(usd))
    if Market.SPOT in profile.markets:
        return f"At most {highest} an hour."
    return f"{lowest} an hour." if lowest == highest else f"{lowest} to {highest} an hour."


def _dollars(usd: float) -> str:
    return f"${usd:.2f}" if usd >= 1 else f"${usd:.3f}"


def form(offered: tuple[Profile, ...], chosen: str, prices: Prices | None = None) -> str:
    """The choice as HTML for the hub's page; "" where there is none."""
    if len(offered) < 2:
        return ""
    slugs = [profile.slug for profile in offered]
    checked = chosen if chosen in slugs else slugs[0]
    choices = (
        _CHOICE.format(
            option=OPTION,
            slug=profile.slug,
            name=profile.name or profile.slug,
            about=_about(profile.description, price_words(profile, prices)),
            checked=Markup(" checked") if profile.slug == checked else "",
        )
        for profile in offered
    )
    return str(_FORM.format(choices=Markup("").join(choices)))


def _about(*texts: str) -> Markup:
    return Markup("").join(_ABOUT.format(text=text) for text in texts if text)


def kept_of(options: object) -> dict[str, str]:
    """What is kept of a server's options: what they name as profile, up to where none goes on."""
    named = options.get(OPTION) if isinstance(options, Mapping) else None
    return {} if named is None else {OPTION: str(named)[: SLUG_MAX + 1]}


def options_of(form_data: Mapping[str, list[str]]) -> dict[str, Any]:
    """``user_options`` of a sent form."""
    named = form_data.get(OPTION, [])
    return {OPTION: named[0]} if named else {}
