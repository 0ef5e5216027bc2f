"""The draft engine's part in one reply: carries out a Draft, free, or under the masks that the judge draws under."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import structlog

from dsdnode.engine.port import Output
from dsdnode.errors import DsdError, EngineLost
from dsdnode.node.drafter.constrained import Constrained
from dsdnode.node.drafter.conversations import Conversation, DraftSequences, draft_tokens_of
from dsdnode.node.drafter.options import ReplyOptions
from dsdnode.speculation import actions as do
from dsdnode.speculation.masks import allowed, allows

log = structlog.get_logger(__name__)

MAX_STRIDE = 64
DraftTokens = tuple[do.DraftToken, ...]


class Drafts:
    """`answered` hears the draft tokens of each Draft (None: the engine is dead, or full), `failed` what else comes."""

    def __init__(
        self,
        sequences: DraftSequences,
        options: ReplyOptions,
        constrained: Constrained | None,
        answered: Callable[[DraftTokens | None], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._sequences = sequences
        self._vocab_size, self._foreign = options.model.vocab_size, options.foreign
        self._constrained = constrained
        self._answered = answered
        self._failed = failed
        self._life = 0
        """Of the engine: what it was asked in an earlier one is not answered."""
        self._stride = 4
        """Draft tokens of which all are likely to be allowed: behind the first one the engine knows no masks."""
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of(
        cls,
        conversation: Conversation,
        options: ReplyOptions,
        constrained: Constrained | None,
        answered: Callable[[DraftTokens | None], None],
        failed: Callable[[Exception], None],
    ) -> Drafts | None:
        """None: plain decoding."""
        sequences = conversation.sequences
        return None if sequences is None else cls(sequences, options, constrained, answered, failed)

    @property
    def available(self) -> bool:
        """Is the engine there, and is it to draft this reply?"""
        return self._sequences.available

    def begin_again(self) -> None:
        """The engine has lost its caches, or has come back."""
        self._life += 1
        self._cancel()
        self._sequences.release()

    def close(self) -> bool:
        """Is it not known what the engine has cached? (What it was to do was not asked of it.)"""
        self._life += 1
        return self._cancel()

    def draft(self, action: do.Draft) -> None:
        life = self._life
        if self._constrained is not None:
            self._task = asyncio.create_task(self._masked(self._constrained, action, life))
            return

        def done(result: Output | DsdError | None) -> None:
            if life == self._life:
                self._answered(self._usable(result))

        self._sequences.draft(action, done)

    def _usable(self, result: Output | DsdError | None) -> DraftTokens | None:
        if isinstance(result, Output) and result.tokens is not None:
            return draft_tokens_of(result, self._vocab_size, self._foreign)
        log.info("not drafted", reason=str(result))
        return None

    async def _masked(self, constrained: Constrained, action: do.Draft, life: int) -> None:
        """The first draft token is drawn under its mask, and those behind it are looked at afterwards: at the first one
        that may not stand it goes on anew."""
        try:
            drafted: DraftTokens | None = ()
            place = constrained.follow(action.before, action.position, action.tokens)
            mask = None if place is None else await constrained.mask(place)
            mask = None if mask is None else self._drawable(mask)
            if place is not None and mask is not None:
                drafted = self._usable(await self._drawn(replace(action, count=min(action.count, self._stride)), mask))
            if place is not None and drafted:
                masks = await constrained.extend(place, tuple(one.token for one in drafted))
                self._stride = max(1, len(masks)) if len(masks) < len(drafted) else min(MAX_STRIDE, 2 * self._stride)
                drafted = tuple(map(_with_allowed, drafted, masks))
        except Exception as error:
            if life == self._life:
                self._failed(error)
        else:
            if life == self._life:
                self._answered(drafted)

    async def _drawn(self, action: do.Draft, mask: bytes) -> Output | DsdError:
        drawn: asyncio.Future[Output | DsdError] = asyncio.get_running_loop().create_future()

        def done(result: Output | DsdError | None) -> None:
            if not drawn.done():
                drawn.set_result(EngineLost("it was not run") if result is None else result)

        self._sequences.draft(action, done, (mask,))
        return await drawn

    def _drawable(self, mask: bytes) -> bytes | None:
        """Without what the draft model takes for something else, or lacks; None: nothing is left."""
        bits = allowed(mask, min(self._vocab_size, self._sequences.vocab_size)).copy()
        bits[[token for token in self._foreign if token < len(bits)]] = False
        return np.packbits(bits, bitorder="little").tobytes() if bits.any() else None

    def _cancel(self) -> bool:
        task, self._task = self._task, None
        return task is not None and task.cancel()


def _with_allowed(one: do.DraftToken, mask: bytes) -> do.DraftToken:
    """A second choice that may not stand is none."""
    if one.second < 0 or (allows(mask, one.second) and one.second_probability > 0):
        return one
    return do.DraftToken(one.token, one.probability)
