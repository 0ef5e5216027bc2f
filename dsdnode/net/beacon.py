"""Who else of our swarm is in the same house: called for by multicast and broadcast, so that nobody needs to be named.

Who comes asks at once, after a second and after three, and says in the same breath how to reach it; who hears that
answers to the asker alone. Swarms are told apart by tags, which tell nothing of their keys to who cannot guess them.
What is heard is anybody's word: whoever is called because of it has to prove both keys, as always.

A datagram is `dsdnode beacon 1`, a line feed, `?` or `!`, a tag of 8 bytes, and a contact of at most 700.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from cachetools import LRUCache

from dsdnode.accounts import Credits
from dsdnode.net.interfaces import Own, own_addresses
from dsdnode.net.port import MAX_TURN

BEACON_PORT = 29170
"""UDP; the number that nodes listen at by TCP."""
GROUP = "239.255.29.170"
"""Of this site (RFC 2365): no router passes it on."""
MAX_CONTACT_BYTES = 700
"""Four addresses of 128 characters, and a key."""
ASK_AFTER_S = (0.0, 1.0, 3.0)
"""Wireless networks lose some of what is said to all, and nobody says it again for us."""
MAX_NEIGHBOURS = 256
NEWS_S = 60.0
"""What was said so long ago is news when it is said again: its sender may have been forgotten since."""
BURST, PER_S = 24, 0.5
"""Heard of one machine at a time, and a second: a daemon that comes asks three times, by two ways and by two keys."""
BURST_OF_ALL, PER_S_OF_ALL = 128, 16
"""Of all machines together: who makes up senders gets no more."""
_HEAD = b"dsdnode beacon 1\n"
_QUESTION, _ANSWER = b"?", b"!"
_TAG_BYTES = 8
_FRONT_BYTES = len(_HEAD) + 1 + _TAG_BYTES
MAX_DATAGRAM_BYTES = _FRONT_BYTES + MAX_CONTACT_BYTES


def tag_of(swarm_name: str) -> bytes:
    """`swarm_name`: as `handshake.swarm_names` gives it, of a stretched key, or "open"."""
    return hashlib.sha256(b"dsdnode beacon tag 1\n" + swarm_name.encode()).digest()[:_TAG_BYTES]


class Neighbours:
    """What is said to the house, and what is made of what it says. Pure."""

    def __init__(self, swarm_names: Sequence[str], contact: bytes) -> None:
        """Two swarm names, while one key replaces the other. `contact`: as in `say`."""
        self.contact = b""
        self.say(contact)
        self.networks: tuple[str, ...] = ()
        """Those that we are in. From beyond them nothing is heard."""
        self._tags = tuple(map(tag_of, swarm_names))
        self._known: LRUCache[tuple[bytes, str], float] = LRUCache(MAX_NEIGHBOURS)
        """Contacts and where they were heard, and when that was news: who is in the house twice is reached by one way
        perhaps."""
        self._credits = Credits(BURST, PER_S)
        self._credits_of_all = Credits(BURST_OF_ALL, PER_S_OF_ALL)

    def __len__(self) -> int:
        return len(self._known)

    def say(self, contact: bytes) -> None:
        """How to reach us from now on, for who is near; empty for who only asks. Raises ValueError: it is too long."""
        if len(contact) > MAX_CONTACT_BYTES:
            raise ValueError(f"a contact of {len(contact)} bytes: a beacon has room for {MAX_CONTACT_BYTES}")
        self.contact = contact

    def questions(self) -> list[bytes]:
        return [_HEAD + _QUESTION + tag + self.contact for tag in self._tags]

    def hear(self, now: float, data: bytes, host: str) -> tuple[bytes, bytes]:
        """What to answer to `host`, and the contact that is news; each empty if there is none."""
        if not _FRONT_BYTES <= len(data) <= MAX_DATAGRAM_BYTES or not data.startswith(_HEAD):
            return b"", b""
        kind, tag, contact = data[len(_HEAD) :][:1], data[len(_HEAD) + 1 :][:_TAG_BYTES], data[_FRONT_BYTES:]
        if kind not in (_QUESTION, _ANSWER) or tag not in self._tags or not self._is_near(host):
            return b"", b""
        if contact == self.contact:
            return b"", b""  # we hear ourselves; or neither of us can be called
        if not self._credits.spend(host, now) or not self._credits_of_all.spend("", now):
            return b"", b""
        answer = _HEAD + _ANSWER + tag + self.contact if kind == _QUESTION and self.contact else b""
        return answer, contact if self._is_news(now, contact, host) else b""

    def forget(self) -> None:
        """We are in another house."""
        self._known.clear()

    def _is_near(self, host: str) -> bool:
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(ip in ipaddress.ip_network(network) for network in self.networks)

    def _is_news(self, now: float, contact: bytes, host: str) -> bool:
        if not contact or now < self._known.get((contact, host), float("-inf")) + NEWS_S:
            return False
        self._known[contact, host] = now
        return True


class Beacon:
    """The sockets and the clock around `Neighbours`. `on_neighbour`: a contact that is news, and where it was heard."""

    def __init__(
        self,
        neighbours: Neighbours,
        on_neighbour: Callable[[bytes, str], None],
        port: int = BEACON_PORT,
        read: Callable[[], tuple[Own, ...]] = own_addresses,
    ) -> None:
        """Raises OSError: another program has the port for itself."""
        self._neighbours, self._on_neighbour, self._read = neighbours, on_neighbour, read
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._own: tuple[Own, ...] = ()
        self._all = _open_shared(port)
        """What is said to all. Other daemons of this machine hear it, too."""
        try:
            self._mine = _open_own()
            """Ours alone: from here we ask, so here the answers come."""
        except OSError:
            self._all.close()
            raise
        for sock in (self._all, self._mine):
            self._loop.add_reader(sock, self._readable, sock)
        self.addresses_changed()

    @property
    def port(self) -> int:
        return int(self._all.getsockname()[1])

    def addresses_changed(self) -> None:
        """Look at our interfaces anew, and ask whoever is there now."""
        own = tuple(one for one in self._read() if ":" not in one.host)
        if own != self._own:
            self._neighbours.forget()
        self._own = own
        self._neighbours.networks = tuple(dict.fromkeys(one.network for one in own))
        for one in own:
            with suppress(OSError):  # it is in the group already, or has just gone
                group = socket.inet_aton(GROUP) + socket.inet_aton(one.host)
                self._all.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        for timer in self._timers:
            timer.cancel()
        self._timers = [self._loop.call_later(after_s, self._ask) for after_s in ASK_AFTER_S]

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        for sock in (self._all, self._mine):
            self._loop.remove_reader(sock)
            sock.close()

    def _ask(self) -> None:
        """Everybody, through each interface; what one of them does not carry is lost."""
        for one in self._own:
            for question in self._neighbours.questions():
                with suppress(OSError):
                    self._mine.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(one.host))
                    self._mine.sendto(question, (GROUP, self.port))
                with suppress(OSError):
                    if one.broadcast:
                        self._mine.sendto(question, (one.broadcast, self.port))

    def _readable(self, sock: socket.socket) -> None:
        with suppress(OSError):  # all is read, or word came that somebody is not there
            for _ in range(MAX_TURN):
                data, (host, port) = sock.recvfrom(MAX_DATAGRAM_BYTES + 1)
                answer, contact = self._neighbours.hear(self._loop.time(), data, host)
                if answer:
                    with suppress(OSError):
                        self._mine.sendto(answer, (host, port))
                if contact:
                    self._on_neighbour(contact, host)


def _open_shared(port: int) -> socket.socket:
    """Bound together with others of this machine. (On macOS that takes another option.)"""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if sys.platform == "darwin" else socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(("", port))
    except OSError:
        sock.close()
        raise
    return sock


def _open_own() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setblocking(False)
        sock.bind(("", 0))
    except OSError:
        sock.close()
        raise
    return sock
