"""A deterministic engine for tests and simulation: no weights, but the same contract, kept more strictly.

Each layer's state at a position is a hash of everything cached before it in that sequence, so a stale cache, a lost
rollback or a swapped row shows as wrong text. A state travels as 16 digits from 0 to 15: f32, f16 and q8 carry it.
However the layers are cut, the text is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Final

import numpy as np

from dsdnode.engine.draws import Draws
from dsdnode.engine.permits import FoundMasks
from dsdnode.engine.port import (
    Chunk,
    Guesses,
    Lost,
    Message,
    Output,
    ShardInfo,
    States,
    Tokens,
    check_chunks,
    check_sequence,
)
from dsdnode.engine.tokenizer import Vocab
from dsdnode.errors import BadInput, EngineLost, Overloaded, WorkerDied, WorkFailed
from dsdnode.speculation.sampling import Sampling, draw, noise
from dsdnode.wire.calls import PLAIN, CallFormat
from dsdnode.wire.replies import Constraint

if TYPE_CHECKING:
    from dsdnode.engine.grammars import Grammars

WIDTH: Final = 16
_SALT: Final = 0x0D5D
Hashes = tuple[int, ...]
"""One 64-bit running hash for each layer of the shard."""


@dataclass(frozen=True, slots=True)
class FakeModel:
    """A toy language model. `agreement` < 1: a draft model that is of the target's opinion so often."""

    num_layers: int = 4
    vocab_size: int = 97
    agreement: float = 1.0
    logit_scale: float = 4.0
    padding: int = field(default=0, repr=False)
    """The last rows of the vocabulary, which belong to no token."""
    text: bytes = field(default=b"", repr=False)
    """What it is read with."""

    def shard(self, start: int, end: int, context_tokens: int = 4096, max_sequences: int = 64) -> ShardInfo:
        return ShardInfo(
            weights_hash=_hex(f"model {self}"),
            model_name="fake",
            architecture="fake",
            start=start,
            end=end,
            num_layers=self.num_layers,
            width=WIDTH,
            vocab_size=self.vocab_size,
            tokenizer_hash=_hex(f"tokenizer {self.vocab_size - self.padding}"),
            context_tokens=context_tokens,
            train_context_tokens=context_tokens,
            max_sequences=max_sequences,
            can_truncate=True,
            text_hash=sha256(self.text).hexdigest() if self.text else "",
        )

    def step(self, before: Hashes, start: int, end: int, entering: int) -> Hashes:
        """The hashes of layers [start, end) after one more position, into which `entering` (id or hash) goes."""
        after = []
        for layer in range(start, end):
            entering = _mix(before[layer - start] if before else layer, entering, layer)
            after.append(entering)
        return tuple(after)

    def logits(self, final: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Logits [vocab_size] from the last layer's hash."""
        swayed = self.agreement < 1 and _mix(final, _SALT, 0) >= self.agreement * 2.0**64
        return _logits(_mix(final, _SALT, 1) if swayed else final, self.vocab_size, self.logit_scale)


class FakeEngine:
    """An `Engine` on layers [start, end) of a `FakeModel`. A gap or overlap of positions is an AssertionError.

    `cost(num_positions)` is how long a decode takes, in seconds of the loop's time. It dies of a chunk that `deadly`
    says is, and cannot do one that `broken` says is. `guess(tokens, n)`: what it guesses at behind these.
    """

    def __init__(
        self,
        model: FakeModel,
        start: int = 0,
        end: int | None = None,
        *,
        context_tokens: int = 4096,
        max_sequences: int = 64,
        cost: Callable[[int], float] | None = None,
        deadly: Callable[[Chunk], bool] = lambda chunk: False,
        broken: Callable[[Chunk], bool] = lambda chunk: False,
        guess: Callable[[Sequence[int], int], Sequence[int]] | None = None,
    ) -> None:
        self.model = model
        self._shard = model.shard(start, model.num_layers if end is None else end, context_tokens, max_sequences)
        if guess is not None and self._shard.last:
            self._shard = replace(self._shard, num_guesses=4)
        self._guess = guess
        self._lines: dict[int, list[int]] = {}
        """Tokens, as far as they are told."""
        self._cost = cost
        self._cache: dict[int, list[Hashes]] = {}
        self._gone: set[int] = set()
        self._deadly, self._broken = deadly, broken
        self._on_lost: list[Lost] = []
        self._on_change: list[Callable[[], None]] = []
        self._busy = asyncio.Lock()
        self._running: asyncio.Future[None] | None = None
        self._ran: frozenset[int] = frozenset()
        self._epoch = 0
        self._closed = False
        self._resting = ""
        self.num_positions_run = 0
        self.num_deaths = 0

    @property
    def shard(self) -> ShardInfo:
        return self._shard

    @property
    def available(self) -> bool:
        return not (self._closed or self._resting)

    @property
    def quarantined(self) -> str:
        return "closed" if self._closed else self._resting

    def on_lost(self, callback: Lost) -> None:
        self._on_lost.append(callback)

    def on_change(self, callback: Callable[[], None]) -> None:
        self._on_change.append(callback)

    def length(self, sequence: int) -> int:
        return len(self._cache.get(sequence, ()))

    @property
    def num_cells(self) -> int:
        """Cached positions; shared ones count once."""
        return len({id(hashes) for cached in self._cache.values() for hashes in cached})

    def die(self) -> None:
        """What the death of a worker process does: every sequence is lost, whoever waits is told; back at once."""
        self._epoch += 1
        self.num_deaths += 1
        self._gone.update(self._cache)
        self._cache.clear()
        self._lines.clear()
        if self._running is not None and not self._running.done():
            self._running.set_result(None)
        for lost in self._on_lost:
            lost(self._ran)
        for changed in self._on_change:
            asyncio.get_running_loop().call_soon(changed)

    def rest(self, reason: str) -> None:
        """What a quarantine does; with no reason, its end."""
        self._resting = reason
        for changed in self._on_change:
            changed()

    async def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        epoch = self._epoch
        async with self._busy:
            for chunk in chunks:
                if chunk.position == 0:
                    self._gone.discard(chunk.sequence)
                self._check_known(chunk.sequence)
            num_positions = sum(len(chunk.inputs) + chunk.extend for chunk in chunks)
            self._ran = frozenset(chunk.sequence for chunk in chunks)
            try:
                compute_s = await self._work(num_positions, epoch)
                if any(map(self._deadly, chunks)):
                    self.die()
                    raise WorkerDied("the engine's process died of it")
            finally:
                self._ran = frozenset()
            self._check(chunks, num_positions)
            if any(map(self._broken, chunks)):
                raise WorkFailed("these numbers come to nothing")
            return [self._run(chunk, compute_s) for chunk in chunks]

    async def copy(self, source: int, target: int, position: int) -> None:
        async with self._busy:
            self._check_known(source)
            self._gone.discard(target)
            check_sequence(target, self._shard)
            assert source != target and not self.length(target) and 0 <= position <= self.length(source), (
                f"copy of {position} positions, {source} -> {target}, of {self.length(source)}"
            )
            self._cache[target] = self._cache.get(source, [])[:position]
            self._lines[target] = self._lines.get(source, [])[:position]

    async def truncate(self, sequence: int, position: int) -> None:
        async with self._busy:
            self._check_known(sequence)
            check_sequence(sequence, self._shard)
            del self._cache.get(sequence, [])[position:]
            del self._lines.get(sequence, [])[position:]

    async def release(self, sequence: int) -> None:
        async with self._busy:
            check_sequence(sequence, self._shard)
            self._gone.discard(sequence)
            self._cache.pop(sequence, None)
            self._lines.pop(sequence, None)

    async def close(self) -> None:
        self._closed = True
        self.die()

    def _check_known(self, sequence: int) -> None:
        if self.quarantined:
            raise EngineLost(f"the engine is {self.quarantined}")
        if sequence in self._gone:
            raise EngineLost("the sequence died with its process")

    async def _work(self, num_positions: int, epoch: int) -> float:
        """Take the time that it takes, unless death comes first."""
        seconds = self._cost(num_positions) if self._cost is not None else 0.0
        if seconds > 0 and self._epoch == epoch:
            loop = asyncio.get_running_loop()
            self._running = loop.create_future()
            timer = loop.call_later(seconds, _wake, self._running)
            try:
                await self._running
            finally:
                timer.cancel()
        if self._epoch != epoch:
            raise EngineLost("the engine's process died")
        return seconds

    def _check(self, chunks: Sequence[Chunk], num_positions: int) -> None:
        try:
            check_chunks(chunks, self._shard, self.length)
        except ValueError as error:
            raise AssertionError(str(error)) from error
        if self.num_cells + num_positions > self._shard.context_tokens:
            raise Overloaded("the cache of this engine is full")

    def _run(self, chunk: Chunk, compute_s: float) -> Output:
        cached = self._cache.setdefault(chunk.sequence, [])
        entering = chunk.inputs.tolist() if self._shard.first else _hashes(chunk.inputs)
        for value in entering:
            self._append(cached, value)
        if not self._shard.last:
            return Output(_states([hashes[-1] for hashes in cached[chunk.position :]]), None, None, compute_s)
        drawn = Draws(chunk)
        for length in range(len(cached) - chunk.num_draws + 1, len(cached) + 1):
            drawn.take(self.model.logits(cached[length - 1][-1]), length)
        for _ in range(chunk.extend):
            self._append(cached, drawn.last)
            drawn.take(self.model.logits(cached[-1][-1]), len(cached))
        return replace(drawn.output(compute_s), guesses=self._guessed(chunk, drawn))

    def _guessed(self, chunk: Chunk, drawn: Draws) -> Guesses | None:
        """As engine/mtp.py does it: behind the first draw that the line has not, or the last."""
        if self._guess is None or chunk.line is None:
            return None
        line = self._lines.setdefault(chunk.sequence, [])
        if len(line) != chunk.position:
            return None
        line += chunk.line.tolist()
        if not chunk.num_guesses:
            return None
        tokens, first = drawn.tokens, len(chunk.inputs) - chunk.num_draws + 1
        known = chunk.line[first:].tolist()
        index = next((i for i, (one, two) in enumerate(zip(tokens, known, strict=False)) if one != two), len(known))
        position = chunk.position + first + index
        guesses = self._guess([*line[:position], tokens[index]], chunk.num_guesses)
        return Guesses(position + 1, np.array(guesses, np.int32), np.full(len(guesses), 0.8, np.float32))

    def _append(self, cached: list[Hashes], entering: int) -> None:
        before = cached[-1] if cached else ()
        cached.append(self.model.step(before, self._shard.start, self._shard.end, entering))
        self.num_positions_run += 1

    async def text_file(self) -> bytes:
        return self.model.text


class FakeTextEngine(FakeEngine):
    """A fake draft model with a tokenizer: an id is a character, 32 below its code; id 0 ends a reply."""

    async def tokenize(self, text: str, parse_special: bool = False) -> list[int]:
        return [1 + (ord(character) - 33) % (self.model.vocab_size - 1) for character in text]

    async def render(self, messages: Sequence[Message], tools: str = "") -> list[int]:
        if not messages:
            raise BadInput("a conversation has at least one message")
        lines = [f"{role}: {content}{''.join(more)}" for role, content, *more in messages]
        return await self.tokenize("\n".join([tools, *lines] if tools else lines))

    async def calls(self) -> CallFormat:
        return PLAIN

    async def vocabulary(self) -> Vocab:
        return Vocab(self._pieces, frozenset({0}), True)

    @property
    def _pieces(self) -> list[bytes]:
        return [b"", *(chr(32 + token).encode() for token in range(1, self.model.vocab_size))]

    async def constrain(self, constraint: Constraint, vocab_size: int) -> FakeGrammar:
        from dsdnode.engine.grammars import Grammars

        names = [b"<end>", *([b""] * (self.model.vocab_size - 1))]
        return FakeGrammar(Grammars(self._pieces, names, [0]), constraint, vocab_size)


class FakeGrammar:
    """A `Grammar` in this process."""

    def __init__(self, grammars: Grammars, constraint: Constraint, vocab_size: int) -> None:
        self._grammars = grammars
        self._grammars.open(b"", constraint, vocab_size)

    async def masks(self, tokens: Sequence[int], first: int, again: bool = False) -> FoundMasks:
        return FoundMasks(*self._grammars.masks(b"", tokens, first, again))


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def fake_text(model: FakeModel, prompt: Sequence[int], num_tokens: int, sampling: Sampling | None = None) -> list[int]:
    """The reference: `num_tokens` after `prompt`, decoded one by one with nothing else in the way."""
    tokens, hashes = list(prompt), ()  # type: tuple[list[int], Hashes]
    for token in tokens:
        hashes = model.step(hashes, 0, model.num_layers, token)
    for _ in range(num_tokens):
        tokens.append(draw(model.logits(hashes[-1]), len(tokens), sampling or Sampling()))
        hashes = model.step(hashes, 0, model.num_layers, tokens[-1])
    return tokens[len(prompt) :]


def _mix(before: int, entering: int, layer: int) -> int:
    data = before.to_bytes(8, "little") + entering.to_bytes(8, "little") + layer.to_bytes(8, "little")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


@lru_cache(maxsize=4096)
def _logits(key: int, vocab_size: int, scale: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    words = noise(key, 0, np.arange(vocab_size))
    result: np.ndarray[tuple[int], np.dtype[np.float32]] = words.astype(np.float32) * np.float32(scale * 2.0**-32)
    return result


def _states(hashes: list[int]) -> States:
    return np.array([[value >> shift & 15 for shift in range(0, 64, 4)] for value in hashes], np.float32)


def _hashes(states: Tokens | States) -> list[int]:
    digits = np.rint(states).astype(int).tolist()
    return [sum(digit << 4 * place for place, digit in enumerate(row)) for row in digits]


def _hex(text: str) -> str:
    return blake2b(text.encode(), digest_size=32).hexdigest()
