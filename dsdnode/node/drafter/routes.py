"""Find the peers that host a model, see which of them live, choose a pipeline and open it for one reply."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import structlog
from cachetools import LRUCache

from dsdnode.cost import PipelineCost
from dsdnode.dht.ids import model_key
from dsdnode.errors import DsdError, NoPipeline, Overloaded
from dsdnode.net.port import Priority
from dsdnode.net.rpc import Rpc
from dsdnode.node.drafter.conversations import PARKED_S, Conversation
from dsdnode.node.drafter.options import ReplyOptions
from dsdnode.pacing.straggler import Slowness
from dsdnode.pacing.tuning import TUNING, Tuning
from dsdnode.placement.pipelines import Chooser, PipelineStage, View, choose_pipeline, is_covered, predict, speed
from dsdnode.swarm.catalogue import Model
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.pings import Pings
from dsdnode.wire.codec import encode_body
from dsdnode.wire.messages import (
    Close,
    Message,
    Open,
    Opened,
    OpenStages,
    Park,
    Refused,
    StagePlace,
)
from dsdnode.wire.records import ProviderRecord

log = structlog.get_logger(__name__)

OPEN_TIMEOUT_S = 4.0
PATIENCE_S = 30.0
"""Peers that are full, or whose worker restarts, are asked again for so long."""
RETRY_S = 0.25
BETTER = 1.3
"""A reply in progress, or the next one, leaves its pipeline for one that is so many times faster: caches must be filled
again."""
MAX_PIPELINES, MAX_MODELS = 64, 64
"""Remembered."""
FOUND_S = 10.0
"""Whom a lookup found so shortly ago a new reply need not look for again; whether they live is asked each time."""


class Hosts:
    """Of models, as the owner of replies sees them."""

    def __init__(self, rpc: Rpc, discovery: Discovery, pings: Pings) -> None:
        self._rpc = rpc
        self._discovery = discovery
        self._pings = pings
        self._remembered: LRUCache[str, tuple[float, list[ProviderRecord]]] = LRUCache(MAX_MODELS)
        """When and who was found last, by model: a reply that lost a stage need not wait for a lookup."""

    async def look(self, model_id: str) -> None:
        """Find out who hosts a model, unless somebody has just done so."""
        found_s, _ = self._remembered.get(model_id, (float("-inf"), []))
        if asyncio.get_running_loop().time() > found_s + FOUND_S:
            await self._look_up(model_id)

    async def alive(
        self, target: Model, fresh: bool, avoid: Collection[bytes]
    ) -> tuple[list[ProviderRecord], dict[bytes, float]]:
        """Shards of the model whose peers answer a ping, and their round trips in seconds.

        `fresh`: by a lookup of now; `avoid`: peers without which the others should make the whole model.
        """
        if fresh or target.model_id not in self._remembered:
            await self._look_up(target.model_id)
        _, records = self._remembered[target.model_id]
        for record in records:
            self._rpc.transport.introduce(record.contact)

        def enough(peers: Collection[bytes]) -> bool:
            usable = set(peers).difference(avoid)
            return is_covered(((one.start, one.end) for one in records if one.peer_id in usable), target.num_layers)

        rtt_s = await self._pings.round_trips(dict.fromkeys(one.peer_id for one in records), enough)
        return [record for record in records if record.peer_id in rtt_s], rtt_s

    async def _look_up(self, model_id: str) -> None:
        found = await self._discovery.find_providers(model_key(model_id))
        shards = [record for record in found if record.role == "shard" and record.model_id == model_id]
        self._remembered[model_id] = asyncio.get_running_loop().time(), shards


@dataclass(frozen=True, slots=True)
class Route:
    """An opened pipeline; `lengths` as the stages answered (speculation/actions.py, NeedRoute)."""

    places: tuple[PipelineStage, ...]
    peers: tuple[bytes, ...]
    lengths: tuple[int, ...]
    costs: PipelineCost
    """As predicted from the peers' records and the links; what was seen of them, too."""
    first_costs: PipelineCost
    """As they were when this drafter first took this pipeline."""


class Routes:
    """Opens pipelines for the replies of one owner."""

    def __init__(
        self,
        rpc: Rpc,
        discovery: Discovery,
        pings: Pings,
        choose: Chooser = choose_pipeline,
        tuning: Tuning = TUNING,
    ) -> None:
        self._rpc = rpc
        self._choose = choose
        self.tuning = tuning
        self.pings = pings
        self.hosts = Hosts(rpc, discovery, pings)
        self._slowness = Slowness()
        self._sessions: dict[bytes, dict[bytes, None]] = {}
        """Own replies, by the peers that they go through."""
        self._first_costs: LRUCache[tuple[bytes, ...], PipelineCost] = LRUCache(MAX_PIPELINES)

    async def open(
        self, conversation: Conversation, options: ReplyOptions, number: int, digests: bytes, avoid: Collection[bytes]
    ) -> Route:
        """The best pipeline of peers that answer now, opened. `avoid`: peers to do without where there is another way.

        Every peer that may have opened is a holder of the conversation from then on.

        Raises NoPipeline (layers named), Overloaded (all full, or restarting, for PATIENCE_S).
        """
        loop, session, model = asyncio.get_running_loop(), conversation.session, options.model
        deadline = loop.time() + PATIENCE_S
        attempt = _Attempt(set(avoid), self._choose)
        fresh = False
        if number == 0:
            await self.hosts.look(model.model_id)
        while True:
            records, rtt_s = await self.hosts.alive(model, fresh, avoid)
            try:
                places = attempt.choose(model, records, self._view(session, records, rtt_s), conversation.holders)
            except NoPipeline as error:
                if fresh:
                    attempt.check(error, model, records, late=loop.time() > deadline)
                    await asyncio.sleep(_pause_s(session, attempt.num))
                attempt.begin_again()
                fresh = True
                continue
            conversation.asked(place.peer for place in places)
            answers = await self._open_all(conversation, options, number, digests, places)
            failed = {peer: answer for peer, answer in answers.items() if not isinstance(answer, Opened)}
            if not failed:
                lengths = tuple(answer.length for answer in answers.values() if isinstance(answer, Opened))
                for peer in answers:
                    self._sessions.setdefault(peer, {})[session] = None
                costs = self._costs(session, places, rtt_s)
                return Route(places, tuple(answers), lengths, costs, self._first_seen(tuple(answers), costs))
            attempt.refused(failed)
            empty = [peer for peer, answer in answers.items() if isinstance(answer, Opened) and not answer.length]
            self.close(conversation, empty)

    def close(self, conversation: Conversation, peers: Sequence[bytes] | None = None) -> None:
        """Free these stages of it, or all. (Held while others are awaited, they would be what another owner waits
        for.)"""
        for peer in conversation.holders if peers is None else peers:
            conversation.left(peer)
            self._leave(peer, conversation.session)
            self._notify(peer, Close(conversation.session))

    def park(self, conversation: Conversation, number: int) -> None:
        """The reply is over; its stages may be opened again for the next one, under a number above `number`."""
        for peer in conversation.holders:
            self._leave(peer, conversation.session)
            self._notify(peer, Park(conversation.session, number, PARKED_S))

    def _leave(self, peer: bytes, session: bytes) -> None:
        self._sessions.get(peer, {}).pop(session, None)
        if not self._sessions.get(peer):
            self._sessions.pop(peer, None)

    def _notify(self, peer: bytes, message: Message) -> None:
        try:
            self._rpc.notify(peer, message, priority=Priority.CONTROL)
        except DsdError as error:
            log.debug("end not told", reason=str(error))  # its lease runs out

    async def better_than(self, session: bytes, model: Model, route: Route, index: int, factor: float) -> bool:
        """Stage `index` takes `factor` times what was expected: is there a pipeline that is BETTER, all considered?"""
        slow, costs = route.peers[index], route.costs
        self._slowness.note(slow, costs.stages[index].times(factor), _now())
        records, rtt_s = await self.hosts.alive(model, False, (slow,))
        view = self._view(session, records, rtt_s)
        try:
            places = choose_pipeline(records, model.num_layers, view, (slow,), model.name)
        except NoPipeline:
            return False
        return speed(places, view) >= BETTER * speed(route.places, view)

    def _view(self, session: bytes, records: Sequence[ProviderRecord], rtt_s: Mapping[bytes, float]) -> View:
        """What is known of the peers, this reply itself not counted."""
        others = {peer: len(known.keys() - {session}) for peer, known in self._sessions.items()}
        return View(rtt_s, self._slowness.factors(records, _now()), others, session, self.tuning)

    def _costs(self, session: bytes, places: Sequence[PipelineStage], rtt_s: Mapping[bytes, float]) -> PipelineCost:
        return predict(places, self._view(session, [place.record for place in places], rtt_s))

    def _first_seen(self, peers: tuple[bytes, ...], costs: PipelineCost) -> PipelineCost:
        """What decides how prompts are cut: the same prompt always in the same places, or rounding tells."""
        if any(stage.slope_s > 0 for stage in costs.stages):
            self._first_costs.setdefault(peers, costs)
        return self._first_costs.get(peers, costs)

    async def _open_all(
        self,
        conversation: Conversation,
        options: ReplyOptions,
        number: int,
        digests: bytes,
        places: Sequence[PipelineStage],
    ) -> dict[bytes, Opened | Refused | DsdError]:
        stages = encode_body(OpenStages(tuple(StagePlace(place.contact, place.start, place.end) for place in places)))

        async def ask(index: int, peer: bytes) -> Opened | Refused | DsdError:
            message = Open(
                conversation.session, number, index, options.model.model_id, self._rpc.transport.contact,
                options.asked, conversation.num_positions, options.lease_s, options.wire, options.acceptance,
            )  # fmt: skip
            judges = options.key_tokens and index == len(places) - 1
            buffers = [stages, digests, *([options.key_tokens] if judges else [])]
            try:
                answer, _ = await self._rpc.request(
                    peer, message, buffers, timeout_s=OPEN_TIMEOUT_S, priority=Priority.CONTROL
                )
            except DsdError as error:
                return error
            return answer if isinstance(answer, Opened | Refused) else Refused("no answer to Open")

        peers = [place.peer for place in places]
        answers = await asyncio.gather(*(ask(index, peer) for index, peer in enumerate(peers)))
        return dict(zip(peers, answers, strict=True))


class _Attempt:
    """What one opening has learnt about the peers that it asked."""

    def __init__(self, avoid: set[bytes], choose: Chooser) -> None:
        self._avoid = avoid
        self._choose = choose
        self._unfit: dict[bytes, str] = {}
        """Not now: full, restarting, silent."""
        self._never: dict[bytes, str] = {}
        self.num = 0

    def choose(
        self, target: Model, records: list[ProviderRecord], view: View, held: Collection[bytes]
    ) -> tuple[PipelineStage, ...]:
        """Without the peers to avoid if that can be, else with them (they answered a ping). Raises NoPipeline.

        Those that are `held` already, perhaps with all in their caches, unless others are much faster.
        """
        unfit = self._unfit.keys() | self._never.keys()
        try:
            best = self._choose(records, target.num_layers, view, unfit | self._avoid, target.name)
        except NoPipeline:
            return self._choose(records, target.num_layers, view, unfit, target.name)
        mine = [msgspec.structs.replace(record, free_sessions=1) for record in records if record.peer_id in held]
        if not mine:
            return best
        try:
            same = choose_pipeline(mine, target.num_layers, view, unfit | self._avoid, target.name)
        except NoPipeline:
            return best
        return best if speed(best, view) >= BETTER * speed(same, view) else same

    def refused(self, failed: Mapping[bytes, Refused | DsdError]) -> None:
        for peer, answer in failed.items():
            final = isinstance(answer, Refused) and not answer.retry
            why = answer.reason if isinstance(answer, Refused) else str(answer)
            (self._never if final else self._unfit)[peer] = why

    def check(self, error: NoPipeline, target: Model, records: list[ProviderRecord], *, late: bool) -> None:
        """Nobody is left to ask, all that are known being counted. Raises what ends the opening, if that should."""
        try:
            choose_pipeline(records, target.num_layers, View.of({}), self._never, target.name)
        except NoPipeline:
            reasons = "; ".join(sorted(set(self._never.values())))
            raise NoPipeline(f"{error} ({reasons})" if reasons else str(error)) from None
        if late:
            raise Overloaded("; ".join(sorted(set(self._unfit.values()))))

    def begin_again(self) -> None:
        self._unfit.clear()
        self.num += 1


def _now() -> float:
    return asyncio.get_running_loop().time()


def _pause_s(session: bytes, attempt: int) -> float:
    """Owners that wait for the same places must not come back in step for ever: each has its own rhythm."""
    return RETRY_S * (0.5 + session[attempt % len(session)] / 255)
