"""How long a long prompt takes to its first token: `python -m tests.node.prefill` prints a table (virtual time).

512 tokens over four shards on links of 10 ms, each shard a quarter of the model, against one machine alone with all of
it, which crosses no link; and the next turn of the same conversation, 40 tokens longer. What the machines take is
emulated; everything else is the production node.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from dsdnode.cli.logs import set_up
from dsdnode.client.client import GenerateRequest
from dsdnode.sim.loop import run
from dsdnode.speculation.owner import prefill
from tests.node.rough import RoughHub
from tests.node.swarm import TARGET, FakeSwarm, fake_swarm, tokens_of

MACHINES = {"CPU volunteers": (0.014, 0.006), "cards": (0.0097, 0.0003), "fast": (0.001, 0.0001)}
"""(fixed, slope) of one shard of four, in seconds."""
MORE = 40


@dataclass(frozen=True)
class Times:
    """To the first token, of two turns, in seconds."""

    first_s: float
    next_s: float


async def ask(swarm: FakeSwarm, num_tokens: int) -> Times:
    client = await swarm.client()
    prompt = tuple(1 + (7 * i) % 96 for i in range(num_tokens))
    times = []
    for line in (prompt, (*prompt, *range(1, MORE + 1))):
        asked = GenerateRequest(prompt_tokens=line, max_tokens=2, draft_max=0, keep=True)
        _, finished = await tokens_of(client, asked)
        times.append(finished.stats.time_to_first_token_s or math.nan)
    return Times(*times)


async def alone(folder: Path, fixed_s: float, slope_s: float, num_tokens: int) -> Times:
    """One machine with all layers: the same work, all of it its own."""
    async with fake_swarm(folder, hub=RoughHub(0.01), cost=lambda n: 4 * (fixed_s + slope_s * n)) as swarm:
        await swarm.add("ann", drafts=True, layers=(0, TARGET.num_layers))
        return await ask(swarm, num_tokens)


async def ring(folder: Path, fixed_s: float, slope_s: float, num_tokens: int) -> Times:
    async with fake_swarm(folder, hub=RoughHub(0.01), cost=lambda n: fixed_s + slope_s * n) as swarm:
        await swarm.add("dora", drafts=True)
        for index, layers in enumerate(itertools.pairwise(range(5))):
            await swarm.add(f"shard {index}", layers=layers)
        return await ask(swarm, num_tokens)


def measure(num_tokens: int) -> None:
    print("| a shard takes | one machine alone | 4 shards, 10 ms | chunks of 256 | of 512 | next turn |")
    print("|---|---|---|---|---|---|")
    for name, (fixed_s, slope_s) in MACHINES.items():
        with tempfile.TemporaryDirectory() as folder:
            one = run(alone(Path(folder) / "one", fixed_s, slope_s, num_tokens))
            many = run(ring(Path(folder) / "many", fixed_s, slope_s, num_tokens))
            fixed = []
            for size in (256, 512):
                with mock.patch.object(prefill, "best_chunk", lambda num, costs, most, size=size: size):
                    fixed.append(run(ring(Path(folder) / str(size), fixed_s, slope_s, num_tokens)))
        cost = f"{name}: {fixed_s * 1e3:g} + {slope_s * 1e3:g} ms a position"
        sizes = " | ".join(f"{times.first_s:.2f} s" for times in fixed)
        print(
            f"| {cost} | {one.first_s:.2f} s | {many.first_s:.2f} s ({one.first_s / many.first_s:.2f}x) | {sizes} |",
            end="",
        )
        print(f" {many.next_s:.2f} s |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=512)
    set_up("warning", "auto")
    measure(parser.parse_args().tokens)


if __name__ == "__main__":
    main()
