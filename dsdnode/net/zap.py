"""Who may connect at all: bans by key, a rate by address, and nobody new while the process is being filled with bytes.

ZAP is libzmq's question "this address proved this key: shall it come in?", asked after CURVE and before any message.
"""

from __future__ import annotations

import asyncio
import ipaddress

import structlog
import zmq
from cachetools import LRUCache

from dsdnode.accounts import MAX_REMEMBERED, Credits
from dsdnode.addresses import network_of
from dsdnode.net.door import said_by
from dsdnode.net.sockets import Pump

CONNECTIONS_BURST = 256
CONNECTIONS_PER_S = 32.0
"""From one address (IPv6: /64)."""
REFUSAL_COST = 8.0
"""A greeting that is refused costs us as much as so many connections, and its address as many of those it may make."""
LOCKDOWN_S = 30.0

log = structlog.get_logger(__name__)


class Gate:
    """Pure: who is admitted at a time."""

    def __init__(self) -> None:
        self._banned: LRUCache[bytes, float] = LRUCache(MAX_REMEMBERED)
        self._known: LRUCache[bytes, None] = LRUCache(MAX_REMEMBERED)
        self._credits = Credits(CONNECTIONS_BURST, CONNECTIONS_PER_S)
        self._circuits = Credits(CONNECTIONS_BURST, CONNECTIONS_PER_S)
        """Of those who come by way of a relay, by the relay and whom it names: it may name anybody, and makes him pay
        for no more than what comes by itself."""
        self._spliced: LRUCache[int, tuple[bytes, str]] = LRUCache(MAX_REMEMBERED)
        """Which of these it is, by the local port of a circuit's end."""
        self._locked_until = 0.0
        self._locked_networks: LRUCache[str, float] = LRUCache(MAX_REMEMBERED)

    def admit(self, now: float, address: str, key: bytes) -> str:
        """Why a connection is refused; empty: it is admitted."""
        if self.is_banned(now, key):
            return "banned"
        if key not in self._known and self.is_locked(now, address):
            return "full"
        return "" if self._credits.spend(_group(address), now) else "too many connections from this address"

    def admits_circuit(self, now: float, relay: bytes, address: str) -> bool:
        """May somebody come in from there by way of this relay? To `admit`, whoever does comes from this machine."""
        where = network_of(address)
        if now < max(self._locked_networks.get(one, 0.0) for one in (where, said_by(relay, where))):
            return False
        return self._circuits.spend((relay, _group(address)), now)

    def comes_by(self, port: int, relay: bytes, address: str) -> None:
        """Whoever comes from this port of ours was admitted so."""
        self._spliced[port] = relay, _group(address)

    def know(self, key: bytes) -> None:
        """This key completed a HELLO: it comes in also when strangers may not."""
        self._known[key] = None

    def refused(self, now: float, address: str, circuit: int = 0) -> None:
        """A greeting from there was answered by no. `circuit`: the port of ours, if it came by way of a relay."""
        if circuit:
            self._circuits.charge(self._spliced.get(circuit, (b"", _group(address))), now, REFUSAL_COST)
        else:
            self._credits.charge(_group(address), now, REFUSAL_COST)

    def ban(self, now: float, key: bytes, duration_s: float) -> None:
        self._banned[key] = now + duration_s

    def is_banned(self, now: float, key: bytes) -> bool:
        return self._banned.get(key, 0.0) > now

    def lock(self, now: float, network: str | None = None) -> None:
        """Strangers, all of one network if it is given, filled our memory: admit only who is known, for a while.
        `network`: also as a relay says (door.py)."""
        if network is None:
            self._locked_until = now + LOCKDOWN_S
        else:
            self._locked_networks[network] = now + LOCKDOWN_S

    def is_locked(self, now: float, address: str) -> bool:
        return now < max(self._locked_until, self._locked_networks.get(network_of(address), 0.0))


def _group(address: str) -> str:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return address
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))


class ZapServer:
    """Answers libzmq's questions from a gate; the key in hex becomes the User-Id of every frame of the connection."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], gate: Gate) -> None:
        self._gate = gate
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind("inproc://zeromq.zap.01")
        self._pump = Pump(self._socket, self._take)

    def close(self) -> None:
        self._pump.close()

    def _take(self) -> None:
        question = self._socket.recv_multipart(zmq.NOBLOCK)
        version, request_id = question[:2]
        refusal, user = "malformed", b""
        if version == b"1.0" and len(question) == 7 and question[5] == b"CURVE":
            now = asyncio.get_running_loop().time()
            refusal = self._gate.admit(now, question[3].decode(), question[6])
            user = question[6].hex().encode()
        if refusal:
            log.debug(
                "connection refused",
                address=question[3][:64].decode(errors="replace") if len(question) > 3 else "",
                reason=refusal,
            )
        status = b"400" if refusal else b"200"
        self._socket.send_multipart([version, request_id, status, refusal.encode(), b"" if refusal else user, b""])
        self._pump.sent()
