"""A pipeline of four homes: `python -m tests.nat pipeline`: is it right, and how fast beside one without routers?

Four shards of two layers each, in homes of four kinds, two drafters elsewhere, and two who ask. The same swarm once
more, on lines of the same delays, everybody with a public address; they answer in turn, two replies at a time. Every
token is compared with the whole model's. Exit code 1: a reply is not what the model alone says.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from dsdnode.client.client import Client, GenerateRequest
from dsdnode.models import demo_target
from dsdnode.models.problems import problems
from tests.nat.lab import Lab, lab
from tests.nat.people import Member, begin, hops, until_complete, until_reached
from tests.node.exactness import Comparison, compare, rendered, reply
from tests.node.processes import Swarm, swarm
from tests.node.reference import WholeModel

DELAY_MS = 10.0
"""One way, on everybody's line."""
KINDS = {"0:2": "cone", "2:4": "prc", "4:6": "cgn", "6:8": "symf"}
OWNERS = ("prc", "public")
NUM_CLIENTS = 2
MAX_TOKENS = 48
REACHED_S = 60.0
TEMPERATURE = 0.8


@dataclass
class Side:
    """One of the two swarms. Of each reply: its tokens, seconds to the first and the last one, and what is wrong."""

    name: str
    members: list[Member]
    clients: list[Client]
    num_tokens: list[int] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    async def answer(self, comparison: Comparison, prompts: list[tuple[int, ...]], numbers: list[int]) -> None:
        """These prompts, at once, each asked for by another client."""
        asked = zip(self.clients, numbers, strict=True)
        await asyncio.gather(*(self._answer(client, comparison, prompts[number], number) for client, number in asked))

    async def _answer(self, client: Client, comparison: Comparison, prompt: tuple[int, ...], number: int) -> None:
        request = GenerateRequest(
            prompt_tokens=prompt, max_tokens=MAX_TOKENS, temperature=TEMPERATURE, seed=number, wire="f32"
        )
        began_s = time.monotonic()
        tokens, _, stats = await reply(client, request)
        self.whole_s.append(time.monotonic() - began_s)
        self.num_tokens.append(len(tokens))
        self.first_s.append(stats.time_to_first_token_s or 0.0)
        parted = compare(comparison.expected(number, TEMPERATURE), tokens)
        if parted is not None:
            self.wrong.append(f"prompt {number} at token {parted[0]} (margin {parted[1]:.4f})")

    @property
    def tokens_per_s(self) -> float:
        """Of all replies, from the question to the last token."""
        return sum(self.num_tokens) / sum(self.whole_s)


def main(folder: Path, num_replies: int) -> int:
    with lab() as homes, lab() as publics, swarm(folder / "homes") as one, swarm(folder / "public") as two:
        return asyncio.run(_main(homes, publics, one, two, num_replies))


async def _main(homes: Lab, publics: Lab, one: Swarm, two: Swarm, num_replies: int) -> int:
    prompts, ends = await rendered([problem.question for problem in problems(seed=4711, count=num_replies)])
    comparison = Comparison(WholeModel(demo_target(), strict=True), prompts, ends, MAX_TOKENS)
    async with (
        _side("homes", homes, one, KINDS, OWNERS) as left,
        _side("public", publics, two, dict.fromkeys(KINDS, "public"), ("public",) * len(OWNERS)) as right,
    ):
        for first in range(0, num_replies - NUM_CLIENTS + 1, NUM_CLIENTS):
            numbers = list(range(first, first + NUM_CLIENTS))
            for side in (left, right) if first // NUM_CLIENTS % 2 else (right, left):
                await side.answer(comparison, prompts, numbers)
        for side in (left, right):
            _tell(side)
        ratios = [a / b for a, b in zip(right.whole_s, left.whole_s, strict=True)]
        both, pairs = left.tokens_per_s / right.tokens_per_s, statistics.median(ratios)
        print(f"tokens/s behind routers to those without: {both:.2f}; of each pair {pairs:.2f} (median)")
        return int(bool(left.wrong or right.wrong))


@contextlib.asynccontextmanager
async def _side(
    name: str, town: Lab, people: Swarm, kinds: dict[str, str], owners: tuple[str, ...]
) -> AsyncIterator[Side]:
    people.folder.mkdir(parents=True, exist_ok=True)
    first = begin(people, town.home("public", delay_ms=DELAY_MS), "boot", "--role", "bootstrap")
    join = await asyncio.to_thread(lambda: first.daemon.join)
    common = ("--join", join, "--strict")
    members = [first]
    for index, kind in enumerate(owners):
        members.append(
            begin(people, town.home(kind, delay_ms=DELAY_MS), f"owner-{index}", "--role", "drafter", *common)
        )
    for layers, kind in kinds.items():
        words = ("--role", "shard", "--layers", layers, *common)
        members.append(begin(people, town.home(kind, delay_ms=DELAY_MS), f"shard-{layers.replace(':', '-')}", *words))
    await until_reached(members, REACHED_S)
    assert await until_complete(members[1], REACHED_S), "there is no pipeline"
    clients: list[Client] = []
    try:
        for _ in range(NUM_CLIENTS):
            with town.home("public", delay_ms=DELAY_MS).inside():
                clients.append(await Client.connect([join]))
        yield Side(name, members, clients)
    finally:
        for client in clients:
            await client.close()


def _tell(side: Side) -> None:
    print(
        f"{side.name}: {len(side.whole_s)} replies, {len(side.wrong)} not right; {sum(side.num_tokens)} tokens, "
        f"{side.tokens_per_s:.1f} a second; first token after {statistics.median(side.first_s):.2f} s (median)"
    )
    for words in side.wrong:
        print(f"  not right: {words}")
    for one in side.members:
        routes = one.daemon.log.read_text(errors="replace").count('"event": "route"')
        print(f"  {one.name:10} reached after {one.reached_s:.1f} s, {one.path}" + f", routes: {routes}" * bool(routes))
    print(f"  links: {', '.join(link for link in hops(side.members) if _is_used(link))}")


def _is_used(link: str) -> bool:
    """Is it one of the pipeline's, in either direction?"""
    ring = [f"shard-{layers.replace(':', '-')}" for layers in KINDS]
    pair = set(link.partition(" ")[0].split(">"))
    is_owners = any(one.startswith("owner") for one in pair) and bool(pair & {ring[0], ring[-1]})
    return is_owners or any(pair == set(two) for two in pairwise(ring))
