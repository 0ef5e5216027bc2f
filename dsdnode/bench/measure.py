"""One cell of the grid: every prompt under every scheme, in turn, at the same daemons; then several replies at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from dsdnode.bench.config import BenchConfig
from dsdnode.bench.oracle import Oracle
from dsdnode.bench.schemes import Scheme
from dsdnode.bench.swarm import Swarm
from dsdnode.client.client import Client, Finished, GenerateRequest, ReplyStats
from dsdnode.errors import DsdError
from dsdnode.node.status import NodeStatus

Ask = Callable[[Path], Awaitable[NodeStatus]]
"""How the daemon of a data dir is."""
Tell = Callable[[str], None]
"""One more step is done: this was it."""
WARM_TOKENS = 8
PROVIDED_WITHIN_S = 30.0
REPLY_KINDS = ("Open", "Opened", "Block", "Verdict", "Nack", "Closed", "SessionLost", "Close")
"""Messages of a reply between its peers: not the upkeep of the swarm, nor what the drafter tells the client."""


@dataclass(frozen=True, slots=True)
class MeasuredReply:
    """`prompt`: its number. `arrivals`: (seconds after it was asked for, tokens there). `num_messages` and `num_bytes`
    are of REPLY_KINDS, `num_link_bytes` of everything on the links, encrypted and framed; 0 when it was not alone."""

    scheme: Scheme
    prompt: int
    tokens: tuple[int, ...]
    text: str
    took_s: float
    arrivals: tuple[tuple[float, int], ...]
    stats: ReplyStats
    num_messages: int = 0
    num_bytes: int = 0
    num_link_bytes: int = 0
    cpu_s: tuple[float, float] = (0.0, 0.0)
    """Of a processor: by the workers, in which the layers are computed, and by the daemons."""


@dataclass(frozen=True, slots=True)
class MeasuredCrowd:
    """All prompts under one scheme, `num_sessions` at once, a new one as soon as one is over."""

    scheme: Scheme
    num_sessions: int
    took_s: float
    replies: tuple[MeasuredReply, ...]


@dataclass(frozen=True, slots=True)
class Measurements:
    """`statuses`: of the shards in order, then of the drafter, at the end."""

    replies: tuple[MeasuredReply, ...]
    crowds: tuple[MeasuredCrowd, ...]
    statuses: tuple[NodeStatus, ...]


class Laboratory:
    """Asks a swarm; `prompts` are token ids."""

    def __init__(
        self,
        config: BenchConfig,
        swarm: Swarm,
        client: Client,
        oracle: Oracle,
        prompts: Sequence[Sequence[int]],
        ask: Ask,
    ) -> None:
        self._config = config
        self._swarm = swarm
        self._client = client
        self._oracle = oracle
        self._prompts = prompts
        self._ask = ask

    async def measure(self, tell: Tell) -> Measurements:
        """Raises DsdError of a reply that failed."""
        await self._warm_up()
        replies = []
        schemes = self._config.schemes
        for number in range(len(self._prompts)):
            for i in range(len(schemes)):
                scheme = schemes[(number + i) % len(schemes)]  # none always comes first, or behind the same one
                replies.append(await self._counted(scheme, number))
                tell(scheme.name)
        crowds = []
        for num_sessions in self._config.sessions:
            for scheme in [one for one in schemes if num_sessions > 1 and not one.alone]:
                crowds.append(await self._crowd(scheme, num_sessions))
                tell(f"{scheme.name} x{num_sessions}")
        return Measurements(tuple(replies), tuple(crowds), tuple(await self._statuses()))

    async def _warm_up(self) -> None:
        """Until the swarm is complete for the client; then links are made and every scheme has been used once."""
        try:
            async with asyncio.timeout(PROVIDED_WITHIN_S):
                while not any(m.complete and m.drafters for m in await self._client.models()):  # noqa: ASYNC110 (no event tells it)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise DsdError(f"the daemons did not find one another within {PROVIDED_WITHIN_S:.0f} s") from None
        for scheme in self._config.schemes:
            await self._reply(scheme, 0, min(WARM_TOKENS, self._config.max_tokens))

    async def _statuses(self) -> list[NodeStatus]:
        drafter, *shards = self._swarm.daemons
        return await asyncio.gather(*(self._ask(daemon.data_dir) for daemon in (*shards, drafter)))

    async def _traffic(self) -> tuple[int, int, int]:
        """Messages and bytes of all replies so far, bytes on the links."""
        sent = [status.sent.get(kind, (0, 0)) for status in await self._statuses() for kind in REPLY_KINDS]
        return sum(num for num, _ in sent), sum(size for _, size in sent), self._swarm.num_link_bytes()

    async def _counted(self, scheme: Scheme, prompt: int) -> MeasuredReply:
        """One reply, and no other."""
        before, spent_s = await self._traffic(), await self._cpu_s(scheme)
        reply = await self._reply(scheme, prompt, self._config.max_tokens, self._slow_down)
        now_s = await self._cpu_s(scheme)
        num_messages, num_bytes, num_link_bytes = (
            after - earlier for after, earlier in zip(await self._traffic(), before, strict=True)
        )
        cpu_s = now_s[0] - spent_s[0], now_s[1] - spent_s[1]
        return replace(
            reply, num_messages=num_messages, num_bytes=num_bytes, num_link_bytes=num_link_bytes, cpu_s=cpu_s
        )

    async def _cpu_s(self, scheme: Scheme) -> tuple[float, float]:
        return await self._oracle.cpu_s() if scheme.alone else self._swarm.cpu_s()

    async def _reply(
        self, scheme: Scheme, prompt: int, max_tokens: int, watch: Callable[[int], None] = lambda num_tokens: None
    ) -> MeasuredReply:
        if scheme.alone:
            return await self._alone(scheme, prompt, max_tokens)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        tokens: list[int] = []
        arrivals = []
        text, finished = "", None
        try:
            async for event in self._client.generate(self._request(scheme, prompt, max_tokens)):
                if isinstance(event, Finished):
                    finished = event
                    continue
                tokens += event.tokens
                text += event.text
                arrivals.append((loop.time() - began_s, len(tokens)))
                watch(len(tokens))
        finally:
            watch(-1)
        assert finished is not None  # without an error it is the last event
        return MeasuredReply(
            scheme, prompt, tuple(tokens), text, loop.time() - began_s, tuple(arrivals), finished.stats
        )

    async def _alone(self, scheme: Scheme, prompt: int, max_tokens: int) -> MeasuredReply:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        ends = frozenset() if self._config.ignore_eos else await self._oracle.end_tokens()
        arrivals: list[tuple[float, int]] = []
        tokens: list[int] = []
        async with aclosing(self._oracle.tokens(self._prompts[prompt], max_tokens)) as said:
            async for token in said:
                if token in ends:
                    break
                tokens.append(token)
                arrivals.append((loop.time() - began_s, len(tokens)))
        first_s, last_s = (arrivals[0][0], arrivals[-1][0]) if arrivals else (0.0, 0.0)
        stats = ReplyStats(
            completion_tokens=len(tokens),
            passes=len(tokens),
            time_to_first_token_s=first_s,
            tokens_per_second=(len(tokens) - 1) / (last_s - first_s) if last_s > first_s else None,
        )
        return MeasuredReply(scheme, prompt, tuple(tokens), "", loop.time() - began_s, tuple(arrivals), stats)

    def _request(self, scheme: Scheme, prompt: int, max_tokens: int) -> GenerateRequest:
        return GenerateRequest(
            prompt_tokens=self._prompts[prompt],
            max_tokens=max_tokens,
            temperature=self._config.temperature,
            seed=self._config.seed,
            draft_max=scheme.draft_max,
            window=scheme.window,
            wire=scheme.wire,
            threshold=scheme.threshold,
            deferred=scheme.deferred,
            ignore_eos=self._config.ignore_eos,
        )

    def _slow_down(self, num_tokens: int) -> None:
        """A shard becomes slower in mid-reply; -1: the reply is over."""
        planned = self._config.slow_down
        if planned is not None and num_tokens == -1:
            self._swarm.slow_down(planned.shard, 1.0)
        elif planned is not None and num_tokens >= planned.token:
            self._swarm.slow_down(planned.shard, planned.factor)

    async def _crowd(self, scheme: Scheme, num_sessions: int) -> MeasuredCrowd:
        loop = asyncio.get_running_loop()
        waiting = list(range(len(self._prompts)))
        replies: list[MeasuredReply] = []

        async def one() -> None:
            while waiting:
                replies.append(await self._reply(scheme, waiting.pop(0), self._config.max_tokens))

        began_s = loop.time()
        async with asyncio.TaskGroup() as group:
            for _ in range(num_sessions):
                group.create_task(one())
        return MeasuredCrowd(scheme, num_sessions, loop.time() - began_s, tuple(replies))
