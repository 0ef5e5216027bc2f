"""What an Open asks of a stage, and what comes with a block: the buffers of both, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from dsdnode.engine.port import Chunk, Output, ShardInfo
from dsdnode.errors import PeerMisbehaved
from dsdnode.identity import peer_id
from dsdnode.speculation.acceptance import AcceptanceRule, ExactRule, JudgeDraw, KeyTokens, RelaxedRule
from dsdnode.speculation.actions import Guessed, Note, RunChunk, States, Tokens
from dsdnode.speculation.digest import DIGEST_BYTES, split
from dsdnode.speculation.masks import MAX_PLACES, Places, Shelves
from dsdnode.speculation.sampling import Sampling
from dsdnode.speculation.shaping import Shaping
from dsdnode.speculation.stage.known import KnownLine
from dsdnode.wire.codec import buffer_at, decode_body
from dsdnode.wire.guesses import Guesses, pack_guesses
from dsdnode.wire.logprobs import TokenLogprobs, pack_logprobs
from dsdnode.wire.masks import MAX_MASKS, PackedMask
from dsdnode.wire.messages import Block, JudgeNote, Open, OpenStages, StagePlace
from dsdnode.wire.numbers import unpack_tokens
from dsdnode.wire.tensors import unpack_states

MAX_NOTE_BYTES = 1 << 16
"""Of what a block has for its judge: 1,024 tokens take 5 KiB."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """An Open. `digests`: of the line, as far as it may reach; `known`: to a judge that needs the line's tokens."""

    message: Open
    body: OpenStages
    digests: bytes
    key_tokens: bytes = b""
    known: KnownLine | None = None

    @classmethod
    def of(cls, message: Open, buffers: list[bytes], shard: ShardInfo) -> Asked:
        """Raises PeerMisbehaved."""
        body = decode_body(buffer_at(buffers, 0), OpenStages)
        digests = buffer_at(buffers, 1)[: DIGEST_BYTES * (message.max_positions + 1)]  # no line is longer
        keys = buffers[2] if len(buffers) > 2 else b""
        if len(keys) > -(-shard.vocab_size // 8):
            raise PeerMisbehaved("more key tokens than there are tokens")
        asked = cls(message, body, digests, keys)
        if not (asked.judges and asked.has_note) or message.max_positions > shard.context_tokens:
            return asked  # (more positions than there are will be refused: a million of tokens need not be read for it)
        told = buffer_at(buffers, 3)
        if not len(told) // 4 <= body.num_line <= message.max_positions:
            raise PeerMisbehaved("more tokens of the line than it has, or than it may have")
        tokens = np.array(unpack_tokens(told, len(told) // 4, shard.vocab_size), np.int32)
        guesses = min(body.num_guesses, shard.num_guesses) > 0
        return replace(asked, known=KnownLine(asked.shaping, body.num_prompt, body.num_line, tokens, guesses))

    @property
    def stages(self) -> tuple[StagePlace, ...]:
        return self.body.stages

    @property
    def way(self) -> tuple[Any, ...]:
        """By which hidden states come here: what is cached of a line hangs on it."""
        index = self.message.index
        before = tuple(peer_id(stage.contact.public_key) for stage in self.stages[:index])
        return before and (self.message.wire, *before)

    @property
    def judges(self) -> bool:
        return self.message.index == len(self.stages) - 1

    @property
    def shaping(self) -> Shaping:
        return Shaping(**msgspec.structs.asdict(self.body.shaping))

    @property
    def has_note(self) -> bool:
        """Do its blocks bring one for the judge?"""
        return self.shaping.has_past or self.body.num_guesses > 0

    @property
    def sampling(self) -> Sampling:
        return Sampling(**msgspec.structs.asdict(self.message.sampling), shaping=self.shaping)

    @property
    def acceptance(self) -> AcceptanceRule:
        asked = self.message.acceptance
        if asked.threshold == 0:
            return ExactRule()
        return RelaxedRule(asked.threshold, deferred=asked.deferred, key_tokens=KeyTokens(self.key_tokens))

    @property
    def terms(self) -> tuple[Any, ...]:
        """What is one reply's: draws, and their fate, are made by these."""
        message, body = self.message, self.body
        drawn = message.sampling, body.shaping, body.num_logprobs, body.masked
        return *drawn, message.acceptance, message.max_positions

    def places(self, shelves: Shelves, owner: bytes) -> Places | None:
        """For a judge that draws under masks."""
        return Places(shelves.of(owner)) if self.judges and self.body.masked else None

    @property
    def place(self) -> tuple[Any, ...]:
        """What is one route's."""
        return self.message, self.body


@dataclass(frozen=True, slots=True, eq=False)
class BlockBuffers:
    """`states` None at the first stage."""

    digests: bytes
    tokens: Tokens
    states: States | None
    note: Note | None = None

    @classmethod
    def of(cls, asked: Asked, block: Block, buffers: list[bytes], shard: ShardInfo) -> BlockBuffers:
        """Raises PeerMisbehaved."""
        first = asked.message.index == 0
        if len(buffers) != (2 if first else 3) + asked.has_note:
            raise PeerMisbehaved("a block has two buffers, three after the first stage, and a note if one is due")
        num_positions = block.num_given + block.num_draft
        num_tokens = num_positions if first else block.num_draft
        tokens = unpack_tokens(buffers[1], num_tokens, shard.vocab_size)
        states = None if first else unpack_states(buffers[2], num_positions, shard.width, asked.message.wire)
        return cls(buffers[0], tokens, states, _note(buffers[-1], read=asked.judges) if asked.has_note else None)


def _note(data: bytes, *, read: bool) -> Note:
    if len(data) > MAX_NOTE_BYTES:
        raise PeerMisbehaved(f"a note of {len(data)} bytes")
    if not read:
        return Note(data)
    note = decode_body(data, JudgeNote)
    return Note(data, note.given, note.num_guesses)


def told_by(buffers: list[bytes]) -> tuple[dict[bytes, bytes], tuple[PackedMask, ...]]:
    """Of Masks: hashes by digest, and packed masks. Raises PeerMisbehaved."""
    digests, names = (buffer_at(buffers, index) for index in (0, 1))
    if len(digests) != len(names) or len(digests) % DIGEST_BYTES or len(digests) > DIGEST_BYTES * MAX_PLACES:
        raise PeerMisbehaved(f"masks of positions told in {len(digests)} bytes, by names of {len(names)}")
    packed = decode_body(buffer_at(buffers, 2), tuple[PackedMask, ...])
    if len(packed) > MAX_MASKS:
        raise PeerMisbehaved(f"{len(packed)} masks in one message")
    return dict(zip(split(digests), split(names), strict=True)), packed


def chunk_of(asked: Asked, sampling: Sampling, run: RunChunk, shard: ShardInfo, owner: bytes) -> Chunk:
    """For the engine of this `shard`. `sampling`: that which is asked for."""
    inputs, most = np.asarray(run.tokens, np.int32) if run.states is None else run.states, shard.vocab_size
    is_drawn, body = run.num_draws > 0, asked.body
    guesses = min(run.num_guesses, body.num_guesses, shard.num_guesses) if run.line is not None else 0
    return Chunk(
        run.sequence, run.position, inputs, run.num_draws, sampling if is_drawn else None,
        num_top=min(run.num_top, most), past=run.past,
        num_logprobs=min(body.num_logprobs, most) if is_drawn else -1, masks=run.masks, owner=owner,
        line=run.line, num_guesses=guesses,
    )  # fmt: skip


def verdict_buffers(logprobs: Sequence[TokenLogprobs], guesses: Guesses | None) -> list[bytes]:
    """Of a Verdict; none of what was not asked for."""
    if guesses is not None:
        return [pack_logprobs(logprobs), pack_guesses(guesses)]
    return [pack_logprobs(logprobs)] if logprobs else []


def guessed_of(output: Output) -> Guessed | None:
    """What it guesses at behind one of its draws."""
    told = output.guesses
    if told is None:
        return None
    tokens = tuple(zip(told.tokens.tolist(), told.probabilities.tolist(), strict=True))
    return Guessed(told.position, Guesses(tokens, 1000 * told.compute_s))


def seen_of(output: Output) -> tuple[JudgeDraw, ...]:
    """The draws with the distributions behind them, where these were asked for."""
    if output.tokens is None or (output.top is None and output.logprobs is None):
        return ()
    draws = [JudgeDraw(token) for token in output.tokens.tolist()]
    if output.top is not None:
        columns = (output.tokens, output.top.tokens, output.top.probabilities, output.top.entropies)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        draws = [JudgeDraw(token, tuple(top), tuple(chances), entropy) for token, top, chances, entropy in rows]
    if output.logprobs is None:
        return tuple(draws)
    told = output.logprobs
    tops = [
        tuple(zip(ids, values, strict=True))
        for ids, values in zip(told.tokens.tolist(), told.values.tolist(), strict=True)
    ]
    return tuple(
        replace(one, logprobs=TokenLogprobs(one.token, value, top))
        for one, value, top in zip(draws, told.drawn.tolist(), tops, strict=True)
    )
