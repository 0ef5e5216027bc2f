"""A second, simple owner for the tests: streams many blocks ahead of the verdicts and hedges with sibling epochs.

It exercises those rules of the stage that the production owner does not need yet: drafts without given tokens, several
blocks in flight, copies, closings that spare siblings, verdicts out of order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from dsdnode.speculation import digest as digest_
from dsdnode.speculation.actions import Emit, Finish, NeedRoute, SendBlock, SessionAction
from dsdnode.wire.messages import Block, Nack, Verdict

from .toy import VOCABULARY

SECRET = b"a secret of this session"
MAX_EPOCHS = 4


@dataclass
class Sent:
    """An epoch as its owner knows it: the whole line of tokens, and its blocks that no verdict answered."""

    parent: int
    base: int
    line: list[int]
    blocks: list[SendBlock] = field(default_factory=list)


class StreamOwner:
    def __init__(
        self,
        session: bytes,
        prompt: tuple[int, ...],
        num_tokens: int,
        guess: Callable[[int], int],
        rng: Random,
        *,
        window: int,
        timeout_s: float,
    ) -> None:
        self.finished: str | None = None
        self.route = 0
        self._session, self._guess, self._rng = session, guess, rng
        self._window, self._timeout_s = window, timeout_s
        self._line = list(prompt)
        self._end = len(prompt) + num_tokens
        self._epochs: dict[int, Sent] = {}
        self._main = 0
        self._number = 0
        self._routing = True
        self._alarm_s: float | None = None
        self._num_timeouts = 0
        self._setbacks = 0
        self._last_nack: Nack | None = None
        self._block = rng.randint(1, 3)
        self._hedge_rate = rng.choice([0.0, 0.2, 0.5])

    @property
    def _patience_s(self) -> float:
        return self._timeout_s * 2 ** min(self._setbacks, 5)

    def next_wakeup(self) -> float | None:
        return self._alarm_s

    # --- events ---------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[SessionAction]:
        return [NeedRoute(0, "start", (), self._digests(self._line))]

    def on_route(self, now: float, route: int, lengths: Sequence[int]) -> list[SessionAction]:
        if self.finished or not self._routing or route != self.route:
            return []
        self._routing, self._num_timeouts = False, 0
        return self._again_from(now, min(lengths), 0)

    def on_route_failed(self, now: float, route: int) -> list[SessionAction]:
        return self._ask_route() if self._routing and route == self.route and not self.finished else []

    def on_draft(self, now: float, tokens: tuple[int, ...]) -> list[SessionAction]:
        return []

    def on_verdict(self, now: float, verdict: Verdict) -> list[SessionAction]:
        sent = self._epochs.get(verdict.epoch)
        if self.finished or self._routing or sent is None or verdict.route != self.route:
            return []
        self._num_timeouts, self._setbacks, self._last_nack = 0, max(0, self._setbacks - 1), None
        self._alarm_s = now + self._patience_s
        ends = [(item, item.block.position + item.block.num_given + item.block.num_draft) for item in sent.blocks]
        sent.blocks = [item for item, end in ends if end > verdict.decided]
        length = len(self._line)
        if verdict.decided < length:
            return self._stream(now)
        new = [*sent.line[length : verdict.decided], verdict.token][: self._end - length]
        self._line += new
        actions: list[SessionAction] = [Emit(tuple(new), 0)]
        if len(self._line) >= self._end:
            return actions + self.cancel(now, "length")
        self._keep_right_epochs()
        if not any(len(other.line) >= len(self._line) for other in self._epochs.values()):
            self._correct(verdict)
        return actions + self._stream(now)

    def on_nack(self, now: float, nack: Nack) -> list[SessionAction]:
        if self.finished or self._routing or nack.route != self.route or nack.epoch not in self._epochs:
            return []
        if nack == self._last_nack:
            return []
        self._last_nack = nack
        blocks = self._epochs[nack.epoch].blocks
        missing = [item for item in blocks if item.block.position >= nack.length]
        if missing and missing[0].block.position == nack.length:
            return list(missing)
        if nack.epoch != self._main and nack.length > 0:
            del self._epochs[nack.epoch]
            return self._stream(now)
        first = blocks[0].block.position if blocks else len(self._line)
        return self._again_from(now, min(nack.length, first), nack.epoch if nack.epoch == self._main else 0)

    def on_session_lost(self, now: float, index: int) -> list[SessionAction]:
        return [] if self._routing or self.finished else self._ask_route()

    def on_peer_lost(self, now: float, suspects: Sequence[int]) -> list[SessionAction]:
        return [] if self._routing or self.finished else self._ask_route()

    def tick(self, now: float) -> list[SessionAction]:
        if self._alarm_s is None or now < self._alarm_s or self._routing or self.finished:
            return []
        self._num_timeouts += 1
        self._setbacks += 1
        self._alarm_s = now + self._patience_s
        if self._num_timeouts == 1:
            return [item for sent in self._epochs.values() for item in sent.blocks]
        if self._num_timeouts <= 3:
            return self._again_from(now, len(self._line) - 1, self._main)
        return self._ask_route()

    def cancel(self, now: float, reason: str) -> list[SessionAction]:
        if self.finished:
            return []
        self.finished, self._alarm_s = reason, None
        return [Finish(reason)]

    # --- inside ---------------------------------------------------------------------------------------------------

    def _ask_route(self) -> list[SessionAction]:
        self.route += 1
        self._routing, self._alarm_s = True, None
        self._epochs = {}
        return [NeedRoute(self.route, "timeout", (), self._digests(self._line))]

    def _again_from(self, now: float, base: int, parent: int) -> list[SessionAction]:
        base = min(base, len(self._line) - 1)
        self._epochs = {}
        self._begin(parent if base else 0, base)
        self._alarm_s = now + self._patience_s
        return self._stream(now)

    def _begin(self, parent: int, base: int) -> Sent:
        self._number += 1
        self._epochs[self._number] = Sent(parent, base, self._line[:base])
        self._main = self._number
        return self._epochs[self._number]

    def _keep_right_epochs(self) -> None:
        """Drop the epochs that the line contradicts; follow the longest of the others."""
        for number, sent in list(self._epochs.items()):
            common = min(len(sent.line), len(self._line))
            if sent.line[:common] != self._line[:common]:
                del self._epochs[number]
        if self._epochs and self._main not in self._epochs:
            self._main = max(self._epochs, key=lambda number: len(self._epochs[number].line))

    def _correct(self, verdict: Verdict) -> None:
        """The judge's token is in no epoch: it goes on in one that ends right before, or in a new one."""
        fitting = [number for number, sent in self._epochs.items() if len(sent.line) == len(self._line) - 1]
        if fitting and verdict.epoch in fitting and not self._epochs[verdict.epoch].blocks:
            self._main = verdict.epoch
            return
        self._begin(verdict.epoch, verdict.decided)

    def _stream(self, now: float) -> list[SessionAction]:
        main = self._epochs[self._main]
        actions: list[SessionAction] = []
        while len(main.line) < len(self._line):
            given = self._line[len(main.line) : len(main.line) + 7]
            actions.append(self._send(self._main, given, []))
        while len(main.line) - len(self._line) + self._block <= self._window and len(main.line) < self._end:
            guesses = [self._guess(len(main.line) + i) for i in range(self._block)]
            actions.append(self._send(self._main, [], guesses))
            if self._rng.random() < self._hedge_rate and len(self._epochs) < MAX_EPOCHS - 1:
                actions.append(self._hedge(main))
        return actions

    def _hedge(self, main: Sent) -> SendBlock:
        """A sibling with another guess somewhere in what is in flight; now and then the right one."""
        base = self._rng.randrange(len(self._line), len(main.line))
        line = main.line[:base]
        parent, self._number = self._main, self._number + 1
        self._epochs[self._number] = Sent(parent, base, line)
        other = self._guess(base)
        guesses = [(other + (other == main.line[base])) % (VOCABULARY - 1), self._guess(base + 1)]
        return self._send(self._number, [], guesses)

    def _send(self, number: int, given: list[int], draft: list[int]) -> SendBlock:
        sent = self._epochs[number]
        position = len(sent.line)
        sent.line += [*given, *draft]
        needed = [other.parent for other in self._epochs.values() if other.blocks and other.parent]
        block = Block(
            session=self._session,
            route=self.route,
            epoch=number,
            parent=sent.parent,
            base=sent.base,
            position=position,
            num_given=len(given),
            num_draft=len(draft),
            floor=min([*needed, *self._epochs]),
            deadline_ms=1000.0,
        )
        width = digest_.DIGEST_BYTES
        action = SendBlock(block, self._digests(sent.line)[position * width :], (*given, *draft))
        sent.blocks.append(action)
        return action

    @staticmethod
    def _digests(line: list[int]) -> bytes:
        start = digest_.first(SECRET)
        return b"".join([start, *digest_.extend(SECRET, start, line)])
