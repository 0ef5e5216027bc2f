"""The seam between the node and whatever computes: llama.cpp in a worker process, or a fake in a test.

An engine hosts layers [start, end) of one model and the key/value cache of many sequences. Positions are absolute and
contiguous: a chunk may only begin where its sequence ends. Beside the port stands what every engine does around a
decode: check the chunks (a stranger's numbers end here, and so do our own bugs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from dsdnode.engine.permits import Grammar
from dsdnode.errors import EngineLost, Overloaded, PeerMisbehaved
from dsdnode.speculation.sampling import Sampling
from dsdnode.speculation.shaper import Past

if TYPE_CHECKING:
    from dsdnode.engine.tokenizer import Vocab
    from dsdnode.wire.calls import CallFormat
    from dsdnode.wire.replies import Constraint

Tokens = NDArray[np.int32]
States = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """What an engine hosts. `weights_hash`: SHA-256 of the source GGUF, in hex; `tokenizer_hash`: of its tokenizer."""

    weights_hash: str
    model_name: str
    architecture: str
    start: int
    end: int
    num_layers: int
    width: int
    vocab_size: int
    tokenizer_hash: str
    context_tokens: int
    """Cells of the cache, shared by all sequences."""
    train_context_tokens: int
    """The longest sequence that the model was made for."""
    max_sequences: int
    can_truncate: bool
    text_hash: str = ""
    """Of the file that its texts are read with (engine/gguf_text.py)."""
    is_recurrent: bool = False
    """Its layers have states that run on: what a sequence was at an earlier position is computed anew, perhaps all of
    it, where it is copied from there (engine/hybrid.py)."""
    num_guesses: int = 0
    """Tokens that it can guess at behind what it draws (engine/mtp.py)."""

    @property
    def model_id(self) -> str:
        from dsdnode.wire.records import model_id_by  # not at a worker's start: it asks for none, and needs no keys

        return model_id_by(self)

    @property
    def first(self) -> bool:
        return self.start == 0

    @property
    def last(self) -> bool:
        return self.end == self.num_layers


@dataclass(frozen=True, slots=True)
class Chunk:
    """Positions [position, position + n) of one sequence.

    `inputs`: token ids, int32 [n], for an engine that hosts layer 0; hidden states, float32 [n, width], for the others.
    An engine that hosts the last layer draws a token after each of the last `num_draws` positions with `sampling` (its
    noise is keyed by the absolute position of the token drawn: position + offset + 1). With `extend` > 0 (draft models)
    the token drawn after the last position is fed back and the next drawn, `extend` times in all.

    `runners_up`: also tell each draw's second choice. `num_top`: also tell the most likely tokens at each draw.
    """

    sequence: int
    position: int
    inputs: Tokens | States
    num_draws: int = 0
    sampling: Sampling | None = None
    extend: int = 0
    runners_up: bool = False
    num_top: int = 0
    past: Past | None = None
    """The tokens before the draws, where `sampling.shaping` counts them."""
    num_logprobs: int = -1
    """Also tell each draw's log-probability, and those of so many of the most likely tokens. -1: do not."""
    masks: tuple[bytes, ...] = ()
    """Of the first draws, each: tokens that are not in it are not drawn (speculation/masks.py)."""
    owner: bytes = b""
    """Who is to be named should the engine die of it; empty: nobody."""
    line: Tokens | None = None
    """Its own tokens, int32 [n], where guesses are wanted behind this chunk's draws or a later one's."""
    num_guesses: int = 0
    """At what may come behind the first draw that is not the token of `line` in its place, or else the last."""


@dataclass(frozen=True, slots=True)
class Top:
    """The distributions behind n draws, at temperature 1 without filters: what relaxed acceptance looks at.

    `tokens` int32 and `probabilities` float32, both [n, num_top], most likely first; `entropies` float32 [n], in nats
    over the logarithm of the vocabulary's size (0: certain, 1: uniform).
    """

    tokens: Tokens
    probabilities: NDArray[np.float32]
    entropies: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Of n draws, as the model itself has them: before shaping, filters and temperature. `drawn` float32 [n], of the
    tokens drawn; `tokens` int32 and `values` float32, both [n, num_logprobs], most likely first."""

    drawn: NDArray[np.float32]
    tokens: Tokens
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Guesses:
    """At n tokens from `position` on: `tokens` int32 and `probabilities` float32, each [n], may be none. `compute_s`:
    for all that were guessed at beside one another, beyond the decode."""

    position: int
    tokens: Tokens
    probabilities: NDArray[np.float32]
    compute_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Output:
    """What one chunk gave: hidden states, float32 [n, width], unless the engine hosts the last layer; else the draws.

    `tokens` int32 [num_draws + extend]; `probabilities` float32, of each drawn token under the distribution it was
    drawn from at temperature 1 without filters (the draft's confidence). `compute_s` is the engine's own time for the
    whole decode that the chunk was part of.
    """

    states: States | None
    tokens: Tokens | None
    probabilities: NDArray[np.float32] | None
    compute_s: float
    runners_up: Tokens | None = None
    """int32, as many as `tokens`: what would have been drawn had that token been impossible."""
    runner_up_probabilities: NDArray[np.float32] | None = None
    top: Top | None = None
    logprobs: Logprobs | None = None
    guesses: Guesses | None = None


class Broken(RuntimeError):
    """Nobody knows what state the library below is in: the process must end."""


class CacheSpoiled(EngineLost):
    """What came out was not finite, and in the cache it would have spoiled everybody's: all of it has been cleared."""

    def __init__(self, reason: str, sequences: Sequence[int]) -> None:
        """`sequences`: those whose own results were spoiled."""
        super().__init__(reason)
        self.sequences = tuple(sequences)


Lost = Callable[[frozenset[int]], None]
"""Every sequence has been lost; with those whose work ran just then (none: nobody's, or what was done with text)."""


class Engine(Protocol):
    """Everything raises EngineLost when the worker died on the way, WorkerDied to whom it died of; its sequences are
    then all gone. WorkFailed: it lives, nothing has changed, but this cannot be done."""

    @property
    def shard(self) -> ShardInfo: ...

    @property
    def available(self) -> bool:
        """False while the worker restarts or rests, and when it is closed."""

    @property
    def quarantined(self) -> str:
        """Why the engine will not come back soon; empty while it works or restarts."""

    def on_lost(self, callback: Lost) -> None:
        """Have `callback` called on the loop whenever every sequence has been lost."""

    def on_change(self, callback: Callable[[], None]) -> None:
        """Have `callback` called on the loop whenever it is back, or rests for longer: `available`, `quarantined`."""

    async def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        """Decode all chunks (of different sequences) in one batch. Raises Overloaded when the cache is full.

        Raises WorkFailed when one of several chunks, or a single one, cannot be computed.
        """

    async def copy(self, source: int, target: int, position: int) -> None:
        """Make `target` a new sequence that shares positions [0, position) of `source`."""

    async def truncate(self, sequence: int, position: int) -> None:
        """Forget positions >= position."""

    async def release(self, sequence: int) -> None:
        """Forget the whole sequence."""

    async def text_file(self) -> bytes:
        """What texts of its model are read with (gguf_text.py); of a shard, too. Raises ModelRefused."""

    async def close(self) -> None: ...


Message = tuple[str, str] | tuple[str, str, str]
"""(role, content), and as a JSON object what else a template may use of it: tool_calls, tool_call_id, name."""


class Text(Protocol):
    """A model's tokenizer and chat template. Raises EngineLost when their process cannot be had."""

    async def tokenize(self, text: str, parse_special: bool) -> list[int]:
        """Raises BadInput, ModelRefused (no tokenizer)."""

    async def render(self, messages: Sequence[Message], tools: str = "") -> list[int]:
        """Ids of a conversation, open for the reply; `tools`: JSON. Raises BadInput, ModelRefused (no template)."""

    async def calls(self) -> CallFormat:
        """How the model writes that it calls a tool. Raises as `render`."""

    async def vocabulary(self) -> Vocab:
        """Everything that turns ids into text. Raises ModelRefused (no tokenizer)."""

    async def constrain(self, constraint: Constraint, vocab_size: int) -> Grammar:
        """For one reply, in masks of `vocab_size` tokens. Raises BadInput (what is wrong with it), Overloaded (ask
        again soon)."""

    async def close(self) -> None: ...


class TextEngine(Engine, Text, Protocol):
    """A draft model's engine also has its tokenizer and chat template."""


def check_chunks(chunks: Sequence[Chunk], shard: ShardInfo, length: Callable[[int], int]) -> None:
    """`length(sequence)`: positions cached. Nothing has changed when this raises.

    Raises PeerMisbehaved for values a peer may have sent (ids out of range, states that are not finite), Overloaded for
    positions beyond the cache, ValueError for what no correct caller asks (gaps, overlaps, shapes).
    """
    if not chunks or len({chunk.sequence for chunk in chunks}) != len(chunks):
        raise ValueError("a batch needs chunks, each of another sequence")
    for chunk in chunks:
        check_sequence(chunk.sequence, shard)
        if chunk.position != length(chunk.sequence):
            have = length(chunk.sequence)
            raise ValueError(f"sequence {chunk.sequence} has {have} positions: no chunk begins at {chunk.position}")
        _check_draws(chunk, shard)
        _check_inputs(chunk, shard)
        if chunk.position + len(chunk.inputs) + chunk.extend > shard.context_tokens:
            raise Overloaded(f"the cache has {shard.context_tokens} cells; the sequence would need more")


def check_sequence(sequence: int, shard: ShardInfo) -> None:
    """Raises ValueError."""
    if not 0 <= sequence < shard.max_sequences:
        raise ValueError(f"sequence {sequence} is not in [0, {shard.max_sequences})")


def _check_draws(chunk: Chunk, shard: ShardInfo) -> None:
    if not 0 <= chunk.num_draws <= len(chunk.inputs) or chunk.extend < 0:
        raise ValueError(f"{chunk.num_draws} draws and {chunk.extend} more from {len(chunk.inputs)} positions")
    if chunk.num_draws and not shard.last:
        raise ValueError("only the last layers' engine draws")
    if chunk.num_draws and chunk.sampling is None:
        raise ValueError("draws need a sampling")
    if len(chunk.masks) > chunk.num_draws + chunk.extend:
        raise ValueError(f"{len(chunk.masks)} masks of {chunk.num_draws + chunk.extend} draws")
    if not 0 <= chunk.num_top <= shard.vocab_size:
        raise ValueError(f"the {chunk.num_top} most likely of {shard.vocab_size} tokens")
    if not -1 <= chunk.num_logprobs <= shard.vocab_size:
        raise ValueError(f"log-probabilities of {chunk.num_logprobs} of {shard.vocab_size} tokens")
    if chunk.extend and not (chunk.num_draws and shard.first):
        raise ValueError("only a whole model that draws can go on by itself")
    line = chunk.line
    if not 0 <= chunk.num_guesses <= shard.num_guesses or (chunk.num_guesses and (line is None or not chunk.num_draws)):
        raise ValueError(f"{chunk.num_guesses} guesses, of {shard.num_guesses}, behind draws that are not told of")
    if line is not None and (len(line) != len(chunk.inputs) or line.min() < 0 or line.max() >= shard.vocab_size):
        raise PeerMisbehaved("tokens of a line that are not those of its positions")


def _check_inputs(chunk: Chunk, shard: ShardInfo) -> None:
    inputs = chunk.inputs
    shape = (len(inputs),) if shard.first else (len(inputs), shard.width)
    if len(inputs) == 0 or inputs.shape != shape or inputs.dtype != (np.int32 if shard.first else np.float32):
        raise ValueError(f"inputs {inputs.dtype} {inputs.shape} do not fit the engine: wanted {shape}")
    if shard.first:
        if inputs.min() < 0 or inputs.max() >= shard.vocab_size:
            raise PeerMisbehaved(f"token ids are not all in [0, {shard.vocab_size})")
    elif not np.isfinite(inputs).all():  # in a unified cache one nan poisons every sequence
        raise PeerMisbehaved("hidden states are not all finite")


def check_outputs(outputs: Sequence[Output], chunks: Sequence[Chunk], shard: ShardInfo) -> None:
    """What was computed elsewhere must be what was asked for: whoever reads it counts on that.

    Raises ValueError.
    """
    if len(outputs) != len(chunks):
        raise ValueError(f"{len(outputs)} outputs of {len(chunks)} chunks")
    for output, chunk in zip(outputs, chunks, strict=True):
        if not 0 <= output.compute_s < float("inf"):
            raise ValueError(f"it took {output.compute_s} s")
        if not shard.last:
            shape = None if output.states is None else output.states.shape
            if shape != (len(chunk.inputs), shard.width):
                raise ValueError(f"states {shape} of {len(chunk.inputs)} positions")
            continue
        num, top = chunk.num_draws + chunk.extend, output.top
        _check_drawn(output.tokens, output.probabilities, (num,), shard)
        if chunk.runners_up:
            _check_drawn(output.runners_up, output.runner_up_probabilities, (num,), shard)
        if chunk.num_top:
            if top is None or top.entropies.shape != (num,) or not np.isfinite(top.entropies).all():
                raise ValueError("no entropies of its draws")
            _check_drawn(top.tokens, top.probabilities, (num, chunk.num_top), shard)
        if chunk.num_logprobs >= 0:
            told = output.logprobs
            if told is None or told.drawn.shape != (num,) or not np.isfinite(told.drawn).all():
                raise ValueError("no log-probabilities of its draws")
            _check_drawn(told.tokens, told.values, (num, chunk.num_logprobs), shard)
        if output.guesses is not None:
            guesses = output.guesses
            num_guesses = min(len(guesses.tokens), chunk.num_guesses)
            _check_drawn(guesses.tokens, guesses.probabilities, (num_guesses,), shard)
            if not 0 <= guesses.compute_s < float("inf"):
                raise ValueError(f"its guesses took {guesses.compute_s} s")


def _check_drawn(
    tokens: Tokens | None, chances: NDArray[np.float32] | None, shape: tuple[int, ...], shard: ShardInfo
) -> None:
    if tokens is None or chances is None or tokens.shape != shape or chances.shape != shape:
        raise ValueError(f"draws {None if tokens is None else tokens.shape}, not {shape}")
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < shard.vocab_size and np.isfinite(chances).all()):
        raise ValueError("tokens that the model does not have, or chances that are none")
