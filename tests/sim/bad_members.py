"""Rogues (rogue.py) that speak of others and of themselves, and that ask for what is scarce."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import count
from typing import Any

from dsdnode.identity import Identity
from dsdnode.net.rpc import Response
from dsdnode.sim.transport import SimTransport
from dsdnode.wire import messages as wire
from dsdnode.wire import replies
from dsdnode.wire.codec import encode_body
from dsdnode.wire.messages import Contact
from dsdnode.wire.numbers import pack_tokens
from dsdnode.wire.records import pack_contacts, pack_records

from .lies import squat
from .rogue import HOURS_S, MANY, Rogue, say, sign_anything
from .scene import Heard, Scene
from .village import Villager

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
            try:
                ghost.boasts = True
                ghost.spawn(ghost.announce())
                await asyncio.sleep(1.0)
                ghost.did("ghost left behind")
                ghost.villager.transport.end(silent=True)
            finally:
                await ghost.leave()

    rpc.on_request(wire.FindNode, nodes)
    rpc.on_request(wire.FindProviders, providers)
    rogue.spawn(haunt())


def _somewhere(rogue: Rogue, ghost: Identity) -> Contact:
    return Contact(ghost.public_key, (f"tcp://12.{rogue.rng.randrange(256)}.{rogue.rng.randrange(256)}.1:29170",))


def crowd(rogue: Rogue) -> None:
    """Tells whoever looks for anything of a crowd that offers it, fast and free: all well signed, and nowhere."""
    rng, rpc = rogue.rng, rogue.rpc
    ghosts = [Identity(rng.randbytes(32)) for _ in range(rng.choice((10, 60)))]
    told: list[bytes] = []
    for ghost in ghosts:  # a call to it is refused, or never answered
        rogue.village.network.ended[ghost.peer_id] = rng.random() < 0.5

    async def providers(peer: bytes, message: wire.FindProviders, buffers: list[bytes]) -> Response:
        if not told:
            rogue.boasts = True
            told.extend(_offer(rogue, ghost) for ghost in ghosts)
        rogue.did("crowd made up")
        return wire.Providers(), [pack_contacts([rogue.contact]), pack_records(told)]

    rpc.on_request(wire.FindProviders, providers)


def _offer(rogue: Rogue, ghost: Identity) -> bytes:
    [record] = rogue.villager.node._records()
    contact = _somewhere(rogue, ghost)
    fields = rogue.changed(record, public_key=contact.public_key, addresses=contact.addresses)
    return sign_anything(ghost, list(fields.values()))


async def _open(rogue: Rogue, stage: Villager, session: bytes, route: int, num_positions: int) -> bool:
    """A session there, in a route of honest stages."""
    shard, chosen = stage.engine.shard, {}
    for one in rogue.honest(drafters=False):
        hosted = one.engine.shard
        if (hosted.start, hosted.end) not in chosen or one is stage:
            chosen[hosted.start, hosted.end] = one.transport.contact
    places = tuple(wire.StagePlace(contact, *layers) for layers, contact in sorted(chosen.items()))
    index = sorted(chosen).index((shard.start, shard.end))
    said = wire.Open(
        session, route, index, shard.model_id, rogue.contact, wire.WireSampling(), num_positions, HOURS_S, "f32"
    )
    buffers = [encode_body(wire.OpenStages(places)), bytes(8)]
    return isinstance(await rogue.ask(stage.transport.id, said, buffers), wire.Opened)


def fill(rogue: Rogue) -> None:
    """Opens a session that reserves little, and fills the cache through branches of it, one after the other."""
    rng = rogue.rng
    most, pause_s = 64, rng.choice((0.05, 0.5))
    session = wire.session_of(rogue.villager.transport.id, rng.randbytes(8))

    def branch(stage: Villager, route: int, epoch: int) -> None:
        block = wire.Block(session, route, epoch, epoch - 1, 0, 0, most, 0, 0)
        digests = rng.randbytes(8 * (most + 1))
        say(rogue, stage.transport.id, block, digests, pack_tokens([1 + epoch % 16] * most))
        rogue.did("branch filled")

    async def fills() -> None:
        for route in count():
            for stage in rogue.honest(drafters=False):
                rogue.rpc.transport.introduce(stage.transport.contact)
                if stage.engine.shard.start == 0 and await _open(rogue, stage, session, route, most):
                    for epoch in range(1, 13):
                        branch(stage, route, epoch)
                        await asyncio.sleep(pause_s)
            await asyncio.sleep(1.0)

    rogue.spawn(fills())


def hog(rogue: Rogue) -> None:
    """Takes every session and cell of the stages, and every place of the drafters, and comes again."""
    rng = rogue.rng
    num_positions, pause_s = rng.choice((64, 1 << 16)), rng.choice((1.0, 4.0))
    parks = rng.random() < 0.3
    sessions = [wire.session_of(rogue.villager.transport.id, rng.randbytes(8)) for _ in range(5)]

    async def reserve(stage: Villager, session: bytes, route: int) -> None:
        if await _open(rogue, stage, session, route, num_positions):
            rogue.did("session hogged")
            if parks:
                say(rogue, stage.transport.id, wire.Park(session, route, HOURS_S))

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
