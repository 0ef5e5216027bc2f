"""The DHT at scale, in virtual time: `python -m tests.sim.dht --nodes 500 [--kill 0.5 [--gone]] [--sybils 20]`.

Prints messages per lookup, how many lookups find their (single, living) provider and how long they take, and what the
simulation itself cost.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import time
from dataclasses import dataclass
from random import Random
from typing import Any

import structlog
from msgspec import to_builtins

from dsdnode.dht.ids import K, as_int
from dsdnode.net.rpc import Response, Rpc
from dsdnode.sim import loop as jumping
from dsdnode.sim.report import spread
from dsdnode.wire.messages import Announce, Contact, FindNode, FindProviders, Nodes, Providers, Stored
from dsdnode.wire.records import pack_contacts, pack_records
from tests.sim.town import Town, Townsman, mined

LOOKING_S = 5.0
ANNOUNCED_S = 200.0
"""A whole announcement's period: of a town that has just grown, records lie where they belonged when it was small. (Of
2,000 lookups begun at once 9 failed, in the first 0.6 s: all for the provider whose first announcement was on its way.)
"""


@dataclass(frozen=True)
class Terms:
    nodes: int
    lookups: int = 1000
    kill: float = 0.0
    gone: bool = False
    sybils: int = 0
    sybil_groups: int = 2
    warm: bool = False
    seed: int = 1


@dataclass(frozen=True)
class Found:
    found: bool
    took_s: float
    num_asked: int


async def look_up(seeker: Townsman, provider: Townsman) -> Found:
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    records = await seeker.discovery.find_providers(provider.key)
    found = any(record.public_key == provider.contact.public_key for record in records)
    return Found(found, loop.time() - started_s, seeker.num_asked)


async def live(terms: Terms) -> dict[str, Any]:
    town = Town(terms.seed)
    num_providers = min(200, max(10, terms.nodes // 20))
    await (town.warm_up if terms.warm else town.join_all)(terms.nodes, num_providers)
    gc.freeze()
    if not terms.warm:
        await asyncio.sleep(ANNOUNCED_S)
    providers = [one for one in town.people if one.model_id]
    if terms.sybils:
        await besiege(town, providers[0], terms)
        providers = providers[:1]
    if terms.kill:
        town.kill(town.rng.sample(town.people, round(terms.kill * len(town.people))), terms.gone)
    alive = [one for one in town.people if one.up]
    providers = [one for one in providers if one.up]
    num_messages = sum(traffic.num_messages for traffic in town.network.traffic.values())
    lookups = []
    for _ in range(terms.lookups):
        await asyncio.sleep(town.rng.expovariate(terms.lookups / LOOKING_S))
        provider = town.rng.choice(providers)
        seeker = town.rng.choice([one for one in alive if one is not provider])
        lookups.append(asyncio.create_task(look_up(seeker, provider)))
    found = await asyncio.gather(*lookups)
    sent = sum(traffic.num_messages for traffic in town.network.traffic.values())
    result = {
        "nodes": terms.nodes,
        "killed": terms.nodes - len(alive) if terms.kill else 0,
        "sybils": terms.sybils,
        "lookups": len(found),
        "found": sum(one.found for one in found) / len(found),
        "took_s": to_builtins(spread([one.took_s for one in found])),
        "asked": to_builtins(spread([one.num_asked for one in found])),
        "messages": sent,
        "messages_while_looking_up": sent - num_messages,
        "simulated_s": town.loop.now,
    }
    await town.close()
    return result


async def besiege(town: Town, provider: Townsman, terms: Terms) -> None:
    """Sybils nearer to the key than anybody honest: they name each other alone, and keep no records."""
    nearest = sorted(as_int(one.identity.peer_id) ^ as_int(provider.key) for one in town.people)
    contacts: list[Contact] = []
    identities = mined(provider.key, terms.sybils, nearest[0], Random(f"{terms.seed}/sybils"))
    for i, identity in enumerate(identities):
        _, transport = town.new(identity, f"198.18.{i % terms.sybil_groups}.{i + 1}".replace("198.18", "45.9"))
        contacts.append(transport.contact)
        rpc = Rpc(transport, Random(i))

        async def nodes(peer: bytes, message: FindNode, buffers: list[bytes]) -> Response:
            return Nodes(), (pack_contacts(contacts[:K]),)

        async def providers(peer: bytes, message: FindProviders, buffers: list[bytes]) -> Response:
            return Providers(), (pack_contacts(contacts[:K]), pack_records([]))

        async def announced(peer: bytes, message: Announce, buffers: list[bytes]) -> Response:
            return Stored(), ()

        rpc.on_request(FindNode, nodes)
        rpc.on_request(FindProviders, providers)
        rpc.on_request(Announce, announced)
        rpc.start()
        for one in town.rng.sample(town.people, min(100, len(town.people))):  # become known to many
            rpc.transport.introduce(one.contact)
            asyncio.get_running_loop().create_task(_introduce(rpc, one))
    await asyncio.sleep(ANNOUNCED_S)  # the records are where the Sybils let them be


async def _introduce(rpc: Rpc, one: Townsman) -> None:
    await rpc.request(one.identity.peer_id, FindNode(one.identity.peer_id), timeout_s=10)


def run(terms: Terms) -> dict[str, Any]:
    """The figures, with wall seconds and peak memory of the simulation."""
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    result = jumping.run(live(terms))
    gc.unfreeze()
    cpu_s = time.process_time() - started_cpu_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return result | {
        "wall_s": round(time.perf_counter() - started_s, 1),
        "cpu_s": round(cpu_s, 1),
        "messages_per_cpu_s": round(result["messages"] / cpu_s),
        "peak_mb": peak // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--lookups", type=int, default=1000)
    parser.add_argument("--kill", type=float, default=0.0, help="processes, this share of all, at once")
    parser.add_argument("--gone", action="store_true", help="... with their machines: calls are not even refused")
    parser.add_argument("--sybils", type=int, default=0, help="mined next to a key, in 2 IP groups")
    parser.add_argument("--warm", action="store_true", help="tables as after long acquaintance: no joins (large towns)")
    parser.add_argument("--seed", type=int, default=1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    print(json.dumps(run(Terms(**vars(parser.parse_args()))), indent=1))


if __name__ == "__main__":
    main()
