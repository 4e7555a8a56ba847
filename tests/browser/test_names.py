"""Names that are more than letters, and servers with names of their own."""

from __future__ import annotations

from .conftest import Shoot, Visit
from .demos import Demo


def test_a_user_whose_name_has_a_space_and_an_umlaut_works_like_any_other(
    demo: Demo, visit: Visit
) -> None:
    zoe = visit("Zoë Müller")
    zoe.log_in()
    zoe.watch_start()
    zoe.until_lab()
    zoe.upload("größe.txt", "1,72 m")
    assert [w["state"] for w in demo.workers_of("zoë müller")] == ["running"]  # the hub's name


def test_a_named_server_of_the_home_page_is_a_machine_of_its_own(
    demo: Demo, visit: Visit, shoot: Shoot
) -> None:
    zoe = visit("Zoë Müller")
    zoe.start_named("thesis")
    zoe.until_lab()
    assert zoe.files() == []
    names = {w["id"] for s in ("", "thesis") for w in demo.workers_of("zoë müller", s)}
    assert len(names) == 2
    zoe.go_home()
    shoot(zoe.page, "named-servers", 390)
