"""An engine without a model: it takes the time a machine would take, and says what a recorded or made-up pair would.

Every reply has one true text, `token_at(key, position)`, prompt included; the key is the sampling's seed, so the last
stage needs nothing of what the first was fed, and states are carried for their weight alone. A draft engine says the
truth where the reply's trace says that the draft model was right. (An engine that notices a stale cache is
engine/fake.py's, for hunting bugs; this one checks lengths only.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dsdnode.cost import UNKNOWN, CostLine
from dsdnode.engine.permits import Grammar
from dsdnode.engine.port import Chunk, Lost, Message, Output, ShardInfo, States, Top
from dsdnode.engine.tokenizer import Vocab
from dsdnode.errors import BadInput, EngineLost, Overloaded
from dsdnode.sim.traces import Trace
from dsdnode.wire.calls import PLAIN, CallFormat
from dsdnode.wire.replies import Constraint

VOCAB_SIZE = 1 << 15
WIDTH = 1
_MASK = (1 << 64) - 1


def token_at(key: int, position: int) -> int:
    """The true token: from 1 on (0 ends a reply, and is never said). Splitmix64's finaliser."""
    word = (key * 0x9E3779B97F4A7C15 + position * 0xD1B54A32D192ED03) & _MASK
    word = ((word ^ word >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ word >> 27) * 0x94D049BB133111EB) & _MASK
    return 1 + (word >> 33) % (VOCAB_SIZE - 1)


def prompt_of(key: int, num_tokens: int) -> tuple[int, ...]:
    return tuple(token_at(key, position) for position in range(num_tokens))


class Scripts:
    """The replies of a world, by key: where each one's prompt ends, and the pair's trace from there on."""

    def __init__(self) -> None:
        self._replies: dict[int, tuple[int, Trace]] = {}

    def put(self, key: int, num_prompt: int, trace: Trace) -> None:
        self._replies[key] = num_prompt, trace

    def forget(self, key: int) -> None:
        self._replies.pop(key, None)

    def place(self, key: int, position: int) -> tuple[Trace, int] | None:
        """The trace and the index in it of the token at `position`; None in the prompt, or behind the trace's end."""
        known = self._replies.get(key)
        if known is None:
            return None
        index = position - known[0]
        return (known[1], index) if 0 <= index < len(known[1]) else None


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """Of a decode: by its positions, and `sequence_s` for each sequence in the batch."""

    line: CostLine = UNKNOWN
    sequence_s: float = 0.0

    def of(self, num_positions: int, num_sequences: int) -> float:
        """Seconds."""
        return self.line.at(num_positions) + self.sequence_s * num_sequences


class ScriptedEngine:
    """An `Engine` on layers of a model (`shard.width` is WIDTH), a whole draft model if `drafts`.

    `busy_s`, `num_decodes` and `num_positions` add up what it has done. `pace` multiplies its cost from now on.
    """

    def __init__(self, shard: ShardInfo, cost: DecodeCost, scripts: Scripts, *, drafts: bool = False) -> None:
        self._shard = shard
        self._cost = cost
        self._scripts = scripts
        self._drafts = drafts
        self._lengths: dict[int, int] = {}
        self._on_lost: list[Lost] = []
        self._on_change: list[Callable[[], None]] = []
        self._busy = asyncio.Lock()
        self._life = 0
        self._closed = False
        self.pace = 1.0
        self.busy_s = 0.0
        self.num_decodes = 0
        self.num_positions = 0

    # --- the port

    @property
    def shard(self) -> ShardInfo:
        return self._shard

    @property
    def available(self) -> bool:
        return not self._closed

    @property
    def quarantined(self) -> str:
        return "closed" if self._closed else ""

    def on_lost(self, callback: Lost) -> None:
        self._on_lost.append(callback)

    def on_change(self, callback: Callable[[], None]) -> None:
        self._on_change.append(callback)

    async def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        async with self._busy:
            life = self._life
            num_positions = self._check(chunks)
            compute_s = self._compute_s(chunks, num_positions)
            await asyncio.sleep(compute_s)
            if self._closed or life != self._life:
                raise EngineLost("the engine's process died")
            self.busy_s += compute_s
            self.num_decodes += 1
            self.num_positions += num_positions
            return [self._run(chunk, compute_s) for chunk in chunks]

    async def copy(self, source: int, target: int, position: int) -> None:
        """Shared cells are not counted twice, and are the target's when the source goes first."""
        assert position <= self._lengths.get(source, 0) and not self._lengths.get(target), "copy"
        self._lengths[target] = position

    async def truncate(self, sequence: int, position: int) -> None:
        self._lengths[sequence] = min(position, self._lengths.get(sequence, 0))

    async def release(self, sequence: int) -> None:
        self._lengths.pop(sequence, None)

    async def close(self) -> None:
        self._closed = True
        self.die()

    # --- a draft model's tokenizer: text is not simulated

    async def tokenize(self, text: str, parse_special: bool = False) -> list[int]:
        raise BadInput("simulated replies begin with token ids")

    async def render(self, messages: Sequence[Message], tools: str = "") -> list[int]:
        raise BadInput("simulated replies begin with token ids")

    async def calls(self) -> CallFormat:
        return PLAIN

    async def vocabulary(self) -> Vocab:
        return _VOCAB

    async def constrain(self, constraint: Constraint, vocab_size: int) -> Grammar:
        raise BadInput("simulated replies have no text to constrain")

    # --- the world

    def die(self) -> None:
        """What the death of a worker process does: every sequence is lost; back at once."""
        self._life += 1
        self._lengths.clear()
        for lost in self._on_lost:
            lost(frozenset())
        for changed in self._on_change:
            asyncio.get_running_loop().call_soon(changed)

    # --- inside

    def _check(self, chunks: Sequence[Chunk]) -> int:
        num_positions = 0
        for chunk in chunks:
            known = self._lengths.get(chunk.sequence, 0)
            if chunk.position > known:
                raise EngineLost("the sequence died with its process")
            assert chunk.position == known, f"a chunk at {chunk.position} of a sequence of {known}"
            num_positions += len(chunk.inputs) + chunk.extend
        if sum(self._lengths.values()) + num_positions > self._shard.context_tokens:
            raise Overloaded("the cache of this engine is full")
        return num_positions

    def _compute_s(self, chunks: Sequence[Chunk], num_positions: int) -> float:
        """A draft model decodes token after token; what it is fed goes in one batch."""
        num_steps = max(chunk.extend for chunk in chunks)
        fed = self._cost.of(sum(len(chunk.inputs) for chunk in chunks), len(chunks))
        steps = [sum(chunk.extend > step for chunk in chunks) for step in range(num_steps)]
        return self.pace * (fed + sum(self._cost.of(num, num) for num in steps))

    def _run(self, chunk: Chunk, compute_s: float) -> Output:
        num = len(chunk.inputs)
        end = self._lengths[chunk.sequence] = chunk.position + num + chunk.extend
        if not self._shard.last:
            states: States = np.zeros((num, WIDTH), np.float32)
            return Output(states, None, None, compute_s)
        if not chunk.num_draws:
            return Output(None, np.zeros(0, np.int32), np.zeros(0, np.float32), compute_s)
        assert chunk.sampling is not None
        first = chunk.position + num - chunk.num_draws + 1
        said = [self._say(chunk.sampling.seed, position) for position in range(first, end + 1)]
        tokens = np.array([one[0] for one in said], np.int32)
        confidences = np.array([one[1] for one in said], np.float32)
        seconds = np.array([one[2] for one in said], np.int32)
        top = _top(tokens, confidences, chunk.num_top) if chunk.num_top else None
        rest = 1 - confidences
        return Output(None, tokens, confidences, compute_s, seconds, rest * np.float32(0.6), top)

    async def text_file(self) -> bytes:
        return b""

    def _say(self, key: int, position: int) -> tuple[int, float, int]:
        """What is said at a position: token, confidence, second choice."""
        true = token_at(key, position)
        place = self._scripts.place(key, position)
        if place is None:
            return true, 1.0, _wrong(true)
        trace, index = place
        if not self._drafts:
            return true, 1.0 - trace.entropy[index], _wrong(true)
        if trace.accepted[index]:
            return true, trace.confidence[index], _wrong(true)
        return _wrong(true), trace.confidence[index], true if trace.second[index] else _wrong(true + 1)


def _wrong(token: int) -> int:
    """Another one than this, and not the end."""
    return 1 + token % (VOCAB_SIZE - 1)


def _top(tokens: np.ndarray, confidences: np.ndarray, num: int) -> Top:
    """The token, then ids that nobody says, with what is left shared among them; entropy as the trace has it."""
    others = (tokens[:, None] + np.arange(1, num)) % (VOCAB_SIZE - 1) + 1
    ids = np.concatenate([tokens[:, None], others], axis=1).astype(np.int32)
    rest = np.repeat(((1 - confidences) / max(1, num - 1))[:, None], num - 1, axis=1)
    chances = np.concatenate([confidences[:, None], rest], axis=1).astype(np.float32)
    return Top(ids, chances, (1 - confidences).astype(np.float32))


_VOCAB = Vocab([b""] * VOCAB_SIZE, frozenset({0}), False)
