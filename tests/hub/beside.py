"""Scenarios that mostly wait are played beside the other tests; their tests ask for the outcome.

A module's ``Beside`` objects begin with the session if one of the module's tests was chosen; those
tests come last (see ``conftest.py``)::

    @Beside
    def scenario(stage: Stage, step: Step) -> None:
        hub = stage.hub(stage.stub_cloud).start()
        with step("first"):
            ...

    def test_the_first_thing() -> None:
        scenario.outcome("first")
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from .clouds import Cloud
from .hubs import Hub, Proxy
from .processes import Nursery, clean_environment

AT_ONCE = 3
"""Scenarios at a time: more would only wait for processors, and miss their time limits."""
OUTCOME_SECONDS = 240.0
numbers = itertools.count(1)
Step = Callable[[str], AbstractContextManager[None]]


class Stage:
    """Makes hubs and proxies for one scenario or test, and ends them with it."""

    def __init__(
        self, name: str, folder: Path, nursery: Nursery, cloud: Cloud, stub_cloud: Cloud
    ) -> None:
        self.cloud = cloud
        self.stub_cloud = stub_cloud
        self.hubs: list[Hub] = []
        self._nursery = nursery
        self._name = f"{next(numbers)}-" + "".join(c if c.isalnum() else "-" for c in name)[:60]
        self._folder = folder
        self._proxies: list[Proxy] = []

    def proxy(self) -> Proxy:
        """A proxy that goes on when its hub ends."""
        place = self._folder / f"proxy-{self._name}-{len(self._proxies)}"
        self._proxies.append(Proxy(place, clean_environment()))
        return self._proxies[-1]

    def hub(self, cloud: Cloud, *, is_forked: bool = True, **options: Any) -> Hub:
        """A hub, not started; its options are ``Hub``'s."""
        place = self._folder / f"{self._name}.{len(self.hubs)}"
        self.hubs.append(Hub(cloud, place, self._nursery if is_forked else None, **options))
        return self.hubs[-1]

    def close(self) -> None:
        for hub in self.hubs:
            hub.close()
        for proxy in self._proxies:
            proxy.close()


class Beside:
    """A scenario in a thread of its own, and the outcome of each of its steps."""

    def __init__(self, play: Callable[[Stage, Step], None]) -> None:
        self._play = play
        self._changed = threading.Condition()
        self._outcomes: dict[str, BaseException | None] = {}
        self._is_over = False
        self.stage: Stage | None = None

    def begin(self, stage: Stage, turns: threading.Semaphore) -> threading.Thread:
        """Play as soon as it is its turn."""
        self.stage = stage
        thread = threading.Thread(target=self._run, args=(stage, turns), daemon=True)
        thread.start()
        return thread

    def _run(self, stage: Stage, turns: threading.Semaphore) -> None:
        try:
            with turns, self._step("all"):
                self._play(stage, self._step)
        finally:
            stage.close()
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:  # noqa: BLE001 - the step's test raises it
            failure = error
        with self._changed:
            self._outcomes[name] = failure
            self._changed.notify_all()

    def outcome(self, name: str = "all") -> None:
        """Wait for a step, and fail as it did."""
        with self._changed:
            known = lambda: name in self._outcomes or self._is_over  # noqa: E731
            assert self._changed.wait_for(known, OUTCOME_SECONDS), f"{name} does not end"
            failure = self._outcomes.get(name, self._outcomes.get("all"))
            if failure:
                raise failure
            assert name in self._outcomes, f"{name} was not played"
