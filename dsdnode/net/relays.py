"""What a node does with relays: it is reached by way of some that let it, and is one for others.

Who needs a relay, who may be one and which ones are asked is decided elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import SystemRandom

import structlog

from dsdnode.addresses import LOWEST_PORT, Nearness, family, is_address, nearness, parse_address
from dsdnode.errors import BadInput
from dsdnode.identity import Identity, peer_id, short_id
from dsdnode.net.behind import Behind
from dsdnode.net.door import Door, leads_here
from dsdnode.net.handshake import derive_swarm_key
from dsdnode.net.meter import Meter
from dsdnode.net.places import is_anywhere, is_gone, to_address
from dsdnode.net.relay.agent import Agent
from dsdnode.net.relay.frames import Reserved
from dsdnode.net.relay.server import Relay, limits_of
from dsdnode.net.zap import Gate
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import MAX_RELAY_BYTES_PER_S

RETURN_S = 4.0
"""After a move, for a relay to be reached from where we are now: until then we may well be called where we were."""
PARTED_S = 30.0
"""So long after its end a circuit is remembered: the news of its beginning may still wait for us, and its greeting."""

MAX_GIVEN = 2
"""Addresses of relays that are told: more would crowd out our own."""

log = structlog.get_logger(__name__)


def of_both(offered: Sequence[Sequence[str]], most: int) -> tuple[str, ...]:
    """Of addresses that relays have given, each relay's together, so many: of both families, if that can be (who has
    one alone calls no other), and of as many relays, for one may go at any time."""
    left = [(address, number) for number, addresses in enumerate(offered) for address in addresses]
    chosen: list[tuple[str, int]] = []

    def rank(one: tuple[str, int]) -> tuple[bool, bool, int]:
        families = [_family(address) for address, _ in chosen]
        num_like = sum(_family(address) == _family(one[0]) for address, _ in left)
        return _family(one[0]) in families, one[1] in [number for _, number in chosen], num_like

    while left and len(chosen) < most:
        best = min(left, key=rank)
        left.remove(best)
        chosen.append(best)
    return tuple(address for address, _ in chosen)


def _family(address: str) -> int | None:
    return family(parse_address(address)[0])


class Circuits:
    """Who stands behind connections to our router that come from this machine, for a relay has them come from it.

    The relay alone says so. Whatever it says, such a caller is none of this machine, nor of this house: else it could
    name our own services to us, and we would call them.
    """

    def __init__(self) -> None:
        self._callers: dict[int, str] = {}
        """By the local port of a circuit's end; "": from an address that counts for nobody."""
        self._relays: dict[int, bytes] = {}
        """The peers that say so."""
        self._ended: dict[int, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._callers)

    def begin(self, port: int, host: str, relay: bytes) -> None:
        ended = self._ended.pop(port, None)
        if ended is not None:
            ended.cancel()
        self._relays[port] = relay
        self._callers[port] = host if nearness(host) is Nearness.WORLD and not leads_here(host) else ""

    def end(self, port: int) -> None:
        self._ended[port] = asyncio.get_running_loop().call_later(PARTED_S, self._forget, port)

    def _forget(self, port: int) -> None:
        del self._callers[port], self._relays[port], self._ended[port]

    def has(self, door: Door) -> bool:
        return door.host == door.local and door.port in self._callers

    def caller(self, door: Door) -> tuple[str, bytes]:
        """The IP address that a connection counts for, and the relay that says so (b"": we see it ourselves)."""
        return (self._callers[door.port], self._relays.get(door.port, b"")) if self.has(door) else (door.host, b"")


@dataclass(slots=True)
class _Held:
    agent: Agent
    hosts: tuple[str, ...]
    """Of the relay, where others call."""
    addresses: tuple[str, ...] = ()
    """Where we are called by way of it (none: not yet)."""
    bytes_per_s: float = 0.0
    """Of one caller."""
    keep_until_s: float = float("-inf")
    """So long it may fail: we have moved, or are nowhere."""


class Relays:
    """`changed` is called when there are other addresses in `given`. Implements After (behind.py)."""

    def __init__(
        self,
        identity: Identity,
        swarm_keys: Sequence[str],
        listens: tuple[str, int],
        gate: Gate,
        circuits: Circuits,
        changed: Callable[[], None],
        is_last_resort: bool,
    ) -> None:
        """`listens`: our router, on any address of this machine. `is_last_resort`: our user has said where we are
        reached, and who reaches us there needs no relay."""
        self._identity = identity
        self._swarm_keys = swarm_keys
        self.host, self._port = listens
        self._gate = gate
        self._circuits = circuits
        self._changed: Callable[[], None] | None = changed
        self.is_last_resort = is_last_resort
        self._loop = asyncio.get_running_loop()
        self._held: dict[bytes, _Held] = {}
        self._closing: dict[asyncio.Task[None], None] = {}
        self._relay: Relay | None = None
        self.meter = Meter()
        self._relayed_bytes = 0
        """By relays of ours that are no more."""

    # --- to be reached

    @property
    def held(self) -> dict[bytes, tuple[str, ...]]:
        """By the peer that relays: the addresses of ours that it has given us, none until it has."""
        return {peer: held.addresses for peer, held in self._held.items()}

    @property
    def given(self) -> tuple[str, ...]:
        """Those that are told."""
        return of_both([held.addresses for held in self._held.values()], MAX_GIVEN)

    @property
    def bytes_per_s(self) -> float:
        """The most that one of them lets through for one caller."""
        return max((held.bytes_per_s for held in self._held.values() if held.addresses), default=0.0)

    def reserve(self, relay: Contact, hosts: Sequence[str]) -> None:
        """`relay`: where we ask it; `hosts`: its IP addresses where others are to call us."""
        keys = tuple(map(derive_swarm_key, self._swarm_keys))
        callee = Behind(self, self._gate, peer_id(relay.public_key))
        agent = Agent(callee, self._identity, relay, ("127.0.0.1", self._port), SystemRandom(), swarm_keys=keys)
        self._held[peer_id(relay.public_key)] = _Held(agent, tuple(hosts))
        agent.start()

    def leave(self, peer: bytes) -> None:
        held = self._held.pop(peer, None)
        if held is None:
            return
        task = self._loop.create_task(held.agent.close())
        self._closing[task] = None
        task.add_done_callback(self._closing.pop)
        if held.addresses:
            self._tell()

    def forget(self, peer: bytes, address: str) -> None:
        """Nobody is to call us there any more; this relay's other addresses stay."""
        held = self._held.get(peer)
        if held is not None and address in held.addresses:
            held.addresses = tuple(one for one in held.addresses if one != address)
            self._tell()

    def moved(self, hosts: Collection[str]) -> bool:
        """This machine has other addresses. Who has a reservation from one that is gone reserves anew, and is called
        where it was before, if it can be (server.py). Did any?"""
        until_s = self._loop.time() + RETURN_S if is_anywhere(hosts) else float("inf")
        gone = [held for held in self._held.values() if not held.agent.local or is_gone(held.agent.local, hosts)]
        for held in self._held.values():  # one that is back before we hear of it was told to wait without end, perhaps
            held.keep_until_s = min(held.keep_until_s, until_s)
        for held in gone:
            held.keep_until_s = until_s
            held.agent.begin_again()
        return bool(gone)

    def reserved(self, relay: Contact, terms: Reserved) -> None:
        peer = peer_id(relay.public_key)
        held = self._held.get(peer)
        if held is None:  # left meanwhile
            return
        held.keep_until_s = float("-inf")
        if terms.port < LOWEST_PORT:
            return self.unreserved(relay, f"its port {terms.port} is one that nobody calls")
        if not terms.bytes_per_s:
            return self.unreserved(relay, "it lets nothing through")
        addresses = tuple(filter(is_address, (to_address(host, terms.port) for host in held.hosts)))
        if not addresses:
            return self.unreserved(relay, "it is nowhere where others could call")
        held.bytes_per_s = min(float(terms.bytes_per_s), MAX_RELAY_BYTES_PER_S)
        held.addresses = addresses
        log.info("a relay passes callers on to this node", relay=short_id(peer), addresses=held.addresses)
        self._tell()

    def unreserved(self, relay: Contact, why: str) -> None:
        peer = peer_id(relay.public_key)
        held = self._held.get(peer)
        if held is None or self._loop.time() < held.keep_until_s:  # it tries again
            return
        log.info("a relay serves us no more", relay=short_id(peer), reason=why)
        self.leave(peer)

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()

    def spliced(self, port: int, host: str, relay: bytes) -> None:
        self._circuits.begin(port, host, relay)

    def parted(self, port: int) -> None:
        self._circuits.end(port)

    # --- to be one

    @property
    def port(self) -> int:
        """Where others ask us to relay (0: we do not)."""
        return self._relay.port if self._relay is not None else 0

    @property
    def num_circuits(self) -> int:
        return self._relay.book.num_circuits if self._relay is not None else 0

    async def serve(self, bytes_per_s: float) -> bool:
        """Be a relay, on a port of its own, until `serve_no_more`. False: this process cannot."""
        try:
            self._relay = await Relay.open(
                self._identity, self.host, 0, swarm_keys=self._swarm_keys, limits=limits_of(bytes_per_s)
            )
        except BadInput as error:
            log.info("no relay for others", reason=str(error))
            return False
        self._relay.book.meter = self.meter
        log.info("a relay for those that others do not reach", port=self._relay.port)
        return True

    @property
    def relayed_bytes(self) -> int:
        """For others, since the start."""
        return self._relayed_bytes + (self._relay.book.num_bytes if self._relay is not None else 0)

    async def serve_no_more(self) -> None:
        self._relayed_bytes = self.relayed_bytes
        relay, self._relay = self._relay, None
        if relay is not None:
            await relay.close()

    async def close(self) -> None:
        self._changed = None
        for peer in list(self._held):
            self.leave(peer)
        await self.serve_no_more()
        await asyncio.gather(*self._closing)
