"""What the judge of a route is told of the line, where a reply's shaping looks back, or guesses are asked for
(speculation/stage/known.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dsdnode.node.drafter.options import ReplyOptions
from dsdnode.speculation.actions import SendBlock
from dsdnode.wire.codec import encode_body
from dsdnode.wire.messages import JudgeNote
from dsdnode.wire.numbers import pack_tokens


@dataclass(frozen=True, slots=True)
class ToldLine:
    """Of one route. `num_line`: tokens of the line when it was opened, of these `num_prompt` not the reply's own;
    `counted`: the last ones that count. `num_guesses`: behind a verdict, that are asked for. Where nothing needs it,
    nothing is `told`."""

    told: bool = False
    num_prompt: int = 0
    num_line: int = 0
    counted: tuple[int, ...] = ()
    num_guesses: int = 0

    @classmethod
    def of(cls, options: ReplyOptions, line: Sequence[int], num_prompt: int, num_guesses: int = 0) -> ToldLine:
        shaping = options.sampling.shaping
        if num_guesses:
            return cls(True, num_prompt, len(line), tuple(line), num_guesses)
        if not shaping.has_past:
            return cls()
        first = shaping.first_counted(len(line), num_prompt)
        return cls(True, num_prompt, len(line), tuple(line[first:]))

    def buffers(self, key_tokens: bytes) -> list[bytes]:
        """Of the judge's Open, from the third one on."""
        if not self.told:
            return [key_tokens] if key_tokens else []
        return [key_tokens, pack_tokens(list(self.counted))]

    def notes(self, action: SendBlock) -> list[bytes]:
        """The block's last buffer, if it has one: what of its given tokens is behind the line that was told."""
        if not self.told:
            return []
        block = action.block
        given = action.tokens[: block.num_given][max(0, self.num_line - block.position) :]
        return [encode_body(JudgeNote(given, action.num_guesses))]
