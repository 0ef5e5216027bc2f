"""What a rogue does (rogue.py: who it is; gang.py: where): one misdeed a function, that changes its node.

None of them alters what a pass computes: a stage of the route that does can change the text until there are audits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

from dsdnode.engine.fake import fake_text
from dsdnode.engine.port import Chunk, Output
from dsdnode.identity import Identity
from dsdnode.net.rpc import Response
from dsdnode.pacing.suspects import HERE, NOT_COME, PASSED_ON
from dsdnode.sim.transport import SimTransport
from dsdnode.speculation.sampling import Sampling
from dsdnode.wire import messages as wire
from dsdnode.wire import replies
from dsdnode.wire.codec import decode_body, encode_body
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import pack_contacts, pack_records
from dsdnode.wire.tensors import pack_tokens

from .lies import squat
from .rogue import MANY, Rogue
from .scene import Heard, Scene

TRACED = {"not come": NOT_COME, "here": HERE, "passed on": PASSED_ON}
END_TOKEN = 0
SAYS_S = 1.0
HOURS_S = 3600.0


# --- stages


def blackhole(rogue: Rogue) -> None:
    """Pings and Opens are answered, blocks end here; asked for one, it says what it likes, or nothing."""
    rng = rogue.rng
    says: dict[str, Response | None] = {name: (wire.Traced(at), []) for name, at in TRACED.items()}
    says |= {"the truth": None, "no": (wire.Refused("no such session"), [])}
    way, grace = rng.choice((*says, "silence")), rng.choice((0, 0, 3, 20))
    [work] = rogue.rpc._on_notice[wire.Block]
    blocks = count()

    def swallow(peer: bytes, message: wire.Block, buffers: list[bytes]) -> None:
        if next(blocks) < grace:
            return work(peer, message, buffers)
        rogue.did("block swallowed")

    async def trace(peer: bytes, message: wire.Trace, buffers: list[bytes]) -> Response | None:
        if way == "silence":
            await asyncio.sleep(HOURS_S)
        return says[way]

    rogue.rpc._on_notice[wire.Block] = [swallow]
    rogue.on_request(wire.Trace, trace)


def forget(rogue: Rogue) -> None:
    """Opens, and then knows nothing of the session, or lacks what is before each block."""
    nacks = rogue.rng.random() < 0.5

    def forgets(peer: bytes, message: wire.Block, buffers: list[bytes]) -> None:
        stage = rogue.villager.node._stage
        session = stage._sessions.get(message.session) if stage is not None else None
        if session is None:
            return
        rogue.did("block forgotten")
        index = session.opened.index
        if nacks:
            _say(rogue, session.owner, wire.Nack(message.session, message.route, message.epoch, index, 0))
        else:
            _say(rogue, session.owner, wire.SessionLost(message.session, index, "its worker died", message.route))

    rogue.rpc._on_notice[wire.Block] = [forgets]


def hoard(rogue: Rogue) -> None:
    """A blackhole that claims to have the whole line in its cache already."""
    has_all = rogue.rng.choice((True, False))

    async def opened(peer: bytes, message: wire.Open, buffers: list[bytes]) -> Response:
        rogue.did("cache claimed")
        return wire.Opened(max(0, len(buffers[1]) // 8 - 1) if has_all else wire.MAX_POSITIONS), []

    blackhole(rogue)
    rogue.on_request(wire.Open, opened)


def drip(rogue: Rogue) -> None:
    """Right, but slow; and perhaps it says that it was not."""
    rng, engine = rogue.rng, rogue.villager.engine
    pause_s, lies = rng.choice((1.0, 4.0, 15.0)), rng.random() < 0.5
    forward = engine.forward

    async def slow(chunks: Sequence[Chunk]) -> list[Output]:
        outputs = await forward(chunks)
        rogue.did("block dripped")
        await asyncio.sleep(pause_s)
        return [replace(output, compute_s=1e-5 if lies else pause_s) for output in outputs]

    engine.forward = slow  # type: ignore[method-assign]


def boast(rogue: Rogue) -> None:
    """Fast and free by its record; asked, it has no place, or no answer, or is like the others."""
    rogue.boasts = True
    answers: dict[str, Response] = {
        "full": (wire.Refused("all sessions are taken", retry=True), []),
        "no": (wire.Refused("not for you"), []),
    }
    way = rogue.rng.choice((*answers, "silence", "work"))

    async def refuse(peer: bytes, message: wire.Message, buffers: list[bytes]) -> Response:
        rogue.did("place denied")
        if way == "silence":
            await asyncio.sleep(HOURS_S)
        return answers[way]

    if way != "work":
        rogue.on_request(replies.Generate if rogue.place.layers is None else wire.Open, refuse)


# --- drafters


def _expected(rogue: Rogue, body: replies.GenerateBody) -> list[int]:
    """What is still to come of a reply."""
    asked = body.sampling
    sampling = Sampling(asked.temperature, asked.top_k, asked.top_p, asked.min_p, asked.seed)
    text = fake_text(rogue.village.model, body.prompt_tokens, body.max_tokens, sampling)
    return (text[: text.index(END_TOKEN)] if END_TOKEN in text else text)[len(body.tokens) :]


Speaks = Callable[[bytes, replies.Generate, replies.GenerateBody], Any]


def _accept(rogue: Rogue, speaks: Speaks, prompt: Callable[[tuple[int, ...]], Sequence[int]] = list) -> None:
    """Each request, with `prompt` for the one that was asked; then it `speaks` as it likes."""
    assert rogue.villager.draft is not None

    async def generate(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Response:
        if not buffers:
            return wire.Pong(), []
        body = decode_body(buffers[0], replies.GenerateBody)
        rogue.did("reply taken")
        rogue.spawn(speaks(peer, message, body))
        return replies.Accepted(message.request, body.model), [pack_tokens(list(prompt(body.prompt_tokens)))]

    rogue.on_request(replies.Generate, generate)


def _say(rogue: Rogue, client: bytes, message: wire.Message, *buffers: bytes) -> None:
    rogue.village.loop.at(rogue.village.loop.now, _notify, rogue, client, message, list(buffers))


def _notify(rogue: Rogue, client: bytes, message: wire.Message, buffers: list[bytes]) -> None:
    if rogue.village.network.hosts.get(client) is not None and not rogue.villager.transport.closed:
        rogue.rpc.notify(client, message, buffers)


def mute(rogue: Rogue) -> None:
    """Accepts, and gives nothing: no word, or excuses, or pieces without a token."""
    way = rogue.rng.choice(("nothing", "excuses", "empty pieces"))

    async def speaks(client: bytes, asked: replies.Generate, body: replies.GenerateBody) -> None:
        for second in range(100):
            await asyncio.sleep(SAYS_S)
            if way == "excuses":
                _say(rogue, client, replies.Waiting(asked.request, f"soon ({second})"))
            elif way == "empty pieces":
                _say(rogue, client, replies.Piece(asked.request, len(body.tokens), 0), b"", b"")

    _accept(rogue, speaks)


def swap(rogue: Rogue) -> None:
    """Accepts another prompt than was asked, and goes silent, perhaps after some right tokens."""
    given = rogue.rng.choice((0, 1, 5))

    async def speaks(client: bytes, asked: replies.Generate, body: replies.GenerateBody) -> None:
        tokens = _expected(rogue, body)[:given]
        if tokens:
            _say(rogue, client, replies.Piece(asked.request, len(body.tokens), 0), pack_tokens(tokens), b"x")

    _accept(rogue, speaks, lambda prompt: [*prompt[1:], 1 + prompt[0] % 16, 5])


def dribble(rogue: Rogue) -> None:
    """The right reply, a token at a time, each after a long while."""
    pause_s = rogue.rng.choice((2.0, 6.0, 14.0))

    async def speaks(client: bytes, asked: replies.Generate, body: replies.GenerateBody) -> None:
        tokens, before = _expected(rogue, body), len(body.tokens)
        for index, token in enumerate(tokens):
            await asyncio.sleep(pause_s)
            _say(rogue, client, replies.Piece(asked.request, before + index, 0), pack_tokens([token]), b"x")
        figures = replies.Statistics(completion_tokens=len(tokens))
        _say(rogue, client, replies.Finished(asked.request, "stop"), encode_body(figures))

    _accept(rogue, speaks)


# --- records, contacts


SHAPES: tuple[dict[str, Any], ...] = (
    {"context_tokens": 1},
    {"vocab_size": 5},
    {"vocab_size": MANY},
    {"start": 0, "end": 1, "num_layers": 1},
    {"num_layers": 64},
    {"width": 1},
    {"tokenizer_hash": "0" * 64},
    {"weights_hash": "f" * 64},
)


def misshape(rogue: Rogue) -> None:
    """Says of the model what it is not, or (its id follows from what it is) calls another one so."""
    changes = rogue.rng.choice(SHAPES)

    def lie(fields: dict[str, Any]) -> None:
        fields.update(changes)
        rogue.did("told of another shape")

    rogue.lies.append(lie)


def mislead(rogue: Rogue) -> None:
    """Passes on peers that are nowhere, and records of some that announced themselves and went without a word."""
    village, rng, rpc = rogue.village, rogue.rng, rogue.rpc
    ghosts = [Identity(rng.randbytes(32)) for _ in range(20)]
    contacts = [_somewhere(rogue, ghost) for ghost in ghosts]

    async def nodes(peer: bytes, message: wire.FindNode, buffers: list[bytes]) -> Response:
        rogue.did("peers made up")
        return wire.Nodes(), [pack_contacts(contacts)]

    async def providers(peer: bytes, message: wire.FindProviders, buffers: list[bytes]) -> Response:
        return wire.Providers(), [pack_contacts(contacts), pack_records([])]

    async def haunt() -> None:
        for number in range(rng.choice((1, 3))):
            place = replace(rogue.place, name=f"{rogue.place.name} ghost {number}")
            ghost = Rogue(village, rng, place, rogue._counts)
            await ghost.begin()
            ghost.boasts = True
            ghost.spawn(ghost.announce())
            await asyncio.sleep(1.0)
            ghost.did("ghost left behind")
            ghost.villager.transport.end(silent=True)
            await ghost.leave()

    rpc.on_request(wire.FindNode, nodes)
    rpc.on_request(wire.FindProviders, providers)
    rogue.spawn(haunt())


def _somewhere(rogue: Rogue, ghost: Identity) -> Contact:
    return Contact(ghost.public_key, (f"tcp://12.{rogue.rng.randrange(256)}.{rogue.rng.randrange(256)}.1:29170",))


# --- customers


def hog(rogue: Rogue) -> None:
    """Takes every session and cell of the stages, and every place of the drafters, and comes again."""
    rng = rogue.rng
    num_positions, pause_s = rng.choice((64, 1 << 16)), rng.choice((1.0, 4.0))
    parks = rng.random() < 0.3
    sessions = [wire.session_of(rogue.villager.transport.id, rng.randbytes(8)) for _ in range(5)]

    async def reserve(stage: Any, session: bytes, route: int) -> None:
        shard = stage.engine.shard
        stages = encode_body(wire.OpenStages((wire.StagePlace(stage.transport.contact, shard.start, shard.end),)))
        said = wire.Open(
            session, route, 0, shard.model_id, rogue.contact, wire.WireSampling(), num_positions, HOURS_S, "f32"
        )
        answer = await rogue.ask(stage.transport.id, said, [stages, bytes(8)])
        if isinstance(answer, wire.Opened):
            rogue.did("session hogged")
            if parks:
                _say(rogue, stage.transport.id, wire.Park(session, route, HOURS_S))

    async def take(drafter: Any) -> None:
        body = replies.GenerateBody(
            (), "", (1, 2, 3), (), rogue.village.model.shard(0, 1).model_id, wire.WireSampling(), 60, (), 4
        )
        answer = await rogue.ask(drafter.transport.id, replies.Generate(rng.randbytes(16)), [encode_body(body)])
        if isinstance(answer, replies.Accepted):
            rogue.did("place hogged")

    async def hogs() -> None:
        for route in count():
            stages, drafters = rogue.honest(drafters=False), rogue.honest(drafters=True)
            for one in [*stages, *drafters]:
                rogue.rpc.transport.introduce(one.transport.contact)
            wanted = [reserve(stage, session, route) for stage in stages for session in sessions]
            await asyncio.gather(*wanted, *(take(drafter) for drafter in drafters for _ in range(2)))
            await asyncio.sleep(pause_s)

    rogue.spawn(hogs())


def squatter(rogue: Rogue) -> None:
    """Opens others' sessions before they do, in their name or its own, and knows nothing of anybody's offers."""
    scene = Scene(rogue.village, rogue.rng, rogue.contact, rogue.villager.transport.id, Heard())
    pause_s = rogue.rng.choice((0.01, 0.1, 1.0))

    async def squats() -> None:
        while True:
            await asyncio.sleep(pause_s)
            for tale in squat(scene):
                rogue.rpc.transport.introduce(_contact_of(scene, tale.receiver))
                rogue.did("session squatted")
                rogue.rpc.transport.send(tale.receiver, tale.frames, tale.priority)

    async def providers(peer: bytes, message: wire.FindProviders, buffers: list[bytes]) -> Response:
        return wire.Providers(), [pack_contacts([rogue.contact]), pack_records([])]

    rogue.rpc.on_request(wire.FindProviders, providers)
    rogue.spawn(squats())


def _contact_of(scene: Scene, peer: bytes) -> Contact:
    host: SimTransport = scene.village.network.hosts[peer]
    return host.contact


# --- the table


@dataclass(frozen=True, slots=True)
class Misdeed:
    """`who` does it."""

    begin: Callable[[Rogue], None]
    who: tuple[Literal["stage", "drafter"], ...]
    awaited: bool = False
    """Its remedy is not in yet: it is left out unless it is asked for by name."""


MISDEEDS: dict[str, Misdeed] = {
    "blackhole": Misdeed(blackhole, ("stage",)),
    "hoard": Misdeed(hoard, ("stage",)),
    "forgetful stage": Misdeed(forget, ("stage",)),
    "dripping stage": Misdeed(drip, ("stage",)),
    "speed": Misdeed(boast, ("stage", "drafter")),
    "mute drafter": Misdeed(mute, ("drafter",)),
    "swapped prompt": Misdeed(swap, ("drafter",)),
    "dripping drafter": Misdeed(dribble, ("drafter",)),
    "shape": Misdeed(misshape, ("stage",)),
    "address": Misdeed(mislead, ("stage", "drafter")),
    "hog": Misdeed(hog, ("drafter",)),
    "squatter": Misdeed(squatter, ("stage", "drafter")),
}
