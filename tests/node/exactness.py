"""Exactness through a real swarm: `python -m tests.node.exactness [--strict]` prints a table.

Nodes with CURVE on loopback, each engine in a worker process, f32 states; shards 1 to 4, windows 0, 1, 4, 8, greedy and
temperature 0.8, against the whole model decoded alone. In the strict setting every text must be equal; in the default
setting (but one thread an engine, as they share this machine) near-ties are listed with their margins.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsdnode.cli.logs import set_up
from dsdnode.client.client import Client, Finished, GenerateRequest, Piece, ReplyStats
from dsdnode.config import NodeConfig
from dsdnode.engine.client import WorkerEngine
from dsdnode.engine.ipc import EngineOptions
from dsdnode.models import demo_draft, demo_target
from dsdnode.models.problems import problems
from dsdnode.node.node import Node
from dsdnode.speculation.sampling import Sampling
from tests.node.reference import Alone, WholeModel

WINDOWS = (0, 1, 4, 8)
TEMPERATURES = (0.0, 0.8)
NUM_LAYERS = 8


@dataclass
class Count:
    """Of one cell of the table."""

    replies: int = 0
    tokens: int = 0
    ties: list[tuple[int, float]] = field(default_factory=list)


def split(num_layers: int, num_shards: int) -> list[tuple[int, int]]:
    edges = [round(i * num_layers / num_shards) for i in range(num_shards + 1)]
    return list(itertools.pairwise(edges))


@contextlib.asynccontextmanager
async def swarm(
    folder: Path, num_shards: int, *, strict: bool, num_layers: int = NUM_LAYERS, **more: object
) -> AsyncIterator[Client]:
    """A bootstrap that drafts, one peer a shard, and a client of theirs."""

    def config(name: str, **options: Any) -> NodeConfig:
        return NodeConfig(
            listen="tcp://127.0.0.1:0",
            data_dir=folder / name,
            strict=strict,
            name=name,
            threads=1,
            wire="f32",
            **(options | more),
        )

    async with contextlib.AsyncExitStack() as stack:
        drafter = await Node.start(config("drafter", roles=("drafter",)))
        stack.push_async_callback(drafter.close)
        for i, layers in enumerate(split(num_layers, num_shards)):
            shard = await Node.start(config(f"shard{i}", roles=("shard",), layers=layers, joins=(drafter.join,)))
            stack.push_async_callback(shard.close)
        client = await Client.connect([drafter.join])
        stack.push_async_callback(client.close)
        yield client


async def reply(client: Client, request: GenerateRequest) -> tuple[tuple[int, ...], str, ReplyStats]:
    """Tokens, text and statistics of a whole reply."""
    tokens: list[int] = []
    text, stats = "", None
    async for event in client.generate(request):
        if isinstance(event, Piece):
            tokens.extend(event.tokens)
            text += event.text
        elif isinstance(event, Finished):
            stats = event.stats
    assert stats is not None
    return tuple(tokens), text, stats


def compare(expected: Alone, tokens: Sequence[int]) -> tuple[int, float] | None:
    """None: equal; else the first place where they part, and how near the tie was there."""
    if tuple(tokens) == expected.tokens:
        return None
    parted = next(
        (i for i, (a, b) in enumerate(zip(expected.tokens, tokens, strict=False)) if a != b),
        min(len(tokens), len(expected.tokens)),
    )
    return parted, expected.margins[parted] if parted < len(expected.margins) else float("nan")


async def rendered(questions: Sequence[str]) -> tuple[list[tuple[int, ...]], frozenset[int]]:
    """The prompts' ids, and the tokens that end a reply.

    Half are questions in the chat template (the demo pair is sure of its answers: temperature changes little), half are
    beginnings that it goes on with as it likes (here temperature tells).
    """
    engine = await WorkerEngine.start(demo_draft(), EngineOptions())
    try:
        prompts = [
            await engine.render([("user", question)])
            if i % 2 == 0
            else await engine.tokenize(question[: len(question) // 2])
            for i, question in enumerate(questions)
        ]
        return [tuple(prompt) for prompt in prompts], (await engine.vocabulary()).end_tokens
    finally:
        await engine.close()


class Comparison:
    """Replies of a swarm against the whole model, which decodes each prompt once."""

    def __init__(
        self, whole: WholeModel, prompts: Sequence[tuple[int, ...]], ends: frozenset[int], max_tokens: int
    ) -> None:
        self._whole = whole
        self._prompts = prompts
        self._ends = ends
        self._max_tokens = max_tokens
        self._alone: dict[tuple[int, float], Alone] = {}

    def expected(self, number: int, temperature: float) -> Alone:
        if (number, temperature) not in self._alone:
            sampling = Sampling(temperature=temperature, seed=number)
            alone = self._whole.decode(self._prompts[number], sampling, self._max_tokens, self._ends)
            self._alone[number, temperature] = alone
        return self._alone[number, temperature]

    async def cell(self, client: Client, window: int, temperature: float) -> Count:
        count = Count()
        for number, prompt in enumerate(self._prompts):
            request = GenerateRequest(
                prompt_tokens=prompt,
                max_tokens=self._max_tokens,
                temperature=temperature,
                seed=number,
                draft_max=window,
                window="fixed",
            )
            tokens, _, _ = await reply(client, request)
            tie = compare(self.expected(number, temperature), tokens)
            count.replies += 1
            count.tokens += len(tokens)
            count.ties += [tie] if tie is not None else []
        return count


async def measure(strict: bool, num_prompts: int, max_tokens: int, shards: Sequence[int]) -> bool:
    prompts, ends = await rendered([problem.question for problem in problems(seed=4711, count=num_prompts)])
    comparison = Comparison(WholeModel(demo_target(), strict=strict), prompts, ends, max_tokens)
    good = True
    print("| shards | window | temperature | replies | tokens | not equal (position: margin) |")
    print("|---|---|---|---|---|---|")
    for num_shards in shards:
        with tempfile.TemporaryDirectory() as folder:
            async with swarm(Path(folder), num_shards, strict=strict) as client:
                for window, temperature in itertools.product(WINDOWS, TEMPERATURES):
                    count = await comparison.cell(client, window, temperature)
                    good = good and not count.ties
                    ties = ", ".join(f"{position}: {margin:.4f}" for position, margin in count.ties)
                    unequal = f"{len(count.ties)} ({ties})" if ties else "0"
                    row = (num_shards, window, temperature, count.replies, count.tokens, unequal)
                    print("| " + " | ".join(map(str, row)) + " |", flush=True)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 3, 4])
    args = parser.parse_args()
    set_up("warning", "auto")
    good = asyncio.run(measure(args.strict, args.prompts, args.max_tokens, args.shards))
    sys.exit(0 if good or not args.strict else 1)


if __name__ == "__main__":
    main()
