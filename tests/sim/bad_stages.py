"""Rogues (rogue.py) that host layers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from dsdnode.engine.port import Chunk, Output
from dsdnode.net.rpc import Response
from dsdnode.pacing.suspects import HERE, NOT_COME, PASSED_ON
from dsdnode.wire import messages as wire
from dsdnode.wire import replies

from .rogue import HOURS_S, Rogue, say

TRACED = {"not come": NOT_COME, "here": HERE, "passed on": PASSED_ON}


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
            say(rogue, session.owner, wire.Nack(message.session, message.route, message.epoch, index, 0))
        else:
            say(rogue, session.owner, wire.SessionLost(message.session, index, "its worker died", message.route))

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


def forge(rogue: Rogue) -> None:
    """Does its work, and says besides what only others may: verdicts, closings, ends of sessions, other stages' losses.

    (As the judge of a route it says nothing of the kind: a judge's verdicts count.)
    """
    rng = rogue.rng
    [work] = rogue.rpc._on_notice[wire.Block]

    def forges(peer: bytes, message: wire.Block, buffers: list[bytes]) -> None:
        stage = rogue.villager.node._stage
        session = stage._sessions.get(message.session) if stage is not None else None
        if session is not None and not session.last:
            ends, token = message.position + message.num_given + message.num_draft, rng.randrange(17)
            place, other = (message.session, message.route), rng.randrange(len(session.peers))
            seal = rng.choice((b"", rng.randbytes(8)))
            said = rng.choice(
                (
                    (session.owner, wire.Verdict(*place, message.epoch, ends, token, seal=seal)),
                    (session.peers[-1], wire.Closed(*place, message.epoch, message.position, token, seal=seal)),
                    (session.peers[-1], wire.Close(message.session)),
                    (session.peers[-1], wire.Park(*place, 0.1)),
                )
            )
            rogue.did("word forged")
            say(rogue, *said)
            if session.peers[other] != rogue.villager.transport.id:
                say(rogue, session.owner, wire.SessionLost(message.session, other, "forged", message.route))
        work(peer, message, buffers)

    rogue.rpc._on_notice[wire.Block] = [forges]


def garble(rogue: Rogue) -> None:
    """What it passes on is no block any more: cut off, not finite, or behind other digests."""
    way, share = rogue.rng.choice(("short", "nan", "digests")), rogue.rng.choice((0.2, 1.0))
    notify = rogue.rpc.notify

    def garbles(peer: bytes, message: wire.Message, buffers: Sequence[bytes] = (), **more: Any) -> None:
        if isinstance(message, wire.Block) and rogue.rng.random() < share:
            digests, tokens, states = buffers
            rogue.did("block garbled")
            if way == "short":
                states = states[:-4]
            elif way == "nan":
                states = np.full(len(states) // 4, np.nan, np.float32).tobytes()
            else:
                digests = rogue.rng.randbytes(len(digests))
            buffers = [digests, tokens, states]
        notify(peer, message, buffers, **more)

    rogue.rpc.notify = garbles  # type: ignore[method-assign, assignment]
