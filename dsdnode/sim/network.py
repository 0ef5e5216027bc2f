"""Links that are simulated, of all hosts (transport.py): their latencies by region, and what goes wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Generic, Protocol, TypeVar

from dsdnode.net.port import SILENT_S, Priority
from dsdnode.sim.links import LinkSpec, SimLink, SimRelay, Traffic
from dsdnode.sim.loop import JumpingLoop


class Host(Protocol):
    """What the network asks of those at the ends of its links."""

    id: bytes
    region: str

    def peers(self) -> list[bytes]:
        """It has a connection with, each once."""

    def links_to(self, peer: bytes) -> list[SimLink]: ...

    def lose(self, link: SimLink, why: str) -> None:
        """It sees a connection end: the node is told if that was the last one to its peer, or the one that it used."""


AnyHost = TypeVar("AnyHost", bound=Host)


class Network(Generic[AnyHost]):
    """`link(region, region)` gives one direction's LinkSpec. All times are true ones: it goes by nobody's clock."""

    def __init__(self, loop: JumpingLoop, rng: Random, link: Callable[[str, str], LinkSpec]) -> None:
        self.loop = loop
        self.rng = rng
        self.state_bytes = 0
        """Of one position's hidden states, where the engines carry smaller ones than they stand for; 0: as carried."""
        self.traffic = {priority: Traffic() for priority in Priority}
        self.hosts: dict[bytes, AnyHost] = {}
        self.ended: dict[bytes, bool] = {}
        """Silently, or with a goodbye of its connections?"""
        self._link = link
        self._specs: dict[tuple[str, str], LinkSpec] = {}
        self._regions: dict[bytes, str] = {}
        self._cuts: dict[frozenset[bytes], int] = {}
        self._apart: list[tuple[str, ...]] = []

    def add(self, host: AnyHost) -> None:
        self.hosts[host.id] = host
        self._regions[host.id] = host.region

    def spec(self, sender: bytes, receiver: bytes) -> LinkSpec:
        return self._spec(self._regions.get(sender, ""), self._regions.get(receiver, ""))

    def _spec(self, here: str, there: str) -> LinkSpec:
        known = self._specs.get((here, there))
        if known is None:
            known = self._specs[here, there] = self._link(here, there)
        return known

    def way(self, sender: bytes, receiver: bytes, relay: SimRelay | None) -> tuple[LinkSpec, ...]:
        if relay is None:
            return (self.spec(sender, receiver),)
        here, there = self._regions.get(sender, ""), self._regions.get(receiver, "")
        return self._spec(here, relay.region), self._spec(relay.region, there)

    def round_trip_s(self, one: bytes, other: bytes, relay: SimRelay | None = None) -> float:
        return sum(spec.latency_s for ends in ((one, other), (other, one)) for spec in self.way(*ends, relay))

    # --- what goes wrong

    def cut(self, one: bytes, other: bytes) -> None:
        """Nothing passes between two peers, and nobody is told; cuts count up."""
        pair = frozenset((one, other))
        self._cuts[pair] = self._cuts.get(pair, 0) + 1
        self.loop.at(self.loop.now + SILENT_S, self._miss_silent, one, other)

    def heal(self, one: bytes, other: bytes) -> None:
        pair = frozenset((one, other))
        self._cuts[pair] -= 1
        if not self._cuts[pair]:
            del self._cuts[pair]

    def part(self, regions: tuple[str, ...]) -> None:
        """Nothing passes between these regions and all others, until they `rejoin`."""
        self._apart.append(regions)
        for one in list(self.hosts):
            for other in self.hosts[one].peers():
                if self.is_cut(one, other):
                    self.loop.at(self.loop.now + SILENT_S, self._miss_silent, one, other)

    def rejoin(self, regions: tuple[str, ...]) -> None:
        self._apart.remove(regions)

    def is_cut(self, one: bytes, other: bytes) -> bool:
        if not self._cuts and not self._apart:
            return False
        here, there = self._regions.get(one, ""), self._regions.get(other, "")
        parted = any((here in regions) != (there in regions) for regions in self._apart)
        return parted or frozenset((one, other)) in self._cuts

    def _miss_silent(self, one: bytes, other: bytes) -> None:
        host = self.hosts.get(one)
        if host is not None and self.is_cut(one, other):
            for link in host.links_to(other):
                self.break_link(link, "nothing is acknowledged", 0.0, 0.0)

    def break_link(self, link: SimLink, why: str, caller_s: float, callee_s: float) -> None:
        """What is on its way is lost; each end sees so much later that the connection has ended."""
        link.broken = True
        for peer, delay_s in ((link.caller, caller_s), (link.callee, callee_s)):
            host = self.hosts.get(peer)
            if host is None:
                continue
            if delay_s:
                self.loop.at(self.loop.now + delay_s, host.lose, link, why)
            else:
                host.lose(link, why)
