"""Circuits of a relay, each at a host of a lab, that carry as much as they may, or nothing: a process of its own.

    python -m tests.nat.traffic HOST PORT KEY NUM CALLEE CALLER...

The relay's host, port and public key; so many circuits from each caller to the callee (namespaces). It says `ready`;
then of each line that it reads: `busy` fills all of them until the next line, `idle` leaves them alone. Meanwhile the
last caller's first one carries 100 bytes there and back, again and again. Since the line before: the bytes that have
come through, seconds, and of the round trips the median and the 99th percentile, in ms. It ends with its input.
"""

from __future__ import annotations

import select
import socket
import sys
import threading
import time

from dsdnode.identity import Identity
from dsdnode.net.relay import frames
from dsdnode.net.relay.book import Limits
from dsdnode.net.relay.frames import Ping
from tests.nat.namespaces import inside
from tests.net.relay.bench import CHUNK, answer, call, reserve

CALLEE = Identity(b"callee".ljust(32))
PING_S = 20.0
LOOK_S = 0.01
PROBE_S = 0.02
PROBE_BYTES = 100
OPEN_S = 1.1 / Limits.connections_per_s
"""From one circuit to the next: the callee's address may call so often."""


class Traffic:
    """`busy`: fill the circuits. `num_bytes`: that have come through; `took_s`: of the last one's round trips."""

    def __init__(self, near: list[socket.socket], far: list[socket.socket]) -> None:
        self.busy = False
        self.num_bytes = 0
        self.took_s: list[float] = []
        self._near, self._far, self._probe, self._echo = near[:-1], far[:-1], near[-1], far[-1]
        self._sent_s = 0.0
        """Of the round trip under way; 0: there is none."""
        self._by_descriptor = {one.fileno(): one for one in (*near, *far)}
        self._poll = select.epoll()
        for one in self._by_descriptor.values():
            one.setblocking(False)
            self._poll.register(one.fileno(), select.EPOLLIN)

    def carry(self, control: socket.socket) -> None:
        """For ever; the reservation is kept meanwhile."""
        pinged_s = probed_s = time.monotonic()
        was_busy = False
        while True:
            if self.busy != was_busy:
                was_busy = self.busy
                for one in self._near:
                    self._poll.modify(one.fileno(), select.EPOLLOUT if was_busy else 0)
            for descriptor, event in self._poll.poll(LOOK_S):
                self._look(self._by_descriptor[descriptor], event)
            now_s = time.monotonic()
            if not self._sent_s and now_s >= probed_s + PROBE_S:
                probed_s = self._sent_s = now_s
                self._probe.send(bytes(PROBE_BYTES))
            if now_s >= pinged_s + PING_S:
                pinged_s = now_s
                control.sendall(frames.pack(Ping()))

    def _look(self, one: socket.socket, event: int) -> None:
        if event & select.EPOLLOUT:
            one.send(CHUNK)
        if event & select.EPOLLIN:
            data = one.recv(len(CHUNK))
            if one is self._echo:
                one.send(data)
            elif one is self._probe:
                self.took_s.append(time.monotonic() - self._sent_s)
                self._sent_s = 0.0
            else:
                self.num_bytes += len(data)


def main() -> None:
    host, port, key, num, callee, *callers = sys.argv[1:]
    relay_key = bytes.fromhex(key)
    with inside(callee):
        control, called = reserve(int(port), host, relay_key, CALLEE)
    near, far = list[socket.socket](), list[socket.socket]()
    for caller in callers:
        for _ in range(int(num)):
            with inside(caller):
                near.append(call(called, host))
            with inside(callee):
                far.append(answer(int(port), control, host, relay_key, CALLEE))
            time.sleep(OPEN_S)
    traffic = Traffic(near, far)
    threading.Thread(target=traffic.carry, args=(control,), daemon=True).start()
    print("ready", flush=True)
    since_s, before = time.monotonic(), 0
    for line in sys.stdin:
        now_s, num_bytes = time.monotonic(), traffic.num_bytes
        took_s, traffic.took_s = sorted(traffic.took_s) or [0.0], []
        p50, p99 = (1e3 * took_s[int(len(took_s) * share)] for share in (0.5, 0.99))
        print(num_bytes - before, now_s - since_s, p50, p99, flush=True)
        since_s, before, traffic.busy = now_s, num_bytes, line.strip() == "busy"


if __name__ == "__main__":
    main()
