"""What one opening of a pipeline has learnt about the peers that it asked: whom to ask next, and when to give up."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Collection, Mapping

import msgspec

from dsdnode.accounts import Account, in_turn
from dsdnode.dht.ids import ip_groups
from dsdnode.errors import DsdError, NoPipeline, Overloaded
from dsdnode.identity import MAX_NAMED, short_id
from dsdnode.placement.coverage import longest_context
from dsdnode.placement.pipelines import Chooser, PipelineStage, View, choose_pipeline, speed
from dsdnode.placement.ranges import is_covered
from dsdnode.swarm.catalogue import Model
from dsdnode.wire.messages import Refused
from dsdnode.wire.records import ProviderRecord

BETTER = 1.3
"""A reply in progress, or the next one, leaves its pipeline for one that is so many times faster: caches must be filled
again."""
MAX_ASKED = 64
"""Hosts of a model that are pinged for one reply: half of the connections that a transport makes."""


def some_of(
    records: Collection[ProviderRecord], own: bytes, answered: Callable[[bytes], bool], silent: Callable[[bytes], bool]
) -> list[ProviderRecord]:
    """Of all hosts of a model those that are asked whether they live, `own` being who asks.

    Those that `answered` before come first, and those that were `silent` last; then networks take turns, and in each
    its layer ranges. For each asker in another order: nobody comes first by his name.
    """

    order = sorted(records, key=lambda one: hashlib.sha256(own + one.peer_id).digest())
    order = in_turn(order, _account)
    order.sort(key=lambda one: (silent(one.peer_id), not answered(one.peer_id)))
    asked = set(list(dict.fromkeys(one.peer_id for one in order))[:MAX_ASKED])
    return [record for record in records if record.peer_id in asked]


def _account(record: ProviderRecord) -> Account:
    """Its layers, in its network."""
    return Account(b"%d:%d" % (record.start, record.end), min(ip_groups(record.addresses), default=""))


class Attempt:
    """Who was asked, and what they said."""

    def __init__(self, avoid: set[bytes], choose: Chooser, num_tokens: int = 0, num_positions: int = 0) -> None:
        """`num_tokens`: of the line, so far; `num_positions`: that it may grow to."""
        self._avoid = avoid
        self._choose = choose
        self._num_tokens, self._num_positions = num_tokens, num_positions
        self._unfit: dict[bytes, str] = {}
        """Not now: full, restarting, silent."""
        self._never: dict[bytes, str] = {}
        self.num = 0

    def choose(
        self,
        target: Model,
        records: list[ProviderRecord],
        view: View,
        held: Collection[bytes],
        strangers: Collection[bytes] = (),
    ) -> tuple[PipelineStage, ...]:
        """Without the peers to avoid if that can be, else with them (they answered a ping). Raises NoPipeline.

        Those that are `held` already, perhaps with all in their caches, unless others are much faster. `strangers`, of
        whom nothing is known yet, only where the others do not make a pipeline.
        """
        unfit = self._unfit.keys() | self._never.keys()
        for exclude in (unfit | self._avoid | set(strangers), unfit | self._avoid):
            with contextlib.suppress(NoPipeline):
                roomy = self._roomy(target, records, exclude)
                best = self._choose(roomy, target.num_layers, view, exclude, target.name)
                break
        else:
            roomy = self._roomy(target, records, unfit)
            return self._choose(roomy, target.num_layers, view, unfit, target.name)
        mine = [msgspec.structs.replace(record, free_sessions=1) for record in roomy if record.peer_id in held]
        if not mine:
            return best
        try:
            same = choose_pipeline(mine, target.num_layers, view, exclude, target.name)
        except NoPipeline:
            return best
        return best if speed(best, view) >= BETTER * speed(same, view) else same

    def choose_with_one(
        self,
        target: Model,
        records: list[ProviderRecord],
        view: View,
        held: Collection[bytes],
        strangers: Collection[bytes],
    ) -> tuple[PipelineStage, ...]:
        """With one of the strangers, if they are as good: of one alone it is known whose fault it is."""
        places = self.choose(target, records, view, held)
        new = [place.peer for place in places if place.peer in strangers]
        if len(new) < 2:
            return places
        return self.choose(target, records, view, held, [peer for peer in strangers if peer != new[0]])

    def instead(
        self, target: Model, records: list[ProviderRecord], view: View, strangers: Collection[bytes]
    ) -> tuple[PipelineStage, ...] | None:
        """What there is without them."""
        exclude = self._unfit.keys() | self._never.keys() | self._avoid | set(strangers)
        with contextlib.suppress(NoPipeline):
            return self._choose(self._roomy(target, records, exclude), target.num_layers, view, exclude, target.name)
        return None

    def _roomy(self, target: Model, records: list[ProviderRecord], exclude: Collection[bytes]) -> list[ProviderRecord]:
        """Shards with room for the whole reply, or else for as much as any pipeline has. Raises NoPipeline."""
        usable = [record for record in records if record.peer_id not in exclude]
        longest = longest_context(usable, target.num_layers)
        if 0 < longest <= self._num_tokens:
            raise NoPipeline(
                f"nobody who can be asked has room for more than {longest} positions of {target.name}, "
                f"and {self._num_tokens} are taken: `--ctx-size` of a shard says how many it has"
            )
        return [record for record in records if record.context_tokens >= min(longest, self._num_positions)]

    def refused(self, failed: Mapping[bytes, Refused | DsdError]) -> None:
        for peer, answer in failed.items():
            final = isinstance(answer, Refused) and not answer.retry
            why = answer.reason if isinstance(answer, Refused) else str(answer)
            (self._never if final else self._unfit)[peer] = why

    def check(
        self,
        error: NoPipeline,
        target: Model,
        alive: list[ProviderRecord],
        known: list[ProviderRecord],
        *,
        late: bool,
    ) -> None:
        """Nobody is left to ask of those that are `alive`. Raises what ends the opening, if that should.

        Who is known and silent may be back, so it does not end before it is `late`.
        """
        try:
            self._roomy(target, known, self._never)
            choose_pipeline(known, target.num_layers, View.of({}), self._never, target.name)
        except NoPipeline:
            reasons = "; ".join(sorted(set(self._never.values())))
            raise NoPipeline(f"{error} ({reasons})" if reasons else str(error)) from None
        if late and self._is_covered(target, alive):
            raise Overloaded(f"{self._taken(target, alive)}; ask again later")
        if late:
            others = "`dsdnode start --role shard --layers START:END --join ...` hosts them elsewhere"
            raise NoPipeline(f"{self.waits_for(target, alive, known)}, for too long; ask again later ({others})")

    def _is_covered(self, target: Model, alive: list[ProviderRecord]) -> bool:
        roomy = (record for record in alive if record.context_tokens > self._num_tokens)
        usable = (record for record in roomy if record.peer_id not in self._never)
        return is_covered(((one.start, one.end) for one in usable), target.num_layers)

    def waits_for(self, target: Model, alive: list[ProviderRecord], known: list[ProviderRecord]) -> str:
        """In words."""
        if self._is_covered(target, alive):
            return f"waiting for {self._taken(target, alive)}"
        answering = {record.peer_id for record in alive}
        silent = sorted(
            (one for one in known if one.peer_id not in answering), key=lambda one: (one.start, one.peer_id)
        )
        names = (
            f"layers {one.start}:{one.end} ({short_id(one.peer_id)} does not answer)" for one in silent[:MAX_NAMED]
        )
        return f"waiting for {', '.join(names)} of {target.name}"

    def _taken(self, target: Model, alive: list[ProviderRecord]) -> str:
        """By whom, and why not, in words."""
        unfit = sorted((one for one in alive if one.peer_id in self._unfit), key=lambda one: (one.start, one.peer_id))
        names = (
            f"layers {one.start}:{one.end} ({short_id(one.peer_id)}: {self._unfit[one.peer_id]})"
            for one in unfit[:MAX_NAMED]
        )
        return f"{', '.join(names)} of {target.name}"

    def begin_again(self) -> None:
        self._unfit.clear()
        self.num += 1
