"""A shard's host among hostile owners and neighbours: whatever they say, their places come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from dsdnode.engine.fake import WIDTH, FakeEngine, FakeModel
from dsdnode.engine.port import Chunk, Output
from dsdnode.node.shard import host, neighbours, room, sessions, terms
from dsdnode.node.shard.host import MAX_PARKED_S, StageHost
from dsdnode.speculation import masks
from dsdnode.swarm.pings import Pings
from dsdnode.wire import messages as wire
from dsdnode.wire.codec import Envelope, encode_body
from dsdnode.wire.masks import Masks, PackedMask
from dsdnode.wire.numbers import pack_tokens
from dsdnode.wire.replies import Cancel, Generate
from dsdnode.wire.shaping import WireShaping
from dsdnode.wire.tensors import pack_states
from tests.fuzz.hostile import Game, Person, person, play
from tests.fuzz.machines import digest_line
from tests.fuzz.mutate import Mutator
from tests.fuzz.parser import Case, Parser

MODEL = FakeModel()
MAX_SESSIONS, CONTEXT, LINE, MAX_EVENTS = 3, 256, 24, 40
LAYERS = ((0, 4), (0, 2), (2, 4), (1, 3))
OWNERS = ("alice", "bob", "mallory")
LONG_S = 2 * MAX_PARKED_S + 200
SHAPINGS = (
    WireShaping(), WireShaping(bias=((7, -100.0), (96, 1.5), (97, 1.0))), WireShaping(presence=2.0),
    WireShaping(0.5, -0.5, 1.25, 4), WireShaping(repetition=0.1, last_tokens=0), WireShaping(repetition=10.0),
)  # fmt: skip
_BITS = tuple(np.packbits(np.isin(np.arange(104), one), bitorder="little").tobytes() for one in ([3], range(97), [96]))
MASKS = ((masks.ANY, b""), *((masks.hash_of(one), one) for one in _BITS))


@cache
def _states(num: int, wire_type: str, bad: int) -> bytes:
    states = np.ones((num, WIDTH), np.float32) * (1, 15, 0, 1e30)[bad]
    return pack_states(states, wire_type)


class Engine(FakeEngine):
    """Takes any numbers for states, as a real one does."""

    async def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        return await super().forward([replace(chunk, inputs=_digits(chunk.inputs)) for chunk in chunks])


def _digits(inputs: Any) -> Any:
    return inputs if inputs.ndim == 1 else np.clip(inputs, 0, 15)


class ShardGame(Game):
    names = (*OWNERS, "sam", "sue", "dave")

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        rng = self.rng
        self.start, self.end = rng.choice(LAYERS)
        places = [(0, self.start), (self.start, self.end), (self.end, MODEL.num_layers)]
        people = [person("sam"), person("host"), person("sue")]
        known = [(one, place) for one, place in zip(people, places, strict=True) if place[0] < place[1]]
        self.stages = tuple(wire.StagePlace(one.contact, *place) for one, place in known)
        self.index = [place for _, place in known].index((self.start, self.end))
        self.before = person("sam") if self.index else None
        self.lines = [tuple(rng.randrange(MODEL.vocab_size) for _ in range(LINE)) for _ in range(2)]
        self.lines.append((*self.lines[0][:7], *self.lines[1][7:]))
        self.opens: list[tuple[Person, wire.Open]] = []
        self.bodies: dict[bytes, wire.OpenStages] = {}
        """Of each session the last one."""
        self.grants: dict[int, wire.Message] = {}

    async def story(self) -> None:
        rng = self.rng
        deadly, broken = rng.choice((0, 0, 0.1)), rng.choice((0, 0, 0.1))
        self.engine = Engine(
            MODEL, self.start, self.end, context_tokens=CONTEXT, max_sequences=24,
            cost=rng.choice((None, lambda num: 0.001 * num, lambda num: 0.5)),
            deadly=lambda chunk: rng.random() < deadly, broken=lambda chunk: rng.random() < broken,
        )  # fmt: skip
        self.host = StageHost(self.rpc, Pings(self.rpc), self.engine, max_sessions=MAX_SESSIONS)
        self.host.start()
        self.rpc.start()
        events = self._events()
        for _ in range(rng.randrange(MAX_EVENTS)):
            place = int(rng.random() * (16 if rng.random() < 0.9 else len(events)))
            events[place]()
            await asyncio.sleep(rng.choice((0, 0, *(0.001, 0.002, 0.01) * 4, 0.5, 2.0, 30.0)))
            assert self.host.num_sessions <= MAX_SESSIONS and self.engine.num_cells <= CONTEXT
            promised = sum(one.reserved_positions for one in self.host._sessions if not one.machine.is_over)
            assert promised <= CONTEXT, "more cells are promised than there are"
        await self._end()
        await self.host.close()
        assert not self.engine.num_cells, "cells are left"

    def _events(self) -> tuple[Callable[[], Any], ...]:
        return (
            self._open, self._open, self._open, self._block, self._block, self._block, self._block, self._block,
            self._block, self._masks, self._masks, self._closed, self._trace, self._park, self._close, self._reopen,
            self._lost, self._die, self._lose, self._rest, self._drain, self._foreign, self._many,
        )  # fmt: skip

    async def _end(self) -> None:
        """They have gone; the next ones find all places free, and get what they ask for."""
        self.silent = True
        self.engine.rest("")
        self.engine._deadly = self.engine._broken = lambda chunk: False
        self.host.draining = False
        await asyncio.sleep(LONG_S)
        assert not self.host.num_sessions and not list(self.host._sessions), "sessions are left"
        assert not self.engine.num_cells, "cells are left"
        assert not self.host._batcher.num_waiting, "work is left"
        sequences = sorted(self.host._sessions._free)
        assert sequences == list(range(24)), "sequences are left"
        self.check_rpc()
        dave = person("dave")
        numbers = [self._put_open(dave, bytes([index]) * 8 + dave.id[:8], 0) for index in range(MAX_SESSIONS)]
        await asyncio.sleep(3)
        assert all(isinstance(self.grants[number], wire.Opened) for number in numbers), "an honest owner is refused"

    # --- what they say

    def _put_open(self, who: Person, session: bytes, route: int) -> int:
        model_id = self.engine.shard.model_id
        message = wire.Open(
            session, route, self.index, model_id, who.contact, wire.WireSampling(), 20, 60.0, "f32"
        )  # fmt: skip
        self._asked += 1
        self._unanswered[who.id, self._asked] = None
        frames = wire_frames(message, self._asked, encode_body(wire.OpenStages(self.stages)), b"")
        self.transport.inbox.put(who.id, frames, who.source)
        return self._asked

    def _open(self) -> None:
        rng = self.rng
        who = person(rng.choice(OWNERS))
        owner = who if rng.random() < 0.97 else person(rng.choice(OWNERS))
        session = bytes([rng.randrange(4)]) * 8 + owner.id[:8]
        sampling = wire.WireSampling(rng.choice((0, 0.7, 1e-3, 100)), rng.choice((0, 1, 40)), rng.choice((1.0, 5e-324)))
        rule = wire.WireAcceptance(rng.choice((0.0, 0.0, 0.3, 0.99)), rng.random() < 0.5)
        self._say_open(
            who,
            wire.Open(
                session, rng.choice((0, 0, 0, 0, 1, 2, 1 << 20)), self.index, self.engine.shard.model_id, owner.contact,
                sampling, rng.choice((24, 24, 24, 24, 60, 100, CONTEXT, 1, 0, 1 << 20)),
                rng.choice((*(60.0,) * 6, 1.0, 5e-324, 3600)),
                rng.choice(wire.WIRE_TYPES), rule, rng.choice((b"", b"k" * 16, b"k")),
            ),
        )  # fmt: skip

    def _reopen(self) -> None:
        """The same once more, or a little otherwise."""
        if self.opens:
            who, message = self.rng.choice(self.opens)
            route = max(0, message.route + self.rng.choice((0, 1, 1, 2, -1)))
            self._say_open(who, self._with(message, route=min(route, 1 << 20)))

    def _with(self, message: Any, **changes: Any) -> Any:
        fields = {name: getattr(message, name) for name in message.__struct_fields__}
        return type(message)(**fields | changes)

    def _say_open(self, who: Person, message: wire.Open) -> None:
        rng = self.rng
        stages = self.stages if rng.random() < 0.95 else self.mutator._shape(list(self.stages), rng.randrange(3) % 1)
        stages = tuple(one for one in stages if isinstance(one, wire.StagePlace)) or self.stages
        line = rng.choice(self.lines)
        digests = b"".join(digest_line(line)[: rng.randrange(LINE)])
        keys: tuple[bytes, ...] = (b"\xff" * rng.choice((1, 13, 13, 13, 14)),) if rng.random() < 0.1 else ()
        body = wire.OpenStages(stages)
        if rng.random() < 0.4:
            num_line = rng.choice((0, 3, 8, 8, 8, 20, 1 << 20))
            drawn = rng.choice(SHAPINGS), rng.randrange(9), num_line, rng.choice((-1, -1, 0, 1, 20)), rng.random() < 0.5
            body = wire.OpenStages(stages, *drawn)
            told = pack_tokens(line[: min(num_line, LINE)][rng.randrange(4) :])
            keys = (*(keys or (b"",)), told) if rng.random() < 0.95 else keys
        self.asks(who, message, encode_body(body), digests, *keys)
        self.opens = [*self.opens[-7:], (who, message)]
        self.bodies[message.session] = body
        if body.masked:
            self.loop.call_later(0.0005, self._tell_masks, who, message.session, line)

    def _block(self) -> None:
        if not self.opens:
            return
        rng = self.rng
        who, opened = rng.choice(self.opens)
        line, epoch = rng.choice(self.lines), rng.randrange(1, 6)
        position = rng.choice((0, 0, 0, 3, 5, 8, rng.randrange(LINE - 5)))
        num = rng.choice((1, 2, 3, 5))
        num_draft = rng.randrange(num + 1)
        places: list[Any] = [
            rng.randrange(epoch), min(position, rng.choice((0, 3, 7, position))), position, num - num_draft, num_draft,
            rng.choice((0, 0, 1, epoch)),
        ]  # fmt: skip
        if rng.random() < 0.4:  # the first one of a line
            num, num_draft, position = 5, 2, 0
            places = [0, 0, 0, 3, 2, 0]
        message = wire.Block(opened.session, opened.route, epoch, *places)
        tokens = line[position : position + num]
        given = list(tokens if self.before is None else tokens[num - num_draft :])
        digests = b"".join(digest_line(line)[position : position + num + 1])
        states = () if self.before is None else (_states(num, opened.wire, rng.choice((0, 0, 0, 1, 2, 3))),)
        sender = self.before or who
        buffers = [digests, pack_tokens(given), *states, *self._notes(message, line)]
        self.says(sender if rng.random() < 0.95 else who, message, *buffers)

    def _notes(self, block: wire.Block, line: Sequence[int]) -> tuple[bytes, ...]:
        """For the judge, where it is to know what is before its draws."""
        rng, body = self.rng, self.bodies.get(block.session)
        if body is None or (body.shaping.is_plain and rng.random() < 0.99):
            return ()
        first = max(block.position, body.num_line) if rng.random() < 0.95 else 0
        return (encode_body(wire.JudgeNote(tuple(line[first : block.position + block.num_given]))),)

    def _masks(self) -> None:
        """Of a line's positions, some of them by name alone."""
        if about := self._about():
            rng, (who, opened) = self.rng, about
            who = who if rng.random() < 0.95 else person(rng.choice(self.names))
            self._tell_masks(who, opened.session, rng.choice(self.lines))

    def _tell_masks(self, who: Person, session: bytes, line: tuple[int, ...]) -> None:
        rng = self.rng
        digests = digest_line(line)[rng.choice((0, 0, 0, rng.randrange(8))) :]
        named = [rng.choice(MASKS) for _ in digests]
        packed = [PackedMask(name, masks.pack(mask)) for name, mask in dict(named).items() if mask]
        packed = packed if rng.random() < 0.8 else packed[1:]
        names = b"".join(name for name, _ in named)
        self.says(who, Masks(session), b"".join(digests), names, encode_body(packed))

    def _about(self) -> tuple[Person, wire.Open] | None:
        return self.rng.choice(self.opens) if self.opens else None

    def _closed(self) -> None:
        if about := self._about():
            rng, (_, opened) = self.rng, about
            judge = person("sue") if self.end < MODEL.num_layers else person("mallory")
            closed = wire.Closed(
                opened.session, opened.route, rng.randrange(6), rng.randrange(LINE), rng.randrange(97), (1, 2), b"s" * 8
            )
            self.says(judge, closed)

    def _trace(self) -> None:
        if about := self._about():
            rng, (who, opened) = self.rng, about
            self.asks(who, wire.Trace(opened.session, opened.route, rng.randrange(6), rng.randrange(LINE)))

    def _park(self) -> None:
        if about := self._about():
            who, opened = about
            self.says(who, wire.Park(opened.session, opened.route, self.rng.choice((1.0, 600.0, 3600.0))))

    def _close(self) -> None:
        if about := self._about():
            self.says(about[0], wire.Close(about[1].session))

    def _lost(self) -> None:
        if about := self._about():
            lost = wire.SessionLost(about[1].session, self.rng.randrange(3), "so it is", about[1].route, True)
            self.says(person(self.rng.choice(self.names)), lost)

    def _die(self) -> None:
        self.engine.die()

    def _lose(self) -> None:
        self.transport.lose(person(self.rng.choice(self.names)).id)

    def _rest(self) -> None:
        self.engine.rest(self.rng.choice(("", "resting")))

    def _drain(self) -> None:
        self.host.draining = self.rng.random() < 0.5

    def _foreign(self) -> None:
        """What is not for a shard."""
        who = person(self.rng.choice(self.names))
        self.asks(who, self.rng.choice((Generate(bytes(16)), wire.FindNode(bytes(32)), wire.Pong())))
        self.says(who, self.rng.choice((Cancel(bytes(16)), wire.Nack(bytes(16), 0, 1, 0, 0), wire.Stored())))

    def _many(self) -> None:
        """At once, before anything is served."""
        for _ in range(self.rng.choice((3, 40))):
            self.rng.choice((self._open, self._block, self._reopen, self._trace))()

    def answered(self, who: Person, envelope: Envelope) -> None:
        if who.name == "dave":
            self.grants[envelope.request_id] = envelope.message


def wire_frames(message: wire.Message, request_id: int, *buffers: bytes) -> list[bytes]:
    from dsdnode.wire.codec import encode

    return encode(message, buffers, request_id, deadline_ms=10_000)


def seed(mutator: Mutator) -> Case:
    return (mutator.rng.randbytes(8),)


PARSERS = (Parser("shard-host", seed, partial(play, ShardGame), (), (host, sessions, room, neighbours, terms)),)
