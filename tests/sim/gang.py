"""The rogues of a world (rogue.py): whether there are any, how many, and of which kinds (misdeeds.py), by a seed.

They come to an honest village, which alone could serve everybody, and make up a third of all peers at most. The worlds
without them are what they would be anyway.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from random import Random

from dsdnode.errors import DsdError

from .misdeeds import MISDEEDS
from .rogue import Rogue
from .village import Place, Village

SHARE = 0.3
"""Of the worlds in which anything may go wrong."""
KINDS = tuple(MISDEEDS)
MAX_MINING = 32
"""Identities that a rogue makes to have the lowest key of all."""


class Gang:
    """`await begin()`, then they go on until `await leave()`."""

    def __init__(self, village: Village, rng: Random, kinds: Sequence[str]) -> None:
        self.counts: Counter[str] = Counter()
        self._village, self._rng = village, rng
        num = rng.randint(1, len(village.places) // 2)
        chosen = [rng.choice(kinds)] * num if rng.random() < 0.5 else rng.choices(kinds, k=num)
        self.kinds = tuple(sorted(set(chosen)))
        self._rogues = [(kind, self._draw(kind, number)) for number, kind in enumerate(chosen)]

    @property
    def names(self) -> set[bytes]:
        """Their peer ids."""
        return {rogue.identity.peer_id for _, rogue in self._rogues}

    @property
    def size(self) -> int:
        return len(self._rogues)

    def _draw(self, kind: str, number: int) -> Rogue:
        rng, village = self._rng, self._village
        ranges = [place.layers for place in village.places if place.layers is not None]
        inside = [layers for layers in ranges if layers[1] < village.model.num_layers] if MISDEEDS[kind].inside else []
        layers = rng.choice(inside or [*ranges, (0, village.model.num_layers)])
        drafts = rng.choice(MISDEEDS[kind].who) == "drafter"
        names = [f"rogue {number} {rng.getrandbits(32)}" for _ in range(rng.choice((1, MAX_MINING)))]
        name = min(names, key=lambda name: village._identity(name)[0].public_key)
        place = Place(name, None if drafts else layers, 4, (0.0005, 0.0), 0.0)
        return Rogue(village, rng, place, self.counts)

    async def begin(self) -> None:
        for kind, rogue in self._rogues:
            await rogue.begin()
            MISDEEDS[kind].begin(rogue)
            rogue.spawn(rogue.announce())
            self.counts[f"rogue: {kind}"] += 1
        for client in self._village.clients:  # or they would ask those first that they joined, honest ones
            client._drafters.joined = self._rng.choice(([], sorted(self.names)))

    async def leave(self) -> None:
        for _, rogue in self._rogues:
            with contextlib.suppress(DsdError):
                await rogue.leave()


def gangs_dice(seed: int) -> Random | None:
    """What the rogues of this world go by, if there are any."""
    rng = Random(f"rogues {seed}")
    return rng if rng.random() < SHARE else None
