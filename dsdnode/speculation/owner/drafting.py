"""What the owner's draft engine has cached, and what to ask of it next. Speculation sections 4 and 6.

It drafts where the next draft token is likeliest to be needed: on the main line, or in a branch of second choices
beside it (a hedge). The chance of a draft token is the product of the draft's confidences before it, each calibrated by
what became of such draft tokens so far. Other draft tokens are copied (ngrams.py), or were guessed at beside the judge
and came with its verdict; each kind is calibrated apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from dsdnode.speculation.actions import Draft, DraftToken, Tokens
from dsdnode.speculation.owner.epochs import Epochs, OwnEpoch
from dsdnode.speculation.owner.ngrams import NgramIndex
from dsdnode.speculation.shaper import Past
from dsdnode.speculation.shaping import PLAIN, Shaping
from dsdnode.wire.guesses import Guess

_NUM_BINS = 10
_PRIOR_WEIGHT = 3.0
MAX_EMPTY = 64
_MEMORY = 200.0
"""Draft tokens; older ones fade."""


class Calibration:
    """How often draft tokens of a stated probability come true; at first as often as they say."""

    def __init__(self) -> None:
        self._right = [_PRIOR_WEIGHT * (index + 0.5) / _NUM_BINS for index in range(_NUM_BINS)]
        self._all = [_PRIOR_WEIGHT] * _NUM_BINS

    def __call__(self, probability: float) -> float:
        index = _bin(probability)
        return self._right[index] / self._all[index]

    def learn(self, probability: float, right: bool) -> None:
        index = _bin(probability)
        fade = 1 - 1 / _MEMORY
        self._right[index] = self._right[index] * fade + right
        self._all[index] = self._all[index] * fade + 1


def _bin(probability: float) -> int:
    return min(_NUM_BINS - 1, max(0, int(probability * _NUM_BINS)))


@dataclass(frozen=True, slots=True)
class OutstandingDraft:
    """An unanswered Draft: for which epoch, from which place on (its content's length and digest then)."""

    epoch: OwnEpoch
    start: int
    digest: bytes
    draft: Draft
    asked_s: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of draft tokens for tokens that stand now (PassEvent's fields)."""

    num_judged: int
    num_accepted: int
    confidences: tuple[float, ...]
    num_copied: int = 0
    num_copied_right: int = 0
    num_guessed: int = 0
    num_guessed_right: int = 0


class DraftPlanner:
    """The draft engine of one reply: `num_sequences` sequences, one Draft outstanding at a time."""

    def __init__(
        self,
        epochs: Epochs,
        num_sequences: int,
        *,
        alive: bool,
        cached: Sequence[Sequence[bytes]] = (),
        shaping: Shaping = PLAIN,
        num_prompt: int = 0,
        ngrams: NgramIndex | None = None,
        guesses: bool = False,
    ) -> None:
        """`cached`: by sequence, what the reply before left in it (digests after each token). `num_prompt`: tokens of
        the line that are not the reply's own. `ngrams`: of the line; None: nothing is copied. `guesses`: some may
        come."""
        self._shaping, self._num_prompt = shaping, num_prompt
        self.alive = alive
        self.asked: OutstandingDraft | None = None
        self.first = Calibration()
        """Of a draft token."""
        self.second = Calibration()
        """Of a second choice, as a share of what the first one leaves, when the first is wrong."""
        self._copied = Calibration()
        """Of a copied draft token."""
        self._told = Calibration()
        """Of one that was guessed beside the judge."""
        self._may_come = guesses
        self._guesses: tuple[bytes, tuple[DraftToken, ...]] = (b"", ())
        """The latest, behind the content of this digest."""
        self._drawn_right, self._drawn = 0.0, 0.0
        """Of the draft engine's own, that were judged."""
        self._ngrams = ngrams
        self._declined = b""
        """With this content there was nothing worth copying."""
        self._epochs = epochs
        self._cached = [list(digests) for digests in cached] or [[] for _ in range(num_sequences)]
        """By sequence: digests after each token that it holds."""
        self._empty: dict[bytes, None] = {}
        """For these contents the engine had no draft token, as for those where a constrained reply is over: not asked
        twice, nor in turn."""

    def died(self) -> None:
        """With its cache; an outstanding Draft will not be answered."""
        self.alive, self.asked = False, None
        self._empty.clear()
        for cached in self._cached:
            cached.clear()

    def held(self) -> tuple[tuple[bytes, ...], ...]:
        """By sequence: digests of what it surely holds, now and when an outstanding Draft has come to its end."""
        asked = None if self.asked is None else self.asked.draft
        return tuple(
            tuple(cached[: asked.position] if asked is not None and asked.sequence == sequence else cached)
            for sequence, cached in enumerate(self._cached)
        )

    def can_ask(self, epoch: OwnEpoch) -> bool:
        if not self.alive or self.asked is not None:
            return False
        return self._digest(epoch, self._epochs.end(epoch)) not in self._empty

    def ask(self, now: float, epoch: OwnEpoch, count: int) -> Draft:
        """Forget what was drafted wrong, feed what the engine lacks (the last token at least), draw `count`."""
        end = self._epochs.end(epoch)
        source = self._source_of(epoch)
        cached = self._cached[epoch.sequence if source is None else source]
        position = min(self._num_common(cached, epoch), end - 1)
        own = self._cached[epoch.sequence] = cached[:position]
        own += [self._digest(epoch, length) for length in range(position + 1, end + 1)]
        tokens = self._epochs.tokens(epoch, position, end)
        before = self._digest(epoch, position)
        draft = Draft(epoch.sequence, source, position, tokens, count, self._past(epoch, end), before)
        self.asked = OutstandingDraft(epoch, end, self._digest(epoch, end), draft, now)
        return draft

    def _past(self, epoch: OwnEpoch, end: int) -> Past | None:
        """The judge will draw under the same."""
        if not self._shaping.has_past:
            return None
        first = self._shaping.first_counted(end, self._num_prompt)
        return Past.of(self._epochs.tokens(epoch, first, end), self._num_prompt - first)

    def answered(self, draft_tokens: tuple[DraftToken, ...]) -> None:
        """Draft tokens that fit a live epoch's end are its own now; the engine holds all of them but the last."""
        asked = self.asked
        assert asked is not None
        self.asked = None
        cached, digest = self._cached[asked.draft.sequence], asked.digest
        for draft_token in draft_tokens[:-1]:
            digest = self._epochs.digest_after(digest, draft_token.token)
            cached.append(digest)
        if not draft_tokens:
            # Where no token may stand the engine was not even asked: it has what its own sequence had before.
            del cached[asked.draft.position if asked.draft.source is None else 0 :]
            self._empty[asked.digest] = None
            if len(self._empty) > MAX_EMPTY:
                del self._empty[next(iter(self._empty))]
        epoch = asked.epoch if asked.epoch in self._epochs.live else self._epochs.main
        if epoch is None or self._epochs.end(epoch) < asked.start or self._digest(epoch, asked.start) != asked.digest:
            return
        known = self._epochs.tokens(epoch, asked.start, self._epochs.end(epoch))  # decided while it drafted
        if tuple(draft_token.token for draft_token in draft_tokens[: len(known)]) == known:
            for draft_token in draft_tokens[len(known) :]:
                self._epochs.extend(epoch, draft_token, self.first(draft_token.probability))

    @property
    def can_copy(self) -> bool:
        return self._ngrams is not None or self._may_come

    def guessed(self, guesses: Sequence[Guess]) -> None:
        """These may come behind the line."""
        if self._may_come:
            tokens = [DraftToken(token, chance, copied=True, guessed=True) for token, chance in guesses]
            self._guesses = self._epochs.line_digest, tuple(tokens)

    def copies(self, epoch: OwnEpoch, count: int) -> list[tuple[DraftToken, float]]:
        """Draft tokens behind its end that are copied, at most `count`, with the chance of each alone; [] where the
        draft engine's own are likelier."""
        end = self._digest(epoch, self._epochs.end(epoch))
        if count <= 0 or end == self._declined:
            return []
        found = max(self._copied_behind(epoch, count), self._guessed_behind(end, count), key=_num_right)
        if not found or (self.alive and found[0][1] * self._drawn < self._drawn_right):
            self._declined = end
            return []
        return found

    def _copied_behind(self, epoch: OwnEpoch, count: int) -> list[tuple[DraftToken, float]]:
        if self._ngrams is None:
            return []
        drafted = tuple(placed.draft_token.token for placed in epoch.draft_tokens)
        return [(one, self._copied(one.probability)) for one in self._ngrams.copied(drafted, count)]

    def _guessed_behind(self, end: bytes, count: int) -> list[tuple[DraftToken, float]]:
        digest, guesses = self._guesses
        return [(one, self._told(one.probability)) for one in guesses[:count]] if digest == end else []

    def decline(self, epoch: OwnEpoch) -> None:
        """What would be copied behind its end is not worth it."""
        self._declined = self._digest(epoch, self._epochs.end(epoch))

    def judge(self, tokens: Tokens) -> Judgement:
        """Compare the main epoch's draft tokens with the `tokens` that are about to be committed, and learn from it."""
        draft_tokens = (
            [item.draft_token for item in self._epochs.main.draft_tokens[: len(tokens)]] if self._epochs.main else []
        )
        num_accepted, confidences, copied, guessed = 0, [], [], []
        for draft_token, token in zip(draft_tokens, tokens, strict=False):
            confidences.append(draft_token.probability)
            right = draft_token.token == token
            self._learn(draft_token, token)
            copied += [right] * draft_token.copied
            guessed += [right] * draft_token.guessed
            if not right:
                break
            num_accepted += 1
        of_kinds = len(copied), sum(copied), len(guessed), sum(guessed)
        return Judgement(len(confidences), num_accepted, tuple(confidences), *of_kinds)

    def _learn(self, draft_token: DraftToken, token: int) -> None:
        right = draft_token.token == token
        if draft_token.copied:
            return (self._told if draft_token.guessed else self._copied).learn(draft_token.probability, right)
        fade = 1 - 1 / _MEMORY
        self._drawn_right, self._drawn = self._drawn_right * fade + right, self._drawn * fade + 1
        self.first.learn(draft_token.probability, right)
        if not right:
            self.second.learn(share(draft_token), draft_token.second == token)

    def best_hedge(self, at_least: float) -> tuple[int, float] | None:
        """Which of the main epoch's sent draft tokens to hedge, if its second choice is needed with that chance at
        least.

        (Index of the draft token, the second choice's own chance given what is before it.)
        """
        main = self._epochs.main
        assert main is not None
        length = self._epochs.length
        taken = [epoch.base for epoch in self._epochs.hedges]
        best: tuple[int, float] | None = None
        before = 1.0
        for index, placed in enumerate(main.draft_tokens[: max(0, main.sent - length)]):
            draft_token = placed.draft_token
            if draft_token.second >= 0 and length + index not in taken:
                chance = (1 - self.first(draft_token.probability)) * self.second(share(draft_token))
                if before * chance > at_least:
                    best, at_least = (index, chance), before * chance
            before = placed.chance
        return best

    def _source_of(self, epoch: OwnEpoch) -> int | None:
        """A new hedge's sequence begins as a copy of its parent's."""
        main = self._epochs.main
        own = self._num_common(self._cached[epoch.sequence], epoch)
        if main is None or epoch is main or self._num_common(self._cached[main.sequence], epoch) <= own:
            return None
        return main.sequence

    def _num_common(self, cached: list[bytes], epoch: OwnEpoch) -> int:
        """How many tokens a sequence shares with an epoch: digests cover all before them, so they can be bisected."""
        low, high = 0, min(len(cached), self._epochs.end(epoch))
        while low < high:
            middle = (low + high + 1) // 2
            if cached[middle - 1] == self._digest(epoch, middle):
                low = middle
            else:
                high = middle - 1
        return low

    def _digest(self, epoch: OwnEpoch, length: int) -> bytes:
        return self._epochs.digest_at(epoch, length)


def _num_right(found: list[tuple[DraftToken, float]]) -> float:
    """Of these draft tokens, as is to be expected."""
    return float(sum(accumulate((chance for _, chance in found), mul)))


def share(draft_token: DraftToken) -> float:
    """The second choice's part of what the first leaves."""
    return min(1.0, draft_token.second_probability / max(1e-6, 1 - draft_token.probability))
