"""A home's router as far as ports are mapped: PCP and NAT-PMP on a real socket, and what can go wrong with either."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

PUBLIC_IP = "11.7.7.7"


@dataclass
class FakeRouter:
    """`speaks`: "PCP", "NAT-PMP" or both. `result`: of what is asked of it. `taken`: outside ports of other machines.

    `lifetime_s`: of every lease, whatever was asked for. `garble`: what becomes of an answer before it is sent.
    `heard`: all questions.
    """

    speaks: tuple[str, ...] = ("PCP", "NAT-PMP")
    public_ip: str = PUBLIC_IP
    result: int = 0
    lifetime_s: int = 7200
    epoch_s: int = 1000
    taken: set[int] = field(default_factory=set)
    ports: dict[int, int] = field(default_factory=dict)
    """Outside ports by inside ports."""
    nonces: dict[int, bytes] = field(default_factory=dict)
    """By inside ports: whose each mapping is, by PCP. Who has another one is told that it is not authorized."""
    heard: list[bytes] = field(default_factory=list)
    garble: Any = None

    def answers(self, data: bytes) -> list[bytes]:
        self.heard.append(data)
        answer = self._pcp(data) if data[0] == 2 else self._pmp(data)
        if answer is None:
            return []
        return list(self.garble(answer)) if self.garble else [answer]

    def _pcp(self, data: bytes) -> bytes | None:
        if "PCP" not in self.speaks:
            return struct.pack(">BBHI", 0, 128 + data[1], 1, self.epoch_s) if "NAT-PMP" in self.speaks else None
        asked_s = struct.unpack(">I", data[4:8])[0]
        nonce, protocol, inside, outside, _ = struct.unpack(">12sB3xHH16s", (data + bytes(60))[24:60])
        is_anothers = data[1] != 0 and inside in self.ports and self.nonces.get(inside, nonce) != nonce
        result = self.result or (2 if is_anothers else 0)
        lifetime_s = self.lifetime_s if asked_s else 0
        head = struct.pack(">BBBBII12x", 2, 128 + data[1], 0, result, lifetime_s, self.epoch_s)
        if data[1] == 0:
            return head
        if not is_anothers:
            self.nonces[inside] = nonce
            outside = self._map(inside, outside, asked_s)
        ip = ipaddress.IPv6Address("::ffff:" + self.public_ip).packed
        return head + struct.pack(">12sB3xHH16s", nonce, protocol, inside, outside, ip)

    def _pmp(self, data: bytes) -> bytes | None:
        if "NAT-PMP" not in self.speaks:
            return None
        head = struct.pack(">BBHI", 0, 128 + data[1], self.result, self.epoch_s)
        if data[1] == 0:
            return head + ipaddress.IPv4Address(self.public_ip).packed
        inside, outside, asked_s = struct.unpack(">HHI", data[4:12])
        outside = self._map(inside, outside, asked_s)
        return head + struct.pack(">HHI", inside, outside, self.lifetime_s if asked_s else 0)

    def _map(self, inside: int, outside: int, asked_s: int) -> int:
        if self.result:
            return outside
        if not asked_s:
            self.ports.pop(inside, None)
            return 0
        while outside in self.taken:
            outside += 1
        self.ports[inside] = outside
        return outside


class RouterSocket(asyncio.DatagramProtocol):
    """The router at a port of loopback. `told`: set with each question."""

    def __init__(self, router: FakeRouter) -> None:
        self.router = router
        self.told = asyncio.Event()
        self.asker: Any = None

    @classmethod
    async def open(cls, router: FakeRouter, at: tuple[str, int] = ("127.0.0.1", 0)) -> RouterSocket:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_datagram_endpoint(lambda: cls(router), local_addr=at)
        return protocol

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._transport.get_extra_info("sockname")
        return host, port

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asker = addr
        for answer in self.router.answers(data):
            self._transport.sendto(answer, addr)
        self.told.set()

    def announce(self, port: int | None, group: str = "") -> None:
        """That it has started; by multicast to the network that it is in, or to loopback."""
        message = struct.pack(">BBHI4s", 0, 128, 0, self.router.epoch_s, socket.inet_aton(self.router.public_ip))
        own = socket.inet_aton(self.address[0])
        self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
        self._transport.sendto(message, (group or "127.0.0.1", port))

    def close(self) -> None:
        self._transport.close()
