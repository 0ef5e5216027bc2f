"""One scenario, one seed, one report."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from dsdnode.pacing.tuning import TUNING, Tuning
from dsdnode.sim import loop as jumping
from dsdnode.sim.load import Load
from dsdnode.sim.report import Report, report
from dsdnode.sim.scenario import Scenario
from dsdnode.sim.world import World


def simulate(
    scenario: Scenario, seed: int, told: Callable[[str], None] = lambda text: None, tuning: Tuning = TUNING
) -> Report:
    """`told` hears of each reply. Raises BadInput, Unreal (a bug: something waits for ever)."""
    return jumping.run(_simulate(scenario, seed, told, tuning))


async def _simulate(scenario: Scenario, seed: int, told: Callable[[str], None], tuning: Tuning) -> Report:
    world = World(scenario, seed, tuning)
    load = Load(world, told)
    asking = None
    try:
        await world.build()
        started_s = world.loop.now
        asking = asyncio.create_task(load.run())
        with contextlib.suppress(TimeoutError):  # what is not over then is reported as stuck
            await asyncio.wait_for(asyncio.shield(asking), scenario.limit_s)
        return report(world, load.outcomes, started_s)
    finally:
        if asking is not None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await world.close()
