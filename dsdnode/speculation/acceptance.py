"""Which draft tokens stand. Speculation section 5.

`ExactRule` is lossless. `RelaxedRule` lets a draft token stand that is not what the judge drew, if the model finds it
nearly as likely as its own favourite; it decides, block by block, with what it knows by then:

    the draft is the judge's own draw                                     stands, in either rule
    a key position: key tokens at stake, or the model is nearly sure      falls
    not among the model's NUM_TOP most likely                             falls
    p(draft) >= (1 - tau) * p(most likely)                                stands, relaxed
    deferred, the model is uncertain, and the block matches again behind  stands, relaxed
    else                                                                  falls

Every relaxed token has a price, log p(most likely) - log p(draft), and what 100 tokens in a row cost stays under
BUDGET: tau shrinks with what is left of it, and is 0 when nothing is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from dsdnode.wire.logprobs import TokenLogprobs

NUM_TOP: Final = 8
KEY_ENTROPY: Final = 0.05
"""Normalised: below it the model is nearly sure, and means what it says."""
KEY_GAP: Final = 0.4
"""Between the probabilities of its two most likely tokens; above it so too."""
UNCERTAIN_ENTROPY: Final = 0.3
DEFERRED_MATCHES: Final = 6
"""So many positions behind a mismatch must match again, as far as the block reaches; its end may not be nearer than
MIN_DEFERRED_MATCHES. (To wait for later blocks would hold back the verdict that closes the line, and most mismatches
end in one.)"""
MIN_DEFERRED_MATCHES: Final = 3
BUDGET: Final = 4.0
"""Nats in any BUDGET_TOKENS positions in a row."""
BUDGET_TOKENS: Final = 100
_KEY: Final = re.compile(r"[\d+\-*/=<>()\[\]{}^%$#@&|~\\_;`\u0000-\u001f\u007f\ufffd]|  |[\u2200-\u22ff×÷±−√²³¹€£¥]")
"""Digits of any script, operators, brackets, what code is made of, layout, currencies, and halves of characters."""


@dataclass(frozen=True, slots=True)
class JudgeDraw:
    """What the judge would say at one position, and as much of the distribution behind it as the rule asks for.

    `top`: the most likely tokens, falling, with `probabilities` at temperature 1; `entropy` over its largest value.
    """

    token: int
    top: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    entropy: float = 0.0
    logprobs: TokenLogprobs | None = None
    """Where they are asked for."""


@dataclass(frozen=True, slots=True)
class AcceptedPrefix:
    """The first `count` draft tokens stand; at the positions `relaxed` though the judge drew another."""

    count: int
    relaxed: tuple[int, ...] = ()


class AcceptanceRule(Protocol):
    @property
    def num_top(self) -> int:
        """How much of the distribution behind each draw the rule wants to see; 0: none."""

    def accept(self, start: int, draft: Sequence[int], own: Sequence[JudgeDraw]) -> AcceptedPrefix:
        """Judge `draft`, the tokens at [start, start + n); `own[i]` is of the same position. To be asked once."""

    def is_hopeless(self, start: int, draft: Sequence[int], own: JudgeDraw) -> bool:
        """Does the first of `draft` fall, whatever the judge will say of those behind it? `own` is of its position."""


class ExactRule:
    """A draft token stands while it equals the judge's own draw: lossless at every temperature (keyed noise)."""

    num_top = 0

    def accept(self, start: int, draft: Sequence[int], own: Sequence[JudgeDraw]) -> AcceptedPrefix:
        count = 0
        for draft_token, mine in zip(draft, own, strict=True):
            if draft_token != mine.token:
                break
            count += 1
        return AcceptedPrefix(count)

    def is_hopeless(self, start: int, draft: Sequence[int], own: JudgeDraw) -> bool:
        return draft[0] != own.token


class RelaxedRule:
    """The top-set rule and, if asked for, the deferred one, for one reply. Threshold 0 is `ExactRule`."""

    num_top = NUM_TOP

    def __init__(self, threshold: float, *, deferred: bool, key_tokens: Container[int]) -> None:
        assert 0 <= threshold < 1
        self._threshold = threshold
        self._deferred = deferred and threshold > 0
        self._key_tokens = key_tokens
        self._prices: dict[int, float] = {}
        """By position. A branch that was left counts on: the bound holds for every line."""

    def accept(self, start: int, draft: Sequence[int], own: Sequence[JudgeDraw]) -> AcceptedPrefix:
        relaxed: list[int] = []
        matches = [draft_token == mine.token for draft_token, mine in zip(draft, own, strict=True)]
        for index, matched in enumerate(matches):
            if matched:
                continue
            position = start + index
            price = self._price(draft[index], own[index])
            if price is None or not (
                self._is_near(position, price) or self._is_excused(position, price, own[index], matches[index + 1 :])
            ):
                return AcceptedPrefix(index, tuple(relaxed))
            self._pay(position, price)
            relaxed.append(position)
        return AcceptedPrefix(len(matches), tuple(relaxed))

    def is_hopeless(self, start: int, draft: Sequence[int], own: JudgeDraw) -> bool:
        if draft[0] == own.token:
            return False
        price = self._price(draft[0], own)
        behind = [True] * (len(draft) - 1)
        return price is None or not (self._is_near(start, price) or self._is_excused(start, price, own, behind))

    def _price(self, draft_token: int, own: JudgeDraw) -> float | None:
        """The log-probability given up with `draft_token`, in nats; None: it must not stand."""
        if draft_token not in own.top or len(own.top) < 2 or own.entropy < KEY_ENTROPY:
            return None
        best, second = own.probabilities[:2]
        chance = own.probabilities[own.top.index(draft_token)]
        at_stake = (draft_token, own.token, own.top[0])
        if chance <= 0 or best - second > KEY_GAP or any(token in self._key_tokens for token in at_stake):
            return None
        return math.log(best / chance)

    def _is_near(self, position: int, price: float) -> bool:
        left = self._left(position)
        tau = self._threshold * left / BUDGET
        return tau > 0 and price <= min(left, -math.log(1 - tau))

    def _is_excused(self, position: int, price: float, own: JudgeDraw, behind: Sequence[bool]) -> bool:
        examined = behind[:DEFERRED_MATCHES]
        uncertain = self._deferred and own.entropy >= UNCERTAIN_ENTROPY
        return uncertain and price <= self._left(position) and len(examined) >= MIN_DEFERRED_MATCHES and all(examined)

    def _left(self, position: int) -> float:
        """What may still be given up at `position`, in nats."""
        spent = sum(price for place, price in self._prices.items() if place > position - BUDGET_TOKENS)
        return max(0.0, BUDGET - spent)

    def _pay(self, position: int, price: float) -> None:
        for place in [place for place in self._prices if place <= position - 2 * BUDGET_TOKENS]:
            del self._prices[place]
        self._prices[position] = self._prices.get(position, 0.0) + price


class KeyTokens:
    """The token ids at which relaxed acceptance stays strict: a digit or a bracket is right or wrong. A judge has no
    tokenizer, so the owner of a reply sends this set with Open: one bit a token id, lowest bit first. Ids beyond its
    bits are in it: better strict than sorry."""

    def __init__(self, bitmap: bytes) -> None:
        self._bitmap = bitmap

    def __contains__(self, token: object) -> bool:
        if not isinstance(token, int) or token >= 8 * len(self._bitmap):
            return True
        return bool(self._bitmap[token >> 3] >> (token & 7) & 1)


def key_tokens(pieces: Sequence[bytes], others: Collection[int] = ()) -> bytes:
    """The bitmap of a vocabulary, given the bytes of each token; control tokens have none, and are in the set.

    `others`: ids that are in it whatever they say (the ends of a reply).
    """
    bitmap = bytearray(-(-len(pieces) // 8))
    for token, piece in enumerate(pieces):
        if not piece or token in others or _KEY.search(piece.decode("utf-8", "replace")):
            bitmap[token >> 3] |= 1 << (token & 7)
    for token in range(len(pieces), 8 * len(bitmap)):
        bitmap[token >> 3] |= 1 << (token & 7)
    return bytes(bitmap)
