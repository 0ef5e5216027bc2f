"""The swarm as the gateway asks it, and what it sees of it: which replies run, by whom, and what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

from dsdnode.client.client import Finished, GenerateRequest, Piece, ReplyStats, TextRead
from dsdnode.errors import DsdError
from dsdnode.gateway.failures import failure_of
from dsdnode.gateway.metrics import Metrics
from dsdnode.gateway.port import Swarm
from dsdnode.swarm.info import ModelInfo, PeerInfo
from dsdnode.wire.replies import StageInfo

SEEN_S = 2.0
"""Neither a supervisor nor an eye asks more often."""

T = TypeVar("T")


class Seen(Generic[T]):
    """What was seen of the swarm when somebody looked last: whoever has no key may ask as often as he likes, however
    many look at the map, and a look is a question to the swarm and a ping to each of its peers."""

    def __init__(self, look: Callable[[], Awaitable[T]]) -> None:
        self._look = look
        self._found: T | None = None
        self._until_s = float("-inf")
        self._looking = asyncio.Lock()

    async def __call__(self) -> T:
        async with self._looking:
            if self._found is None or _now() >= self._until_s:
                self._found = await self._look()
                self._until_s = _now() + SEEN_S
            return self._found


@dataclass(slots=True)
class Flow:
    """A reply, as far as this gateway knows. `drafter`: a peer id, "" before the first token; `route`: of its stages,
    as the drafter said last."""

    model: str
    began_s: float
    drafter: str = ""
    route: tuple[StageInfo, ...] = ()
    first_s: float | None = None
    last_s: float = 0.0
    num_tokens: int = 0
    waits: str = ""
    """For what, in words, as long as it stands still."""
    stats: ReplyStats | None = None

    def take(self, event: Piece | Finished, now: float) -> None:
        if isinstance(event, Finished):
            self.stats, self.route = event.stats, event.stats.pipeline or self.route
            return
        self.num_tokens += len(event.tokens)
        self.drafter = event.drafter.hex() or self.drafter
        self.route = event.route or self.route
        if event.tokens:
            self.first_s, self.waits = self.first_s or now, ""
            self.last_s = now


class Watched:
    """A Swarm (port.py) before another one."""

    def __init__(self, swarm: Swarm, metrics: Metrics) -> None:
        self.swarm = swarm
        self.metrics = metrics
        self.flows: dict[int, Flow] = {}
        """In progress."""
        self.last: Flow | None = None
        self.seen_peers = Seen(self.peers)
        self.seen_models = Seen(self.models)
        self._numbers = count()

    async def generate(
        self, request: GenerateRequest, told: Callable[[str], None] | None = None
    ) -> AsyncGenerator[Piece | Finished, None]:
        """Raises DsdError."""
        number, flow = next(self._numbers), Flow(request.model or "", _now())
        self.flows[number] = flow

        def hears(words: str) -> None:
            flow.waits = words
            if told is not None:
                told(words)

        outcome = "cancelled"
        try:
            async with aclosing(self.swarm.generate(request, hears)) as events:
                async for event in events:
                    flow.take(event, _now())
                    if isinstance(event, Finished):
                        outcome = event.reason
                    yield event
        except DsdError as error:
            outcome = failure_of(error).code
            raise
        except Exception:
            outcome = "internal_error"
            raise
        finally:
            del self.flows[number]
            self.last = flow if flow.num_tokens else self.last
            first_s = None if flow.first_s is None else flow.first_s - flow.began_s
            self.metrics.over(outcome, first_s, flow.last_s - (flow.first_s or 0.0), flow.num_tokens, flow.stats)

    async def read_text(self, request: GenerateRequest) -> TextRead:
        return await self.swarm.read_text(request)

    async def models(self) -> list[ModelInfo]:
        return await self.swarm.models()

    async def peers(self) -> list[PeerInfo]:
        return await self.swarm.peers()

    async def known(self) -> tuple[list[PeerInfo], list[ModelInfo]]:
        """Of the last SEEN_S."""
        return await self.seen_peers(), await self.seen_models()


def _now() -> float:
    return asyncio.get_running_loop().time()
