"""A drafter's host among hostile clients and stages: whatever they say, each reply ends, and what it held is free."""

from __future__ import annotations

import asyncio
from functools import cached_property, partial
from typing import Any

from dsdnode.engine.fake import FakeModel, FakeTextEngine
from dsdnode.errors import PeerMisbehaved
from dsdnode.identity import peer_id
from dsdnode.node.drafter import attempt, conversations, delivery, host, options, reply, routes
from dsdnode.node.drafter.host import DrafterHost
from dsdnode.node.drafter.options import Options
from dsdnode.node.drafter.texts import Reading, Texts
from dsdnode.placement import pipelines
from dsdnode.swarm.pings import Pings
from dsdnode.wire import messages as wire
from dsdnode.wire import replies
from dsdnode.wire.codec import Envelope, decode, decode_body, encode_body
from dsdnode.wire.messages import Refused, WireAcceptance
from dsdnode.wire.numbers import unpack_tokens
from dsdnode.wire.records import ProviderRecord, RoundTrip
from tests.fuzz.clients import WORDS, Records, shard_of
from tests.fuzz.hostile import Game, Person, is_message, person, play
from tests.fuzz.parser import Parser
from tests.fuzz.shards import seed

MODEL, DRAFT = FakeModel(), FakeModel(agreement=0.7)
MAX_SESSIONS, PATIENCE_S, MAX_EVENTS = 2, 20.0, 16
CLIENTS = ("alice", "bob", "mallory")
STAGES = {"sam": (0, 2), "sue": (2, 4), "sid": (0, 4), "sal": (0, 2)}
LONG_S = 1500.0
COSTS = (0.0, 1.0, 12.5, 5e-324, 1e6)
WINDOWS = ("", "fixed", "throughput", "stream:2:4", "hedged:1:8:2", "no such", "\x1b[2J", "rounds-4")


class DrafterGame(Game):
    names = (*CLIENTS, *STAGES)

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        self.blocks: dict[bytes, list[wire.Block]] = {}
        """Of each session, as they were sent."""
        self.judges: dict[bytes, tuple[bytes, ...]] = {}
        """The stages of each session's route."""
        self.requests: list[tuple[Person, bytes]] = []
        self.given: dict[tuple[bytes, bytes], int] = {}
        """Tokens of each client's request."""
        self.most: dict[tuple[bytes, bytes], int] = {}

    @cached_property
    def records(self) -> list[ProviderRecord]:
        rng = self.rng
        found = []
        for name, (start, end) in STAGES.items():
            if rng.random() < 0.9:
                said: dict[str, Any] = dict(
                    fixed_ms=rng.choice(COSTS), slope_ms=rng.choice(COSTS), queue=rng.choice((0.0, 65536.0)),
                    context_tokens=rng.choice((4096, 4096, 4096, 40, 0, 1 << 30)), free_sessions=rng.choice((3, 0)),
                    round_trips=tuple(RoundTrip(person(one).id[:4], rng.choice(COSTS)) for one in STAGES),
                )  # fmt: skip
                found.append(shard_of(person(name), start, end, **said))
        return found

    def _found(self) -> list[ProviderRecord]:
        return self.records if self.rng.random() < 0.97 else self.records[:1]

    async def story(self) -> None:
        rng = self.rng
        self.engine = engine = FakeTextEngine(DRAFT, cost=rng.choice((None, lambda num: 0.002 * num)))
        records: Any = Records(self.transport.id, self._found)
        asked = Options(4, "throughput", "f32", WireAcceptance(), strict=rng.random() < 0.2, patience_s=PATIENCE_S)
        texts = Texts(self.rpc, Reading(engine, await engine.vocabulary()), engine.shard.tokenizer_hash)
        self.host = DrafterHost(
            self.rpc, records, Pings(self.rpc), engine, texts,
            max_sessions=MAX_SESSIONS, options=asked, rng=rng,
        )  # fmt: skip
        self.host.start()
        self.rpc.start()
        events = (
            self._generate, self._generate, self._generate, self._generate, self._generate, self._cancel, self._known,
            self._unasked, self._unasked, self._die, self._lose, self._rest, self._drain,
        )  # fmt: skip
        for _ in range(rng.randrange(MAX_EVENTS)):
            events[int(rng.random() * (9 if rng.random() < 0.95 else len(events)))]()
            await asyncio.sleep(rng.choice((0, 0, 0.001, 0.02, 0.5, 2.0, 10.0)))
            served = [one for one in self.host._deliveries.values() if one.failure is None]
            assert len(served) <= MAX_SESSIONS, "more replies than there are places"
        await self._end()

    async def _end(self) -> None:
        self.silent, self.host.draining = True, False
        self.engine.rest("")
        await asyncio.sleep(LONG_S)
        assert not self.host._deliveries and not self.host._by_session, "replies are left"
        held = self.host._conversations
        assert not held._talking and not held._resting, "conversations are left"
        assert len(held._free) == MAX_SESSIONS, "slots are left"
        assert not self.engine.num_cells and not self.host._batcher.num_waiting, "cells are left"
        assert self.host.num_free_sessions == MAX_SESSIONS
        self.check_rpc()
        await self.host.close()

    # --- clients

    def _generate(self) -> None:
        rng = self.rng
        who, request = person(rng.choice(CLIENTS)), rng.choice((bytes([rng.randrange(8)]) * 16, rng.randbytes(16)))
        prompt = rng.choice(((), (5, 17, 42), (5, 17, 42) * 8, (96,), (97,), (1 << 24,)))
        tokens = rng.choice(((), (), (), (1, 2), (1,) * 12, (97,)))
        messages = (replies.ChatMessage(rng.choice(("user", "x")), rng.choice(WORDS)),) if rng.random() < 0.3 else ()
        max_tokens = rng.choice((8, 8, 8, 1, 2, 1 << 20 if rng.random() < 0.1 else 12))
        body = replies.GenerateBody(
            messages, rng.choice(("", "why", "x" * 300)), prompt, tokens, MODEL.shard(0, 4).model_id,
            wire.WireSampling(rng.choice((0.0, 0.7, 100.0)), seed=rng.choice((0, (1 << 63) - 1))), max_tokens,
            rng.choice(((), (), ("so",), (" ", "\x00", "x" * 256))), rng.choice((-1, 0, 4, 64)), rng.choice(WINDOWS),
            rng.choice(("", "f32", "q8", "x")), rng.choice((None, None, WireAcceptance(0.3, True))),
            rng.random() < 0.4, rng.random() < 0.2,
        )  # fmt: skip
        self.requests = [*self.requests[-7:], (who, request)]
        self.asks(who, replies.Generate(request), encode_body(body))

    def said(self, who: Person, frames: list[bytes]) -> None:
        """Of two replies of one name both may be under way: nothing tells them apart."""
        if not is_message(frames) or len(frames) < 2:
            return
        message = decode(frames).message
        if isinstance(message, replies.Generate):
            key, body = (who.id, message.request), _body(frames[1])
            fresh = key not in self.given
            self.given[key] = len(body.tokens) if fresh and body is not None else -1
            self.most[key] = max(body.max_tokens, len(body.tokens)) if body is not None else 0

    def _known(self) -> None:
        if self.requests:
            who, request = self.rng.choice(self.requests)
            self.asks(who, replies.Generate(request))

    def _cancel(self) -> None:
        if self.requests:
            who, request = self.rng.choice(self.requests)
            self.says(who, replies.Cancel(request))

    def _die(self) -> None:
        self.engine.die()

    def _rest(self) -> None:
        self.engine.rest(self.rng.choice(("", "resting")))

    def _lose(self) -> None:
        self.transport.lose(person(self.rng.choice(self.names)).id)

    def _drain(self) -> None:
        self.host.draining = self.rng.random() < 0.5

    # --- stages

    def asked(self, who: Person, envelope: Envelope) -> None:
        rng, message = self.rng, envelope.message
        answer: wire.Message = rng.choice((Refused("full", retry=True), Refused("\x1b[2J"), wire.Stored()))
        way = rng.random()
        if way > 0.97:
            return
        if isinstance(message, wire.Open) and way < 0.85:
            stages = _stages(envelope)
            self.judges[message.session] = stages
            answer = wire.Opened(rng.choice((0, 0, 1, 3, message.max_positions, 1 << 20)))
        if isinstance(message, wire.Trace) and way < 0.85:
            answer = wire.Traced(rng.choice((0, 1, 2)), rng.choice(WORDS))
        self.loop.call_later(rng.choice((0, 0, 0.01, 1.0, 3.0)), self.answers, who, envelope.request_id, answer)

    def told(self, who: Person, envelope: Envelope) -> None:
        """A block is judged, or something like it; a client's piece is counted."""
        rng, message = self.rng, envelope.message
        if isinstance(message, wire.Block):
            sent = self.blocks.setdefault(message.session, [])
            sent[:] = [*sent[-5:], message]
            for _ in range(rng.choice((0, 1, 1, 1, 1, 2))):
                say = self._verdict if rng.random() < 0.93 else self._unasked
                self.loop.call_later(rng.choice((0, 0.001, 0.02, 0.3, 5.0)), say, message.session)
        elif isinstance(message, replies.Piece):
            self._count(who, message, envelope)

    def _count(self, who: Person, piece: replies.Piece, envelope: Envelope) -> None:
        key = (who.id, piece.request)
        tokens = unpack_tokens(envelope.buffers[0], len(envelope.buffers[0]) // 4, MODEL.vocab_size)
        assert piece.accepted <= len(tokens)
        envelope.buffers[1].decode()
        if self.given.get(key, -1) >= 0:
            assert piece.index == self.given[key], "a gap"
            self.given[key] += len(tokens)
            assert self.given[key] <= self.most[key], "more than was asked for"

    def _verdict(self, session: bytes) -> None:
        if self.silent or session not in self.judges or not self.blocks.get(session):
            return
        rng = self.rng
        block = rng.choice(self.blocks[session][-2:])
        first = block.position + block.num_given
        end = first + block.num_draft
        decided = rng.choice((end, end, first, first, rng.randint(first, end), end + 1, block.position, 1 << 20))
        times = tuple(rng.choice((0.0, 12.5, 5e-324, 86_400_000.0)) for _ in range(rng.choice((2, 1, 0, 64))))
        verdict = wire.Verdict(
            session, block.route, block.epoch, decided, rng.choice((5, 1, 96, 97, 0, 1 << 24)), times, times,
            tuple(rng.choice((0, 65536)) for _ in times), (decided - 1,) if decided > 1 and rng.random() < 0.1 else (),
            b"" if rng.random() < 0.9 else b"s" * 8,
        )  # fmt: skip
        judge = self.judges[session][-1] if rng.random() < 0.95 else rng.choice(self.judges[session])
        if judge in self.people:
            self.says(self.people[judge], verdict)

    def _unasked(self, session: bytes = b"") -> None:
        """What stages and others say of a reply, or of none."""
        rng = self.rng
        session = session or rng.choice((*self.judges, bytes(16)))
        sent = self.blocks.get(session)
        route, epoch = (sent[-1].route, sent[-1].epoch) if sent else (0, 1)
        whom = [self.people[peer] for peer in self.judges.get(session, ()) if peer in self.people]
        who = rng.choice((*whom, person(rng.choice(self.names))))
        message: wire.Message = rng.choice((
            wire.Nack(session, route, epoch, rng.randrange(3), rng.choice((0, 3, 1 << 20))),
            wire.SessionLost(session, rng.randrange(3), rng.choice(WORDS), route, rng.random() < 0.3),
            wire.Closed(session, route, epoch, rng.randrange(8), 1), wire.Block(session, route, 1, 0, 0, 0, 1, 0, 0),
            wire.Opened(3), replies.Piece(bytes(16), 0, 0),
        ))  # fmt: skip
        if not self.silent:
            self.says(who, message)


def _body(buffer: bytes) -> replies.GenerateBody | None:
    try:
        return decode_body(buffer, replies.GenerateBody)
    except PeerMisbehaved:
        return None


def _stages(envelope: Envelope) -> tuple[bytes, ...]:
    stages = decode_body(envelope.buffers[0], wire.OpenStages).stages
    return tuple(peer_id(stage.contact.public_key) for stage in stages)


ROOM = (host, reply, routes, attempt, delivery, conversations, options, pipelines)
PARSERS = (Parser("drafter-host", seed, partial(play, DrafterGame), (), ROOM),)
