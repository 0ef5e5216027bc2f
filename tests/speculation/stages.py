"""One stage alone, told what to do: a stage machine with a toy engine. Alice is the owner who hears it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dsdnode.speculation import digest
from dsdnode.speculation.actions import (
    CopySequence,
    ReleaseSequence,
    RunChunk,
    SendToOwner,
    TruncateSequence,
)
from dsdnode.speculation.stage.arrivals import StageLimits
from dsdnode.speculation.stage.machine import StageMachine
from dsdnode.wire.messages import Block

from .toy import ToyEngine, draw

SESSION = b"0123456789abcdef"
SECRET = b"alice's"
LINE = (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8)


def digests_of(line: Sequence[int]) -> list[bytes]:
    start = digest.first(SECRET)
    return [start, *digest.extend(SECRET, start, line)]


def block(
    line: Sequence[int], position: int, num_draft: int = 0, **numbers: int
) -> tuple[Block, bytes, tuple[int, ...]]:
    """The line's tokens from `position` on as one block of epoch 1, the last `num_draft` of them drafts."""
    fields: dict[str, Any] = {"route": 0, "epoch": 1, "parent": 0, "base": 0, "floor": 0} | numbers
    num_given = len(line) - position - num_draft
    message = Block(session=SESSION, position=position, num_given=num_given, num_draft=num_draft, **fields)
    return message, b"".join(digests_of(line)[position:]), tuple(line[position:])


class Stage:
    """A stage machine with a toy engine; `hold` leaves the runs in flight until `finish`."""

    def __init__(self, index: int, num_stages: int = 3, num_sequences: int = 4) -> None:
        limits = StageLimits(hop_timeout_s=1.0, max_waiting_blocks=4, max_kept_blocks=8)
        self.machine = StageMachine(SESSION, range(num_sequences), max_positions=64, limits=limits)
        self.engine = ToyEngine(index, num_sequences)
        self.index, self.last = index, index == num_stages - 1
        self.num_stages = num_stages
        self.hold = False
        self.held: list[RunChunk] = []
        self.calls: list[Any] = []
        assert self.machine.on_open(0.0, 0, index, num_stages, 60.0, b"") == 0

    def receive(
        self, line: Sequence[int], position: int, num_draft: int = 0, now: float = 0.0, **numbers: int
    ) -> list[Any]:
        message, digests, tokens = block(line, position, num_draft, **numbers)
        if self.index == 0:
            return self.carry_out(self.machine.on_block(now, message, digests, tokens, None))
        draft = tokens[len(tokens) - num_draft :]
        return self.carry_out(self.machine.on_block(now, message, digests, draft, self._states(line)[position:]))

    def _states(self, line: Sequence[int]) -> Any:
        values = tuple(line)
        for stage in range(self.index):
            values = ToyEngine(stage, 1).run(0, 0, values)
        return values

    def carry_out(self, actions: list[Any]) -> list[Any]:
        """Engine actions at once; what goes to others is returned."""
        outside = []
        for action in actions:
            if isinstance(action, RunChunk):
                self.held.append(action)
                if not self.hold:
                    outside += self.finish()
            elif isinstance(action, CopySequence):
                self.calls.append(action)
                self.engine.copy(action.source, action.target, action.position)
            elif isinstance(action, TruncateSequence):
                self.calls.append(action)
                self.engine.truncate(action.sequence, action.position)
            elif isinstance(action, ReleaseSequence):
                self.calls.append(action)
                self.engine.release(action.sequence)
            else:
                outside.append(action)
        return outside

    def finish(self, now: float = 0.0) -> list[Any]:
        run = self.held.pop(0)
        self.calls.append(run)
        values: Any = run.tokens if run.states is None else run.states
        states: Any = self.engine.run(run.sequence, run.position, values)
        end = run.position + len(states)
        draws = [draw(states[p - 1 - run.position], p, 0) for p in range(end - run.num_draws + 1, end + 1)]
        if self.last:
            return self.carry_out(self.machine.on_output(now, None, tuple(draws), 0.002))
        return self.carry_out(self.machine.on_output(now, states, (), 0.002))


def told(actions: list[Any]) -> list[Any]:
    """What alice hears."""
    return [action.message for action in actions if isinstance(action, SendToOwner)]


def own_token(line: Sequence[int]) -> int:
    """What carol draws behind this line."""
    carol = Stage(2)
    token: int = told(carol.receive(line, 0))[0].token
    return token
