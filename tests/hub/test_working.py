"""A student at work: first login, files, stop and start again."""

from __future__ import annotations

from .clouds import Cloud
from .conftest import MakeHub
from .hubs import Hub


def test_a_first_login_launches_a_machine_and_the_next_one_starts_it_with_every_file(
    cloud: Cloud, make_hub: MakeHub
) -> None:
    hub = make_hub(cloud).start()
    ada = hub.user("ada")
    ada.start()
    page = ada.ask("GET", "lab")
    assert page.status_code == 200
    assert "JupyterLab" in page.text
    first = ada.worker()
    ada.write("notes.txt", "kept")
    ada.stop()
    ada.becomes("stopped")
    ada.start()
    assert ada.worker()["id"] == first["id"]
    assert ada.read("notes.txt") == "kept"
    assert hub.errors() == []
