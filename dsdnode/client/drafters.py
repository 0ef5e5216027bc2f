"""Which drafter is to be asked next: one that answers, by lot. Who is full or away is asked again, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Iterable
from contextlib import suppress
from functools import partial
from math import inf
from random import Random
from statistics import median_high
from typing import Protocol

from cachetools import LRUCache

from dsdnode.addresses import network_of, parse_address
from dsdnode.client.failures import MAX_TRIES, Failure, Failures
from dsdnode.client.pace import Paces
from dsdnode.client.preference import Doubts, by_lot, by_preference
from dsdnode.client.request import PendingReply
from dsdnode.client.usual import UsualPass
from dsdnode.config import STILL_S
from dsdnode.errors import DsdError, NoPipeline, PeerUnavailable
from dsdnode.identity import ANYBODY, MAX_NAMED, short_id
from dsdnode.net.rpc import Rpc
from dsdnode.swarm.pings import Pings
from dsdnode.swarm.queries import Tasks
from dsdnode.wire.records import ProviderRecord

RECENT_S = 2.0
"""What a lookup found so shortly ago is still so."""
LOOK_AGAIN_S = 5.0
"""So often others are looked for, while nobody can be asked."""
FULL_PAUSE_S = 0.5
AWAY_PAUSE_S = 0.5
"""Who moves into another network is there again after a moment."""
MAX_LEFT = 256
SCOUT_S, SCOUT_MOMENT_S = 0.3, 0.1
"""For one that is to be asked beside another to answer a ping: the longest ways take so long; and behind the first that
does, for it is late already."""
MAX_RACED = 16
"""Drafters that are asked at once whether they are there."""


class Records(Protocol):
    def __call__(self, max_age_s: float = 0.0, *, thorough: bool = False) -> Awaitable[list[ProviderRecord]]: ...


class Drafters:
    """As one client sees them. `close` it at the end."""

    def __init__(self, rpc: Rpc, pings: Pings, rng: Random, joined: Collection[bytes], records: Records) -> None:
        self._rpc = rpc
        self._pings = pings
        """Knows which drafters were silent when they were asked last: they may be in the records for minutes yet."""
        self._rng = rng
        self.joined = joined
        self.choice = ANYBODY
        self._records = records
        self._known: list[ProviderRecord] = []
        self._looked_s = float("-inf")
        self._tasks = Tasks()
        self._left: LRUCache[bytes, int] = LRUCache(MAX_LEFT)
        """Those that gave a reply nothing, or too little: others are asked first from then on, and who was left last
        comes last."""
        self._num_left = 0
        self._networks: dict[bytes, str] = {}
        """Of those that were found last, whichever model they draft for: replies of several may be under way."""
        self.paces = Paces()
        self._doubts = Doubts()
        self.last = b""
        """It may have kept what it computed."""

    async def close(self) -> None:
        await self._tasks.close()

    def allowed(self, records: Iterable[ProviderRecord]) -> list[ProviderRecord]:
        """Without drafters that are not to be asked: a model that they alone draft for is not the one that is meant."""
        return [one for one in records if one.role != "drafter" or self.choice.takes(one.peer_id)]

    def left(self, *drafters: bytes) -> None:
        self._num_left += 1
        self._left.update(dict.fromkeys(drafters, self._num_left))

    def contradicted(self, givers: Iterable[bytes], by: bytes) -> None:
        """They gave a reply with which this one does not go on. Whom several contradict is asked when nobody else is
        left: quick as it may be, nobody else goes on with what it gives."""
        for giver in givers:
            self._doubts.note(giver, self._networks.get(by) or by.hex())

    def gave(self, model_id: str, drafter: bytes, tokens_per_s: float | None) -> None:
        """Of a reply. Who is slow does not say what is usual: nobody else may have been tried."""
        if tokens_per_s is None:
            return
        if tokens_per_s < self.paces.least(model_id, drafter):
            self.paces.forget(model_id, drafter)
            self.left(drafter)
        else:
            self.paces.note(model_id, drafter, tokens_per_s)
            self._doubts.forget(drafter)

    async def next(self, pending: PendingReply, failures: Failures) -> bytes:
        """The one to be preferred of those that answer; when all were asked, who was full, or failed but once, or was
        away and is back. `pending.others`: whom to ask beside it.

        Raises NoPipeline when nobody is left, or comes back in time; or what a drafter said of the whole reply.
        """
        if not failures:
            await self._look(RECENT_S)
        thorough = False
        while True:
            order = self._usable(pending, failures)
            fresh = [peer for peer in order if peer not in failures]
            self._put_off(fresh, failures)
            again = [peer for peer in failures if peer in order and not failures[peer].final]
            pending.others = [peer for peer in again if failures[peer].again]
            if failures.deniers:
                again = pending.others  # what cannot be done is told at once, however busy the others are
            if fresh:
                racers = self._before_doubts(fresh)[:MAX_RACED]
                living = await self._pings.race(racers)
                silent = [peer for peer in racers if self._pings.is_silent(peer)]
                for peer in silent:
                    failures[peer] = Failure(PeerUnavailable(f"{short_id(peer)} does not answer"), MAX_TRIES, away=True)
                if living:
                    others = [peer for peer in fresh if peer != living[0] and peer not in silent]
                    pending.others = [*others, *pending.others]
                    return living[0]
                if pending.patience.is_over(_now()):
                    raise no_drafter(pending, failures)
                self._say(pending, _waits(pending, failures))
                continue
            if again:
                found = await self._again(pending, failures, again)
                if found is not None:
                    return found
                continue
            away = any(failure.away for failure in failures.values())
            self._check(pending, failures, waits=away or not thorough)
            if away:
                self._say(pending, _waits(pending, failures))
                await self._wait(failures, AWAY_PAUSE_S)
            else:
                thorough = True
                await self._look(0.0, thorough=True)  # those who answered first may not know of all

    async def others(self, pending: PendingReply, asked: Collection[bytes]) -> list[bytes]:
        """That may be there by now."""
        await self._look(RECENT_S)
        return [peer for peer in self._order(pending) if peer not in asked and not self._doubts.is_caught(peer)]

    def is_trusted(self, model_id: str, drafter: bytes) -> bool:
        """It gave us a reply before, or we joined it: it has all the time that an honest one may need. (If everybody's
        first token is late, each that is asked for once more makes it later.)"""
        return drafter in self.joined or self.paces.rank(model_id, drafter) == 0

    async def scout(self, pending: PendingReply) -> float:
        """Look which of `pending.others` are there now, whatever they were when they were asked last. Since when."""
        begun_s = _now()
        with suppress(TimeoutError):
            async with asyncio.timeout(SCOUT_S):
                await self._pings.race(pending.others[:MAX_RACED], SCOUT_MOMENT_S)
        return begun_s

    def beside(self, pending: PendingReply, asked: Collection[bytes], since_s: float = -inf) -> bytes:
        """Out of `pending.others`: rather one that has answered a ping since; and of another network than those that
        were asked, who may be one under many names."""
        networks = {self._networks.get(peer) for peer in asked} - {""}

        def key(peer: bytes) -> tuple[bool, bool, bool]:
            answered_s = self._pings.answered_at(peer)
            is_away = answered_s is None or answered_s < since_s
            return is_away, self._networks.get(peer) in networks, self._doubts.is_doubted(peer)

        best = min(pending.others, key=key)
        pending.others.remove(best)
        return best

    def _put_off(self, fresh: list[bytes], failures: Failures) -> None:
        """Of strangers those of networks that were tried; and once some did not answer, who has never answered a call
        of ours: records of nobody can be made in any number."""
        tried = {self._networks.get(peer) for peer in failures} - {""}
        is_dark = any(failure.away for failure in failures.values())

        def key(peer: bytes) -> tuple[bool, bool]:
            if peer in self.joined:
                return False, False
            return self._networks[peer] in tried, is_dark and not self._rpc.transport.sighting(peer).reached

        fresh.sort(key=key)

    def _before_doubts(self, order: list[bytes]) -> list[bytes]:
        """The first of them, up to one that is doubted: that it answers a ping sooner makes it no better. All, where
        none of those first ones answered when they were asked last."""
        first = next((index for index, peer in enumerate(order) if self._doubts.is_doubted(peer)), len(order))
        return order[:first] if not all(map(self._pings.is_silent, order[:first])) else order

    def are_doubted(self, pending: PendingReply) -> bool:
        """Nobody else could be asked beside: a token of theirs may keep everybody else from going on with the reply."""
        return all(map(self._doubts.is_doubted, pending.others))

    def late_s(self, pending: PendingReply, num_positions: int) -> float:
        """After so long a first token is later than is usual in this swarm, of a prompt that is so long."""
        model = pending.model
        usual = UsualPass.of(model.shards, model.num_layers, self._network_of)
        rtts_s = [self._pings.last_rtt_s(record.peer_id) for record in self._known]
        known_s = [rtt_s for rtt_s in rtts_s if rtt_s is not None]
        return usual.late_s(num_positions, median_high(known_s)) if usual and known_s else inf

    def _check(self, pending: PendingReply, failures: Failures, *, waits: bool) -> None:
        """Nobody is left to ask for now."""
        if failures.deniers or not waits or pending.patience.is_spent(_now()):
            raise no_drafter(pending, failures)

    def _usable(self, pending: PendingReply, failures: Failures) -> list[bytes]:
        order = self._order(pending)
        others = [peer for peer in order if not self._doubts.is_caught(peer)]
        return others if any(peer not in failures or not failures[peer].final for peer in others) else order

    def _order(self, pending: PendingReply) -> list[bytes]:
        tokenizer = pending.model.tokenizer_hash
        drafters = [one for one in self._known if one.role == "drafter"]
        self._networks = {record.peer_id: self._network_of(record) for record in drafters}
        drafters = [one for one in drafters if one.tokenizer_hash == tokenizer]
        num = len(drafters)
        drafters = [one for one in drafters if self.choice.takes(one.peer_id)]
        pending.num_left_out = num - len(drafters)
        last = self.last if pending.request.keep else b""

        def network_of(record: ProviderRecord) -> str:
            return self._networks[record.peer_id]

        lots = by_lot(drafters, network_of, self._rng)
        rank = partial(self.paces.rank, pending.model.model_id)
        return [one.peer_id for one in by_preference(lots, last, self.joined, self._shunned, rank, network_of)]

    def _network_of(self, record: ProviderRecord) -> str:
        """Where it is seen, or else would be dialled."""
        seen = self._rpc.account_of(record.peer_id).network
        return seen or (network_of(parse_address(record.addresses[0])[0]) if record.addresses else "")

    def _shunned(self, peer: bytes) -> int:
        """Who was only silent answers a ping, or is not asked."""
        return 1 + self._left[peer] if peer in self._left else int(self._pings.is_silent(peer))

    async def _again(self, pending: PendingReply, failures: Failures, again: list[bytes]) -> bytes | None:
        """One that was full, after a moment; or one that answers a ping."""
        peer = min(again, key=lambda peer: not failures[peer].full)
        if failures[peer].full:
            full = sorted(other for other in again if failures[other].full)
            names = ", ".join(map(short_id, full[:MAX_NAMED]))
            self._say(pending, f"waiting for a place at the drafter {names} ({failures[full[0]].error})")
            await self._wait(failures, FULL_PAUSE_S)
            return peer
        pending.others = [other for other in pending.others if other != peer]
        try:
            await self._pings.ping(peer)
        except DsdError as error:
            failures[peer] = Failure(error, MAX_TRIES, away=True)
            return None
        return peer

    async def _wait(self, failures: Failures, pause_s: float) -> None:
        """Those that are back have not failed any more."""
        if _now() > self._looked_s + LOOK_AGAIN_S:
            self._looked_s = _now()
            self._tasks.spawn(self._look(0.0, thorough=True))

        async def look_after(peer: bytes) -> None:
            if await self._pings.rtt_s(peer) is not None:
                del failures[peer]

        away = [peer for peer, failure in failures.items() if failure.away][:MAX_RACED]
        await asyncio.gather(asyncio.sleep(pause_s), *(look_after(peer) for peer in away))

    def _say(self, pending: PendingReply, words: str) -> None:
        if pending.patience.still_s(_now()) >= STILL_S:
            pending.hear(words)

    async def _look(self, max_age_s: float, *, thorough: bool = False) -> None:
        """Who is known stays so while nobody says otherwise: our own network may be gone."""
        self._looked_s = _now()
        self._known = await self._records(max_age_s, thorough=thorough) or self._known


def no_drafter(pending: PendingReply, failures: Failures) -> DsdError:
    """What to raise: the words of whoever says that it cannot be done, rather."""
    if (denied := failures.denied) is not None:
        return denied
    model = pending.model.name
    away = [peer for peer, failure in failures.items() if failure.away]
    others = dict.fromkeys(str(failure.error) for failure in failures.values() if not failure.away)
    more = "`dsdnode start --role drafter --model-draft none --join ...` adds one, with FILE for none a faster one"
    if not failures and (num := pending.num_left_out):
        return NoPipeline(f"--allow or --block leaves out all drafters of {model} that there are ({num})")
    if not failures:
        return NoPipeline(f"no drafter with the tokenizer of {model} in this swarm: {more}")
    reasons = "; ".join([*([f"waited for {_away(away)}"] if away else []), *others])
    return NoPipeline(f"no drafter is left for {model} ({reasons}): ask again later ({more})")


def _waits(pending: PendingReply, failures: Failures) -> str:
    away = [peer for peer, failure in failures.items() if failure.away]
    return f"waiting for {_away(away)} of {pending.model.name}"


def _away(away: list[bytes]) -> str:
    names, more = ", ".join(map(short_id, away[:MAX_NAMED])), len(away) - MAX_NAMED
    verb = "does not answer" if len(away) == 1 else f"{f'and {more} more ' if more > 0 else ''}do not answer"
    return f"a drafter ({names} {verb})"


def _now() -> float:
    return asyncio.get_running_loop().time()
