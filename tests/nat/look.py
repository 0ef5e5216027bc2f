"""How a home looks from outside: two observers whom its host calls from one port, and a stranger."""

from __future__ import annotations

import errno
import select
import socket

from tests.nat.kinds import Look
from tests.nat.lab import Host, Lab

INSIDE_PORT = 40000
ANSWER_S = 5.0
"""For what must be answered."""
SILENCE_S = 0.1
"""What is not answered by then is not: the lines here take microseconds, and kernels answer."""


class Observers:
    """Three public hosts: two that are called, and a stranger."""

    def __init__(self, town: Lab) -> None:
        self.called = [town.home("public") for _ in range(2)]
        self.stranger = town.home("public")
        self._doors = [_listen(host, 7000) for host in self.called]

    def look(self, home: Host) -> Look:
        seen, kept = [], []
        for host, door in zip(self.called, self._doors, strict=True):
            kept.append(_call(home, (host.public_ip, 7000), INSIDE_PORT))
            there, address = door.accept()
            kept.append(there)
            assert address[0] == home.public_ip
            seen.append(address)
        kept.append(_listen(home, INSIDE_PORT))
        stranger, known = dial([self.stranger, self.called[0]], seen[0])
        for sock in kept:
            sock.close()
        step = seen[1][1] - seen[0][1]
        return Look({0: "same", 1: "next"}.get(step, "random"), stranger, known)

    def close(self) -> None:
        for door in self._doors:
            door.close()


def dial(hosts: list[Host], address: tuple[str, int]) -> list[str]:
    """What each hears who calls there, all at a time: `open`, `refused` or `silence`."""
    socks = [_call(host, address, 0) for host in hosts]
    heard = dict.fromkeys(socks, "silence")
    waiting = list(socks)
    while waiting:
        _, ended, _ = select.select([], waiting, [], SILENCE_S)
        if not ended:
            break
        for sock in ended:
            waiting.remove(sock)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            heard[sock] = {0: "open", errno.ECONNREFUSED: "refused"}.get(error, errno.errorcode.get(error, "?"))
    for sock in socks:
        sock.close()
    return list(heard.values())


def _call(host: Host, address: tuple[str, int], port: int) -> socket.socket:
    """A connection that has been begun."""
    sock = _socket(host, port)
    sock.setblocking(False)
    assert sock.connect_ex(address) in (0, errno.EINPROGRESS)
    return sock


def _listen(host: Host, port: int) -> socket.socket:
    sock = _socket(host, port)
    sock.listen()
    sock.settimeout(ANSWER_S)
    return sock


def _socket(host: Host, port: int) -> socket.socket:
    with host.inside():
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("0.0.0.0", port))
    return sock
