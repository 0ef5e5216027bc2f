"""Who asks for what and when, and what they got: the requests of a scenario, by production clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from dsdnode.client.client import Client, Finished, GenerateRequest, ReplyStats
from dsdnode.client.drafters import FULL_PAUSE_S
from dsdnode.client.failures import Failures
from dsdnode.client.request import PendingReply
from dsdnode.errors import DsdError, NoPipeline
from dsdnode.node.node import Node
from dsdnode.sim.engine import prompt_of, token_at
from dsdnode.sim.traces import RecordedPair
from dsdnode.sim.world import World

SPARE_TOKENS = 64
"""Draft tokens go beyond the end of a reply."""


@dataclass(slots=True)
class Outcome:
    """One request. Times are true ones; `arrivals`: (time, tokens so far) of each piece."""

    key: int
    prompt_tokens: int
    max_tokens: int
    asked_s: float
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    ended_s: float | None = None
    error: str = ""
    stats: ReplyStats | None = None
    num_wrong: int = 0
    """Tokens that are not the true text's: none but by relaxed acceptance."""

    @property
    def num_tokens(self) -> int:
        return self.arrivals[-1][1] if self.arrivals else 0

    @property
    def done(self) -> bool:
        return self.ended_s is not None and not self.error


class OwnUser(Client):
    """Who sits at a drafter, and asks it alone, from inside its own process."""

    def __init__(self, node: Node, rng: Random) -> None:
        super().__init__(node.rpc, node.discovery, rng)
        self._node = node

    async def _choose_drafter(self, pending: PendingReply, failures: Failures) -> bytes:
        """Raises NoPipeline when it has failed already; one that is full is asked again."""
        failure = failures.get(self._node.peer_id)
        if failure is not None and not failure.full:
            raise NoPipeline(f"the own drafter failed: {failure.error}")
        await asyncio.sleep(FULL_PAUSE_S if failure else 0)
        return self._node.peer_id


class Load:
    """`await run()`: all requests asked and answered, or given up; `told` hears of each."""

    def __init__(self, world: World, told: Callable[[str], None]) -> None:
        self._world = world
        self._told = told
        self._terms = world.scenario.load
        self._rng = world.rng("load")
        self._clients: list[Client] = []
        self._num_asked = 0
        self.outcomes: list[Outcome] = []

    async def run(self) -> None:
        await self._meet_clients()
        asking = {"poisson": self._poisson, "burst": self._burst, "closed": self._closed}[self._terms.arrivals]
        await asking()

    async def _meet_clients(self) -> None:
        world, terms = self._world, self._terms
        for i in range(terms.clients):
            self._clients.append(await world.client(f"client-{i}", terms.regions[i % len(terms.regions)]))
        if not terms.clients:
            own = [peer for peer in world.peers if peer.group.private]
            self._clients = [OwnUser(peer.node, world.rng(f"user of {peer.name}")) for peer in own]

    # --- when

    async def _poisson(self) -> None:
        tasks = []
        for _ in range(self._terms.requests):
            await asyncio.sleep(self._rng.expovariate(self._terms.rate_per_s))
            tasks.append(asyncio.create_task(self._ask()))
        await asyncio.gather(*tasks)

    async def _burst(self) -> None:
        tasks = []
        for number in range(self._terms.requests):
            if number and number % self._terms.burst == 0:
                await asyncio.sleep(self._rng.expovariate(self._terms.rate_per_s / self._terms.burst))
            tasks.append(asyncio.create_task(self._ask()))
        await asyncio.gather(*tasks)

    async def _closed(self) -> None:
        async def user(number: int) -> None:
            rng = self._world.rng(f"user {number}")
            if self._terms.think_s:
                await asyncio.sleep(rng.random() * self._terms.think_s)
            while self._num_asked < self._terms.requests:
                await self._ask(number)
                if self._terms.think_s:
                    await asyncio.sleep(rng.expovariate(1 / self._terms.think_s))

        await asyncio.gather(*(user(number) for number in range(self._terms.users)))

    # --- what

    async def _ask(self, user: int | None = None) -> None:
        """The next request, by a user's own client, or by each client in turn."""
        number = self._num_asked
        self._num_asked += 1
        client = self._clients[(number if user is None else user) % len(self._clients)]
        rng = self._world.rng(f"request {number}")
        outcome, request = self._request(1 + number, rng)
        self.outcomes.append(outcome)
        await _listen(client, request, outcome, self._world)
        self._world.scripts.forget(outcome.key)
        self._told(f"{self._world.loop.now:.0f} s of their time")

    def _request(self, key: int, rng: Random) -> tuple[Outcome, GenerateRequest]:
        world, policies = self._world, self._world.scenario.policies
        num_prompt, num_reply = rng.randint(*self._terms.prompt_span), rng.randint(*self._terms.reply_span)
        if self._terms.replay and isinstance(world.pair, RecordedPair):
            trace = world.pair.traces[(key - 1) % len(world.pair.traces)]
            num_prompt, num_reply = trace.prompt_tokens or num_prompt, len(trace)
        else:
            trace = world.pair.trace(num_reply + SPARE_TOKENS, rng)
        world.scripts.put(key, num_prompt, trace)
        request = GenerateRequest(
            prompt_tokens=prompt_of(key, num_prompt),
            max_tokens=num_reply,
            temperature=self._terms.temperature,
            seed=key,
            draft_max=policies.draft_max,
            window=policies.window,
            wire=policies.wire,
        )
        return Outcome(key, num_prompt, num_reply, world.loop.now), request


async def _listen(client: Client, request: GenerateRequest, outcome: Outcome, world: World) -> None:
    loop, position = world.loop, outcome.prompt_tokens
    try:
        async with contextlib.aclosing(client.generate(request)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    outcome.stats = event.stats
                elif event.tokens:
                    for token in event.tokens:
                        outcome.num_wrong += token != token_at(outcome.key, position)
                        position += 1
                    outcome.arrivals.append((loop.now, position - outcome.prompt_tokens))
    except DsdError as error:
        outcome.error = f"{type(error).__name__}: {error}"
    outcome.ended_s = loop.now
