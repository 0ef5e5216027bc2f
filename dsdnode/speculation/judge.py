"""The judge's part of the last stage: compare a block's draft with its own draws. Speculation sections 4 and 5.

It keeps its own draw per position and branch. A draft token whose position has no draw is never judged: the stage
answers NACK(position - 1) and the owner sends that position again as given.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsdnode.speculation.acceptance import Acceptance, Exact
from dsdnode.speculation.actions import Tokens
from dsdnode.speculation.cache import Branch
from dsdnode.wire.messages import Block


@dataclass(frozen=True, slots=True)
class Decision:
    """Before `decided` everything stands, there `token` is right; `closed`: the rest of the branch falls."""

    decided: int
    token: int
    closed: bool


class Judge:
    def __init__(self, acceptance: Acceptance | None = None) -> None:
        self._acceptance = acceptance or Exact()

    def num_draws(self, block: Block) -> int:
        """After the last given and after each draft token; the draw before a block of drafts alone is kept already."""
        return block.num_draft + (block.num_given > 0)

    def can_judge(self, branch: Branch | None, block: Block) -> bool:
        """Is there an own draw for the first draft token, or will this block's run make it?"""
        return block.num_given > 0 or (branch is not None and block.position in branch.draws)

    def keep_draws(self, branch: Branch, block: Block, draws: Tokens) -> None:
        end = block.position + block.num_given + block.num_draft
        branch.draws.update(zip(range(end + 1 - len(draws), end + 1), draws, strict=True))

    def judge(self, branch: Branch, block: Block, draft: Tokens) -> Decision:
        """Decide a block whose run is done and whose draws are kept."""
        start = block.position + block.num_given
        own = tuple(branch.draws[position] for position in range(start, start + len(draft)))
        num_accepted = self._acceptance.count(draft, own)
        branch.decided = start + num_accepted
        return Decision(branch.decided, branch.draws[branch.decided], num_accepted < len(draft))

    def again(self, branch: Branch) -> Decision | None:
        """What was decided last, for an owner that missed it; None: nothing was yet."""
        if branch.decided not in branch.draws:
            return None
        return Decision(branch.decided, branch.draws[branch.decided], False)
