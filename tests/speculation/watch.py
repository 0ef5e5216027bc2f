"""What a schedule is watched for beside its text: work for nothing, which costs no token and shows nowhere else.

An owner commits by no epoch that is dead, never sends two contents as one epoch, nor a draft token that the draft
engine did not make behind that very line, and after a NACK goes on from where the stage is, or no more in that epoch. A
stage never runs a block of a route that is no more or that it knows to be dead, never a position of a branch twice, and
keeps no draw of another reply's dice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsdnode.speculation.actions import BroadcastClosed, DraftToken, RunChunk, SendBlock, StageAction
from dsdnode.speculation.digest import split
from dsdnode.speculation.stage.cache import Branch
from dsdnode.speculation.stage.machine import StageMachine
from dsdnode.wire.messages import Block, Closed, Nack, Verdict

if TYPE_CHECKING:
    from dsdnode.speculation.owner.session import SessionMachine


class OwnerWatch:
    """Of all replies of a session."""

    def __init__(self, violations: list[str]) -> None:
        self._violations = violations
        self._sent: dict[tuple[int, int], bytes] = {}
        """By epoch and length: the digest of so much of it."""
        self._lines: set[tuple[int, ...]] = set()
        """Each ends with a draft token that the draft engine has made behind the rest."""
        self._refused: dict[int, int] = {}
        """By epoch: the length that a stage has of it."""
        self._heard: set[Nack] = set()
        self._alive, self._length = True, 0

    def placed(self, line: tuple[int, ...], draft_tokens: tuple[DraftToken, ...]) -> None:
        for draft_token in draft_tokens:
            self._lines.add((*line, draft_token.second))
            line = (*line, draft_token.token)
            self._lines.add(line)

    def nacked(self, owner: SessionMachine, nack: Nack) -> None:
        """Before the owner hears of it."""
        epoch = owner._epochs.get(nack.epoch)
        if epoch is None or not epoch.flights or nack.route != owner.route or nack in self._heard:
            return
        self._heard.add(nack)
        if nack.length < epoch.flights[-1].end:
            self._refused[nack.epoch] = nack.length

    def judged(self, owner: SessionMachine, verdict: Verdict) -> None:
        """Before the owner hears of it."""
        self._alive = owner._epochs.get(verdict.epoch) is not None
        self._length = len(owner.tokens)

    def committed(self, owner: SessionMachine) -> None:
        if len(owner.tokens) > self._length and not self._alive:
            self._violations.append("an old epoch commits")

    def sent(self, owner: SessionMachine, action: SendBlock) -> None:
        block = action.block
        length = self._refused.pop(block.epoch, block.position)
        if length != block.position:
            self._violations.append("goes on where a stage refused")
        for place, digest in enumerate(split(action.digests), block.position):
            if self._sent.setdefault((block.epoch, place), digest) != digest:
                self._violations.append("an epoch has two contents")
        epoch = owner._epochs.get(block.epoch)
        for place in range(block.position + block.num_given, block.position + block.num_given + block.num_draft):
            if epoch is not None and owner._epochs.tokens(epoch, 0, place + 1) not in self._lines:
                self._violations.append("a draft token for another line")


class StageWatch:
    """Of one life of a stage's machine."""

    def __init__(self, violations: list[str], machine: StageMachine) -> None:
        self.route: int | None = None
        """That it serves; None: parked."""
        self._violations = violations
        self._machine = machine
        self._grown: dict[int, tuple[Branch, int]] = {}
        """How far each branch has been run."""
        self._closed: dict[int, int] = {}
        self._floor = 0

    def heard(self, block: Block, actions: list[StageAction]) -> None:
        if actions and block.route != self.route:
            self._violations.append("work for a route that is no more")

    def closed(self, closed: Closed) -> None:
        if closed.route == self.route and closed.epoch >= self._machine._cache.floor:
            position = self._closed.get(closed.epoch, closed.position)
            self._closed[closed.epoch] = min(position, closed.position)

    def acts(self, action: StageAction) -> None:
        if isinstance(action, BroadcastClosed):
            self.closed(action.message)
        elif isinstance(action, RunChunk):
            self._runs()

    def settled(self) -> None:
        """All that an event has led to is known."""
        self._floor = self._machine._cache.floor

    def failed(self) -> None:
        """The run that is in flight."""
        assert self._machine._running is not None
        arrival, branch, _ = self._machine._running
        self._grown[id(branch)] = branch, arrival.block.position

    def turned(self) -> None:
        """The next reply is drawn by other dice."""
        if any(branch.draws for branch in self._machine._cache._branches.values()):
            self._violations.append("draws of another reply are kept")

    def ran(self, branch: Branch, end: int) -> None:
        """By the dice of the reply before, up to there; the machine has heard of it."""
        if end in branch.draws:
            self._violations.append("draws of another reply are kept")

    def _runs(self) -> None:
        assert self._machine._running is not None
        arrival, branch, _ = self._machine._running
        block = arrival.block
        _, end = self._grown.get(id(branch), (branch, block.position))
        if block.position < end:
            self._violations.append("a branch is run again")
        self._grown[id(branch)] = branch, block.position + arrival.num_positions
        if min(self._machine._cache._branches) < block.floor:
            self._violations.append("kept under the floor")
        parent = self._closed.get(block.parent, block.base) if block.parent >= self._floor else block.base
        if parent < block.base or (block.epoch >= self._floor and block.epoch in self._closed):
            self._violations.append("runs what is dead")
