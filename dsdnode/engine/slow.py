"""A slower device, emulated: the real engine computes, then waits for what the other machine would have taken.

Waiting, not burning, so that eight of them fit on two cores. For `dsdnode bench` and experiments; nothing else uses it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dsdnode.cost import CostLine
from dsdnode.engine.cage import Protection
from dsdnode.engine.permits import Grammar
from dsdnode.engine.port import Chunk, Lost, Message, Output, ShardInfo, TextEngine
from dsdnode.engine.tokenizer import Vocab
from dsdnode.wire.calls import CallFormat
from dsdnode.wire.replies import Constraint

PREFILL_SHARE = 1 / 16
"""Of a draft model's time for a token it draws: what one more position costs that it is only fed."""
MAX_LATE_S = 0.0005
_LATE_WEIGHT = 0.05


def fine_loop() -> asyncio.SelectorEventLoop:
    """A loop whose timers are good to some 50 us. (epoll's, the usual ones on Linux, are rounded up to whole ms.)"""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


class Punctuality:
    """How late this process is usually woken, by its own timers: whoever must be on time asks to be called earlier."""

    def __init__(self) -> None:
        self.late_s = 0.0

    def woken(self, asked_s: float, now: float) -> None:
        self.late_s += _LATE_WEIGHT * (min(now - asked_s, MAX_LATE_S) - self.late_s)


@dataclass(frozen=True, slots=True)
class Pace:
    """Of a decode, by the positions of all its chunks. `drafts`: of a draft model, by the tokens that it draws one
    after the other; each further position that it is fed counts as PREFILL_SHARE of one."""

    cost: CostLine
    drafts: bool = False

    def duration_s(self, chunks: Sequence[Chunk]) -> float:
        return self.cost.at(sum(self._num_steps(chunk) for chunk in chunks))

    def _num_steps(self, chunk: Chunk) -> float:
        num_positions = len(chunk.inputs)
        if not self.drafts:
            return num_positions + chunk.extend
        num_drawn = 1 + chunk.extend if chunk.num_draws else 0
        return num_drawn + PREFILL_SHARE * (num_positions - bool(num_drawn))


class SlowEngine:
    """A TextEngine that takes at least its pace, times the number in `factor_file` (no such file: 1)."""

    def __init__(self, engine: TextEngine, pace: Pace, factor_file: Path) -> None:
        self._engine = engine
        self._pace = pace
        self._factor_file = factor_file
        self._punctuality = Punctuality()

    async def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        least_s = self._pace.duration_s(chunks) * self._factor()
        outputs = await self._engine.forward(chunks)
        asked_s = began_s + least_s - self._punctuality.late_s
        if asked_s > loop.time():
            await asyncio.sleep(asked_s - loop.time())
            self._punctuality.woken(asked_s, loop.time())
        return [replace(output, compute_s=max(output.compute_s, least_s)) for output in outputs]

    def _factor(self) -> float:
        try:
            return float(self._factor_file.read_text())
        except (OSError, ValueError):  # ValueError: it is being written
            return 1.0

    # --- the rest as it is

    @property
    def shard(self) -> ShardInfo:
        return self._engine.shard

    @property
    def pid(self) -> int | None:
        pid: int | None = getattr(self._engine, "pid", None)
        return pid

    @property
    def protection(self) -> Protection | None:
        protection: Protection | None = getattr(self._engine, "protection", None)
        return protection

    @property
    def available(self) -> bool:
        return self._engine.available

    @property
    def quarantined(self) -> str:
        return self._engine.quarantined

    @property
    def num_deaths(self) -> int:
        return int(getattr(self._engine, "num_deaths", 0))

    @property
    def last_death(self) -> str:
        return str(getattr(self._engine, "last_death", ""))

    def on_lost(self, callback: Lost) -> None:
        self._engine.on_lost(callback)

    def on_change(self, callback: Callable[[], None]) -> None:
        self._engine.on_change(callback)

    async def copy(self, source: int, target: int, position: int) -> None:
        await self._engine.copy(source, target, position)

    async def truncate(self, sequence: int, position: int) -> None:
        await self._engine.truncate(sequence, position)

    async def release(self, sequence: int) -> None:
        await self._engine.release(sequence)

    async def close(self) -> None:
        await self._engine.close()

    async def tokenize(self, text: str, parse_special: bool = False) -> list[int]:
        return await self._engine.tokenize(text, parse_special)

    async def render(self, messages: Sequence[Message], tools: str = "") -> list[int]:
        return await self._engine.render(messages, tools)

    async def calls(self) -> CallFormat:
        return await self._engine.calls()

    async def constrain(self, constraint: Constraint, vocab_size: int) -> Grammar:
        return await self._engine.constrain(constraint, vocab_size)

    async def text_file(self) -> bytes:
        return await self._engine.text_file()

    async def vocabulary(self) -> Vocab:
        return await self._engine.vocabulary()
