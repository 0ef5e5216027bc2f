"""How a reply's request changes the logits that its tokens are drawn from, as it travels. Limits as in messages.py."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

MAX_BIASES = 300
"""As many as OpenAI's clients may send."""
MAX_BIAS = 100.0
MAX_PENALTY = 2.0
LEAST_REPETITION, MOST_REPETITION = 0.1, 10.0
"""Beyond them a penalty is a ban, or a command, under another name."""
MAX_LAST_TOKENS = 1 << 20
MAX_LOGPROBS = 20
"""Of the most likely tokens beside each of a reply."""

Penalty = Annotated[float, Meta(ge=-MAX_PENALTY, le=MAX_PENALTY)]
Repetition = Annotated[float, Meta(ge=LEAST_REPETITION, le=MOST_REPETITION)]
LastTokens = Annotated[int, Meta(ge=-1, le=MAX_LAST_TOKENS)]
Bias = tuple[Annotated[int, Meta(ge=0, le=1 << 24)], Annotated[float, Meta(ge=-MAX_BIAS, le=MAX_BIAS)]]
NumLogprobs = Annotated[int, Meta(ge=-1, le=MAX_LOGPROBS)]
"""-1: none are asked for; 0: of the reply's own tokens alone."""


class WireShaping(msgspec.Struct, frozen=True, array_like=True):
    """As speculation/shaping.py: Shaping."""

    presence: Penalty = 0.0
    frequency: Penalty = 0.0
    repetition: Repetition = 1.0
    last_tokens: LastTokens = -1
    bias: Annotated[tuple[Bias, ...], Meta(max_length=MAX_BIASES)] = ()

    @property
    def is_plain(self) -> bool:
        """Does it change nothing?"""
        return self == WireShaping(last_tokens=self.last_tokens)


PLAIN = WireShaping()
