"""One scenario, one seed, one report."""

from __future__ import annotations

import asyncio
from typing import Any

from dsdnode.sim import loop as jumping
from dsdnode.sim.load import Load
from dsdnode.sim.report import report
from dsdnode.sim.scenario import Scenario
from dsdnode.sim.world import World


def simulate(scenario: Scenario, seed: int) -> dict[str, Any]:
    """The report (report.py). Raises BadInput, Unreal (a bug: something waits for ever)."""
    return jumping.run(_simulate(scenario, seed))


async def _simulate(scenario: Scenario, seed: int) -> dict[str, Any]:
    world = World(scenario, seed)
    load = Load(world)
    try:
        await world.build()
        started_s = world.loop.now
        asking = asyncio.create_task(load.run())
        await asyncio.wait_for(asyncio.shield(asking), scenario.limit_s)
        return report(world, load.outcomes, started_s)
    finally:
        await world.close()
