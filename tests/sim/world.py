"""One random world: clients ask a village for replies while troubles rage; what was wrong, lost, stuck or leaked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any
from unittest.mock import patch

import structlog

from dsdnode.engine.fake import fake_text
from dsdnode.errors import DsdError
from dsdnode.node import generate
from dsdnode.node.client import Client, Finished, GenerateRequest
from dsdnode.sim.loop import JumpingLoop, Unreal, run
from dsdnode.speculation.sampling import Sampling
from dsdnode.speculation.session import SessionConfig, SessionMachine
from dsdnode.speculation.window import WindowController
from tests.speculation.world import Restless

from .troubles import Troubles
from .village import Village, held_by, overfull

LIMIT_S = 3600.0
STUCK_S = 300.0
"""Of peace: by then every reply is over."""
LOOK_S = 0.5
END_TOKEN = 0
WINDOWS = ("", "fixed", "awc", "throughput", "throughput:stream", "throughput:hedged", "stream:2:8", "stream:1:16")
"""The production policies; where none is named here, a restless one plans at random."""


@dataclass
class Result:
    """`violations`: what must not be; `given_up`: replies that ended early in plain words, asked again in peace."""

    seed: int
    violations: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    num_replies: int = 0
    num_tokens: int = 0
    num_resumed: int = 0
    given_up: int = 0
    simulated_s: float = 0.0
    messages: int = 0
    texts: list[tuple[int, ...]] = field(default_factory=list)


def run_world(seed: int) -> Result:
    """Same seed, same result."""
    result = Result(seed)
    with _complaints(result.violations), _restless(seed):
        try:
            run(_live(result), LIMIT_S)
        except Unreal as error:
            result.violations.append(f"stuck: {error}")
        except Exception as error:
            result.violations.append(f"crash: {type(error).__name__} {error}")
    return result


async def _live(result: Result) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    loop.set_exception_handler(lambda _, context: result.violations.append(f"crash: {context.get('exception')!r}"))
    rng = Random(result.seed)
    village = Village(rng)
    troubles = Troubles(village, Random(rng.random()))
    await village.build(num_clients=rng.randint(1, 3))
    asks = [_Ask(village, client, _request(rng, village), result) for client in village.clients]
    tasks = [asyncio.create_task(ask.once()) for ask in asks]
    watch = asyncio.create_task(_watch(village, result))
    await troubles.rage()
    await troubles.calm()
    await _end(asks, tasks, result)
    await _settle(village, result)
    watch.cancel()
    await village.close()
    result.faults = troubles.counts + village.network.counts
    result.simulated_s = loop.now
    result.messages = sum(traffic.num_messages for traffic in village.network.traffic.values())
    left = [task.get_name() for task in asyncio.all_tasks() if task not in (asyncio.current_task(), watch)]
    result.violations += [f"leak: task {name}" for name in left]


def _request(rng: Random, village: Village) -> GenerateRequest:
    return GenerateRequest(
        prompt_tokens=tuple(rng.randrange(1, village.model.vocab_size) for _ in range(rng.choice((1, 3, 12, 40, 300)))),
        max_tokens=rng.choice((1, 10, 20, 30)),
        temperature=rng.choice((0.0, 0.8)),
        seed=rng.getrandbits(32),
        draft_max=rng.choice((0, 1, 4, 8, 16, 16)),
        window=rng.choice(WINDOWS),
    )


class _Ask:
    """One client's request, compared with the sequential text as its pieces come."""

    def __init__(self, village: Village, client: Client, request: GenerateRequest, result: Result) -> None:
        self.village, self.client, self.request, self.result = village, client, request, result
        sampling = Sampling(request.temperature, seed=request.seed)
        expected = fake_text(village.model, request.prompt_tokens or (), request.max_tokens, sampling)
        self.expected = expected[: expected.index(END_TOKEN)] if END_TOKEN in expected else expected
        self.over = False
        result.num_replies += 1

    async def once(self) -> None:
        """Until Finished, or until somebody gives up in words; `over` tells which."""
        tokens: list[int] = []
        try:
            async with contextlib.aclosing(self.client.generate(self.request)) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        self._finish(event, tokens)
                        return
                    tokens += event.tokens
                    if tokens != self.expected[: len(tokens)]:
                        self.result.violations.append(f"wrong text: {tokens}, not {self.expected}")
                        self.over = True
                        return
        except DsdError:
            self.result.given_up += 1

    def _finish(self, event: Finished, tokens: list[int]) -> None:
        self.over = True
        self.result.num_tokens += len(tokens)
        self.result.num_resumed += event.stats.get("resumed", 0)
        self.result.texts.append(tuple(tokens))
        if tokens != self.expected:
            self.result.violations.append(f"lost: {len(tokens)} of {len(self.expected)} tokens ({event.reason})")


async def _end(asks: list[_Ask], tasks: list[asyncio.Task[None]], result: Result) -> None:
    """In peace every reply ends, and whoever was sent away with a word gets the whole text now."""
    try:
        async with asyncio.timeout(STUCK_S):
            await asyncio.gather(*tasks)
            if not all(ask.over for ask in asks):
                await asyncio.sleep(20.0)  # what the troubles left in back-offs and records is over
                await asyncio.gather(*(ask.once() for ask in asks if not ask.over))
    except TimeoutError:
        result.violations += ["stuck: a reply is not over" for ask in asks if not ask.over]
    else:
        result.violations += ["lost: no reply though all is well again" for ask in asks if not ask.over]


async def _settle(village: Village, result: Result) -> None:
    """Within a lease every stage has let go of everything."""
    deadline_s = village.loop.now + village.lease_s + 15.0
    while True:
        await asyncio.sleep(1.0)
        held = [leak for villager in village.villagers.values() for leak in held_by(villager)]
        if not held or village.loop.now > deadline_s:
            result.violations += held
            return


async def _watch(village: Village, result: Result) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        for villager in list(village.villagers.values()):
            result.violations += overfull(villager)


@contextlib.contextmanager
def _restless(seed: int) -> Iterator[None]:
    """Replies of a policy without a name are planned at random: nothing that a policy may say makes a text wrong."""
    rng = Random(f"plans {seed}")

    def machine(config: SessionConfig, prompt: Any, window: WindowController, *, drafter: bool) -> SessionMachine:
        chosen = Restless(rng) if rng.random() < 0.6 else window
        return SessionMachine(config, prompt, chosen, drafter=drafter)

    with patch.object(generate, "SessionMachine", machine):
        yield


@contextlib.contextmanager
def _complaints(violations: list[str]) -> Iterator[None]:
    """An error in a log is a bug; nothing else is said."""

    def collect(logger: Any, method: str, event: dict[str, Any]) -> Any:
        error = event.get("exc_info")
        violations.append(f"log: {event['event']} {error!r}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[collect], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
    )  # fmt: skip
    try:
        yield
    finally:
        structlog.configure(**before)
