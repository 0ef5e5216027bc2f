"""Who is let in at a stage, and who holds a place afterwards."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import msgspec
import numpy as np
import pytest

from dsdnode.engine.fake import FakeEngine, FakeModel
from dsdnode.engine.port import Chunk, Output
from dsdnode.identity import Identity
from dsdnode.net.memory import MemoryHub
from dsdnode.net.rpc import Rpc
from dsdnode.node.shard.host import StageHost
from dsdnode.swarm.pings import Pings
from dsdnode.wire.codec import encode_body
from dsdnode.wire.messages import (
    Block,
    Close,
    Contact,
    Open,
    Opened,
    OpenStages,
    Refused,
    StagePlace,
    Trace,
    Verdict,
    WireSampling,
    session_of,
)
from dsdnode.wire.numbers import pack_tokens
from dsdnode.wire.tensors import pack_states

ALICE, SAM = (Identity(Random(name).randbytes(32)) for name in ("alice", "sam"))
SESSION = session_of(ALICE.peer_id, bytes(8))


@dataclass
class Pair:
    """Alice, an owner, and the stage that she asks."""

    alice: Rpc
    rpc: Rpc
    host: StageHost
    engine: FakeEngine

    @property
    def peer(self) -> bytes:
        return self.rpc.transport._id  # type: ignore[attr-defined,no-any-return]

    async def open(self, wire: str = "f32", max_positions: int = 100, *keys: bytes) -> Opened | Refused:
        stages = OpenStages((StagePlace(self.rpc.transport.contact, 0, 4),))
        owner, model_id = self.alice.transport.contact, self.engine.shard.model_id
        message = Open(SESSION, 0, 0, model_id, owner, WireSampling(), max_positions, 60.0, wire)
        answer, _ = await self.alice.request(self.peer, message, [encode_body(stages), b"", *keys], timeout_s=1)
        assert isinstance(answer, Opened | Refused)
        return answer


@pytest.fixture
async def pair() -> Pair:
    return make_pair(FakeEngine(FakeModel()))


def make_pair(engine: FakeEngine) -> Pair:
    hub = MemoryHub()
    ends = []
    for identity in (ALICE, SAM):
        rpc = Rpc(hub.transport(Contact(identity.public_key, ())))
        rpc.start()
        ends.append(rpc)
    host = StageHost(ends[1], Pings(ends[1]), engine, max_sessions=2)
    host.start()
    return Pair(ends[0], ends[1], host, engine)


async def test_a_close_right_behind_its_open_is_not_overlooked(pair: Pair) -> None:
    opening = asyncio.create_task(pair.open())
    await asyncio.sleep(0)
    pair.alice.notify(pair.peer, Close(SESSION))
    assert isinstance(await opening, Opened)
    await asyncio.sleep(0)
    assert pair.host.num_sessions == 0


async def test_what_cannot_be_served_is_refused_before_it_holds_a_place(pair: Pair) -> None:
    for answer in (await pair.open(wire="q3"), await pair.open(max_positions=5000)):
        assert isinstance(answer, Refused)
        assert not answer.retry
    assert pair.host.num_sessions == 0


async def test_more_key_tokens_than_there_are_tokens_are_no_owners(pair: Pair) -> None:
    assert isinstance(await pair.open("f32", 100, bytes(14)), Refused)  # of 97 tokens
    assert pair.host.num_sessions == 0
    assert isinstance(await pair.open("f32", 100, bytes(13)), Opened)


BOB, CAROL = (Contact(Identity(name * 32).public_key, ()) for name in (b"b", b"c"))
CHANGES: dict[str, dict[str, object]] = {
    "states of another type": {"wire": "f16"},
    "another key": {"seal_key": b"another"},
    "a longer lease": {"lease_s": 90.0},
}


async def reopen(pair: Pair, *behind: StagePlace, **changes: object) -> Opened | Refused:
    """What Alice opens, with other terms, and these stages behind Sam."""
    sam = StagePlace(pair.rpc.transport.contact, pair.engine.shard.start, pair.engine.shard.end)
    stages = OpenStages((sam, *behind))
    message = Open(
        SESSION, 0, 0, pair.engine.shard.model_id, pair.alice.transport.contact, WireSampling(), 100, 60.0, "f32"
    )
    changed = msgspec.structs.replace(message, **changes)
    answer, _ = await pair.alice.request(pair.peer, changed, [encode_body(stages), b""], timeout_s=1)
    assert isinstance(answer, Opened | Refused)
    return answer


@pytest.mark.parametrize("what", CHANGES)
async def test_the_terms_of_a_route_stand_once_it_has_begun(pair: Pair, what: str) -> None:
    """A run is in flight, whose end belongs to this place on this route. Then the place is free like any other."""
    assert isinstance(await pair.open(), Opened)
    verdicts: list[Verdict] = []
    pair.alice.on_notice(Verdict, lambda peer, message, buffers: verdicts.append(message))
    pair.alice.notify(pair.peer, Block(SESSION, 0, 1, 0, 0, 0, 1, 0, 1), [bytes(16), pack_tokens([5])])
    answer = await reopen(pair, **CHANGES[what])
    assert answer == Refused("blocks of this route have come: other terms take a higher one")
    assert isinstance(await reopen(pair), Opened)  # the same once more, on its way twice
    async with asyncio.timeout(1):
        while not verdicts:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert isinstance(await reopen(pair, route=1, **CHANGES[what]), Opened)
    pair.alice.notify(pair.peer, Close(SESSION))
    async with asyncio.timeout(1):
        while pair.host.num_sessions or pair.engine.num_cells:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert pair.host.num_free_sessions == 2


@pytest.mark.parametrize("what", CHANGES)
async def test_until_then_an_owner_may_look_for_other_stages(pair: Pair, what: str) -> None:
    assert isinstance(await pair.open(), Opened)
    assert isinstance(await reopen(pair, **CHANGES[what]), Opened)


@pytest.mark.parametrize(
    "others",
    [(StagePlace(CAROL, 2, 4),), (StagePlace(BOB, 2, 3), StagePlace(CAROL, 3, 4))],
    ids=["another stage behind it", "one stage more"],
)
async def test_so_do_the_stages_of_a_route(others: tuple[StagePlace, ...]) -> None:
    """Sam has the first half; until a block has come Alice may still choose who has the second."""
    pair, bob = make_pair(FakeEngine(FakeModel(), 0, 2)), StagePlace(BOB, 2, 4)
    for contact in (BOB, CAROL):
        pair.rpc.transport.introduce(contact)
    assert isinstance(await reopen(pair, *others), Opened)
    assert isinstance(await reopen(pair, bob), Opened)
    pair.alice.notify(pair.peer, Block(SESSION, 0, 1, 0, 0, 0, 1, 0, 1), [bytes(16), pack_tokens([5])])
    answer = await reopen(pair, *others)
    assert answer == Refused("blocks of this route have come: other terms take a higher one")
    assert isinstance(await reopen(pair, bob), Opened)
    assert isinstance(await reopen(pair, *others, route=1), Opened)


async def test_a_run_in_flight_whose_states_came_another_way_ends_for_nobody() -> None:
    """Alice, who has the first half herself, goes on with states of another type: her line is computed anew."""
    pair = make_pair(FakeEngine(FakeModel(), 2, 4))
    runs, let_go, forward = asyncio.Event(), asyncio.Event(), pair.engine.forward
    verdicts: list[Verdict] = []

    async def slowly(chunks: Sequence[Chunk]) -> list[Output]:
        runs.set()
        await let_go.wait()
        return await forward(chunks)

    async def opens(route: int, wire: str) -> Opened | Refused:
        stages = StagePlace(pair.alice.transport.contact, 0, 2), StagePlace(pair.rpc.transport.contact, 2, 4)
        place = SESSION, route, 1, pair.engine.shard.model_id, pair.alice.transport.contact
        message = Open(*place, WireSampling(), 100, 60.0, wire)
        answer, _ = await pair.alice.request(
            pair.peer, message, [encode_body(OpenStages(stages)), bytes(16)], timeout_s=1
        )
        assert isinstance(answer, Opened | Refused)
        return answer

    def sends(route: int, wire: str) -> None:
        states = pack_states(np.ones((1, pair.engine.shard.width), np.float32), wire)
        pair.alice.notify(
            pair.peer, Block(SESSION, route, route + 1, 0, 0, 0, 1, 0, 1), [bytes(16), pack_tokens([]), states]
        )

    pair.engine.forward = slowly  # type: ignore[method-assign]
    pair.alice.on_notice(Verdict, lambda peer, message, buffers: verdicts.append(message))
    async with asyncio.timeout(5):
        assert await opens(0, "f16") == Opened(0)
        sends(0, "f16")
        await runs.wait()
        assert await opens(1, "f16") == Opened(1), "a higher route alone takes nothing away"
        assert await opens(2, "f32") == Opened(0)
        sends(2, "f32")
        let_go.set()
        while not verdicts:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert [one.route for one in verdicts] == [2]
    assert pair.engine.num_cells == 1


async def test_runs_that_nobody_wants_any_more_hold_no_states() -> None:
    """While one decode runs mallory opens her session anew again and again, and sends each time what takes memory."""
    pair = make_pair(FakeEngine(FakeModel(), 2, 4))
    runs, let_go, forward = asyncio.Event(), asyncio.Event(), pair.engine.forward

    async def slowly(chunks: Sequence[Chunk]) -> list[Output]:
        runs.set()
        await let_go.wait()
        return await forward(chunks)

    pair.engine.forward = slowly  # type: ignore[method-assign]
    states = np.ones((50, pair.engine.shard.width), np.float32)
    for route in range(20):
        wire = ("f16", "f32")[route % 2]
        stages = StagePlace(pair.alice.transport.contact, 0, 2), StagePlace(pair.rpc.transport.contact, 2, 4)
        place = SESSION, route, 1, pair.engine.shard.model_id, pair.alice.transport.contact
        opened = await pair.alice.request(
            pair.peer, Open(*place, WireSampling(), 100, 60.0, wire), [encode_body(OpenStages(stages)), bytes(16)],
            timeout_s=1,
        )  # fmt: skip
        assert opened[0] == Opened(0)
        block = Block(SESSION, route, route + 1, 0, 0, 0, 50, 0, 1)
        pair.alice.notify(pair.peer, block, [bytes(8 * 51), pack_tokens([]), pack_states(states, wire)])
        if route == 0:
            await runs.wait()
        await asyncio.sleep(0)
    waiting = pair.host.batcher.num_waiting
    let_go.set()
    assert waiting <= 3, "what frees the sequence, and the last run"


async def test_an_owner_that_is_gone_holds_no_place(pair: Pair) -> None:
    assert isinstance(await pair.open(), Opened)
    assert pair.host.num_sessions == 1
    await pair.alice.close()
    async with asyncio.timeout(1):
        while pair.host.num_sessions:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_stage_that_is_in_no_network_itself_does_not_take_its_owner_for_dead(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Carried into another one it serves on from what it has cached. An owner that is not there even then is gone."""
    monkeypatch.setattr("dsdnode.node.shard.owners.STRANDED_S", 0.0)
    assert isinstance(await pair.open(), Opened)
    transport = pair.rpc.transport
    monkeypatch.setattr(type(transport), "is_stranded", True)
    await pair.alice.close()
    async with asyncio.timeout(5):
        for _ in range(20):
            await asyncio.sleep(0)
        assert pair.host.num_sessions == 1
        monkeypatch.setattr(type(transport), "is_stranded", False)
        while pair.host.num_sessions:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_stage_that_left_is_held_by_nobody(pair: Pair) -> None:
    """Sam takes other layers, as a node may many times: each stage before would hold the memory of its engine."""
    assert isinstance(await pair.open(), Opened)
    await pair.host.close()
    pair.rpc.off_requests((Open, Trace))
    left = weakref.ref(pair.host)
    del pair.host, pair.engine
    await asyncio.sleep(0)  # what is on its way
    gc.collect()
    assert left() is None
