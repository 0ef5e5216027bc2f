"""Mallory hangs up just as alice does, while a message of alice's is half sent: libzmq would end alice's process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zmq

from dsdnode.identity import Identity
from dsdnode.net.sockets import Farewell, bind_router, open_context, open_dealer

HANGING_UP = """
import asyncio, random, socket, struct, sys, time
import zmq
from dsdnode.net.door import Door
from dsdnode.net.sockets import Farewell, Names, open_monitor, receive_event

side, careful, num = sys.argv[1], sys.argv[2] == "careful", int(sys.argv[3])
context, names = zmq.Context(), Names()
# As mallory says it: ZMTP 3.1 without any security, so that she needs no library.
GREETING = b"\\xff" + bytes(8) + b"\\x7f\\x03\\0NULL" + bytes(16) + bytes(32)
READY = b"\\x05READY\\x0bSocket-Type" + struct.pack(">I", 6) + (b"ROUTER" if side == "dealer" else b"DEALER")


def shake_hands(mallory):
    mallory.sendall(GREETING)
    got = 0
    while got < 64:
        got += len(mallory.recv(64 - got))
    mallory.sendall(b"\\x04" + bytes([len(READY)]) + READY)
    mallory.recv(1000)
    mallory.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def one():
    alice = context.socket(zmq.DEALER if side == "dealer" else zmq.ROUTER)
    alice.linger, alice.sndbuf = 0, 8192
    monitor = open_monitor(context, alice, names, zmq.EVENT_ALL)
    with socket.socket() as mallory:
        mallory.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        if side == "dealer":
            mallory.bind(("127.0.0.1", 0))
            mallory.listen()
            alice.setsockopt(zmq.RECONNECT_IVL, -1)
            alice.connect("tcp://127.0.0.1:%d" % mallory.getsockname()[1])
            theirs, _ = mallory.accept()
        else:
            mallory.connect(("127.0.0.1", alice.bind_to_random_port("tcp://127.0.0.1")))
            theirs = mallory
        shake_hands(theirs)
        event = 0
        while event not in (zmq.EVENT_CONNECTED, zmq.EVENT_ACCEPTED):
            monitor.poll(5000)
            event, descriptor = receive_event(monitor)
        if side == "router":  # she says hello, so that there is somebody to answer
            theirs.sendall(b"\\0\\2hi")
            frames = [alice.recv_multipart()[0]]
        else:
            alice.poll(5000, zmq.POLLOUT)
            frames = []
        alice.send_multipart([*frames, *[bytes(60_000)] * 8])
        time.sleep(0.001)
        wait_s = time.perf_counter() + random.random() * 4e-4
        hang_up = asyncio.get_running_loop().run_in_executor(None, end, theirs, wait_s)
        if careful:
            alice.disable_monitor()
            farewell = Farewell(alice, [door] if (door := Door.at(descriptor)) else [])
        else:
            alice.close(0)
        await hang_up
    while not alice.closed:
        await asyncio.sleep(0.001)
    monitor.close(0)


def end(theirs, when_s):
    while time.perf_counter() < when_s:
        pass
    theirs.close()


async def all():
    for _ in range(num):
        await one()


asyncio.run(all())
print("alive")
"""


def hang_up(side: str, how: str, num: int) -> subprocess.CompletedProcess[str]:
    asked = [sys.executable, "-c", HANGING_UP, side, how, str(num)]
    return subprocess.run(
        asked, capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parents[2]
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="hangs up by shutting a connection's descriptor down")
@pytest.mark.parametrize(("side", "num"), [("dealer", 400), ("router", 100)])
def test_alice_lives_whenever_mallory_hangs_up(side: str, num: int) -> None:
    """Without care she is dead after ten."""
    ended = hang_up(side, "careful", num)
    assert (ended.stdout, ended.returncode) == ("alive\n", 0), ended.stderr


UNREAD = """
import asyncio
import zmq
from zmq.utils import z85
from dsdnode.identity import Identity
from dsdnode.net.door import Door
from dsdnode.net.sockets import Farewell, Names, open_context, open_dealer, open_monitor, receive_event

ALICE, MALLORY = Identity(b"a" * 32), Identity(b"m" * 32)
context, names = open_context(), Names()


async def main():
    mallory = zmq.Context().socket(zmq.ROUTER)
    mallory.linger, mallory.sndhwm, mallory.curve_server = 0, 0, 1
    mallory.curve_secretkey = z85.encode(MALLORY.curve_secret_key)
    address = "tcp://127.0.0.1:%d" % mallory.bind_to_random_port("tcp://127.0.0.1")
    held = []
    for _ in range(8):  # begun at other times, so that whatever is done now and then is due at one of them
        alice = open_dealer(context, ALICE, MALLORY.curve_public_key, address)
        monitor = open_monitor(context, alice, names, zmq.EVENT_CONNECTED)
        alice.connect(address)
        monitor.poll(5000)
        held.append((alice, Door.at(receive_event(monitor)[1])))
        alice.poll(5000, zmq.POLLOUT)
        alice.send(b"hi")
        name, _ = mallory.recv_multipart()
        for _ in range(500):
            mallory.send_multipart([name, bytes(20_000)])
        alice.disable_monitor()
        monitor.close(0)
        await asyncio.sleep(0.25)
    for alice, door in held:
        Farewell(alice, [door])
    while not all(alice.closed for alice, _ in held):
        await asyncio.sleep(0.01)


asyncio.run(main())
print("alive")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="hangs up by shutting a connection's descriptor down")
def test_alice_lives_when_she_hangs_up_on_mallory_and_has_not_read_what_he_said() -> None:
    """With heartbeats of libzmq's she dies of the next one that is due."""
    ended = subprocess.run(
        [sys.executable, "-c", UNREAD], capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2]
    )
    assert (ended.stdout, ended.returncode) == ("alive\n", 0), ended.stderr


def test_neither_end_has_heartbeats_of_libzmq_s() -> None:
    context, bob = open_context(), Identity(b"b" * 32)
    router, port = bind_router(context, bob, "tcp://127.0.0.1:0")
    dealer = open_dealer(context, bob, bob.curve_public_key, f"tcp://127.0.0.1:{port}")
    assert [one.getsockopt(zmq.HEARTBEAT_IVL) for one in (router, dealer)] == [0, 0]
    router.close(0)
    dealer.close(0)
    context.term()


async def test_a_socket_is_closed_when_libzmq_has_done_with_its_connections() -> None:
    happened: list[str] = []

    class Held:
        num_looks = 0

        def close(self) -> None:
            happened.append("hung up")

        def is_open(self) -> bool:
            self.num_looks += 1
            return self.num_looks < 4

    held: Any = Held()
    closed = asyncio.Event()

    def close(linger: int) -> None:
        happened.append("closed")
        closed.set()

    socket: Any = SimpleNamespace(close=close)
    Farewell(socket, [held])
    assert happened == ["hung up"]
    await asyncio.wait_for(closed.wait(), 5)
    assert happened == ["hung up", "closed"] and held.num_looks == 4
