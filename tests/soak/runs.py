"""How stories are run: the same ones at each run of the tests, others in each soak."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings


def settings_for(stories: int, steps: int, *, derandomize: bool = True) -> settings:
    """So many stories of so many steps each; in a soak a failing one is cut down."""
    return settings(
        max_examples=stories,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=derandomize,
        phases=(Phase.generate,) if derandomize else (Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
