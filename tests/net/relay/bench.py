"""What a relay costs: `python -m tests.net.relay.bench`.

The relay has a process of its own, both ends of all circuits are in another one, without CURVE. Latency: on every
circuit at once 100 bytes go to the callee and back, again and again; the same over plain connections of loopback, and
the difference. Throughput: every circuit is kept full one way. The relay's rates are out of the way.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import psutil

from dsdnode.identity import Identity
from dsdnode.net.relay import frames
from dsdnode.net.relay.book import Limits
from dsdnode.net.relay.frames import Accept, Challenge, Frame, Greet, Incoming, Ok, Reserved
from dsdnode.net.relay.server import Relay
from tests.node.mutation import ROOT

BOB, ROSE = (Identity(name * 32) for name in (b"b", b"r"))
NUMS = (1, 16, 64)
MESSAGE_BYTES = 100
CHUNK = bytes(64 * 1024)
Pair = tuple[socket.socket, socket.socket]


async def serve() -> None:
    free, most = 1e12, max(NUMS)
    limits = Limits(
        bytes_per_s=free,
        circuit_bytes_per_s=free,
        circuit_bytes=1 << 50,
        circuits_per_callee=most,
        circuits_per_caller=most,
        dials_burst=free,
        calls_burst=free,
        network_burst=free,
        connections_burst=free,
        unanswered=1 << 30,
    )
    relay = await Relay.open(ROSE, "127.0.0.1", 0, limits=limits)
    print(relay.port, flush=True)
    await asyncio.Event().wait()


# --- circuits -----------------------------------------------------------------------------------------------------


def call(port: int, host: str = "127.0.0.1") -> socket.socket:
    one = socket.create_connection((host, port), timeout=10)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


def ask(one: socket.socket, frame: Frame, kind: type[Frame]) -> Frame:
    one.sendall(frames.pack(frame))
    return hear(one, kind)


def hear(one: socket.socket, kind: type[Frame]) -> Frame:
    head = one.recv(frames.HEAD_BYTES, socket.MSG_WAITALL)
    return frames.unpack(one.recv(frames.body_bytes(head), socket.MSG_WAITALL), kind)


def reserve(
    port: int, host: str = "127.0.0.1", relay_key: bytes = ROSE.public_key, callee: Identity = BOB
) -> tuple[socket.socket, int]:
    """The reservation, and where bob is called."""
    control = call(port, host)
    challenge = ask(control, Greet(frames.RELAY_VERSION), Challenge)
    assert isinstance(challenge, Challenge)
    terms = ask(control, frames.reserve(callee, (), relay_key, challenge.challenge), Reserved)
    assert isinstance(terms, Reserved)
    return control, terms.port


def circuit(port: int, control: socket.socket, called: int) -> Pair:
    near = call(called)
    return near, answer(port, control)


def answer(
    port: int,
    control: socket.socket,
    host: str = "127.0.0.1",
    relay_key: bytes = ROSE.public_key,
    callee: Identity = BOB,
) -> socket.socket:
    """Bob's end of the next circuit that he is told of."""
    far = call(port, host)
    incoming = hear(control, Incoming)
    assert isinstance(incoming, Incoming)
    ask(far, Accept(incoming.token, callee.sign(frames.to_accept(relay_key, incoming.token))), Ok)
    return far


def plain() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = call(server.getsockname()[1])
        far, _ = server.accept()
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


# --- measured -----------------------------------------------------------------------------------------------------


def drive(pairs: Sequence[Pair], events: int, ready: Callable[[socket.socket, int], bool]) -> None:
    """Until `ready`, which is called with each socket and what may be done with it, says that it is enough."""
    poll, by_descriptor = select.epoll(), {one.fileno(): one for pair in pairs for one in pair}
    with poll:
        for descriptor, one in by_descriptor.items():
            one.setblocking(False)
            poll.register(descriptor, select.EPOLLIN)
        for near, _ in pairs:
            poll.modify(near.fileno(), events)
        while True:
            for descriptor, event in poll.poll(10):
                if ready(by_descriptor[descriptor], event):
                    return


def round_trips_us(pairs: Sequence[Pair], num: int) -> list[float]:
    """Of messages that all circuits carry at once."""
    took_us: list[float] = []
    begun_s: dict[socket.socket, float] = {}
    warm = num // 10

    def send(near: socket.socket) -> None:
        begun_s[near] = time.perf_counter()
        near.send(bytes(MESSAGE_BYTES))

    def ready(one: socket.socket, event: int) -> bool:
        data = one.recv(MESSAGE_BYTES)
        if one not in begun_s:
            one.send(data)
            return False
        took_us.append((time.perf_counter() - begun_s[one]) * 1e6)
        send(one)
        return len(took_us) >= num + warm

    for near, _ in pairs:
        send(near)
    drive(pairs, select.EPOLLIN, ready)
    return sorted(took_us[warm:])


def fill(pairs: Sequence[Pair], num_bytes: int) -> float:
    """Seconds until so many bytes have arrived, of all circuits together."""
    got = 0

    def ready(one: socket.socket, event: int) -> bool:
        nonlocal got
        if event & select.EPOLLOUT:
            one.send(CHUNK)
        if event & select.EPOLLIN:
            got += len(one.recv(len(CHUNK)))
        return got >= num_bytes

    begun_s = time.perf_counter()
    drive(pairs, select.EPOLLOUT, ready)
    return time.perf_counter() - begun_s


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def row(port: int, process: psutil.Process, num: int, messages: int, num_mb: int) -> str:
    control, called = reserve(port)
    direct, relayed = [plain() for _ in range(num)], [circuit(port, control, called) for _ in range(num)]
    cells = []
    for pairs in (direct, relayed):
        took_us = round_trips_us(pairs, messages)
        cells.append((statistics.median(took_us), took_us[int(len(took_us) * 0.99)]))
    cells.append((cells[1][0] - cells[0][0], cells[1][1] - cells[0][1]))
    told = [f"{p50:7.0f} /{p99:7.0f}" for p50, p99 in cells]
    for pair in relayed:
        for one in pair:
            one.close()
    relayed = [circuit(port, control, called) for _ in range(num)]
    before_s = cpu_s(process)
    wall_s = fill(relayed, num_mb * 1_000_000)
    used_s = cpu_s(process) - before_s
    for pair in [*direct, *relayed]:
        for one in pair:
            one.close()
    control.close()
    return f"{num:8} {' '.join(told)} {num_mb / wall_s:7.0f} {1e3 * used_s / num_mb:8.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000, metavar="N", help="round trips in a row of the table")
    parser.add_argument("--megabytes", type=int, default=500, metavar="N", help="carried in a row of the table")
    parser.add_argument("--serve", action="store_true", help="be the relay")
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
        return 0
    command = [sys.executable, "-m", "tests.net.relay.bench", "--serve"]
    relay = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert relay.stdout is not None
        port = int(relay.stdout.readline())
        print(f"{'':8} {'round trip of 100 bytes, us (p50 / p99)':48} {'':7} {'relay CPU':>8}")
        print(f"{'circuits':8} {'direct':>16} {'relayed':>16} {'added':>16} {'MB/s':>7} {'ms/MB':>8}")
        for num in NUMS:
            print(row(port, psutil.Process(relay.pid), num, options.messages, options.megabytes), flush=True)
    finally:
        relay.send_signal(signal.SIGTERM)
        relay.wait(10)
    return 0


if __name__ == "__main__":
    sys.exit(main())
