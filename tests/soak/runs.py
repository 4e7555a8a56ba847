"""How stories are run: the same ones at each run of the tests, others in each soak."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings


def settings_for(
    stories: int, steps: int, *, derandomize: bool = True, shrink: bool = False
) -> settings:
    """So many stories of so many steps each; a failing one is told as it is, or cut down."""
    return settings(
        max_examples=stories,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=derandomize,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
