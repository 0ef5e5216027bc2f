"""The port that others dial is ours alone to listen on, and calls of our own may leave from it."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from dsdnode.addresses import parse_address
from dsdnode.errors import BadInput
from dsdnode.identity import Identity
from dsdnode.net import listener
from dsdnode.net.listener import socket_from
from dsdnode.net.zmq import ZmqTransport
from tests.net.conftest import Start

ALICE, BOB = (Identity(name * 32) for name in (b"a", b"b"))
shares = pytest.mark.skipif(not listener.CAN_SHARE, reason="this system does not share ports")


def port_of(transport: object) -> int:
    assert isinstance(transport, ZmqTransport) and transport._router is not None
    return transport._router.port


def called_from(host: str, port: int, door: socket.socket) -> tuple[socket.socket, socket.socket, int]:
    """Both ends of a connection from the port that is listened on, and the port as it was seen."""
    own = socket_from(host, port, "127.0.0.1")
    own.setblocking(True)
    own.settimeout(5)
    own.connect(door.getsockname())
    there, (_, seen) = door.accept()
    return own, there, seen


@shares
@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0", "[::]"])
async def test_bob_is_called_by_alice_at_the_port_that_he_calls_dave_and_carol_from(start: Start, listen: str) -> None:
    alice, bob = await start(b"a"), await start(b"b", listen=f"tcp://{listen}:0")
    port = port_of(bob.transport)
    with ExitStack() as ends:
        for _ in range(2):
            door = ends.enter_context(socket.create_server(("127.0.0.1", 0)))
            own, there, seen = called_from(listen.strip("[]"), port, door)
            ends.enter_context(own), ends.enter_context(there)
            assert seen == port
        alice.transport.introduce(bob.transport.contact)
        await alice.ping(BOB.peer_id, timeout_s=5)


@shares
@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0", "[::]"])
async def test_a_second_daemon_of_the_same_user_is_told_that_the_port_is_in_use(start: Start, listen: str) -> None:
    """Also while calls leave from it, and on whichever address it would listen."""
    port = port_of((await start(b"b", listen=f"tcp://{listen}:0")).transport)
    with socket.create_server(("127.0.0.1", 0)) as door, ExitStack() as ends:
        own, there, _ = called_from(listen.strip("[]"), port, door)
        ends.enter_context(own), ends.enter_context(there)
        for other in ("127.0.0.1", "0.0.0.0", "[::]"):
            with pytest.raises(BadInput, match=f"port {port} is in use"):
                await ZmqTransport.open(ALICE, listen=f"tcp://{other}:{port}")


@shares
async def test_bob_listens_again_at_once_while_a_call_of_his_lives_and_another_one_has_just_ended(start: Start) -> None:
    alice, bob = await start(b"a"), await start(b"b", listen="tcp://[::]:0")
    port = port_of(bob.transport)
    with ExitStack() as ends:
        door = ends.enter_context(socket.create_server(("127.0.0.1", 0)))
        for lives in (True, False):
            own, there, _ = called_from("::", port, door if lives else socket.create_server(("127.0.0.1", 0)))
            ends.enter_context(there)
            if lives:
                ends.enter_context(own)
            else:
                own.close()
        await bob.close()
        again = await start(b"b", listen=f"tcp://[::]:{port}")
        alice.transport.introduce(again.transport.contact)
        await alice.ping(BOB.peer_id, timeout_s=5)


@shares
async def test_a_call_to_where_one_leads_already_is_refused_by_the_system(start: Start) -> None:
    port = port_of((await start(b"b")).transport)
    with socket.create_server(("127.0.0.1", 0)) as door:
        own, there, _ = called_from("127.0.0.1", port, door)
        with own, there, socket_from("127.0.0.1", port, "127.0.0.1") as twin, pytest.raises(OSError):
            twin.connect(door.getsockname())


async def test_where_ports_are_not_shared_bob_is_reached_as_ever_and_a_call_from_his_port_is_an_error(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "CAN_SHARE", False)
    alice, bob = await start(b"a"), await start(b"b")
    alice.transport.introduce(bob.transport.contact)
    await alice.ping(BOB.peer_id, timeout_s=5)
    (address,) = bob.transport.contact.addresses
    with pytest.raises(OSError, match="share"):
        socket_from(*parse_address(address), "127.0.0.1")
    with pytest.raises(BadInput, match="in use"):
        await ZmqTransport.open(ALICE, listen=address)
