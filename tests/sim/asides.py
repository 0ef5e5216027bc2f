"""How often another drafter is asked beside one that is honest: `python -m tests.sim.asides [CASE ...]`.

In the swarms of `tests.sim.tuning`, all well, with a second drafter and clients of their own. Each such question is the
prompt read a second time, and nobody gains: one in fifty replies is what a mute drafter may cost those who have none.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass, replace

import structlog
from structlog.testing import capture_logs

from dsdnode.client.client import Client
from dsdnode.sim import loop as jumping
from dsdnode.sim.load import Load, Outcome
from dsdnode.sim.world import World
from tests.sim.tuning_cases import CASES, Case

NUM_DRAFTERS = 2
LATE, SLOW = "late drafter", "slow drafter"
"""As a client's log says that it asks another one."""


@dataclass(frozen=True, slots=True)
class Asked:
    num_replies: int
    num_late: int
    num_slow: int
    first_s: float
    """The median time to a first token."""


class Strangers(World):
    """Whose clients ask as `dsdnode run` does, in a swarm that they know nothing of."""

    async def client(self, name: str, region: str) -> Client:
        client = await super().client(name, region)
        client._drafters.joined = ()
        client._drafters.gave = lambda model_id, drafter, tokens_per_s: None  # type: ignore[method-assign]
        return client


def run(case: Case, seed: int = 1) -> Asked:
    with capture_logs() as said:
        outcomes = jumping.run(_run(case, seed))
    events = [one["event"] for one in said]
    firsts_s = sorted(one.arrivals[0][0] - one.asked_s for one in outcomes)
    return Asked(len(outcomes), events.count(LATE), events.count(SLOW), firsts_s[len(firsts_s) // 2])


async def _run(case: Case, seed: int) -> list[Outcome]:
    scenario = case.scenario
    groups = tuple(replace(one, count=NUM_DRAFTERS) if one.role == "drafter" else one for one in scenario.peers)
    load = replace(scenario.load, clients=max(2, scenario.load.users))
    world = Strangers(replace(scenario, peers=groups, load=load), seed)
    try:
        await world.build()
        asking = Load(world, lambda text: None)
        await asyncio.wait_for(asking.run(), scenario.limit_s)
        return asking.outcomes
    finally:
        await world.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="a swarm; none: all that are well")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    cases = [CASES[name] for name in options.cases] or [one for one in CASES.values() if not one.is_troubled]
    print("swarm | replies | late | slow | first token, s", flush=True)
    total = [0, 0, 0]
    for case in cases:
        asked = [run(case, seed) for seed in range(1, options.seeds + 1)]
        sums = [sum(getattr(one, name) for one in asked) for name in ("num_replies", "num_late", "num_slow")]
        total = [one + more for one, more in zip(total, sums, strict=True)]
        print(case.name, *sums, f"{asked[0].first_s:.2f}", sep=" | ", flush=True)
    print("all", *total, f"{100 * (total[1] + total[2]) / total[0]:.1f} %", sep=" | ")
    return 0


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(20))
    sys.exit(main())
