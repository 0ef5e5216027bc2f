"""A drafter's host among hostile clients and stages: whatever they say, each reply ends, and what it held is free."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
from msgspec import structs

from dsdnode.engine.fake import FakeModel, FakeTextEngine
from dsdnode.engine.permits import FoundMasks
from dsdnode.errors import BadInput, PeerMisbehaved
from dsdnode.identity import peer_id
from dsdnode.node.drafter import attempt, constrained, conversations, delivery, host, options, reply, routes, telling
from dsdnode.node.drafter.host import DrafterHost
from dsdnode.node.drafter.options import Options
from dsdnode.node.drafter.texts import Reading, Texts
from dsdnode.node.shard.terms import told_by
from dsdnode.placement import pipelines
from dsdnode.speculation import masks
from dsdnode.swarm.pings import Pings
from dsdnode.wire import messages as wire
from dsdnode.wire import replies
from dsdnode.wire.codec import Envelope, decode, decode_body, encode_body
from dsdnode.wire.logprobs import PieceLogprobs, TokenLogprobs, pack_logprobs
from dsdnode.wire.masks import LackMasks, Masks
from dsdnode.wire.messages import Refused, WireAcceptance
from dsdnode.wire.numbers import unpack_tokens
from dsdnode.wire.records import ProviderRecord, RoundTrip
from tests.fuzz.clients import WORDS, Records, shard_of
from tests.fuzz.hostile import Game, Person, is_message, person, play
from tests.fuzz.parser import Parser
from tests.fuzz.shards import SHAPINGS, seed

MODEL, DRAFT = FakeModel(), FakeModel(agreement=0.7)
MAX_SESSIONS, PATIENCE_S, MAX_EVENTS = 2, 20.0, 16
CLIENTS = ("alice", "bob", "mallory")
STAGES = {"sam": (0, 2), "sue": (2, 4), "sid": (0, 4), "sal": (0, 2)}
LONG_S = 1500.0
_BITS = [np.packbits(np.isin(np.arange(104), one), bitorder="little").tobytes() for one in (range(97), [0, 1, 5])]
MASK_OF = {masks.hash_of(one): one for one in _BITS}
NAMES = (*MASK_OF,)
COSTS = (0.0, 1.0, 12.5, 5e-324, 1e6)
WINDOWS = ("", "fixed", "throughput", "stream:2:4", "hedged:1:8:2", "no such", "\x1b[2J", "rounds-4")


class Grammar:
    """Texts of small letters, of which every second place has but one."""

    async def masks(self, tokens: Sequence[int], first: int, again: bool = False) -> FoundMasks:
        places = range(first, len(tokens) + 1)
        fit = [place for place in places if all(map(self._may_stand, range(place), tokens))]
        names = [NAMES[place % 2] for place in fit]
        if not names:
            raise BadInput("the reply so far is not what its grammar allows")
        return FoundMasks(names, [(name, MASK_OF[name]) for name in dict.fromkeys(names)])

    def _may_stand(self, place: int, token: int) -> bool:
        return masks.allows(MASK_OF[NAMES[place % 2]], token)


class Engine(FakeTextEngine):
    """Knows one grammar, which takes no time to read."""

    async def constrain(self, constraint: replies.Constraint, vocab_size: int) -> Any:
        if constraint.text != "a":
            raise BadInput("the grammar cannot be used")
        return Grammar()


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
        self.sent: dict[bytes, dict[int, int]] = {}
        """Of each session the token that was sent last for each position."""
        self.num_logprobs: dict[bytes, int] = {}
        """That are asked for with each session's verdicts."""
        self.masks: dict[bytes, list[bytes]] = {}
        """Hashes that were told with each session."""

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
        self.engine = engine = Engine(DRAFT, cost=rng.choice((None, lambda num: 0.002 * num)))
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
        drawn = rng.random()
        odd = 1 << 24 if drawn < 0.1 else 97 if drawn < 0.3 else 5
        prompt = rng.choice(((), (5, 17, 42), (5, 17, 42) * 8, (96,), (5,) * 9, (odd,)))
        tokens = rng.choice(((), (), (), (), (), (1, 2), (1,) * 12, (97,)))
        messages = (replies.ChatMessage(rng.choice(("user", "x")), rng.choice(WORDS)),) if rng.random() < 0.3 else ()
        max_tokens = rng.choice((8, 8, 8, 1, 2, 1 << 20 if rng.random() < 0.02 else 12))
        body = replies.GenerateBody(
            messages, rng.choice(("", "why", "x" * 300)), prompt, tokens, MODEL.shard(0, 4).model_id,
            wire.WireSampling(rng.choice((0.0, 0.7, 100.0)), seed=rng.choice((0, (1 << 63) - 1))), max_tokens,
            rng.choice(((), (), ("so",), (" ", "\x00", "x" * 256))), rng.choice((-1, 0, 4, 64)),
            rng.choice(WINDOWS if rng.random() < 0.2 else WINDOWS[:5]),
            rng.choice(("", "f32", "q8", "x" if rng.random() < 0.2 else "")),
            rng.choice((None, None, WireAcceptance(0.3, True))), rng.random() < 0.4, rng.random() < 0.2,
        )  # fmt: skip
        body = self._with_more(body) if rng.random() < 0.4 else body
        if rng.random() < 0.1:
            self.asks(who, replies.ReadText(), encode_body(body))
            return
        self.requests = [*self.requests[-7:], (who, request)]
        self.asks(who, replies.Generate(request), encode_body(body))

    def _with_more(self, body: replies.GenerateBody) -> replies.GenerateBody:
        """Shaped, with log-probabilities, tools or a grammar: what goes together, mostly."""
        rng = self.rng
        if rng.random() < 0.5:
            drawn = rng.choice(SHAPINGS), rng.choice((-1, -1, 0, 3, 20))
            body = structs.replace(body, shaping=drawn[0], num_logprobs=drawn[1], acceptance=None)
        if rng.random() < 0.5:
            constraint = replies.Constraint("regex", rng.choice((*("a",) * 8, "no", WORDS[2])))
            body = structs.replace(body, constraint=constraint, ignore_eos=rng.random() < 0.05, tokens=())
        if rng.random() < 0.3:
            body = structs.replace(body, tools=rng.choice(("[]", "{", '[{"function": {"name": "f"}}]')))
        return body

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
            self.num_logprobs[message.session] = decode_body(envelope.buffers[0], wire.OpenStages).num_logprobs
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
            tokens = unpack_tokens(envelope.buffers[1], message.num_given + message.num_draft, MODEL.vocab_size)
            self.sent.setdefault(message.session, {}).update(enumerate(tokens, message.position))
            for _ in range(rng.choice((0, 1, 1, 1, 1, 2))):
                say = self._verdict if rng.random() < 0.93 else self._unasked
                self.loop.call_later(rng.choice((0, 0.001, 0.02, 0.3, 5.0)), say, message.session)
        elif isinstance(message, Masks):
            named, packed = told_by(list(envelope.buffers))
            assert all(len(one.packed) < 1000 for one in packed)
            self.masks[message.session] = [*self.masks.get(message.session, ())[-9:], *named.values()]
            if rng.random() < 0.1:
                self.says(who, self._lack(message.session))
        elif isinstance(message, replies.Piece):
            self._count(who, message, envelope)

    def _lack(self, session: bytes) -> LackMasks:
        """What was told, or never."""
        known = (*self.masks.get(session, ()), bytes(8), b"m" * 8)
        return LackMasks(session, tuple(self.rng.choice(known) for _ in range(self.rng.choice((1, 2, 256)))))

    def _count(self, who: Person, piece: replies.Piece, envelope: Envelope) -> None:
        key = (who.id, piece.request)
        tokens = unpack_tokens(envelope.buffers[0], len(envelope.buffers[0]) // 4, MODEL.vocab_size)
        assert piece.accepted <= len(tokens)
        envelope.buffers[1].decode()
        if len(envelope.buffers) > 2:
            told = decode_body(envelope.buffers[2], PieceLogprobs).positions
            assert tuple(one.said.token for one in told) == tokens, "log-probabilities of other tokens"
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
            self.says(self.people[judge], verdict, *self._logprobs(session, verdict))

    def _logprobs(self, session: bytes, verdict: wire.Verdict) -> tuple[bytes, ...]:
        """Of its token, with as many beside it as were asked for, mostly."""
        rng, num = self.rng, self.num_logprobs.get(session, -1)
        if num < 0 or verdict.token >= MODEL.vocab_size or rng.random() < 0.05:
            return ()
        num = num if rng.random() < 0.95 else 2
        top, known = tuple((token, -0.5) for token in range(num)), self.sent[session]
        tokens = [*(known.get(position, 5) for position in range(max(0, verdict.decided - 9), verdict.decided))]
        rows = [TokenLogprobs(one, rng.choice((-0.5, 0.0, -9999.0)), top) for one in (*tokens, verdict.token)]
        return (pack_logprobs(rows),)

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
            wire.Opened(3), replies.Piece(bytes(16), 0, 0), self._lack(session), self._lack(session),
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


ROOM = (host, reply, routes, attempt, constrained, delivery, conversations, options, telling, pipelines)
PARSERS = (Parser("drafter-host", seed, partial(play, DrafterGame), (), ROOM),)
