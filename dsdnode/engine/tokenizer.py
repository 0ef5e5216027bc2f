"""Text on its way in and out of a model: chat template, incremental detokenizer. Neither knows llama.cpp.

User text cannot become a special token. Control tokens are recognised in the *rendered* conversation, so the template
may write them as it likes; in message contents a guard, a code point that no text contains, is put behind the first
character of whatever could begin one (`<` guard `|end|>`), and taken out again before the pieces between control tokens
become ids, without parsing. So `<|end|>` typed by a user is tokenized as the seven characters it is.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dsdnode.errors import BadInput, ModelRefused
from dsdnode.speculation.acceptance import key_tokens

ROLES = ("system", "user", "assistant", "tool")
MAX_MESSAGES = 1024
MAX_TEXT_BYTES = 4 << 20
"""Of one text or a whole conversation, before and after the template."""
MAX_TEMPLATE_CHARACTERS = 1 << 18
_GUARD = "\ufdd0"
"""A noncharacter: Unicode reserves it for a program's own use."""

MAX_RUN = 1024
"""Characters. std::regex died of 26,000 with a stack of 8 MiB, whatever the expression and the script."""
_LONG_RUN = re.compile(rf"[^ \t-\r]{{{MAX_RUN + 1},}}|[\s\x1c-\x1f\u180e\u200b\ufeff]{{{MAX_RUN + 1},}}")
"""Without what every expression takes for white space, or of nothing but what one might."""

Message = tuple[str, str]
"""(role, content)"""


@dataclass(frozen=True, slots=True)
class Control:
    """A control token; `strip_left`, `strip_right`: it swallows the white space beside it."""

    token: int
    strip_left: bool = False
    strip_right: bool = False


class ChatTemplate:
    """The chat template of a model file, run in a sandbox."""

    def __init__(self, source: str, controls: Mapping[str, Control], bos: str = "", eos: str = "") -> None:
        """`controls` by their text. Raises ModelRefused for a template that is broken or too long."""
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise ModelRefused(f"the model's chat template is longer than {MAX_TEMPLATE_CHARACTERS} characters")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _strftime_now}
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ModelRefused(f"the model's chat template is broken: {_brief(error)}") from None
        self._specials = {"bos_token": bos, "eos_token": eos}
        self._controls = {text: control for text, control in controls.items() if len(text) > 1}
        longest_first = sorted(self._controls, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        starts = "|".join(sorted(re.escape(start) for start in {text[:2] for text in self._controls}))
        firsts = "".join(sorted(re.escape(first) for first in {text[0] for text in self._controls}))
        self._risky = re.compile(rf"(?={starts})." if starts else r"(?!)", re.DOTALL)
        self._risky_end = re.compile(rf"([{firsts}])(\s*)\Z" if firsts else r"(?!)()()")

    def render(self, messages: Sequence[Message]) -> list[int | str]:
        """The conversation, open for the assistant's reply: control tokens, and plain text between them.

        Raises BadInput for a conversation that the template does not accept, or that is too long.
        """
        _check(messages)
        turns = [{"role": role, "content": self._guarded(content)} for role, content in messages]
        try:
            text = self._run(turns)
        except BadInput:
            raise
        except Exception as error:  # a stranger's program may fail in any way
            raise BadInput(f"the model's chat template failed: {_brief(error)}") from None
        return self._split(text)

    def _guarded(self, content: str) -> str:
        guarded = self._risky.sub(rf"\g<0>{_GUARD}", content.replace(_GUARD, ""))
        return self._risky_end.sub(rf"\1{_GUARD}\2", guarded)

    def _run(self, turns: list[dict[str, str]]) -> str:
        parts, size = [], 0
        for part in self._template.generate(messages=turns, add_generation_prompt=True, **self._specials):
            parts.append(part)
            size += len(part)
            if size > MAX_TEXT_BYTES:
                raise BadInput(f"the rendered conversation is longer than {MAX_TEXT_BYTES} characters")
        return "".join(parts)

    def _split(self, text: str) -> list[int | str]:
        pieces: list[int | str] = []
        start, strip = 0, False
        for match in self._pattern.finditer(text):
            control = self._controls[match[0]]
            _append(pieces, text[start : match.start()], strip, control.strip_left)
            pieces.append(control.token)
            start, strip = match.end(), control.strip_right
        _append(pieces, text[start:], strip, False)
        return pieces


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for trainers; here it is only its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _strftime_now(layout: str) -> str:
    return datetime.now(UTC).strftime(layout)


def _append(pieces: list[int | str], text: str, strip_left: bool, strip_right: bool) -> None:
    text = text.replace(_GUARD, "")
    text = text.lstrip() if strip_left else text
    text = text.rstrip() if strip_right else text
    if text:
        pieces.append(text)


def _check(messages: Sequence[Message]) -> None:
    if not messages or len(messages) > MAX_MESSAGES:
        raise BadInput(f"a conversation has 1 to {MAX_MESSAGES} messages, not {len(messages)}")
    for role, _ in messages:
        if role not in ROLES:
            raise BadInput(f"{role[:32]!r} is not a role: choose from {', '.join(ROLES)}")
    if sum(len(content) for _, content in messages) > MAX_TEXT_BYTES:
        raise BadInput(f"the conversation is longer than {MAX_TEXT_BYTES} characters")


def _refuse(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _brief(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


class RunCutter:
    """Cuts a text so that no part has a run of more than 2 MAX_RUN characters without, or all of, white space.

    llama.cpp splits a text for most BPE vocabularies with std::regex, whose recursion is as deep as a match is long: a
    pasted base64 blob ends the process. All of these expressions break between white space and what follows it, so a
    text of usual words is one part, with the ids that it always had; in a longer run, ids change where it is cut.
    """

    def __init__(self, whole: Iterable[str]) -> None:
        """`whole`: texts of tokens that are not to be cut (control tokens, if the text may have them)."""
        texts = sorted({text for text in whole if len(text) > 1}, key=lambda text: (-len(text), text))
        self._whole = re.compile("|".join(map(re.escape, texts)) or r"(?!)")
        self._longest = len(texts[0]) if texts else 0

    def cut(self, text: str) -> list[str]:
        """Parts that make up `text`."""
        parts, start = [], 0
        for run in _LONG_RUN.finditer(text):
            at = run.start() + MAX_RUN
            while at < run.end():
                at = self._before_whole(text, max(start, run.start()), at)
                parts.append(text[start:at])
                start, at = at, at + MAX_RUN
        return [part for part in (*parts, text[start:]) if part]

    def _before_whole(self, text: str, start: int, at: int) -> int:
        """`at`, or where a token begins, behind `start`, that a cut there would go through."""
        for match in self._whole.finditer(text, max(start, at - self._longest), at + self._longest):
            if start < match.start() < at < match.end():
                return match.start()
        return at


class Detokenizer:
    """Token ids of one reply to text, as they come; only whole characters leave it."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """`pieces[token]`: the token's bytes; control tokens have none, nor has what lies behind (padding)."""
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, tokens: Iterable[int]) -> str:
        """The text that is complete now; bytes that can never become a character are replaced by U+FFFD."""
        return self._decoder.decode(b"".join(self._pieces[token] for token in tokens if token < len(self._pieces)))

    def finish(self) -> str:
        """What is left at the end of the reply: half a character is replaced by U+FFFD."""
        return self._decoder.decode(b"", final=True)


class Vocab:
    """What ids say. `pieces[token]`: its bytes (control tokens: none); a reply is over after one of `end_tokens`."""

    def __init__(self, pieces: list[bytes], end_tokens: frozenset[int], has_template: bool) -> None:
        self.pieces, self.end_tokens, self.has_template = pieces, end_tokens, has_template

    def detokenizer(self) -> Detokenizer:
        return Detokenizer(self.pieces)

    @cached_property
    def key_tokens(self) -> bytes:
        """For Open (speculation/acceptance.py)."""
        return key_tokens(self.pieces, self.end_tokens)
