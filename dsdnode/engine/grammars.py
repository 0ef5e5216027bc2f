"""What a reply may say, by a JSON schema, a regular expression or a grammar: llguidance, over one model's tokens.

Import only in a worker process or a test of it: a schema is a stranger's program, too.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import llguidance
import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from dsdnode.engine.call_grammar import WHITESPACE
from dsdnode.engine.dates import with_calendar
from dsdnode.engine.ipc import UnknownGrammar
from dsdnode.errors import BadInput
from dsdnode.speculation.masks import ANY, MAX_KEPT, allows, hash_of, num_bytes_of
from dsdnode.wire.replies import Constraint

MAX_GRAMMARS: Final = 32
"""Replies whose grammars are kept ready; another one's is read anew."""
MAX_SAVED: Final = 4
"""Of the last blocks: most drafts fall within the newest, a hedge or a late verdict goes back a few."""
MAX_LOOKED_AT: Final = 4
"""Tokens of a mask, its first ones, that are tried one by one."""
MAX_WORDS: Final = 300
"""Of what llguidance says is wrong."""
LIMITS: Final[dict[str, Any]] = {
    "initial_lexer_fuel": 1_000_000,
    "max_grammar_size": 100_000,
    "max_lexer_states": 12_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "verbose_errors": False,
}
"""llguidance's, some of them lower: about 20 ms to read a grammar, 15 ms a mask, and 20 MB."""
DEAD_END: Final = "it leads to where no token of this model can stand"
_KINDS: Final = {"json_schema": "the JSON schema", "regex": "the regular expression", "lark": "the grammar"}


Tokenize: TypeAlias = Callable[[bytes], list[int]]


@dataclass(slots=True)
class _Grammar:
    source: str
    what: str
    num_bytes: int
    matcher: Any = None
    begun: Any = None
    """As the matcher was at first."""
    line: list[int] = field(default_factory=list)
    """What the matcher has taken."""
    saved: deque[tuple[list[int], Any]] = field(default_factory=lambda: deque(maxlen=MAX_SAVED))
    """Lines, and the matcher as it was behind each."""
    given: LRUCache[bytes, None] = field(default_factory=lambda: LRUCache(MAX_KEPT))
    """Hashes of masks that were told."""

    def begin(self, matcher: Any) -> None:
        self.matcher, self.begun = matcher, matcher.deep_copy()
        self.line = []
        self.saved.clear()

    def save(self) -> None:
        if not any(line == self.line for line, _ in self.saved):
            self.saved.append((list(self.line), self.matcher.deep_copy()))

    def go_back(self, tokens: Sequence[int]) -> None:
        """To where these went another way, or before. By copies: rolled back from a list's text (`["`) llguidance may
        take an object's key (`{"`) for one."""
        behind = [(line, saved) for line, saved in self.saved if line == list(tokens[: len(line)])]
        line, saved = max(behind, key=lambda one: len(one[0]), default=([], self.begun))
        self.line, self.matcher = list(line), saved.deep_copy()


class _Tokens:
    """The vocabulary as llguidance asks for it. Where a grammar leaves one text alone it allows but the first token of
    what that text is cut into here."""

    def __init__(
        self, pieces: Sequence[bytes], names: Sequence[bytes], end_tokens: Sequence[int], tokenize: Tokenize | None
    ) -> None:
        self.eos_token_id, self.bos_token_id = end_tokens[0], None
        self.tokens = [piece or name for piece, name in zip(pieces, names, strict=True)]
        self.special_token_ids = [token for token, piece in enumerate(pieces) if not piece]
        self._pieces = pieces
        self._tokenize = tokenize
        self._ids = {piece: token for token, piece in reversed(list(enumerate(pieces))) if piece}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: bytes) -> list[int]:
        """Tokens whose bytes are exactly these, as far as there are any: llguidance goes wrong by others."""
        ids = self._tokenize(text) if self._tokenize is not None else []
        return ids if b"".join(self._pieces[token] for token in ids) == text else self._greedy(text)

    def _greedy(self, text: bytes) -> list[int]:
        ids: list[int] = []
        start = 0
        while start < len(text):
            ends = range(min(len(text), start + self._longest), start, -1)
            end = next((end for end in ends if text[start:end] in self._ids), None)
            if end is None:
                break
            ids.append(self._ids[text[start:end]])
            start = end
        return ids


class Grammars:
    """Of the replies in one model's tokens, by a key each."""

    def __init__(
        self,
        pieces: Sequence[bytes],
        names: Sequence[bytes],
        end_tokens: Sequence[int],
        tokenize: Tokenize | None = None,
        is_full: Callable[[], bool] = lambda: False,
    ) -> None:
        """`pieces`: the bytes of every token; `names`: what those without are called; `tokenize`: how the model cuts a
        text, perhaps with something before it; `is_full`: is memory short? Raises BadInput: nothing ends a reply."""
        if not end_tokens:
            raise BadInput("this model has no token that ends a reply, so no reply could keep to a grammar")
        wrapped = llguidance.TokenizerWrapper(_Tokens(pieces, names, end_tokens, tokenize))
        self._tokenizer = llguidance.LLTokenizer(wrapped, n_vocab=len(pieces), eos_token=list(end_tokens))
        self._ends = frozenset(end_tokens)
        self._is_full = is_full
        self._open: LRUCache[bytes, _Grammar] = LRUCache(MAX_GRAMMARS)

    def open(self, key: bytes, constraint: Constraint, vocab_size: int) -> None:
        """Under `key`, for masks of `vocab_size` tokens. Raises BadInput, which says what is wrong with it."""
        what = _KINDS[constraint.kind]
        try:
            source = _source(constraint)
        except (ValueError, BadInput) as error:
            raise _refused(what, str(error)) from None
        if self._is_full():  # some keep a hundred times what others do, and who goes on has his opened anew
            self._open.clear()
        grammar = _Grammar(source, what, num_bytes_of(vocab_size))
        self._begin(grammar)
        self._mask(grammar)
        self._open[key] = grammar

    def _begin(self, grammar: _Grammar) -> None:
        limits = llguidance.LLParserLimits(**LIMITS)
        matcher = llguidance.LLMatcher(self._tokenizer, grammar.source, log_level=0, limits=limits)
        if matcher.is_error():
            raise _refused(grammar.what, matcher.get_error())
        grammar.begin(matcher)

    def masks(
        self, key: bytes, tokens: Sequence[int], first: int, again: bool = False
    ) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        """The masks of the positions behind the first `first`, `first` + 1, ... of a reply's `tokens`: their hashes,
        and those themselves that were not told before, or (`again`) all.

        It ends before what the grammar does not allow, or what leads nowhere, or takes too much: then there are fewer.
        Behind an end token anything may stand. Raises UnknownGrammar; BadInput: the first `first` lead nowhere, or took
        too much.
        """
        grammar: _Grammar | None = self._open.get(key)
        if grammar is None:
            raise UnknownGrammar("no such grammar is open")
        names: list[bytes] = []
        told: dict[bytes, bytes] = {}
        mask = self._first(grammar, tokens[:first])
        if first < len(tokens):
            grammar.save()
        for token in (*tokens[first:], None):
            if mask is None:
                break
            name = hash_of(mask)
            names.append(name)
            if name not in told and (again or name not in grammar.given):
                told[name] = mask
            grammar.given[name] = None
            if token is None or not allows(mask, token):
                break
            if token in self._ends:
                names.append(ANY)
                break
            mask = self._next(grammar, token)
        return names, list(told.items())

    def _first(self, grammar: _Grammar, tokens: Sequence[int]) -> bytes | None:
        """The mask behind these. None: they are not what is allowed. What was only drafted does not count, though
        llguidance counts it, of all copies of a matcher together, to what a grammar may take."""
        with contextlib.suppress(BadInput):
            if (mask := self._behind(grammar, tokens)) is not None:
                return mask
        self._begin(grammar)
        return self._behind(grammar, tokens)

    def _next(self, grammar: _Grammar, token: int) -> bytes | None:
        """The mask behind one more. None: nothing can stand there. If it was but drafted no harm is done. Drafts may
        have used up what a grammar may take here, too."""
        line = [*grammar.line, token]
        try:
            return self._mask(grammar) if self._takes(grammar, [token]) else None
        except BadInput:
            with contextlib.suppress(BadInput):
                return self._first(grammar, line)
            return None

    def _behind(self, grammar: _Grammar, tokens: Sequence[int]) -> bytes | None:
        if grammar.line != list(tokens[: len(grammar.line)]):
            grammar.go_back(tokens)
        return self._mask(grammar) if self._takes(grammar, tokens[len(grammar.line) :]) else None

    def _takes(self, grammar: _Grammar, tokens: Sequence[int]) -> bool:
        taken = grammar.matcher.try_consume_tokens(list(tokens)) if tokens else 0
        grammar.line += tokens[:taken]
        if grammar.matcher.is_error():
            raise _refused(grammar.what, grammar.matcher.get_error())
        return bool(taken == len(tokens))

    def _mask(self, grammar: _Grammar) -> bytes:
        matcher = grammar.matcher
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        if matcher.is_error():
            raise _refused(grammar.what, matcher.get_error())
        known = min(num_bytes_of(self._tokenizer.vocab_size), grammar.num_bytes)
        mask = np.zeros(grammar.num_bytes, np.uint8)
        mask[:known] = bits[:known]
        if rest := self._tokenizer.vocab_size % 8:
            mask[known - 1] &= (1 << rest) - 1 if known == num_bytes_of(self._tokenizer.vocab_size) else 255
        if not self._holds(matcher, mask):
            raise _refused(grammar.what, DEAD_END)
        return mask.tobytes()

    def _holds(self, matcher: Any, mask: NDArray[np.uint8]) -> bool:
        """Where a text is left that the model has no tokens for, llguidance may offer others in their place."""
        places = np.flatnonzero(mask)[:MAX_LOOKED_AT].tolist()
        allowed = [8 * place + bit for place in places for bit in range(8) if mask[place] >> bit & 1][:MAX_LOOKED_AT]
        looked = matcher.deep_copy()  # (looking rolls back)
        goes_on = any(looked.validate_tokens([token]) == 1 for token in allowed if token not in self._ends)
        return goes_on or (bool(allowed) and matcher.is_accepting())


def _source(constraint: Constraint) -> str:
    """Raises ValueError, BadInput."""
    text = constraint.text
    match constraint.kind:
        case "json_schema":
            options: Any = {"whitespace_pattern": WHITESPACE}
            with contextlib.suppress(ValueError, RecursionError):  # llguidance says what is wrong with it
                text = json.dumps(with_calendar(json.loads(text)), ensure_ascii=False)
            return str(llguidance.LLMatcher.grammar_from_json_schema(text, overrides=options))
        case "regex":
            return str(llguidance.LLMatcher.grammar_from_regex(text))
        case _:
            return str(llguidance.LLMatcher.grammar_from_lark(text))


def _refused(what: str, why: str) -> BadInput:
    words = DEAD_END if "NoExtension" in why else " ".join(why.replace("<non-verbose/>", "").split())
    return BadInput(f"{what} cannot be used: {words[:MAX_WORDS]}")
