"""What one stage has cached of one session: its branches (epochs), their digests, the engine sequences they live in.

Rules. A branch is never rewritten: it grows at its end or is freed. Digests, not numbers, say what a cache holds, so
any branch whose digest at `base` fits may be the source of a new one; but at the judge it must be decided up to `base`,
or a rejected draft token would come back in a child's name (parent 0: the owner itself vouches for everything before
`base`). The new branch takes the source's sequence over in place only when nobody can want more of the source than it
keeps: the source is below the owner's floor, or was closed at exactly `base`; else it is a sequence copy.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import takewhile

from dsdnode.speculation import digest as digest_
from dsdnode.speculation.acceptance import JudgeDraw
from dsdnode.speculation.actions import CopySequence, ReleaseSequence, StageAction, TruncateSequence
from dsdnode.wire.messages import Block


@dataclass(slots=True)
class Branch:
    """`digests[i]` is of its first i tokens; `draws[p]` the judge's own token at position p (empty at other stages)."""

    epoch: int
    parent: int
    base: int
    sequence: int
    digests: list[bytes]
    draws: dict[int, int] = field(default_factory=dict)
    decided: int = 0
    """Judge: everything before stands."""
    seen: dict[int, JudgeDraw] = field(default_factory=dict)
    """Judge: the draws of the last positions, with what was asked for of the distributions behind them."""
    relaxed: tuple[int, ...] = ()
    """Judge: positions where the branch is not what the judge drew."""
    tail: list[int] = field(default_factory=list)
    """Judge, where a past is needed: its tokens behind the line that was told (known.py)."""
    runs: tuple[tuple[int, int], ...] = ((0, 0),)
    """Where its cells are from: (number, first position) of each run of positions that one branch made."""

    def made(self) -> Iterator[tuple[int, int]]:
        """Of each of its runs the number, and how many positions of it are here."""
        ends = [start for _, start in self.runs[1:]]
        for (number, start), end in zip(self.runs, [*ends, self.length], strict=True):
            yield number, max(0, end - start)

    @property
    def length(self) -> int:
        return len(self.digests) - 1


@dataclass(frozen=True, slots=True)
class Closing:
    """Nothing of the epoch stands from `position` on, where `token` is right; `relaxed`, `seal` as in Verdict."""

    position: int
    token: int
    relaxed: tuple[int, ...] = ()
    seal: bytes = b""


class Fate(Enum):
    """What becomes of a block, in the order in which it is asked: the first that holds counts."""

    DROP = "its epoch is under the floor: the owner has moved on"
    CLOSED = "its epoch is closed, or fell with its parent: the closing verdict again, to the owner; it is not run"
    DUPLICATE = "position < length: what followed from it again (a kept output, the judge's verdict), else NACK(length)"
    WAIT = "position > length, no source for a new epoch yet, masks lacking: after the hop timeout NACK(length)"
    MISMATCH = "the digest differs: NACK(0), the cache is not what the owner thinks"
    NO_DRAW = "judge: draft tokens alone, and no own draw at position: NACK(position - 1)"
    REJECTED = "judge: draft tokens alone, and the first is known to be wrong: close the epoch, unrun"
    APPEND = "else: make the branch if it is new, free what is under the floor, run"


class BranchCache:
    def __init__(self, sequences: Sequence[int], max_closings: int) -> None:
        self.floor = 0
        self.judging = False
        """Is this the last stage, where `decided` means something?"""
        self.num_told: int | None = None
        """Judge: so long is the line whose tokens were told; None: it needs no tokens."""
        self._branches: dict[int, Branch] = {}
        self._closings: dict[int, Closing] = {}
        self._sequences = tuple(sequences)
        self._free = list(reversed(sequences))
        self._max_closings = max_closings
        self._num_runs = 0

    @property
    def num_cells(self) -> int:
        """Positions of the engine's cache in use; a branch shares with its source what it was copied from."""
        if len(self._branches) == 1:
            return next(iter(self._branches.values())).length
        longest: dict[int, int] = {}
        for branch in self._branches.values():
            for number, length in branch.made():
                longest[number] = max(longest.get(number, 0), length)
        return sum(longest.values())

    def shrink(self, max_cells: int, keep: Branch) -> list[StageAction]:
        """Give up branches but one until so many cells are in use: what is closed first, then the oldest."""
        actions: list[StageAction] = []
        while len(self._branches) > 1 and self.num_cells > max_cells:
            sequence = self._drop(keep)
            self._free.append(sequence)
            actions.append(ReleaseSequence(sequence))
        return actions

    def get(self, epoch: int) -> Branch | None:
        return self._branches.get(epoch)

    def _fitting(self, block: Block, digest: bytes) -> Branch | None:
        """A branch that holds `base` tokens with that digest: the parent if it does, else the newest that does."""
        if block.base == 0:
            return None
        for epoch in sorted(self._branches, key=lambda number: (number == block.parent, number), reverse=True):
            branch = self._branches[epoch]
            if (
                self._is_decided(branch, block)
                and self._knows(branch, block.base)
                and branch.length >= block.base
                and digest_.same(branch.digests[block.base], digest)
            ):
                return branch
        return None

    def _is_decided(self, source: Branch, block: Block) -> bool:
        return block.parent == 0 or not self.judging or source.decided >= block.base

    def _knows(self, branch: Branch, length: int) -> bool:
        """All tokens of its first `length`, or at least those that count?"""
        return self.num_told is None or len(branch.tail) >= length - self.num_told

    def tell(self, num_told: int | None) -> None:
        """A new route: the line is told again, as long as it is now, and what was known beyond counts no more."""
        self.num_told = num_told
        for branch in self._branches.values():
            branch.tail.clear()

    def matching(self, line: Sequence[bytes]) -> int:
        """How many leading tokens of the line (its digests after 0, 1, 2 ... tokens) are in some branch."""
        return max((_common(branch.digests, line) for branch in self._branches.values()), default=0)

    def lends(self, line: Sequence[bytes], running: Branch | None, position: int) -> tuple[int, int]:
        """How many leading tokens of a line (its digests) a sequence surely holds, and which: of the branch that is
        `running`, what it had before, up to `position`."""
        found = [(0, 0)]
        for branch in self._branches.values():
            common = _common(branch.digests, line)
            found.append((min(common, position) if branch is running else common, branch.sequence))
        return max(found)

    def borrow(self, lender: int, digests: list[bytes]) -> list[StageAction]:
        """Begin with a copy of what another session has of the same line. No block is of that branch (0 is no epoch of
        an owner's), but any that begins there may continue it."""
        sequence, _ = self._take_sequence(None)
        length, runs = len(digests) - 1, ((self._new_run(), 0),)
        self._branches[0] = Branch(0, 0, 0, sequence, digests, decided=length, runs=runs)  # the owner's line: it stands
        return [CopySequence(lender, sequence, length)]

    def fate(self, block: Block, digest: bytes) -> tuple[Fate, Branch | None]:
        """What may be done with a block, and the branch (its own, or the source of it) that it would continue."""
        if block.epoch < self.floor:
            return Fate.DROP, None
        if self.closing_of(block.epoch, block.parent, block.base) is not None:
            return Fate.CLOSED, None
        branch = self._branches.get(block.epoch)
        if branch is not None:
            if block.position != branch.length:
                return (Fate.DUPLICATE if block.position < branch.length else Fate.WAIT), branch
            fits = digest_.same(branch.digests[-1], digest) and self._knows(branch, branch.length)
            return (Fate.APPEND if fits else Fate.MISMATCH), branch
        if block.position > block.base:
            return Fate.WAIT, None
        source = self._fitting(block, digest)
        if source is None and block.base > 0:
            return self._fate_without_source(block), None
        return Fate.APPEND, source

    def _fate_without_source(self, block: Block) -> Fate:
        """A parent may still come, or grow; whoever names none (0) was told that the base is here, and it is not."""
        parent = self._branches.get(block.parent)
        if block.parent == 0 or (parent is not None and parent.length >= block.base):
            return Fate.MISMATCH
        return Fate.WAIT

    def length_for(self, block: Block) -> int:
        """How much of the block's epoch is here: its own branch, or what its parent would give to it."""
        branch = self._branches.get(block.epoch)
        if branch is not None:
            return branch.length
        parent = self._branches.get(block.parent)
        return 0 if parent is None else min(parent.length, block.base)

    def ready(self, block: Block, digest: bytes) -> tuple[Branch, list[StageAction]]:
        """The branch that a block with fate APPEND continues, made if it is new; what is under its floor is freed."""
        branch = self._branches.get(block.epoch)
        if branch is not None:
            return branch, self._raise_floor(block.floor, None)
        return self._create(block, self._fitting(block, digest), digest)

    def _create(self, block: Block, source: Branch | None, digest: bytes) -> tuple[Branch, list[StageAction]]:
        """Make the block's epoch from the first `base` positions of `source` (None: base 0); free all under floor."""
        actions = self._raise_floor(block.floor, source)
        if source is None:
            sequence, made = self._take_sequence(None)
            branch = Branch(block.epoch, block.parent, 0, sequence, [digest], runs=((self._new_run(), 0),))
        elif self._may_take_over(source, block.base):
            branch, made = self._take_over(block, source)
        else:
            branch, made = self._copy(block, source)
        if source is not None and self.num_told is not None:
            branch.tail = source.tail[: max(0, block.base - self.num_told)]
        self._branches[block.epoch] = branch
        self._merge_runs()
        return branch, actions + made

    def _may_take_over(self, source: Branch, base: int) -> bool:
        closing = self._closings.get(source.epoch)
        alone = len(self._sequences) == 1
        return alone or source.epoch < self.floor or (closing is not None and closing.position == base)

    def _take_over(self, block: Block, source: Branch) -> tuple[Branch, list[StageAction]]:
        actions: list[StageAction] = []
        if source.length > block.base:
            actions.append(TruncateSequence(source.sequence, block.base))
        del self._branches[source.epoch]
        return _child(block, source, source.sequence, self._new_run()), actions

    def _copy(self, block: Block, source: Branch) -> tuple[Branch, list[StageAction]]:
        sequence, actions = self._take_sequence(source)
        child = _child(block, source, sequence, self._new_run())
        return child, [*actions, CopySequence(source.sequence, sequence, block.base)]

    def _merge_runs(self) -> None:
        """What all branches begin with alike is one run."""
        columns = zip(*(branch.runs for branch in self._branches.values()), strict=False)
        alike = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
        for branch in self._branches.values():
            if alike > 1:
                branch.runs = ((branch.runs[alike - 1][0], 0), *branch.runs[alike:])

    def _new_run(self) -> int:
        self._num_runs += 1
        return self._num_runs

    def _take_sequence(self, keep: Branch | None) -> tuple[int, list[StageAction]]:
        """An empty sequence; at need a closed or else the oldest branch makes room (NACKs tell who missed it)."""
        if self._free:
            return self._free.pop(), []
        sequence = self._drop(keep)
        return sequence, [ReleaseSequence(sequence)]

    def _drop(self, keep: Branch | None) -> int:
        """Forget one; its sequence, to be released."""
        victims = [branch for branch in self._branches.values() if branch is not keep]
        victim = min(victims, key=lambda branch: (branch.epoch not in self._closings, branch.epoch))
        del self._branches[victim.epoch]
        return victim.sequence

    def _raise_floor(self, floor: int, keep: Branch | None) -> list[StageAction]:
        """Free everything under the floor; `keep`, the source of the branch to be made, is left to be taken over."""
        self.floor = max(self.floor, floor)
        actions: list[StageAction] = []
        for epoch in [epoch for epoch in self._branches if epoch < self.floor]:
            if keep is not None and epoch == keep.epoch:
                continue
            sequence = self._branches.pop(epoch).sequence
            self._free.append(sequence)
            actions.append(ReleaseSequence(sequence))
        for epoch in [epoch for epoch in self._closings if epoch < self.floor]:
            del self._closings[epoch]
        return actions

    def closing_of(self, epoch: int, parent: int, base: int) -> Closing | None:
        """The closing that kills this epoch: its own, or its parent's at a position before `base`."""
        if epoch in self._closings:
            return self._closings[epoch]
        inherited = self._closings.get(parent)
        return inherited if inherited is not None and inherited.position < base else None

    def close(self, epoch: int, closing: Closing) -> None:
        """Close an epoch and its descendants that began beyond the closing; siblings and earlier children live."""
        if epoch < self.floor:
            return
        known = self._closings.get(epoch)
        if known is None or closing.position < known.position:
            self._closings[epoch] = closing
        for number in sorted(self._branches):
            child = self._branches[number]
            inherited = self.closing_of(number, child.parent, child.base)
            if inherited is not None:
                self._closings[number] = inherited
        while len(self._closings) > self._max_closings:
            del self._closings[min(self._closings)]

    def forget_draws(self) -> None:
        """Everything in the cache stands for the next reply; its judge draws anew."""
        for branch in self._branches.values():
            branch.draws.clear()
            branch.seen.clear()
            branch.relaxed = ()

    def release(self) -> list[StageAction]:
        """Free every sequence in use."""
        used = [ReleaseSequence(branch.sequence) for branch in self._branches.values()]
        self.forget()
        return list(used)

    def forget(self) -> None:
        """Every sequence is gone already."""
        self._branches.clear()
        self._free = list(reversed(self._sequences))


def _common(mine: Sequence[bytes], line: Sequence[bytes]) -> int:
    """Length of the longest common prefix of two sequences, given their digests: the last position where they agree.

    Each digest covers all before it, so there is a first one that differs, and it need not be looked for one by one.
    """
    lengths = range(1, min(len(mine), len(line)))
    return bisect_left(lengths, True, key=lambda length: not digest_.same(mine[length], line[length]))


def _child(block: Block, source: Branch, sequence: int, run: int) -> Branch:
    draws = {position: token for position, token in source.draws.items() if position <= block.base}
    digests = source.digests[: block.base + 1]
    seen = {position: own for position, own in source.seen.items() if position <= block.base}
    relaxed = tuple(position for position in source.relaxed if position < block.base)
    runs = (*(before for before in source.runs if before[1] < block.base), (run, block.base))
    return Branch(block.epoch, block.parent, block.base, sequence, digests, draws, block.base, seen, relaxed, runs=runs)
