"""The judge's part of the last stage: compare a block's draft with its own draws. Speculation sections 4 and 5.

It keeps its own draw per position and branch. A draft token whose position has no draw is never judged: the stage
answers NACK(position - 1) and the owner sends that position again as given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dsdnode.speculation.acceptance import AcceptanceRule, ExactRule, JudgeDraw
from dsdnode.speculation.actions import BroadcastClosed, Guessed, SendToOwner, Tokens
from dsdnode.speculation.masks import Places
from dsdnode.speculation.stage.arrivals import Arrival
from dsdnode.speculation.stage.cache import Branch
from dsdnode.wire.guesses import Guesses
from dsdnode.wire.logprobs import TokenLogprobs
from dsdnode.wire.masks import MAX_MASKS, LackMasks
from dsdnode.wire.messages import Block, Closed, Nack, SessionLost, Verdict

MAX_SEEN = 160
"""Positions of a branch whose distributions are kept, the last ones: hedges begin a little before its end, and what was
lost is said again, of all that a window has (64) and the block before it."""
MAX_TOLD = 256
"""A verdict names the relaxed positions of so many before `decided`: an earlier one may have been lost."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Before `decided` everything stands, there `token` is right; `closed`: the rest of the branch falls.

    `relaxed`: the positions shortly before `decided` where what stands is not what the judge drew. `logprobs`: of the
    positions from the block's first draft token to `decided`, where they are asked for.
    """

    decided: int
    token: int
    closed: bool
    relaxed: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    guesses: Guesses | None = None
    """At what stands behind `token`."""


class Judge:
    """Of one reply. `places`: where its tokens are drawn under masks; it knows nothing of them before it is told."""

    def __init__(self, acceptance: AcceptanceRule | None = None, places: Places | None = None) -> None:
        self._acceptance = acceptance or ExactRule()
        self.places = places
        self._asked: dict[bytes, None] = {}

    def begin_route(self) -> None:
        """What is drawn under masks waits to be told of them anew. (Of a reply's end a stage may not have heard.)"""
        self._asked.clear()
        if self.places is not None:
            self.places.forget()

    def masks(self, arrival: Arrival) -> tuple[bytes, ...] | None:
        """Those of a block's draws; none where they are drawn without; None: some have not come yet."""
        if self.places is None:
            return ()
        masks = self.places.of(self._drawn_behind(arrival))
        return None if masks is None else tuple(masks)

    def to_ask(self, arrivals: Iterable[Arrival]) -> tuple[bytes, ...]:
        """Masks that these blocks wait for, and that are known by name alone: each is asked for once."""
        if self.places is None:
            return ()
        lacking = dict.fromkeys(name for one in arrivals for name in self.places.lacking(self._drawn_behind(one)))
        new = [name for name in lacking if name not in self._asked][:MAX_MASKS]
        self._asked = dict.fromkeys([*(name for name in self._asked if name in lacking), *new])
        return tuple(new)

    def ask_again(self) -> None:
        """A block has waited in vain: what was asked for it, or the answer, may be lost."""
        self._asked.clear()

    def _drawn_behind(self, arrival: Arrival) -> Sequence[bytes]:
        return arrival.digests[len(arrival.digests) - self.num_draws(arrival.block) :]

    @property
    def num_top(self) -> int:
        """As Chunk.num_top: what `keep_draws` wants to be shown."""
        return self._acceptance.num_top

    def num_draws(self, block: Block) -> int:
        """After the last given and after each draft token; the draw before a block of drafts alone is kept already."""
        return block.num_draft + (block.num_given > 0)

    def can_judge(self, branch: Branch | None, block: Block) -> bool:
        """Is there an own draw for the first draft token, or will this block's run make it?"""
        return block.num_given > 0 or (branch is not None and block.position in branch.draws)

    def rejects(self, branch: Branch | None, block: Block, draft: Tokens) -> bool:
        """Is the first draft token of a block known to be wrong before it is run? `branch`: what it would continue."""
        if branch is None or block.num_given > 0 or block.position not in branch.draws:
            return False
        if branch.decided < block.position:
            return False
        return self._acceptance.is_hopeless(block.position, draft, _own(branch, block.position))

    def reject(self, branch: Branch, block: Block) -> Decision:
        """The decision on a block that `rejects`, unrun."""
        return self._decision(branch, block, block.position, closed=True)

    def keep_draws(self, branch: Branch, block: Block, draws: Tokens, seen: Sequence[JudgeDraw] = ()) -> None:
        """`draws` are of the block's run, the last of them behind its end; `seen`: with what `num_top` asked for."""
        end = block.position + block.num_given + block.num_draft
        branch.draws.update(zip(range(end + 1 - len(draws), end + 1), draws, strict=True))
        branch.seen.update(zip(range(end + 1 - len(seen), end + 1), seen, strict=True))
        for position in [position for position in branch.seen if position <= end - MAX_SEEN]:
            del branch.seen[position]

    def judge(self, branch: Branch, block: Block, draft: Tokens, guessed: Guessed | None = None) -> Decision:
        """Decide a block whose run is done and whose draws are kept. `guessed`: behind one of these."""
        start = block.position + block.num_given
        own = [_own(branch, position) for position in range(start, start + len(draft))]
        accepted = self._acceptance.accept(start, draft, own)
        branch.decided = start + accepted.count
        branch.relaxed += accepted.relaxed
        decision = self._decision(branch, block, branch.decided, closed=accepted.count < len(draft))
        if guessed is None or guessed.position != decision.decided + 1:
            return decision
        return replace(decision, guesses=guessed.guesses)

    def again(self, branch: Branch, block: Block) -> Decision | None:
        """What was decided last, for an owner that missed it of `block`; None: nothing was yet."""
        if branch.decided not in branch.draws:
            return None
        return self._decision(branch, block, branch.decided, closed=False)

    def _decision(self, branch: Branch, block: Block, decided: int, *, closed: bool) -> Decision:
        relaxed = tuple(position for position in branch.relaxed if decided - MAX_TOLD <= position < decided)
        return Decision(decided, branch.draws[decided], closed, relaxed, self._logprobs(branch, block, decided))

    @staticmethod
    def _logprobs(branch: Branch, block: Block, decided: int) -> tuple[TokenLogprobs, ...]:
        """Without a gap up to `decided`, as far back as the block, or as there are any."""
        rows: list[TokenLogprobs] = []
        for position in range(decided, block.position + block.num_given - 1, -1):
            own = branch.seen.get(position)
            if own is None or own.logprobs is None:
                break
            rows.insert(0, own.logprobs)
        return tuple(rows)


def _own(branch: Branch, position: int) -> JudgeDraw:
    return branch.seen.get(position) or JudgeDraw(branch.draws[position])


@dataclass(slots=True)
class StageMessages:
    """`route` and `index`: as in the Open that came last."""

    session: bytes
    route: int = -1
    index: int = 0

    def verdict(self, block: Block, decision: Decision, seal: bytes = b"") -> SendToOwner:
        """Of a block that has been judged, or that needs not be: its times are of the stages that ran it. `seal`: of a
        closing that is repeated."""
        return SendToOwner(
            Verdict(
                self.session, self.route, block.epoch, decision.decided, decision.token,
                block.stage_ms, block.waited_ms, block.queue, decision.relaxed, seal,
            ),
            decision.logprobs,
            decision.guesses,
        )  # fmt: skip

    def closed(self, block: Block, decision: Decision, digest: bytes) -> BroadcastClosed:
        place = self.session, self.route, block.epoch
        return BroadcastClosed(Closed(*place, decision.decided, decision.token, decision.relaxed), digest)

    def nack(self, block: Block, length: int) -> SendToOwner:
        return SendToOwner(Nack(self.session, self.route, block.epoch, self.index, length))

    def lacking(self, names: tuple[bytes, ...]) -> SendToOwner:
        return SendToOwner(LackMasks(self.session, names))

    def lost(self, reason: str, *, culprit: bool = False) -> SendToOwner:
        return SendToOwner(SessionLost(self.session, self.index, reason, self.route, culprit))
