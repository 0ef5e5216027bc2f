"""Random schedules (world.py) of conversations: each reply in the session of the one before, drawn by another seed.

Whatever was lost, cut off or still on its way when a reply ended: the next one's text is right, and in the end nothing
is left behind.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

from dsdnode.speculation.acceptance import ExactRule
from dsdnode.speculation.actions import NeedRoute
from dsdnode.speculation.controller import FixedRounds
from dsdnode.speculation.owner.session import SessionMachine

from . import world
from .peers import Peer
from .restless import Restless
from .toy import VOCABULARY, reference

PARKED_S = 30.0
MAX_POSITIONS = 512


class Keeper(Peer):
    """A peer that keeps a session between two replies, as the node's stage does."""

    world: Conversation
    parked = False
    opened = -1

    def on_open(self, route_number: int, index: int, route: tuple[Peer, ...], digests: bytes) -> None:
        if self.reachable and route_number > self.opened:
            seed = self.world.seeds[route_number]
            if self.machine is not None and (self.parked or seed != self.seed):
                self.machine.on_turn(MAX_POSITIONS, ExactRule())
                if seed != self.seed:
                    self.watch.turned()
            self.seed, self.opened, self.parked = seed, route_number, False
        super().on_open(route_number, index, route, digests)

    def on_park(self, route_number: int) -> None:
        if self.reachable and self.machine is not None and route_number == self.opened:
            self.machine.on_park(self.world.queue.now, PARKED_S)
            self.parked, self.watch.route = True, None
            self._set_timer()

    def crash(self) -> None:
        super().crash()
        self.opened, self.parked = -1, False


class Conversation(world.World):
    def __init__(self, seed: int, *, stream: bool) -> None:
        self.seeds: dict[int, int] = {}
        """By route."""
        self._stream = stream
        super().__init__(seed, stream=stream)
        self.num_turns = self.rng.randint(2, 4)

    def run(self) -> None:
        for turn in range(self.num_turns):
            if turn:
                self._next_turn()
            self._schedule_faults()
            self._carry_out(self.owner.start(self.queue.now))
            if self.rng.random() < 0.3:
                self.queue.after(self.rng.uniform(0, 2), self._stop, self.owner)
            if not self.queue.run(lambda: self.owner.finished is not None, world.TIME_LIMIT_S * (turn + 1)):
                self.violations.append("stuck")
            self._check_text()
            self.num_reused += self.owner.log.statistics().prompt_tokens_reused
            self._pause()
        self.queue.run(lambda: False, self.queue.now + 4 * world.LEASE_S[1])
        for peers in self.replicas:
            for peer in peers:
                if peer.machine is not None or any(peer.engine.cells):
                    self.violations.append(f"leak at stage {peer.stage}")

    def _stop(self, owner: SessionMachine) -> None:
        if owner is self.owner:
            self._cancel()

    def _pause(self) -> None:
        """Sometimes none: messages and runs of the last reply are still on their way."""
        self.queue.run(lambda: False, self.queue.now + self.rng.choice([0.0, 0.0, 0.001, 0.1, 1.0, 1.2 * PARKED_S]))

    def _let_go(self) -> None:
        """Park where the last route is open; close where it is not, and whoever is not part of it."""
        opened = len(self._opened) == len(self._route) > 0
        for peer in list(self._touched):
            if opened and peer in self._route:
                self.network.send(peer.on_park, self.owner.route)  # type: ignore[attr-defined]
            else:
                del self._touched[peer]
                self.network.send(peer.on_close)

    def _next_turn(self) -> None:
        """A third of them go back: the reply, or a part of it, once more."""
        rng = self.rng
        back = rng.random() < 0.35
        said = self.emitted[: rng.randint(0, len(self.emitted))] if back else self.emitted
        new = [rng.randrange(VOCABULARY - 1) for _ in range(0 if back else rng.choice([0, 1, 5, 20]))]
        self.prompt = (*self.prompt, *said, *new)
        self.seed += rng.randint(0, 1) * 100_000
        self.right = reference(self.prompt, self.num_tokens, self.num_stages, self.seed)
        self.emitted = []
        self._draft_life += 1  # what the last reply asked for is not this one's
        before = self.owner
        config = replace(before._config, carried=before.carry())
        self.owner = SessionMachine(config, self.prompt, self._window(), drafter=before._drafts.alive)

    def _window(self) -> Any:
        return Restless(self.rng) if self._stream else FixedRounds(self.window)

    def _open(self, action: NeedRoute) -> None:
        self.seeds[action.route] = self.seed
        super()._open(action)

    def _stays(self, peer: Peer, action: NeedRoute) -> bool:
        if action.reason == "start":
            return peer.reachable and self.rng.random() < 0.9
        return super()._stays(peer, action)

    def _drafter_back(self) -> None:
        self.owner._drafts.alive = True
        super()._drafter_back()


def conversation(seed: int) -> Conversation:
    """Of peers that keep sessions; every other one streams."""
    with patch.object(world, "Peer", Keeper):
        return Conversation(seed, stream=seed % 2 == 1)
