"""What a judge knows of the line's tokens, where a request's shaping counts them (speculation/shaping.py), or where it
is to guess what comes next (engine/mtp.py).

A stage has digests of the line, and no tokens. So its owner tells the judge, with Open, those of the line that count
(`told`, the last ones of `length`), and with each block the given tokens behind them; draft tokens are in the block
itself. What is not told does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsdnode.errors import PeerMisbehaved
from dsdnode.speculation.actions import Note, Tokens
from dsdnode.speculation.shaper import Past
from dsdnode.speculation.shaping import Shaping
from dsdnode.speculation.stage.arrivals import Arrival
from dsdnode.speculation.stage.cache import Branch
from dsdnode.wire.messages import Block


@dataclass(frozen=True, slots=True, eq=False)
class KnownLine:
    """Of one route. `length`: of the line when it was opened; `told`: int32, its last tokens; `num_prompt`: its first
    tokens that are not the reply's own."""

    shaping: Shaping
    num_prompt: int
    length: int
    told: NDArray[np.int32]
    guesses: bool = False

    def behind(self, block: Block, given: Tokens, draft: Tokens) -> Tokens:
        """The block's tokens behind the line. Raises PeerMisbehaved: `given` are others than those."""
        end = block.position + block.num_given
        wanted = max(0, end - max(block.position, self.length))
        if len(given) != wanted or (draft and end < self.length):
            raise PeerMisbehaved(f"a block with {len(given)} tokens of the line for its judge, not {wanted}")
        return (*given, *draft)

    def past(self, branch: Branch, block: Block, draft: Tokens) -> Past | None:
        """Before the draws of a block that `branch` has now; None: nothing counts it."""
        if not self.shaping.has_past:
            return None
        start = block.position + block.num_given
        then = draft
        if block.num_given == 0:  # the draw in the place of its first draft token was made before
            start, then = start + 1, draft[1:]
        begin = self.length - len(self.told)
        first = max(begin, self.shaping.first_counted(start, self.num_prompt))
        told = self.told[first - begin : max(0, start - begin)]
        tail = branch.tail[max(0, first - self.length) : max(0, start - self.length)]
        return Past.of(np.append(told, np.array(tail, np.int32)), self.num_prompt - first, then)

    def line(self, branch: Branch, block: Block) -> NDArray[np.int32] | None:
        """The block's own tokens, which `branch` has now; None: they are not asked for, or not known."""
        start, end = block.position, block.position + block.num_given + block.num_draft
        begin = self.length - len(self.told)
        if not self.guesses or start < begin:
            return None
        told = self.told[start - begin : max(0, end - begin)]
        tail = branch.tail[max(0, start - self.length) : max(0, end - self.length)]
        return np.append(told, np.array(tail, np.int32))


def behind_line(known: KnownLine | None, arrival: Arrival, note: Note) -> Tokens:
    """As Arrival.behind. Raises PeerMisbehaved."""
    return () if known is None else known.behind(arrival.block, note.given, arrival.draft)
