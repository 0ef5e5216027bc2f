"""Text on its way in and out of a model: the cutter of what is tokenized, the incremental detokenizer, what ids say.

None of it knows llama.cpp.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from dsdnode.speculation.acceptance import key_tokens
from dsdnode.wire.calls import CallFormat

MAX_RUN = 1024
"""Characters. std::regex died of 26,000 with a stack of 8 MiB, whatever the expression and the script."""
_LONG_RUN = re.compile(rf"[^ \t-\r]{{{MAX_RUN + 1},}}|[\s\x1c-\x1f\u180e\u200b\ufeff]{{{MAX_RUN + 1},}}")
"""Without what every expression takes for white space, or of nothing but what one might."""
MAX_DIGITS = 255
"""Of a long run of digits alone: from each of them superbpe's expression looks to the run's end, and 30,000 took it
2.2 s in parts of 1,024."""
MAX_PART = 1024
"""Characters, and a line. In shorter parts a text takes as long, in longer ones longer."""
_BEFORE_LINE_FEEDS = re.compile(r"(?<=[^\n])(?=\n)")
_BETWEEN_WORDS = re.compile(r"(?<=[^\W\d_])(?= [^\W\d_])")


class LineCutter:
    """Cuts a text before line feeds, where these are tokens that are found before anything else: what stands on their
    two sides is then tokenized apart in any case.

    llama.cpp looks for each such token in all of the text behind each one that it has found: with Gemma's 6,400 a
    program of 160 KB took four seconds.
    """

    def __init__(self, whole: Iterable[str]) -> None:
        """`whole`: texts of tokens that are found as a whole."""
        with_breaks = {text for text in whole if "\n" in text}
        self._can_cut = "\n" in with_breaks and not any(text.strip("\n") for text in with_breaks)

    def cut(self, text: str) -> list[str]:
        """Parts that make up `text`."""
        parts, start = [], 0
        while self._can_cut and (gap := _BEFORE_LINE_FEEDS.search(text, start + MAX_PART)):
            parts.append(text[start : gap.start()])
            start = gap.start()
        return [*parts, text[start:]]


class RunCutter:
    """Cuts a text so that no part has a run of more than 2 MAX_RUN characters without, or all of, white space.

    llama.cpp splits a text for most BPE vocabularies with std::regex, whose recursion is as deep as a match is long: a
    pasted base64 blob ends the process. All of these expressions break between white space and what follows it, so a
    text of usual words has the ids that it always had; in a longer run, ids change where it is cut. Some take several
    words for one match, so a long text is cut between words, too.
    """

    def __init__(self, whole: Iterable[str]) -> None:
        """`whole`: texts of tokens that are not to be cut (control tokens, if the text may have them)."""
        whole = set(whole)
        self._lines = LineCutter(whole)
        texts = sorted({text for text in whole if len(text) > 1}, key=lambda text: (-len(text), text))
        self._whole = re.compile("|".join(map(re.escape, texts)) or r"(?!)")
        self._longest = len(texts[0]) if texts else 0

    def cut(self, text: str) -> list[str]:
        """Parts that make up `text`."""
        runs = (run for lines in self._lines.cut(text) for run in self._cut_runs(lines))
        return [part for run in runs for part in self._cut_words(run)]

    def _cut_words(self, text: str) -> list[str]:
        parts, start, after = [], 0, MAX_RUN
        while gap := _BETWEEN_WORDS.search(text, after):
            at = gap.start()
            if self._before_whole(text, start, at) == at:
                parts.append(text[start:at])
                start, after = at, at + MAX_RUN
            else:
                after = at + 1
        return [*parts, text[start:]]

    def _cut_runs(self, text: str) -> list[str]:
        parts, start = [], 0
        for run in _LONG_RUN.finditer(text):
            longest = MAX_DIGITS if run[0].isdecimal() else MAX_RUN
            at = run.start() + longest
            while at < run.end():
                at = self._before_whole(text, max(start, run.start()), at)
                parts.append(text[start:at])
                start, at = at, at + longest
        return [part for part in (*parts, text[start:]) if part]

    def _before_whole(self, text: str, start: int, at: int) -> int:
        """`at`, or where a token begins, behind `start`, that a cut there would go through."""
        for match in self._whole.finditer(text, max(start, at - self._longest), at + self._longest):
            if start < match.start() < at < match.end():
                return match.start()
        return at


class Detokenizer:
    """Token ids of one reply to text, as they come; only whole characters leave it."""

    def __init__(self, pieces: Sequence[bytes], named: Mapping[int, str] | None = None) -> None:
        """`pieces[token]`: the token's bytes; control tokens have none, nor has what lies behind (padding).
        `named`: what those without are called."""
        self._pieces, self._named = pieces, named or {}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, tokens: Iterable[int]) -> str:
        """The text that is complete now; bytes that can never become a character are replaced by U+FFFD."""
        return self._decoder.decode(b"".join(self._pieces[token] for token in tokens if token < len(self._pieces)))

    def bytes_of(self, token: int) -> bytes:
        """What it says, or, if it has no bytes, what it is called."""
        piece = self._pieces[token] if token < len(self._pieces) else b""
        return piece or self._named.get(token, "").encode()

    def finish(self) -> str:
        """What is left at the end of the reply: half a character is replaced by U+FFFD."""
        return self._decoder.decode(b"", final=True)


class _Shown(Sequence[bytes]):
    """A vocabulary of which some tokens have another text."""

    def __init__(self, pieces: Sequence[bytes], shown: Mapping[int, bytes]) -> None:
        self._pieces, self._shown = pieces, shown

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, token: Any) -> Any:
        return self._shown.get(token) or self._pieces[token]


class Vocab:
    """What ids say. `pieces[token]`: its bytes (control tokens: none); a reply is over after one of `end_tokens`.

    `names`: tokens without bytes by what a template calls them.
    """

    def __init__(
        self,
        pieces: list[bytes],
        end_tokens: frozenset[int],
        has_template: bool,
        names: Mapping[str, int] | None = None,
    ) -> None:
        self.pieces, self.end_tokens, self.has_template = pieces, end_tokens, has_template
        self.names: Mapping[str, int] = names or {}

    @cached_property
    def _named(self) -> Mapping[int, str]:
        return {token: name for name, token in self.names.items()}

    @cached_property
    def longest_bytes(self) -> int:
        """That a token can stand for, or, of those without bytes, is written as."""
        return max(map(len, (*self.pieces, *(name.encode() for name in self.names))), default=1)

    def detokenizer(self, calls: CallFormat | None = None) -> Detokenizer:
        """`calls`: control tokens that these are marked by are shown as what a template calls them."""
        if calls is None:
            return Detokenizer(self.pieces, self._named)
        shown = {id_: name.encode() for name, id_ in self.names.items() if any(name in mark for mark in calls.marks)}
        return Detokenizer(_Shown(self.pieces, shown) if shown else self.pieces, self._named)

    @cached_property
    def key_tokens(self) -> bytes:
        """For Open (speculation/acceptance.py)."""
        return key_tokens(self.pieces, self.end_tokens)
