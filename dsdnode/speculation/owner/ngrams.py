"""Draft tokens without a model: what followed the last tokens where they stood before (n-gram or prompt-lookup drafts).

Text that is rewritten, quoted, or of a fixed form says again what stands in the prompt or in the reply. So the places
of every run of LEAST_MATCH tokens of the line are kept; where an epoch ends with such a run, what came behind it is
proposed, of the place that agrees for the longest way. That takes no model and no time. It cannot change the text: a
draft token stands only where the judge drew the same one (where it may accept others nothing is copied).
"""

from __future__ import annotations

from collections.abc import Sequence

from dsdnode.speculation.actions import DraftToken, Tokens

LEAST_MATCH = 5
"""Shorter runs are met again by chance, in any prose."""
FARTHEST_MATCH = 64
"""Tokens that are compared; a longer run says no more."""
TOKENS_A_MATCH = 2
"""A run of n tokens is followed by at most so many times n: where texts that agree for long go on agreeing."""
MAX_PLACES = 4
"""Of one run, the latest."""


class NgramIndex:
    """Of one line, `tokens`, which only grows."""

    def __init__(self, tokens: Sequence[int], least_match: int = LEAST_MATCH) -> None:
        """`least_match`: tokens that have to agree."""
        self._tokens = tokens
        self._least = least_match
        self._places: dict[Tokens, list[int]] = {}
        """By run: where what follows it begins."""
        self._num_indexed = least_match

    def copied(self, drafted: Tokens, count: int) -> tuple[DraftToken, ...]:
        """What is proposed behind the line and `drafted`, at most `count`: (), where nothing agrees."""
        self._index()
        end = (*self._tokens[-FARTHEST_MATCH:], *drafted)[-FARTHEST_MATCH:]
        places = self._places.get(end[-self._least :], ()) if len(end) >= self._least else ()
        match, place = max(((self._match(end, place), place) for place in places), default=(0, 0))
        found = self._from(place, drafted, min(count, TOKENS_A_MATCH * match))
        return tuple(DraftToken(token, _likely(match + index), copied=True) for index, token in enumerate(found))

    def _index(self) -> None:
        """A run is of use once something follows it."""
        for place in range(self._num_indexed, len(self._tokens)):
            places = self._places.setdefault(tuple(self._tokens[place - self._least : place]), [])
            places.append(place)
            del places[:-MAX_PLACES]
        self._num_indexed = max(self._num_indexed, len(self._tokens))

    def _match(self, end: Tokens, place: int) -> int:
        """How many tokens before `place` are those of the `end`."""
        pairs = zip(reversed(end), reversed(self._tokens[max(0, place - len(end)) : place]), strict=False)
        return next((index for index, (one, two) in enumerate(pairs) if one != two), min(len(end), place))

    def _from(self, place: int, drafted: Tokens, count: int) -> list[int]:
        """What stands there; a text that repeats itself goes on with what was just proposed."""
        known = [*self._tokens[place : place + count]]
        known += drafted[: max(0, count - len(known))] if place + len(known) == len(self._tokens) else ()
        length = len(known)
        while length and len(known) < count:
            known.append(known[len(known) - length])
        return known


def _likely(match: int) -> float:
    """At first; what becomes of such draft tokens corrects it (drafting.Calibration), in few classes, so that a reply
    learns of each from its first copies."""
    return 0.65 if match < 8 else 0.85 if match < 16 else 0.95
