"""Alice's messages to Bob over links that take their time, lose, and are cut."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import pytest

from dsdnode.errors import PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net.port import ATTEMPT_TIMEOUT_S, SILENT_S, Priority
from dsdnode.sim.links import HANDSHAKE_ROUND_TRIPS, OVERHEAD_BYTES, LinkSpec
from dsdnode.sim.loop import JumpingLoop, clock, run
from dsdnode.sim.network import Network
from dsdnode.sim.transport import SimTransport
from dsdnode.wire.messages import Contact

LATENCY_S = 0.01


@dataclass
class Pair:
    network: Network[SimTransport]
    alice: SimTransport
    bob: SimTransport

    def __post_init__(self) -> None:
        self.lost: list[tuple[str, float]] = []
        for name, transport in (("alice", self.alice), ("bob", self.bob)):
            transport.on_peer_lost(partial(self._on_lost, name))

    def _on_lost(self, name: str, peer: bytes, why: str, at_s: float) -> None:
        self.lost.append((name, self.network.loop.now))

    def say(self, text: str, priority: Priority = Priority.CONTROL) -> None:
        self.alice.send(self.bob.id, [text.encode()], priority)

    async def hear(self) -> tuple[str, float]:
        _, [frame] = await self.bob.receive()
        return frame.decode(), self.network.loop.now


def tell(story: Callable[[Pair], Awaitable[Any]], spec: LinkSpec | None = None, bytes_s: float = 0.0) -> Any:
    async def told() -> Any:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        network: Network[SimTransport] = Network(loop, Random(1), lambda one, other: spec or LinkSpec(LATENCY_S))
        ends = [SimTransport(network, _contact(name), up_bytes_s=bytes_s, down_bytes_s=bytes_s) for name in "ab"]
        ends[0].introduce(ends[1].contact)
        return await story(Pair(network, *ends))

    return run(told())


def _contact(name: str) -> Contact:
    return Contact(Identity(name.encode() * 32).public_key, (f"tcp://192.0.2.{ord(name)}:1",))


def test_the_first_message_waits_for_the_handshake_and_the_next_takes_the_latency() -> None:
    async def story(pair: Pair) -> None:
        pair.say("hello")
        heard, at_s = await pair.hear()
        assert heard == "hello"
        assert at_s == pytest.approx(LATENCY_S * (1 + 2 * HANDSHAKE_ROUND_TRIPS))
        pair.say("again")
        assert (await pair.hear())[1] == pytest.approx(at_s + LATENCY_S)
        assert pair.bob.contact_of(pair.alice.id) == pair.alice.contact
        pair.bob.send(pair.alice.id, [b"back"], Priority.CONTROL)  # over the link that alice made
        await pair.alice.receive()
        assert pair.network.loop.now == pytest.approx(at_s + 2 * LATENCY_S)

    tell(story)


def test_bytes_take_their_time_and_control_does_not_wait_for_bulk() -> None:
    async def story(pair: Pair) -> None:
        for priority in (Priority.CONTROL, Priority.VERIFY):
            pair.say("", priority)
            await pair.hear()
        start_s = pair.network.loop.now
        pair.say("x" * (10_000 - OVERHEAD_BYTES), Priority.VERIFY)
        pair.say("y" * (10_000 - OVERHEAD_BYTES), Priority.VERIFY)
        pair.say("now!", Priority.CONTROL)
        order = [await pair.hear() for _ in range(3)]
        assert [text[0] for text, _ in order] == ["n", "x", "y"]
        took_s = [at_s - start_s for _, at_s in order]
        assert took_s[0] < LATENCY_S + 0.001
        # up and down one after the other; the second is on its way up while the first comes down
        assert took_s[1:] == [pytest.approx(LATENCY_S + 0.02, abs=1e-3), pytest.approx(LATENCY_S + 0.03, abs=1e-3)]

    tell(story, bytes_s=1e6)


def test_jitter_and_loss_keep_the_order_within_a_lane() -> None:
    async def story(pair: Pair) -> float:
        for number in range(200):
            pair.say(str(number))
        heard = [await pair.hear() for _ in range(200)]
        assert [text for text, _ in heard] == [str(number) for number in range(200)]
        return heard[-1][1]

    assert tell(story, LinkSpec(LATENCY_S, 0.005, 0.1)) > tell(story, LinkSpec(LATENCY_S, 0.005)) + 0.2


def test_into_a_cut_everything_is_lost_and_the_heartbeat_tells() -> None:
    async def story(pair: Pair) -> None:
        pair.say("before")
        await pair.hear()
        start_s = pair.network.loop.now
        pair.network.cut(pair.alice.id, pair.bob.id)
        pair.say("lost")
        await asyncio.sleep(SILENT_S + 1)
        assert pair.lost == [("alice", start_s + SILENT_S), ("bob", start_s + SILENT_S)]
        pair.network.heal(pair.alice.id, pair.bob.id)
        pair.say("after")
        assert (await pair.hear())[0] == "after"

    tell(story)


def test_regions_that_are_parted_hear_nothing_of_each_other() -> None:
    async def story(pair: Pair) -> None:
        carol = SimTransport(pair.network, _contact("c"), "there")
        carol.introduce(pair.bob.contact)
        carol.send(pair.bob.id, [b"hello"], Priority.CONTROL)
        await pair.hear()
        start_s = pair.network.loop.now
        pair.network.part(("there",))
        carol.send(pair.bob.id, [b"lost"], Priority.CONTROL)
        pair.say("we are neighbours")
        assert (await pair.hear())[0] == "we are neighbours"
        await asyncio.sleep(SILENT_S + 0.1)
        assert pair.lost == [("bob", start_s + SILENT_S)]
        pair.network.rejoin(("there",))
        carol.send(pair.bob.id, [b"back"], Priority.CONTROL)
        assert (await pair.hear())[0] == "back"

    tell(story)


def test_a_killed_process_is_noticed_at_once_and_refuses() -> None:
    async def story(pair: Pair) -> None:
        pair.say("hello")
        await pair.hear()
        pair.bob.end()
        await asyncio.sleep(1)
        assert [name for name, _ in pair.lost] == ["alice"]
        pair.say("is anybody there?")
        await asyncio.sleep(2 * LATENCY_S + 0.01)
        assert len(pair.lost) == 2
        with pytest.raises(PeerUnavailable):
            pair.say("just refused")

    tell(story)


def test_a_machine_that_is_gone_answers_nothing() -> None:
    """Alice's link to Bob stays, and takes what she says to nobody, until heartbeats are missed; then calls hang."""

    async def story(pair: Pair) -> None:
        pair.say("hello")
        await pair.hear()
        start_s = pair.network.loop.now
        pair.bob.end(silent=True)
        pair.say("is anybody there?")
        await asyncio.sleep(SILENT_S + 0.1)
        assert pair.lost == [("alice", start_s + SILENT_S)]
        again_s = pair.network.loop.now
        pair.say("hello?")
        await asyncio.sleep(ATTEMPT_TIMEOUT_S + 0.1)
        assert pair.lost[1:] == [("alice", again_s + ATTEMPT_TIMEOUT_S)]

    tell(story)


def test_a_call_into_a_cut_hangs() -> None:
    async def story(pair: Pair) -> None:
        pair.network.cut(pair.alice.id, pair.bob.id)
        pair.say("hello?")
        await asyncio.sleep(ATTEMPT_TIMEOUT_S + 0.1)
        assert pair.lost[0] == ("alice", ATTEMPT_TIMEOUT_S)

    tell(story)


def test_a_machine_that_is_back_is_dialled_anew() -> None:
    """What alice sends by the connection that it was told of before is lost; so she learns that it has ended."""

    async def story(pair: Pair) -> None:
        pair.say("hello")
        await pair.hear()
        pair.bob.end(silent=True)
        pair.say("lost")
        await asyncio.sleep(1)
        pair.bob = SimTransport(pair.network, pair.bob.contact)
        assert not pair.lost
        back_s = pair.network.loop.now
        pair.say("lost, too")
        await asyncio.sleep(2 * LATENCY_S + 0.001)
        [(name, lost_s)] = pair.lost
        assert (name, lost_s) == ("alice", back_s + 2 * LATENCY_S)
        pair.say("welcome back")
        assert (await pair.hear())[0] == "welcome back"
        await asyncio.sleep(SILENT_S + 1)
        assert len(pair.lost) == 1, "there is a connection"
        pair.bob.send(pair.alice.id, [b"thanks"], Priority.CONTROL)
        await pair.alice.receive()
        assert pair.alice._num_dialled == 1

    tell(story)


@pytest.mark.parametrize("offset_s", [0.0, 3600.1])
@pytest.mark.parametrize("dials", ["alice", "bob"])
def test_one_of_two_lanes_is_broken_where_only_that_is_seen(dials: str, offset_s: float) -> None:
    """Bob is back before anybody has missed him. By one lane alice has sent something, or does: in vain."""

    async def story(pair: Pair) -> None:
        broken: list[tuple[bool, float]] = []
        with clock(offset_s):
            pair.alice.on_broken(lambda peer, bulk, since_s: broken.append((bulk, since_s)))
        await asyncio.sleep(1)
        for priority in (Priority.CONTROL, Priority.VERIFY):
            pair.say("hello", priority)
            await pair.hear()
        pair.bob.end(silent=True)
        if dials == "bob":
            pair.say("lost")
            await asyncio.sleep(1)
        pair.bob = SimTransport(pair.network, pair.bob.contact)
        if dials == "bob":
            pair.bob.introduce(pair.alice.contact)
            pair.bob.send(pair.alice.id, [b"I am back"], Priority.CONTROL)
            await pair.alice.receive()
        else:
            pair.say("lost")
            await asyncio.sleep(2 * LATENCY_S + 0.001)
        assert (broken, pair.lost) == ([(False, offset_s + 1)], [])
        pair.say("welcome back")
        assert (await pair.hear())[0] == "welcome back"

    tell(story)


def test_a_stranger_without_an_address_cannot_be_dialled() -> None:
    async def story(pair: Pair) -> None:
        with pytest.raises(PeerUnavailable):
            pair.bob.send(pair.alice.id, [b"who?"], Priority.CONTROL)

    tell(story)


def test_states_weigh_what_they_stand_for() -> None:
    async def story(pair: Pair) -> None:
        pair.network.state_bytes = 8192
        digests, tokens, states = bytes(8 * 6), b"", bytes(5 * 4)
        pair.alice.send(pair.bob.id, [b"block", digests, tokens, states], Priority.VERIFY)
        assert pair.alice.traffic.size_bytes == 5 * 8192 + len(b"block") + len(digests) + OVERHEAD_BYTES

    tell(story)
