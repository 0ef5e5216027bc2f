"""What strangers try at a relay: they get nothing, most of them no word, and bob's reservation stands."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from dsdnode.net.handshake import derive_swarm_key
from dsdnode.net.relay import frames
from dsdnode.net.relay.frames import Accept, Greet, Incoming, No, Ok, Ping, Pong, Reserve, Reserved
from dsdnode.net.relay.server import Relay, usual_port
from tests.net.relay.ends import BOB, MALLORY, ROSE, Bare, answers, circuit

OpenRelay = Callable[..., Awaitable[Relay]]


async def reserved(relay: Relay) -> Bare:
    control = await Bare.open(relay.port)
    assert isinstance(await control.reserve(BOB), Reserved)
    return control


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: rose\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        Random(5).randbytes(400),
        (60_000).to_bytes(2, "big") + bytes(2000),
        (1025).to_bytes(2, "big") + bytes(1025),
        bytes(2),
        b"\x00\x04\x92\x01\xa1A",
        b"\x00\x04\x93\x01\x01\x01",
        b"\x00\x01\xc1",
        b"\x00\x02\xdd\xff",
        frames.pack(Ping()),
        frames.pack(Ok()),
        frames.pack(Accept(bytes(16), bytes(64))),
        frames.pack(Reserve(BOB.public_key, bytes(64))),
    ],
    ids=lambda said: said[:12].hex(),
)
async def test_garbage_is_closed_without_a_word_and_bobs_reservation_stands(open_relay: OpenRelay, said: bytes) -> None:
    relay = await open_relay()
    control = await reserved(relay)
    mallory = await Bare.open(relay.port)
    mallory.say(said)
    assert await mallory.rest() == b""
    assert await answers(control)
    control.close()


async def test_silence_and_half_a_frame_are_closed_in_time(open_relay: OpenRelay) -> None:
    relay = await open_relay()
    control = await reserved(relay)
    for said in (b"", b"\x00", frames.pack(Greet(1))[:-1], frames.pack(Greet(1))):
        mallory = await Bare.open(relay.port)
        mallory.say(said)
        if len(said) > 2 and frames.body_bytes(said[:2]) == len(said) - 2:
            assert await mallory.hear() is not None
        while not relay._guests:  # noqa: ASYNC110
            await asyncio.sleep(0)
        five_seconds_pass(relay)
        assert await mallory.rest() == b""
    assert await answers(control)
    control.close()


def five_seconds_pass(relay: Relay) -> None:
    """For who has not been served."""
    [guest] = relay._guests.values()
    assert guest.timer.when() <= asyncio.get_running_loop().time() + 5
    guest.timer._run()


async def test_nobody_reserves_in_another_s_name(open_relay: OpenRelay) -> None:
    relay = await open_relay()
    control = await reserved(relay)

    def forged(challenge: bytes) -> list[Reserve]:
        """Signed by mallory; for another challenge, relay, purpose; as it should be but for the key."""
        token = BOB.sign(frames.to_accept(ROSE.public_key, challenge[:16]))
        return [
            Reserve(BOB.public_key, frames.reserve(MALLORY, (), ROSE.public_key, challenge).signature),
            frames.reserve(BOB, (), ROSE.public_key, bytes(32)),
            frames.reserve(BOB, (), MALLORY.public_key, challenge),
            Reserve(BOB.public_key, token),
            Reserve(MALLORY.public_key, frames.reserve(BOB, (), ROSE.public_key, challenge).signature),
        ]

    for index in range(len(forged(bytes(32)))):
        mallory = await Bare.open(relay.port)
        mallory.say(forged(await mallory.challenge())[index])
        assert await mallory.rest() == b"", index
    assert await answers(control)
    control.close()


async def test_what_bob_signed_before_is_of_no_use_to_who_repeats_it(open_relay: OpenRelay) -> None:
    relay = await open_relay()
    bob = await Bare.open(relay.port)
    told = frames.reserve(BOB, (), ROSE.public_key, await bob.challenge())
    bob.say(told)
    assert isinstance(await bob.hear(), Reserved)
    mallory = await Bare.open(relay.port)
    await mallory.challenge()
    mallory.say(told)
    assert await mallory.rest() == b""
    assert await answers(bob)
    bob.close()


async def test_a_token_is_bobs_alone_and_serves_once(open_relay: OpenRelay) -> None:
    relay = await open_relay()
    control = await reserved(relay)
    alice = await Bare.open(control.called)
    incoming = await control.hear()
    assert isinstance(incoming, Incoming) and incoming.host == "127.0.0.1"
    mallory = await Bare.open(relay.port)
    mallory.accept(MALLORY, incoming.token)
    assert await mallory.rest() == b""
    bob = await Bare.open(relay.port)
    bob.accept(BOB, incoming.token)
    assert await bob.hear() == Ok()
    again = await Bare.open(relay.port)
    again.accept(BOB, incoming.token)
    assert await again.rest() == b""
    alice.say(b"hello bob")
    assert await bob.read(9) == b"hello bob"
    for one in (alice, bob, control):
        one.close()


async def test_a_token_of_a_call_that_is_over_is_none(open_relay: OpenRelay) -> None:
    relay = await open_relay(answer_s=0.05)
    control = await reserved(relay)
    alice = await Bare.open(control.called)
    incoming = await control.hear()
    assert isinstance(incoming, Incoming)
    while relay.book.num_circuits:  # noqa: ASYNC110
        await asyncio.sleep(0)
    bob = await Bare.open(relay.port)
    bob.accept(BOB, incoming.token)
    assert await bob.rest() == await alice.rest() == b""
    control.close()


async def test_what_alice_says_before_the_circuit_stands_is_bobs_to_hear(open_relay: OpenRelay) -> None:
    """The relay reads nothing of it, and keeps nothing."""
    relay = await open_relay(circuits_per_callee=1)
    control = await reserved(relay)
    alice = await Bare.open(control.called)
    alice.say(b"\x00\x04early")
    incoming = await control.hear()
    assert isinstance(incoming, Incoming)
    one_more = await Bare.open(control.called)
    assert await one_more.rest() == b""
    bob = await Bare.open(relay.port)
    bob.accept(BOB, incoming.token)
    assert await bob.hear() == Ok() and await bob.read(7) == b"\x00\x04early"
    alice.close()
    assert await bob.rest() == b"" and await answers(control)
    for one in (bob, control):
        one.close()


async def test_a_callee_that_never_calls_back(open_relay: OpenRelay) -> None:
    relay = await open_relay(answer_s=0.05)
    control = await reserved(relay)
    alice = await Bare.open(control.called)
    assert await alice.rest() == b""
    assert relay.book.num_circuits == 0
    control.close()


async def test_a_callee_that_goes_meanwhile(open_relay: OpenRelay) -> None:
    relay = await open_relay()
    control = await reserved(relay)
    alice = await Bare.open(control.called)
    assert isinstance(await control.hear(), Incoming)
    control.close()
    assert await alice.rest() == b""
    with pytest.raises(OSError):
        await Bare.open(control.called)


async def test_a_private_swarm_s_relay_serves_its_members_alone(open_relay: OpenRelay) -> None:
    relay = await open_relay(swarm_keys=("open sesame", "the old one"))
    right, old, wrong = map(derive_swarm_key, ("open sesame", "the old one", "abracadabra"))
    for keys in ((), (wrong,)):
        stranger = await Bare.open(relay.port)
        answer = await stranger.reserve(BOB, *keys)
        assert isinstance(answer, No) and "--swarm-key" in answer.reason
        assert await stranger.hear() is None
    for known in ((right,), (wrong, right), (old,)):
        member = await Bare.open(relay.port)
        assert isinstance(await member.reserve(BOB, *known), Reserved)
        member.close()


async def test_another_version_is_told_so(open_relay: OpenRelay) -> None:
    relay = await open_relay()
    guest = await Bare.open(relay.port)
    guest.say(Greet(2))
    assert await guest.hear() == No("version 2 meets a relay of version 1")


async def test_bob_who_reserves_again_has_one_reservation(open_relay: OpenRelay) -> None:
    """From another network, say: his older connections are dead, and nobody else would end them. He is called where he
    was called before."""
    relay = await open_relay()
    older = await reserved(relay)
    ends = await circuit(relay.port, BOB, older)
    newer = await reserved(relay)
    assert await older.hear() == No("another connection has this reservation now")
    assert [await end.rest() for end in ends] == [b"", b""] and newer.called == older.called
    near, far = await circuit(relay.port, BOB, newer)
    for one in (near, far, newer):
        one.close()


async def test_where_somebody_else_has_bobs_port_he_gets_another(open_relay: OpenRelay) -> None:
    relay = await open_relay()
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", usual_port(ROSE.public_key, BOB.public_key))):
        control = await reserved(relay)
        near, far = await circuit(relay.port, BOB, control)
    for one in (near, far, control):
        one.close()


async def test_who_pings_all_the_time_is_closed(open_relay: OpenRelay) -> None:
    relay = await open_relay()
    control = await reserved(relay)
    control.say(*[Ping()] * 40)
    num = 0
    while await control.hear() == Pong():
        num += 1
    assert num == 16


async def test_silent_guests_make_room_for_newcomers_and_a_flood_is_slowed_down(open_relay: OpenRelay) -> None:
    relay = await open_relay(guests=4, connections_burst=12, connections_per_s=1e-6)
    control = await reserved(relay)
    silent = [await Bare.open(relay.port) for _ in range(5)]
    assert await silent[0].rest() == b""
    near, far = await circuit(relay.port, BOB, control)
    near.say(b"hello")
    assert await far.read(5) == b"hello"
    more = [await Bare.open(relay.port) for _ in range(8)]
    assert await more[-1].rest() == b""
    assert relay.book.refusals["too many connections from this address"] == 3
    for one in (*silent, near, far, *more, control):
        one.close()
