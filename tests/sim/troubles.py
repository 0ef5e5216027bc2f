"""What goes wrong in a village: who, when and how, drawn from a seed, and counted by type."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import chain
from random import Random

from dsdnode.engine.port import Chunk
from dsdnode.errors import DsdError
from dsdnode.sim.loop import clock

from .village import RoughEngine, Roughness, Village

KINDS = ("calm", "messages", "messages", "messages", "engines", "cuts", "kills", "all", "all")


class Troubles:
    """`await rage()`, then `await calm()`: everybody is back and connected, and nothing more goes wrong."""

    def __init__(self, village: Village, rng: Random, *, calm: bool = False) -> None:
        self.village, self.rng = village, rng
        self.kind = "calm" if calm else rng.choice(KINDS)
        self.counts: Counter[str] = Counter()
        self._returning: set[asyncio.Task[None]] = set()
        self._cuts: list[tuple[bytes, bytes]] = []
        self._overload = 0.0
        self._rough = self._roughness() if self.kind in ("messages", "all") else Roughness()
        self._poisons: set[int] = set()
        """Seeds of replies that judges die of."""
        RoughEngine.overload = self._is_overloaded
        RoughEngine.poisoned = self._is_poisoned

    def _roughness(self) -> Roughness:
        rng = self.rng
        return Roughness(
            drop=rng.choice((0.0, 0.05, 0.2, 0.4)),
            duplicate=rng.choice((0.0, 0.1, 0.4)),
            reorder=rng.choice((0.0, 0.1, 0.4)),
            delay_s=rng.choice((0.05, 0.5, 5.0)),
        )

    def _is_overloaded(self) -> bool:
        struck = self._overload > 0 and self.rng.random() < self._overload
        self.counts["overload"] += struck
        return struck

    def _is_poisoned(self, chunk: Chunk) -> bool:
        struck = chunk.sampling is not None and chunk.sampling.seed in self._poisons
        self.counts["died of a reply"] += struck
        return struck

    async def rage(self, over: Callable[[], bool]) -> None:
        """Until all replies are `over`, or enough has happened."""
        rng = self.rng
        self.village.network.rough = self._rough
        self._overload = rng.choice((0.0, 0.05)) if self.kind in ("engines", "all") else 0.0
        deeds: dict[str, list[Callable[[], Awaitable[None]]]] = {
            "messages": [self.suspicion],
            "engines": [self.worker_death, self.suspicion, self.poison],
            "cuts": [self.cut, self.cut, self.partition, self.suspicion],
            "kills": [self.kill],
        }
        possible = list(chain(*deeds.values())) if self.kind == "all" else deeds.get(self.kind, [])
        rate, num_deeds = rng.choice((0.3, 3.0, 10.0, 30.0)), rng.choice((2, 6, 20)) if possible else 0
        while num_deeds and not over():
            await asyncio.sleep(rng.expovariate(rate))
            await rng.choice(possible)()
            num_deeds -= 1
        if self._rough != Roughness() and not over():
            await asyncio.sleep(rng.choice((0.0, 5.0, 30.0)))

    async def calm(self) -> None:
        network = self.village.network
        network.rough, self._overload = Roughness(), 0.0
        for one, other in self._cuts:
            network.heal(one, other)
        self._cuts.clear()
        self._poisons.clear()
        await asyncio.gather(*self._returning)

    # --- deeds

    def _anybody(self) -> str | None:
        names = sorted(self.village.villagers)
        return self.rng.choice(names) if names else None

    async def worker_death(self) -> None:
        name = self._anybody()
        if name is not None:
            villager = self.village.villagers[name]
            self.counts["draft worker death" if villager.draft else "worker death"] += 1
            with clock(villager.place.clock_s):
                villager.engine.die()

    async def poison(self) -> None:
        """From now on every judge dies of one of the replies."""
        drafters = [one.node._drafter for one in self.village.villagers.values()]
        replies = [reply for one in drafters if one is not None for reply in one._by_session.values()]
        if replies:
            self.counts["reply poisoned"] += 1
            self._poisons.add(self.rng.choice(replies)._options.asked.seed)

    async def suspicion(self) -> None:
        """A stage answers a ping too late: its reply goes on elsewhere, and perhaps comes back to an old cache."""
        for villager in self.village.villagers.values():
            drafter = villager.node._drafter
            for reply in list(drafter._by_session.values()) if drafter is not None else ():
                if reply._route is not None and self.rng.random() < 0.5:
                    self.counts["stage suspected"] += 1
                    reply._avoid.clear()  # or it would soon know of nobody whom it has not left
                    with clock(villager.place.clock_s):
                        reply.on_peer_lost(self.rng.choice(reply._route.peers))

    async def kill(self) -> None:
        """And a restart after a while, with nothing cached."""
        name = self._anybody()
        if name is None:
            return
        villager, silent = self.village.villagers[name], self.rng.random() < 0.3
        self.counts["drafter killed" if villager.draft else "stage killed"] += 1
        await self.village.kill(name, silent=silent)
        task = asyncio.create_task(self._return(name, self.rng.expovariate(self.rng.choice((0.2, 2.0)))))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _return(self, name: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        [place] = [place for place in self.village.places if place.name == name]
        while True:
            with contextlib.suppress(DsdError):
                await self.village.add(place)
                self.counts["restart"] += 1
                return
            await asyncio.sleep(1.0)

    async def cut(self) -> None:
        hosts = list(self.village.network.hosts)
        if len(hosts) > 1:
            self.counts["link cut"] += 1
            self._cut([tuple(self.rng.sample(hosts, 2))])  # type: ignore[list-item]

    async def partition(self) -> None:
        hosts = list(self.village.network.hosts)
        self.rng.shuffle(hosts)
        edge = self.rng.randint(1, max(1, len(hosts) - 1))
        self.counts["partition"] += 1
        self._cut([(one, other) for one in hosts[:edge] for other in hosts[edge:]])

    def _cut(self, pairs: list[tuple[bytes, bytes]]) -> None:
        network, loop = self.village.network, self.village.loop
        for one, other in pairs:
            network.cut(one, other)
        self._cuts += pairs

        def heal() -> None:
            for pair in pairs:
                if pair in self._cuts:
                    self._cuts.remove(pair)
                    network.heal(*pair)

        loop.at(loop.now + self.rng.choice((0.3, 3.0, 20.0)) * self.rng.random(), heal)
