"""In the place of a draft model where there is none: nothing is drafted by it, and it reads no text.

A drafter needs a tokenizer and a window on the text alone: the tokenizer is the target's own (gguf_text.py), and draft
tokens can be copied from the text (speculation/owner/ngrams.py). So any machine can own replies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

from dsdnode.config import NO_DRAFT
from dsdnode.engine.permits import Grammar
from dsdnode.engine.port import Chunk, Lost, Message, Output, ShardInfo
from dsdnode.engine.tokenizer import Vocab
from dsdnode.errors import EngineLost, ModelRefused
from dsdnode.wire.calls import CallFormat
from dsdnode.wire.records import NO_HASH
from dsdnode.wire.replies import Constraint


class NoDraft:
    """A TextEngine that is never available."""

    def __init__(self, context_tokens: int, max_sequences: int) -> None:
        """`context_tokens`: that replies here share, `max_sequences`: that they would have."""
        self._shard = ShardInfo(
            weights_hash=NO_HASH,
            model_name=NO_DRAFT,
            architecture=NO_DRAFT,
            start=0,
            end=1,
            num_layers=1,
            width=1,
            vocab_size=1,
            tokenizer_hash=NO_HASH,
            context_tokens=context_tokens,
            train_context_tokens=context_tokens,
            max_sequences=max_sequences,
            can_truncate=True,
        )

    @property
    def shard(self) -> ShardInfo:
        return self._shard

    @property
    def available(self) -> bool:
        return False

    @property
    def quarantined(self) -> str:
        return ""

    def on_lost(self, callback: Lost) -> None:
        pass

    def on_change(self, callback: Callable[[], None]) -> None:
        pass

    async def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        raise EngineLost("there is no draft model here")

    async def copy(self, source: int, target: int, position: int) -> None:
        pass

    async def truncate(self, sequence: int, position: int) -> None:
        pass

    async def release(self, sequence: int) -> None:
        pass

    async def text_file(self) -> bytes:
        self._refuse()

    async def tokenize(self, text: str, parse_special: bool) -> list[int]:
        self._refuse()

    async def render(self, messages: Sequence[Message], tools: str = "") -> list[int]:
        self._refuse()

    async def calls(self) -> CallFormat:
        self._refuse()

    async def vocabulary(self) -> Vocab:
        self._refuse()

    async def constrain(self, constraint: Constraint, vocab_size: int) -> Grammar:
        self._refuse()

    async def close(self) -> None:
        pass

    def _refuse(self) -> NoReturn:
        raise ModelRefused("there is no draft model here, and the model's shards give no tokenizer of their own")
