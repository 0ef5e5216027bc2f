"""One run: an owner, replicas of every stage, a bad network and bad luck, all from one seed, in virtual time."""

from __future__ import annotations

from random import Random
from typing import Any

from dsdnode.speculation.actions import (
    MAX_BRANCHES,
    Draft,
    DraftToken,
    Emit,
    Finish,
    Guessed,
    NeedRoute,
    Note,
    RunChunk,
    SendBlock,
    SessionAction,
    Tokens,
)
from dsdnode.speculation.controller import FixedRounds
from dsdnode.speculation.owner.session import SessionConfig, SessionMachine
from dsdnode.speculation.stage.arrivals import StageLimits
from dsdnode.speculation.stage.known import KnownLine
from dsdnode.speculation.stage.machine import StageMachine
from dsdnode.wire.guesses import Guesses
from dsdnode.wire.messages import SessionLost

from .faults import Faults, pick_faults
from .peers import Peer
from .restless import Restless
from .toy import END_TOKEN, VOCABULARY, Network, Queue, reference
from .watch import OwnerWatch

TIME_LIMIT_S = 7200.0
"""Who has not ended by then is stuck."""
FAULTS_S = 360.0
"""So long there is bad luck beside what a network loses."""
LEASE_S = (20.0, 60.0)


class World:
    PASS_TIMEOUTS_S: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)

    def __init__(self, seed: int, *, stream: bool) -> None:
        self.rng = rng = Random(seed)
        self.seed = seed
        self.queue = Queue()
        self.session = b"%16d" % seed
        self.secret = b"a secret of this session"
        self.faults = self._pick_faults()
        self.lease_s = rng.uniform(*LEASE_S)
        self.num_stages = rng.randint(1, 4)
        latency_s = rng.choice([0.001, 0.02, 0.1])
        self.network = self._make_network(latency_s)
        self.limits = self._make_limits()
        self.replicas = [[Peer(self, stage, n) for n in range(rng.randint(1, 3))] for stage in range(self.num_stages)]
        self.prompt = tuple(rng.randrange(VOCABULARY - 1) for _ in range(rng.choice([1, 2, 5, 17, 40])))
        self.num_tokens = rng.randint(1, 40)
        self.draft_token_rate = rng.choice([0.0, 0.3, 0.7, 0.9, 1.0])
        self.window = rng.choice([0, 1, 4, 8])
        self.right = reference(self.prompt, self.num_tokens, self.num_stages, seed)
        self.emitted: list[int] = []
        self.violations: list[str] = []
        self.watch = OwnerWatch(self.violations)
        self.num_routes = 0
        self.num_nacks = 0
        self.num_timeouts = 0
        self.num_resumed = 0
        """Positions that a new route had in its caches already."""
        self.num_reused = 0
        """Positions that a reply before had left in them."""
        self._route: tuple[Peer, ...] = ()
        self._opened: dict[int, int] = {}
        self._touched: dict[Peer, None] = {}
        self._drafted: list[list[int]] = [[] for _ in range(MAX_BRANCHES)]
        self._draft_life = 0
        self._cancel_after_s = rng.uniform(0, 2) if rng.random() < 0.15 else None
        self.owner = self._make_owner(stream)

    def _pick_faults(self) -> Faults:
        return pick_faults(self.rng)

    def _make_limits(self) -> StageLimits:
        return StageLimits(hop_timeout_s=0.3)

    def _make_network(self, latency_s: float) -> Network:
        return Network(self.queue, self.rng, self.faults.loss, self.faults.duplicates, latency_s)

    def _make_owner(self, stream: bool) -> SessionMachine:
        chunk, timeout_s = self.rng.choice([3, 8, 16]), self.rng.choice(self.PASS_TIMEOUTS_S)
        config = SessionConfig(
            session=self.session,
            secret=self.secret,
            max_tokens=self.num_tokens,
            max_positions=512,
            vocab_size=VOCABULARY,
            end_tokens=frozenset([END_TOKEN]),
            chunk_positions=chunk,
            pass_timeout_s=timeout_s,
        )
        window = Restless(self.rng) if stream else FixedRounds(self.window)
        return SessionMachine(config, self.prompt, window, drafter=self.rng.random() < 0.95)

    # --- the run --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until the reply is over, and then until every stage has let go of it."""
        self._schedule_faults()
        self._carry_out(self.owner.start(0.0))
        if self._cancel_after_s is not None:
            self.queue.after(self._cancel_after_s, self._cancel)
        if not self.queue.run(lambda: self.owner.finished is not None, TIME_LIMIT_S):
            self.violations.append("stuck")
        self._check_text()
        self.queue.run(lambda: False, self.queue.now + 4 * LEASE_S[1])
        for peers in self.replicas:
            for peer in peers:
                if peer.machine is not None or any(peer.engine.cells):
                    self.violations.append(f"leak at stage {peer.stage}")

    def _check_text(self) -> None:
        text = (*self.prompt, *self.emitted)
        if text != self.right[: len(text)]:
            self.violations.append("wrong text")
        elif self.owner.finished == "length" and text != self.right:
            self.violations.append("text too short")

    def _cancel(self) -> None:
        self._carry_out(self.owner.cancel(self.queue.now, "cancelled"))

    # --- owner's driver -------------------------------------------------------------------------------------------

    def to_owner(self, name: str, *arguments: Any) -> None:
        self.network.send(getattr(self, name), *arguments)

    def known(self, route: int) -> KnownLine | None:
        """What a judge is told of the line with this route's Open."""
        return None

    def note(self, action: SendBlock) -> Note | None:
        """What a block has for its judge."""
        return None

    def guessed(self, machine: StageMachine, run: RunChunk, draws: Tokens) -> Guessed | None:
        """By a judge's engine, behind one of the draws of a run."""
        return None

    def on_verdict(self, verdict: Any, peer: Peer, guesses: Guesses | None = None) -> None:
        judge = self._route[-1] if self._route else None
        if peer is judge or (judge and self.owner.is_sealed(verdict, judge.name)):
            self.watch.judged(self.owner, verdict)
            actions = self.owner.on_verdict(self.queue.now, verdict, (), guesses)
            self.watch.committed(self.owner)
            self._carry_out(actions)

    def on_nack(self, nack: Any, peer: Peer) -> None:
        if peer in self._route:
            self.num_nacks += 1
            self.watch.nacked(self.owner, nack)
            self._carry_out(self.owner.on_nack(self.queue.now, nack))

    def on_lost_session(self, lost: SessionLost, peer: Peer) -> None:
        if peer in self._route and lost.route == self.owner.route:
            self._carry_out(self.owner.on_session_lost(self.queue.now, self._route.index(peer)))

    def on_opened(self, route: int, index: int, length: int, peers: tuple[Peer, ...]) -> None:
        if route != self.owner.route or peers is not self._route:
            return
        self._opened[index] = length
        if len(self._opened) == len(self._route):
            lengths = [self._opened[index] for index in range(len(self._route))]
            self.num_resumed += min(lengths)
            self._carry_out(self.owner.on_route(self.queue.now, route, lengths))

    def _carry_out(self, actions: list[SessionAction]) -> None:
        for action in actions:
            if isinstance(action, NeedRoute):
                self._open(action)
            elif isinstance(action, SendBlock):
                self.watch.sent(self.owner, action)
                parts = action.digests, action.tokens, None, self.note(action)
                self.network.send(self._route[0].on_block, action.block, *parts)
            elif isinstance(action, Draft):
                self._draft(action)
            elif isinstance(action, Emit):
                self.emitted.extend(action.tokens)
            elif isinstance(action, Finish):
                self._let_go()
        wakeup = self.owner.next_wakeup()
        if wakeup is not None:
            self.queue.at(wakeup, self._tick)

    def _let_go(self) -> None:
        for peer in self._touched:
            self.network.send(peer.on_close)

    def _tick(self) -> None:
        wakeup = self.owner.next_wakeup()
        if wakeup is not None and self.queue.now >= wakeup:
            self.num_timeouts += 1
            self._carry_out(self.owner.tick(self.queue.now))

    def _open(self, action: NeedRoute) -> None:
        """Any reachable replica may serve next, so some come back with what they cached long ago."""
        self.num_routes += 1
        self._opened = {}
        candidates = [[peer for peer in peers if peer.reachable] or peers for peers in self.replicas]
        before: tuple[Peer | None, ...] = self._route or (None,) * self.num_stages
        self._route = tuple(
            old if old is not None and self._stays(old, action) else self.rng.choice(peers)
            for old, peers in zip(before, candidates, strict=True)
        )
        self._ask_to_open(action, 3)

    def _stays(self, peer: Peer, action: NeedRoute) -> bool:
        return action.reason == "timeout" and peer.reachable and self.rng.random() < 0.7

    def _ask_to_open(self, action: NeedRoute, num_tries: int) -> None:
        """Requests are repeated; for who never answers another serves, under the same number."""
        if self.owner.finished or action.route != self.owner.route or len(self._opened) == len(self._route):
            return
        if num_tries == 0:
            self._open(action)
            return
        for index, peer in enumerate(self._route):
            self._touched[peer] = None
            if index not in self._opened:
                self.network.send(peer.on_open, action.route, index, self._route, action.digests)
        self.queue.after(0.3 + 10 * self.network.latency_s, self._ask_to_open, action, num_tries - 1)

    # --- own draft engine -----------------------------------------------------------------------------------------

    def _draft_token(self, position: int) -> DraftToken:
        """The right token with probability draft_rate, else perhaps the second choice (of a line that is right)."""
        right = self.right[position] if position < len(self.right) else 0
        wrong = (right + 1 + self.rng.randrange(VOCABULARY - 2)) % (VOCABULARY - 1)
        chance = self.rng.random()
        if self.rng.random() < self.draft_token_rate:
            return DraftToken(right, chance, wrong, (1 - chance) * self.rng.random())
        second = right if self.rng.random() < 0.5 else (wrong + 1) % (VOCABULARY - 1)
        return DraftToken(wrong, chance, second, (1 - chance) * self.rng.random())

    def _draft(self, action: Draft) -> None:
        """Checks that the engine's cache follows the epoch that is asked for, then answers after a while."""
        if action.source is not None:
            self._drafted[action.sequence] = self._drafted[action.source][: action.position]
        cached = self._drafted[action.sequence]
        if action.position > len(cached):
            self.violations.append("draft beyond its cache")
        line = [*cached[: action.position], *action.tokens]
        asked = self.owner._drafts.asked
        if asked is None or tuple(line) != self.owner._epochs.tokens(asked.epoch, 0, asked.start):
            self.violations.append("draft on another line")
        draft_tokens = tuple(self._draft_token(len(line) + i) for i in range(action.count))
        self.watch.placed(tuple(line), draft_tokens)
        self._drafted[action.sequence] = [*line, *(draft_token.token for draft_token in draft_tokens[:-1])]
        delay_s = 0.002 * (action.count + len(action.tokens))
        self.queue.after(delay_s, self._drafted_now, self._draft_life, draft_tokens)

    def _drafted_now(self, life: int, draft_tokens: tuple[DraftToken, ...]) -> None:
        if life == self._draft_life:
            self._carry_out(self.owner.on_draft(self.queue.now, draft_tokens))

    # --- faults ---------------------------------------------------------------------------------------------------

    def _schedule_faults(self) -> None:
        faults = (
            (self.faults.reroutes, self._reroute),
            (self.faults.worker_deaths, lambda: self._any_peer().lose_worker()),
            (self.faults.crashes, lambda: self._any_peer().crash()),
            (self.faults.cuts, self._cut),
            (self.faults.drafter_deaths, self._lose_drafter),
        )
        for rate, strike in faults:
            if rate:
                self._schedule_fault(rate, strike)

    def _schedule_fault(self, rate: float, strike: Any) -> None:
        def struck() -> None:
            if self.owner.finished is None and self.queue.now < FAULTS_S:
                strike()
                self._schedule_fault(rate, strike)

        self.queue.after(self.rng.expovariate(rate), struck)

    def _any_peer(self) -> Peer:
        return self.rng.choice(self.rng.choice(self.replicas))

    def _reroute(self) -> None:
        """Now and then with a drafter that draft tokens anew: a verdict on old draft tokens must not count for new
        ones."""
        if self.rng.random() < 0.3:
            self._lose_drafter()
        self._carry_out(self.owner.on_peer_lost(self.queue.now, [self.rng.randrange(self.num_stages)]))

    def _cut(self) -> None:
        """A peer hears nothing for a while, then is back with what it had."""
        self._any_peer().cut_until_s = self.queue.now + self.rng.expovariate(0.5)

    def _lose_drafter(self) -> None:
        self._forget_drafts()
        self._carry_out(self.owner.on_drafter_lost(self.queue.now))
        self.queue.after(self.rng.expovariate(self.rng.choice([1.0, 100.0])), self._drafter_back)

    def _drafter_back(self) -> None:
        if self.owner.finished is None:
            self._forget_drafts()
            self._carry_out(self.owner.on_drafter_back(self.queue.now))

    def _forget_drafts(self) -> None:
        self._draft_life += 1
        self._drafted = [[] for _ in range(MAX_BRANCHES)]
