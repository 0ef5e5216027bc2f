"""Blocks as they come to a stage: checked, waiting (bounded), and the outputs kept for duplicates (bounded)."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import msgspec

from dsdnode.accounts import NOBODY, Account, Shares
from dsdnode.config import MAX_DRAFT
from dsdnode.errors import PeerMisbehaved
from dsdnode.speculation.actions import ForwardBlock, Note, States, Tokens
from dsdnode.speculation.digest import DIGEST_BYTES, split
from dsdnode.wire.messages import MAX_BLOCK_POSITIONS, Block


class Pool:
    """Bounds the bytes that wait in many inboxes together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._inboxes: WeakKeyDictionary[WaitingBlocks, None] = WeakKeyDictionary()

    def join(self, inbox: WaitingBlocks) -> None:
        self._inboxes[inbox] = None

    def has_room(self, asker: Account, size_bytes: int) -> bool:
        """At need, whoever has more than a fair share loses what came last."""
        if self._fits(size_bytes):
            return True
        shares = Shares(self._max_bytes, ((inbox.account, inbox.size_bytes) for inbox in self._inboxes))
        for account in shares.over(asker, size_bytes):
            for inbox in [one for one in self._inboxes if one.account == account]:
                while len(inbox.items) > 1 and not self._fits(size_bytes):
                    inbox.items.pop()
        return self._fits(size_bytes)

    def _fits(self, size_bytes: int) -> bool:
        return size_bytes + sum(inbox.size_bytes for inbox in self._inboxes) <= self._max_bytes


@dataclass(frozen=True, slots=True)
class StageLimits:
    hop_timeout_s: float = 1.0
    """How long a block may wait for the one before it."""
    max_waiting_blocks: int = 64
    max_waiting_positions: int = 2048
    max_kept_blocks: int = 32
    max_kept_positions: int = 1024
    max_closings: int = 64
    max_spare_positions: int = 256
    """That hedges, and what was just left, may take of the cache beyond what was reserved for the line."""
    account: Account = NOBODY
    """Whom all this is charged to."""
    pool: Pool | None = None
    """Of what waits in all sessions of a peer; None: this session counts alone."""


DEFAULT_LIMITS = StageLimits()


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A block with its buffers; `digests` are n + 1."""

    block: Block
    digests: tuple[bytes, ...]
    tokens: Tokens
    states: States | None
    arrived_s: float
    note: Note | None = None
    behind: Tokens = ()
    """At the judge, where a past is needed: its tokens behind the line that was told."""

    @property
    def key(self) -> tuple[int, int]:
        """An epoch is never rewritten, so this names the content."""
        return self.block.epoch, self.block.position

    @property
    def num_positions(self) -> int:
        return len(self.digests) - 1

    @property
    def size_bytes(self) -> int:
        """Of the hidden states: the rest is small."""
        return (0 if self.states is None else self.states.nbytes) + (0 if self.note is None else len(self.note.data))

    @property
    def draft(self) -> Tokens:
        return self.tokens[len(self.tokens) - self.block.num_draft :]

    def passed(self, now: float, compute_s: float, queue: int) -> Block:
        """The block as it goes on from here: the stage's times added."""
        spent_s = max(0.0, now - self.arrived_s)
        return msgspec.structs.replace(
            self.block,
            stage_ms=(*self.block.stage_ms, compute_s * 1000),
            waited_ms=(*self.block.waited_ms, max(0.0, spent_s - compute_s) * 1000),
            queue=(*self.block.queue, queue),
        )


def arrive(
    now: float, block: Block, digests: bytes, tokens: Tokens, states: States | None, *, first: bool, max_positions: int
) -> Arrival:
    """Raises PeerMisbehaved unless numbers and buffers fit together. There may be no more draft tokens than any owner
    sends: all of a block's are judged in one decode, for which the others wait."""
    num_positions = block.num_given + block.num_draft
    fits = (
        0 < num_positions <= MAX_BLOCK_POSITIONS
        and block.num_draft <= MAX_DRAFT
        and block.base <= block.position <= max_positions - num_positions
        and block.parent < block.epoch
        and block.floor <= block.epoch
        and len(digests) == DIGEST_BYTES * (num_positions + 1)
        and len(tokens) == (num_positions if first else block.num_draft)
        and (states is None if first else states is not None and len(states) == num_positions)
    )
    if not fits:
        raise PeerMisbehaved("a block whose numbers and buffers do not fit together")
    return Arrival(block, tuple(split(digests)), tokens, states, now)


class WaitingBlocks:
    """Blocks that wait, in order of arrival."""

    def __init__(self, limits: StageLimits) -> None:
        self.items: list[Arrival] = []
        self._max_blocks = limits.max_waiting_blocks
        self._max_positions = limits.max_waiting_positions
        self._patience_s = limits.hop_timeout_s
        self._pool = limits.pool
        self.account = limits.account
        if self._pool is not None:
            self._pool.join(self)

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes for item in self.items)

    def put(self, arrival: Arrival) -> None:
        """Drops what is waiting already and what there is no room for: the owner will send it again.

        One block is taken even of a pool that is full: with that the session goes on.
        """
        positions = sum(item.num_positions for item in self.items) + arrival.num_positions
        full = len(self.items) >= self._max_blocks or positions > self._max_positions
        if self.items and self._pool is not None:
            full = full or not self._pool.has_room(self.account, arrival.size_bytes)
        if not full and all(item.key != arrival.key for item in self.items):
            self.items.append(arrival)

    def drop_dead(self, floor: int) -> None:
        """Forget what waits under the owner's floor. No branch above it has yet to grow from that: a floor rises with
        a new main epoch alone, whose base the judge has answered, so that every stage has run all before it."""
        if self.items:
            self.items = [item for item in self.items if item.block.epoch >= floor]

    def next_overdue_s(self) -> float | None:
        if not self.items:
            return None
        return min(item.arrived_s + self._patience_s for item in self.items)

    def take_overdue(self, now: float) -> list[Arrival]:
        """Remove and return what has waited for too long. (The very sum of next_overdue_s: a timer must not spin.)"""
        overdue = [item for item in self.items if item.arrived_s + self._patience_s <= now]
        self.items = [item for item in self.items if item.arrived_s + self._patience_s > now]
        return overdue


class KeptOutputs:
    """What went to the next stage, to be sent again when a duplicate asks for it; the oldest goes first."""

    def __init__(self, limits: StageLimits) -> None:
        self._outputs: dict[tuple[int, int], ForwardBlock] = {}
        self._sent_s: dict[tuple[int, int], float] = {}
        self._num_positions = 0
        self._max_blocks = limits.max_kept_blocks
        self._max_positions = limits.max_kept_positions

    def put(self, output: ForwardBlock, now: float) -> None:
        key = output.block.epoch, output.block.position
        known = self._outputs.get(key)
        self._outputs[key], self._sent_s[key] = output, now
        self._num_positions += len(output.states) - (0 if known is None else len(known.states))
        while len(self._outputs) > self._max_blocks or self._num_positions > self._max_positions:
            key = next(iter(self._outputs))
            self._num_positions -= len(self._outputs.pop(key).states)
            del self._sent_s[key]

    def get(self, key: tuple[int, int]) -> ForwardBlock | None:
        return self._outputs.get(key)

    def since(self, when_s: float) -> list[ForwardBlock]:
        """What was sent since then."""
        return [output for key, output in self._outputs.items() if self._sent_s[key] >= when_s]

    def clear(self) -> None:
        self._outputs.clear()
        self._sent_s.clear()
        self._num_positions = 0
