"""The DHT of a swarm most of whose peers cannot be called, in virtual time: production Discovery on simulated links.

    python -m tests.sim.unreachable [--nodes 1000] [--share 0.667] [--kinds all,unreached,relayed,served]

Each line is a swarm of its own: all can be called (`all`); a share cannot (`unreached`); it is called by way of relays,
and is a client of the DHT as it is (`relayed`), or were it taken for any other (`served`). Beside lookups of single
providers it says what those bear who can be called: requests a second, while nobody looks for anything (`idle`) and
while lookups go on (`busy`), and circuits that are open at a relay, and to one callee.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, replace

import structlog

from dsdnode.cli.render import table
from dsdnode.dht.ids import node_id
from dsdnode.identity import Identity
from dsdnode.sim import loop as jumping
from dsdnode.sim.links import SimRelay
from dsdnode.sim.report import percentile
from dsdnode.sim.transport import SimTransport
from dsdnode.wire.messages import Contact
from tests.sim.dht import ANNOUNCED_S, LOOKING_S, Found, look_up
from tests.sim.town import Town, Townsman

KINDS = ("all", "unreached", "relayed", "served")
IDLE_S = 120.0
RELAY_BYTES_PER_S = 2.5e6
ANSWERS = ("Nodes", "Providers", "Stored", "Pong", "Reached", "Refused")


@dataclass(frozen=True)
class Terms:
    nodes: int = 1000
    share: float = 2 / 3
    """Who cannot be called."""
    kind: str = "unreached"
    lookups: int = 1000
    seed: int = 1
    settle_s: float = ANNOUNCED_S
    idle_s: float = IDLE_S


@dataclass(frozen=True)
class Spread:
    p50: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        ordered = sorted(values)
        return cls(percentile(ordered, 0.5), percentile(ordered, 0.99), ordered[-1])


@dataclass(frozen=True)
class Figures:
    """`idle`, `busy`: requests a second of who can be called; `in_vain`: calls of each of them in a minute that nobody
    answers."""

    found: float
    took_s: Spread
    asked: Spread
    idle: Spread
    busy: Spread
    in_vain: float
    per_relay: Spread
    per_callee: Spread
    num_named: int
    """Peers that cannot be called without a relay, in the tables of others."""
    cpu_s: float = 0.0


class Outskirts(Town):
    """A town in which some cannot be called; those that can have come before them."""

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms.seed)
        self.terms = terms
        self.num_direct = terms.nodes if terms.kind == "all" else round(terms.nodes * (1 - terms.share))
        self.relay_of: dict[bytes, bytes] = {}

    @property
    def direct(self) -> list[Townsman]:
        return self.people[: self.num_direct]

    def new(self, identity: Identity | None = None, address: str = "") -> tuple[Identity, SimTransport]:
        if len(self.network.hosts) < self.num_direct:
            return super().new(identity, address)
        identity, number = identity or Identity(self.rng.randbytes(32)), len(self.network.hosts) + 1
        region, home = f"region {self.rng.randrange(8)}", f"12.{number >> 8}.{number & 255}.1"
        if self.terms.kind == "unreached":
            contact = Contact(identity.public_key, (f"tcp://{home}:29170",))
            return identity, SimTransport(self.network, contact, region, dialable=False)
        relay = self.rng.choice(self.direct).transport
        self.relay_of[node_id(Contact(identity.public_key))] = relay.id
        contact = Contact(identity.public_key, (f"tcp://{relay.source}:{30000 + number}",))
        host = SimTransport(self.network, contact, region, relay=SimRelay(relay.region, RELAY_BYTES_PER_S), source=home)
        if self.terms.kind == "served":
            host.given = ()  # nobody is told
            host.greet_as(contact.addresses)
        return identity, host

    async def come(self) -> None:
        """Whoever can be called, batch after batch, then all others by way of them."""
        step = max(1, self.terms.nodes // min(200, max(10, self.terms.nodes // 20)))
        await self.join_all(self.num_direct, max(1, self.num_direct // step))
        members = [one.contact for one in self.people]
        while len(self.people) < self.terms.nodes:
            num = min(32, self.terms.nodes - len(self.people))
            newcomers = [self.add(len(self.people) % step == 0) for _ in range(num)]
            await asyncio.gather(*(one.discovery.join(self.rng.sample(members, 3), 30) for one in newcomers))
            self.announce(newcomers)

    @property
    def num_in_vain(self) -> int:
        return sum(one.transport.num_in_vain for one in self.direct)

    def served(self) -> Counter[bytes]:
        """Requests that were answered, of those who can be called."""
        return Counter({one.identity.peer_id: _answers(one) for one in self.direct})


def _answers(one: Townsman) -> int:
    return sum(one.rpc.sent[kind].num for kind in ANSWERS if kind in one.rpc.sent)


async def live(terms: Terms) -> Figures:
    town = Outskirts(terms)
    await town.come()
    gc.freeze()
    await asyncio.sleep(terms.settle_s)
    before, in_vain = town.served(), town.num_in_vain
    await asyncio.sleep(terms.idle_s)
    idle = _rates(before, town.served(), terms.idle_s)
    in_vain = town.num_in_vain - in_vain
    before, began_s = town.served(), town.loop.now
    found = await asyncio.gather(*[asyncio.create_task(one) async for one in _lookups(town)])
    busy = _rates(before, town.served(), town.loop.now - began_s)
    per_relay, per_callee = _circuits(town)
    far = {one.identity.peer_id for one in town.people[town.num_direct :]}
    named = [node_id(contact) for one in town.people for contact in one.discovery.table.contacts()]
    figures = Figures(
        found=sum(one.found for one in found) / len(found),
        took_s=Spread.of([one.took_s for one in found]),
        asked=Spread.of([one.num_asked for one in found]),
        idle=Spread.of(idle),
        busy=Spread.of(busy),
        in_vain=60 * in_vain / terms.idle_s / town.num_direct,
        per_relay=Spread.of(per_relay),
        per_callee=Spread.of(per_callee),
        num_named=sum(peer in far for peer in named),
    )
    await town.close()
    return figures


async def _lookups(town: Outskirts) -> AsyncIterator[Coroutine[None, None, Found]]:
    """Of providers that somebody can reach, by anybody."""
    terms, reached = town.terms, town.direct if town.terms.kind == "unreached" else town.people
    providers = [one for one in reached if one.model_id]
    for _ in range(terms.lookups):
        await asyncio.sleep(town.rng.expovariate(terms.lookups / LOOKING_S))
        provider = town.rng.choice(providers)
        yield look_up(town.rng.choice([one for one in town.people if one is not provider]), provider)


def _rates(before: Counter[bytes], after: Counter[bytes], seconds: float) -> list[float]:
    return [(after[peer] - before[peer]) / seconds for peer in after]


def _circuits(town: Outskirts) -> tuple[list[float], list[float]]:
    """Open now, by relay and by callee."""
    links = {link for one in town.people for link in one.transport._links.values() if link.relay is not None}
    callees = Counter(link.callee for link in links)
    relays = Counter(town.relay_of[link.callee] for link in links)
    by_relay = [float(relays[one.identity.peer_id]) for one in town.direct] or [0.0]
    return by_relay, [float(callees[peer]) for peer in town.relay_of] or [0.0]


def run(terms: Terms) -> Figures:
    started_s = time.process_time()
    figures = jumping.run(live(terms))
    gc.unfreeze()
    return replace(figures, cpu_s=time.process_time() - started_s)


COLUMNS = ("", "FOUND", "P50 S", "P99 S", "ASKED", "IDLE/S", "MAX", "BUSY/S", "MAX", "VAIN", "RELAY", "CALLEE", "CPU S")


def row(kind: str, one: Figures) -> tuple[str, ...]:
    return (
        kind,
        f"{one.found:.1%}",
        f"{one.took_s.p50:.2f}",
        f"{one.took_s.p99:.2f}",
        f"{one.asked.p50:.0f}",
        f"{one.idle.p50:.2f}",
        f"{one.idle.most:.2f}",
        f"{one.busy.p50:.1f}",
        f"{one.busy.most:.1f}",
        f"{one.in_vain:.1f}",
        f"{one.per_relay.most:.0f}",
        f"{one.per_callee.most:.0f}",
        f"{one.cpu_s:.0f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--share", type=float, default=2 / 3, help="of those who cannot be called")
    parser.add_argument("--lookups", type=int, default=1000)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    rows = []
    for kind in asked.kinds.split(","):
        rows.append(row(kind, run(Terms(asked.nodes, asked.share, kind, asked.lookups, asked.seed))))
        print(table(COLUMNS, rows[-1:]), flush=True)
    print("\n" + table(COLUMNS, rows))


if __name__ == "__main__":
    main()
