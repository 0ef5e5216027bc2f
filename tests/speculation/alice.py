"""The owner's machine alone, told what to do and what the stages say."""

from __future__ import annotations

from typing import Any

from dsdnode.speculation.actions import Draft, DraftToken, Emit, SendBlock
from dsdnode.speculation.controller import FixedRounds
from dsdnode.speculation.owner.session import SessionConfig, SessionMachine
from dsdnode.wire.messages import Nack, Verdict

SESSION = b"0123456789abcdef"
PROMPT = (11, 12, 13)
END = 99


class Alice:
    """The machine with a driver's memory of what it asked for."""

    def __init__(
        self, prompt: tuple[int, ...] = PROMPT, window: int = 3, *, drafter: bool = True, **config: Any
    ) -> None:
        settings: dict[str, Any] = {
            "session": SESSION,
            "secret": b"alice's",
            "max_tokens": 20,
            "max_positions": 100,
            "vocab_size": 100,
            "end_tokens": frozenset([END]),
            "chunk_positions": 4,
            "pass_timeout_s": 1.0,
            "position_timeout_s": 0.0,
        }
        self.machine = SessionMachine(SessionConfig(**settings | config), prompt, FixedRounds(window), drafter=drafter)
        self.now = 0.0
        self.text: list[int] = []
        self.actions: list[Any] = []

    @property
    def main(self) -> int:
        """Number of the main epoch."""
        epoch = self.machine._epochs.main
        return 0 if epoch is None else epoch.number

    def did(self, actions: list[Any]) -> list[Any]:
        self.actions = actions
        for action in actions:
            if isinstance(action, Emit):
                self.text += action.tokens
        return actions

    def open(self, *lengths: int) -> list[Any]:
        return self.did(self.machine.on_route(self.now, self.machine.route, lengths))

    def start(self) -> list[Any]:
        self.did(self.machine.start(self.now))
        return self.open(0, 0)

    def draft(self, *tokens: int) -> list[Any]:
        return self.did(self.machine.on_draft(self.now, tuple(map(DraftToken, tokens))))

    def verdict(self, decided: int, token: int, epoch: int | None = None, route: int | None = None) -> list[Any]:
        epoch = self.main if epoch is None else epoch
        route = self.machine.route if route is None else route
        return self.did(self.machine.on_verdict(self.now, Verdict(SESSION, route, epoch, decided, token, (2.0, 3.0))))

    def nack(self, length: int) -> list[Any]:
        nack = Nack(SESSION, self.machine.route, self.main, 1, length)
        return self.did(self.machine.on_nack(self.now, nack))

    def wake(self) -> list[Any]:
        wakeup = self.machine.next_wakeup()
        assert wakeup is not None
        self.now = wakeup
        return self.did(self.machine.tick(wakeup))

    def in_a_round(self) -> SendBlock:
        """The prompt decided, 20 committed, 31 32 33 drafted behind it and sent."""
        self.start()
        self.draft(31, 32, 33, 34)
        self.verdict(3, 20)
        (sent,) = self.draft(31, 32, 33)
        assert isinstance(sent, SendBlock)
        return sent


def drafting(position: int, tokens: tuple[int, ...], count: int) -> Draft:
    """In the main epoch's sequence."""
    return Draft(0, None, position, tokens, count)


def numbers(sent: SendBlock) -> tuple[int, ...]:
    block = sent.block
    return block.epoch, block.parent, block.base, block.position, block.num_given, block.num_draft
