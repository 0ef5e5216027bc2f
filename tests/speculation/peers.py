"""Peers of the toy world: thin drivers, as the node's are, over the production stage machine."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from dsdnode.errors import PeerMisbehaved
from dsdnode.speculation import seal
from dsdnode.speculation.actions import (
    BroadcastClosed,
    CopySequence,
    ForwardBlock,
    Gone,
    Note,
    ReleaseSequence,
    RunChunk,
    SendToOwner,
    StageAction,
    TruncateSequence,
)
from dsdnode.speculation.stage.machine import StageMachine
from dsdnode.wire.messages import Block, Closed, SessionLost

from .toy import ToyEngine, draw
from .watch import StageWatch

if TYPE_CHECKING:
    from .world import World

NUM_SEQUENCES = 8


class Peer:
    """A shard peer: one engine, at most one session (the one of the run)."""

    def __init__(self, world: World, stage: int, number: int) -> None:
        self.world, self.stage, self.number = world, stage, number
        self.engine = ToyEngine(stage, NUM_SEQUENCES)
        self.seed = world.seed
        self.machine: StageMachine | None = None
        self.watch: StageWatch
        self.name = bytes([stage, number])
        self.seal_key = b""
        self.route: tuple[Peer, ...] = ()
        self.index = 0
        self.cut_until_s = 0.0
        self.run_s = world.rng.choice([0.001, 0.005, 0.02])
        self._pending: deque[StageAction] = deque()
        self._running = False
        self._life = 0
        """Counts deaths of the worker: a result of an earlier life is void."""

    @property
    def reachable(self) -> bool:
        return self.world.queue.now >= self.cut_until_s

    # --- messages -------------------------------------------------------------------------------------------------

    def on_open(self, route_number: int, index: int, route: tuple[Peer, ...], digests: bytes) -> None:
        if not self.reachable:
            return
        if self.machine is None:
            self.machine = StageMachine(
                self.world.session, range(NUM_SEQUENCES), max_positions=512, limits=self.world.limits
            )
            self.watch = StageWatch(self.world.violations, self.machine)
        now, lease_s = self.world.queue.now, self.world.lease_s
        self.machine.known = self.world.known(route_number)
        length = self.machine.on_open(now, route_number, index, len(route), lease_s, digests)
        if length is not None:
            self.route, self.index, self.watch.route = route, index, route_number
            self.seal_key = seal.key_for(self.world.secret, route_number, self.name) if self is route[-1] else b""
            self.world.to_owner("on_opened", route_number, index, length, route)
        self._set_timer()

    def on_block(
        self, block: Block, digests: bytes, tokens: tuple[int, ...], states: Any, note: Note | None = None
    ) -> None:
        if not self.reachable:
            return
        if self.machine is None:
            self.world.to_owner("on_lost_session", SessionLost(block.session, block.route, "restarted"), self)
            return
        try:
            actions = self.machine.on_block(self.world.queue.now, block, digests, tokens, states, note)
            self.watch.heard(block, actions)
            self._carry_out(actions)
        except PeerMisbehaved as error:
            # A block that was sent for another place in another route may reach a peer that serves again elsewhere.
            self.world.violations.append(str(error))

    def on_closed(self, closed: Closed) -> None:
        if self.reachable and self.machine is not None:
            self.watch.closed(closed)
            self._carry_out(self.machine.on_closed(self.world.queue.now, closed))

    def on_close(self) -> None:
        if self.reachable and self.machine is not None:
            self._carry_out(self.machine.on_close(self.world.queue.now))

    # --- faults ---------------------------------------------------------------------------------------------------

    def lose_worker(self) -> None:
        """llama.cpp aborts: the cache is gone, the daemon lives and knows."""
        self._forget_engine()
        if self.machine is not None:
            self._carry_out(self.machine.on_engine_lost(self.world.queue.now))

    def crash(self) -> None:
        """kill -9 and a restart: it knows nothing any more."""
        self._forget_engine()
        self.machine = None

    def _forget_engine(self) -> None:
        self._life += 1
        self._pending.clear()
        self._running = False
        self.engine.lose()

    # --- driver ---------------------------------------------------------------------------------------------------

    def _carry_out(self, actions: list[StageAction]) -> None:
        for action in actions:
            self.watch.acts(action)
            if isinstance(action, ForwardBlock):
                following = self.route[self.index + 1]
                parts = (action.block, action.digests, action.tokens, action.states, action.note)
                self.world.network.send(following.on_block, *parts)
            elif isinstance(action, SendToOwner):
                self._tell_owner(action)
            elif isinstance(action, BroadcastClosed):
                sealed = msgspec.structs.replace(
                    action.message, seal=seal.of(self.seal_key, action.message, action.digest)
                )
                for peer in self.route:
                    if peer is not self:
                        self.world.network.send(peer.on_closed, sealed)
            elif isinstance(action, Gone):
                self.machine = None
            else:
                self._pending.append(action)
        self.watch.settled()
        self._work()
        self._set_timer()

    def _tell_owner(self, action: SendToOwner) -> None:
        message = action.message
        name = {"Verdict": "on_verdict", "Nack": "on_nack", "SessionLost": "on_lost_session"}[type(message).__name__]
        self.world.to_owner(name, message, self, *([] if action.guesses is None else [action.guesses]))

    def _work(self) -> None:
        """Engine actions one after another, in order; a run takes its time."""
        while self._pending and not self._running:
            action = self._pending.popleft()
            if isinstance(action, RunChunk):
                self._running = True
                delay_s = self.run_s * (0.5 + self.world.rng.random()) * (1 + 0.1 * self._num_positions(action))
                self.world.queue.after(delay_s, self._ran, self._life, action, self.seed)
            elif isinstance(action, CopySequence):
                self.engine.copy(action.source, action.target, action.position)
            elif isinstance(action, TruncateSequence):
                self.engine.truncate(action.sequence, action.position)
            elif isinstance(action, ReleaseSequence):
                self.engine.release(action.sequence)

    @staticmethod
    def _num_positions(action: RunChunk) -> int:
        return len(action.tokens if action.tokens is not None else action.states)  # type: ignore[arg-type]

    def _ran(self, life: int, action: RunChunk, seed: int) -> None:
        if life != self._life or self.machine is None:
            return
        self._running = False
        now, world = self.world.queue.now, self.world
        inputs: Any = action.tokens if action.tokens is not None else action.states
        if world.rng.random() < world.faults.overload:
            self.engine.run(action.sequence, action.position, inputs[: world.rng.randint(0, len(inputs))])
            self.watch.failed()
            self._carry_out(self.machine.on_run_failed(now))
            return
        states = self.engine.run(action.sequence, action.position, inputs)
        end = action.position + len(states)
        if self.stage < world.num_stages - 1:
            self._carry_out(self.machine.on_output(now, states, (), 0.0))  # type: ignore[arg-type]
            return
        ask = range(end - action.num_draws + 1, end + 1)
        draws = tuple(draw(states[position - 1 - action.position], position, seed) for position in ask)
        running = self.machine._running
        actions = self.machine.on_output(now, None, draws, 0.0, guessed=self.world.guessed(self.machine, action, draws))
        if running is not None and seed != self.seed:
            self.watch.ran(running[1], end)
        self._carry_out(actions)

    def _set_timer(self) -> None:
        wakeup = self.machine.next_wakeup() if self.machine else None
        if wakeup is not None:
            self.world.queue.at(wakeup, self._tick, self.machine)

    def _tick(self, machine: StageMachine) -> None:
        wakeup = machine.next_wakeup()
        if machine is self.machine and wakeup is not None and self.world.queue.now >= wakeup:
            self._carry_out(machine.tick(self.world.queue.now))
