"""An event loop whose time jumps to the next thing that is due: hours pass in milliseconds."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

R = TypeVar("R")

EPOCH = 1_000_000.0
"""What the virtual wall clock shows when a loop begins: small, so that no moment is rounded."""
MAX_ROUNDS_WITHOUT_TIME = 5_000
"""So many rounds of the loop at one moment are a busy loop, not work."""
ROUND_SECONDS = 1e-6
"""What one round of the loop takes: where nothing takes any time, rounding makes loops spin."""
MAX_ROUNDS = 200_000
"""So many rounds in one test mean that something runs wild."""


class Stuck(AssertionError):
    """Everything waits for something that will never happen, or nothing ever waits."""


class _JumpingSelector(selectors.DefaultSelector):
    """Never blocks: where a real loop would sleep, time goes on by as much."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.rounds = 0
        self.total_rounds = 0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Stuck("nothing is due, and nobody will ever be woken")
        self.total_rounds += 1
        if self.total_rounds > MAX_ROUNDS:
            raise Stuck(f"{self.total_rounds} rounds of the loop in {self.now:.0f} s")
        self.rounds = 0 if timeout > 0 else self.rounds + 1
        if self.rounds > MAX_ROUNDS_WITHOUT_TIME:
            raise Stuck(f"{self.rounds} rounds of the loop without a moment's pause")
        self.now += timeout or ROUND_SECONDS
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A real loop in virtual time; what is sent to threads is done at once, in place."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-9
        self.failures: list[dict[str, Any]] = []
        self.set_exception_handler(lambda loop, context: self.failures.append(context))

    def begin_anew(self) -> None:
        """Allow as many rounds again."""
        self._jumping.rounds = self._jumping.total_rounds = 0

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(
        self, executor: Any, func: Callable[..., R], *args: Any
    ) -> asyncio.Future[R]:
        future: asyncio.Future[R] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - as a thread's would, it goes to who awaits it
            future.set_exception(error)
        return future


def clock() -> float:
    """Epoch seconds of the running loop's virtual time."""
    return EPOCH + asyncio.get_running_loop().time()


def run(work: Awaitable[R]) -> R:
    """Run to the end in virtual time; background failures that nobody saw fail it."""
    loop = VirtualLoop()
    try:
        result = loop.run_until_complete(asyncio.ensure_future(work, loop=loop))
    finally:
        loop.begin_anew()
        loop.run_until_complete(_end_all_others())
        loop.close()
    assert not loop.failures, loop.failures
    return result


async def _end_all_others() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def in_virtual_time(
    test: Callable[..., Coroutine[Any, Any, None]],
) -> Callable[..., None]:
    """Make an asynchronous test one that runs in virtual time."""

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        run(test(*args, **kwargs))

    return wrapper


async def until(
    true: Callable[[], Any], seconds: float = 600.0, step_seconds: float = 0.05
) -> float:
    """Wait until something holds; how long it took. Fails past ``seconds``."""
    begun = asyncio.get_running_loop().time()
    while not true():
        waited = asyncio.get_running_loop().time() - begun
        assert waited < seconds, f"not so after {seconds} s"
        await asyncio.sleep(step_seconds)
    return asyncio.get_running_loop().time() - begun
