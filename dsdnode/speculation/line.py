"""The owner's line of committed tokens with its digests, the draft engine that follows it, the blocks in flight."""

from __future__ import annotations

from dataclasses import dataclass

from dsdnode.speculation import digest as digest_
from dsdnode.speculation.actions import Draft, SendBlock, Tokens
from dsdnode.speculation.window import Plan

MAX_OPEN_DIGESTS = 65_536
"""In Open (512 KiB): a stage can show that it still has as many positions; of a longer line the rest is sent again."""


class Line:
    def __init__(self, secret: bytes, tokens: Tokens) -> None:
        self.tokens = list(tokens)
        self._secret = secret
        self._digests = [digest_.first(secret)]
        self._digests += digest_.extend(secret, self._digests[0], tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def commit(self, token: int) -> None:
        self.tokens.append(token)
        self._digests.append(digest_.after(self._secret, self._digests[-1], token))

    def block_digests(self, start: int, end: int, draft: Tokens) -> bytes:
        """Before position `start`, after each up to `end` and after each draft token that follows there."""
        drafted = digest_.extend(self._secret, self._digests[end], draft)
        return b"".join([*self._digests[start : end + 1], *drafted])

    def open_digests(self) -> bytes:
        return b"".join(self._digests[:MAX_OPEN_DIGESTS])


@dataclass(slots=True)
class Drafting:
    """What the draft engine has cached (the line up to `_start`, then all its guesses but the last) and guessed.

    `_num_right` of the guesses are committed by now. Guesses that came out right for the line so far can be used later.
    """

    alive: bool
    outstanding: bool = False
    _start: int = 0
    _guesses: Tokens = ()
    _num_right: int = 0
    _empty_at: int = -1
    """Length of the line for which the engine had no guess: not asked twice."""

    def can_ask(self, line: Line) -> bool:
        return self.alive and not self.outstanding and self._empty_at != len(line)

    def ask(self, line: Line, count: int) -> Draft:
        """Drop what was guessed wrong, feed what the engine lacks (the last token at least), draw `count`."""
        cached = self._start + min(self._num_right, max(0, len(self._guesses) - 1))
        position = min(cached, len(line) - 1)
        self._start, self._guesses, self._num_right = len(line), (), 0
        self.outstanding = True
        return Draft(position, tuple(line.tokens[position:]), count)

    def answered(self, line: Line, guesses: Tokens) -> None:
        self.outstanding = False
        self._guesses = guesses
        self._empty_at = -1 if guesses else len(line)
        self.follow(line)

    def follow(self, line: Line) -> None:
        """The line has grown: how many of the guesses were right?"""
        while self._num_right < len(self._guesses):
            position = self._start + self._num_right
            if position >= len(line) or line.tokens[position] != self._guesses[self._num_right]:
                break
            self._num_right += 1

    def guesses(self, line: Line) -> Tokens:
        """Usable ones for the end of the line."""
        if self.outstanding or self._start + self._num_right != len(line):
            return ()
        return self._guesses[self._num_right :]

    def died(self) -> None:
        self.alive, self.outstanding = False, False
        self._start, self._guesses, self._num_right = 0, (), 0


@dataclass(frozen=True, slots=True)
class Flight:
    """A block sent and not answered."""

    action: SendBlock
    draft: Tokens
    plan: Plan
    sent_s: float

    @property
    def start(self) -> int:
        return self.action.block.position

    @property
    def end(self) -> int:
        return self.start + self.action.block.num_given + self.action.block.num_draft
