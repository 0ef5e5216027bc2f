"""Find the peers that host a model, see which of them live, choose a pipeline and open it for one reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog
from cachetools import LRUCache

from dsdnode.cost import PipelineCost
from dsdnode.dht.ids import model_key
from dsdnode.errors import DsdError, NoPipeline
from dsdnode.net.port import GUESSES, MASKS, SHAPING, Priority
from dsdnode.net.rpc import Rpc
from dsdnode.node.admission import Admission
from dsdnode.node.drafter.attempt import BETTER, Attempt, some_of
from dsdnode.node.drafter.constrained import ToldJudges
from dsdnode.node.drafter.conversations import PARKED_S, Conversation
from dsdnode.node.drafter.options import ReplyOptions
from dsdnode.node.drafter.route import Loss, Route
from dsdnode.node.drafter.telling import ToldLine
from dsdnode.pacing.suspects import HERE, TRIAL_PASSES, TRIAL_S, Slowness, Suspects, Trials, lost_at
from dsdnode.pacing.tuning import TUNING, Tuning
from dsdnode.placement.pipelines import Chooser, PipelineStage, View, choose_pipeline, predict, speed, with_usual_speeds
from dsdnode.placement.ranges import is_covered
from dsdnode.speculation import seal
from dsdnode.swarm.catalogue import Model
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.pings import PING_TIMEOUT_S, Pings
from dsdnode.wire.codec import encode_body, printable
from dsdnode.wire.messages import (
    Close,
    Message,
    Open,
    Opened,
    OpenStages,
    Park,
    Refused,
    StagePlace,
    Trace,
    Traced,
)
from dsdnode.wire.records import ProviderRecord

log = structlog.get_logger(__name__)

OPEN_TIMEOUT_S = 4.0
RETRY_S = 0.25
MAX_PIPELINES, MAX_MODELS = 64, 64
"""Remembered."""
FOUND_S = 10.0
"""Whom a lookup found so shortly ago a new reply need not look for again; whether they live is asked each time."""


class Hosts:
    """Of models, as the owner of replies sees them."""

    def __init__(self, rpc: Rpc, discovery: Discovery, pings: Pings, admission: Admission) -> None:
        """`admission`: who may be a stage."""
        self._rpc = rpc
        self._admission = admission
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
        """Shards of the model whose peers answer a ping, and their round trips in seconds; of very many, some.

        `fresh`: by a lookup of now; `avoid`: peers without which the others should make the whole model.
        """
        known = await (self._look_up(target.model_id) if fresh else self.known(target.model_id))
        records = some_of(
            known, self._discovery.own_id, lambda peer: self._pings.answered_at(peer) is not None, self._pings.is_silent
        )

        def enough(peers: Collection[bytes]) -> bool:
            usable = set(peers).difference(avoid)
            return is_covered(((one.start, one.end) for one in records if one.peer_id in usable), target.num_layers)

        rtt_s = await self._pings.round_trips(dict.fromkeys(one.peer_id for one in records), enough)
        return [record for record in records if record.peer_id in rtt_s], rtt_s

    async def known(self, model_id: str) -> list[ProviderRecord]:
        """Shards of the model that were found last, whether they answer or not."""
        _, known = self._remembered.get(model_id, (0.0, None))
        return await self._look_up(model_id) if known is None else known

    async def _look_up(self, model_id: str) -> list[ProviderRecord]:
        """A name that leads to nobody is not remembered: anybody can ask for any."""
        found = await self._discovery.find_providers(model_key(model_id))
        shards = [record for record in found if record.role == "shard" and record.model_id == model_id]
        shards = [record for record in shards if self._admission.trusts(record.peer_id)]
        _, before = self._remembered.get(model_id, (0.0, []))
        known = with_usual_speeds(shards) if shards else before
        if known:
            self._remembered[model_id] = asyncio.get_running_loop().time(), known
        return known


class Routes:
    """Opens pipelines for the replies of one owner."""

    def __init__(
        self,
        rpc: Rpc,
        discovery: Discovery,
        pings: Pings,
        choose: Chooser = choose_pipeline,
        tuning: Tuning = TUNING,
        admission: Admission | None = None,
    ) -> None:
        self._rpc = rpc
        self._choose = choose
        self.tuning = tuning
        self.pings = pings
        self.hosts = Hosts(rpc, discovery, pings, admission or Admission())
        self.suspects = Suspects()
        self.told_masks = ToldJudges()
        self._trials = Trials()
        self._slowness = Slowness()
        self._sessions: dict[bytes, dict[bytes, None]] = {}
        """Own replies, by the peers that they go through."""
        self._first_costs: LRUCache[tuple[bytes, ...], PipelineCost] = LRUCache(MAX_PIPELINES)

    async def open(
        self,
        conversation: Conversation,
        options: ReplyOptions,
        number: int,
        digests: bytes,
        avoid: Collection[bytes],
        tokens: Sequence[int],
        deadline_s: float,
        told: Callable[[str], None],
    ) -> Route:
        """The best pipeline of peers that answer now, opened: with room for the whole reply if there is one, else with
        the most. `avoid`: peers to do without where there is another way; `tokens`: the line so far.

        Every peer that may have opened is a holder of the conversation from then on. While there is none, because peers
        are silent, full or restarting, they are asked again until `deadline_s`, and `told` hears what is waited for.

        Raises NoPipeline (nobody has these layers, or their hosts are silent to the end), Overloaded.
        """
        session, model, num_tokens = conversation.session, options.model, len(tokens)
        avoid = dict.fromkeys([*avoid, *self.suspects.peers(_now())])
        attempt = Attempt(set(avoid), self._choose, num_tokens, conversation.num_positions)
        fresh = False
        if number == 0:
            await self.hosts.look(model.model_id)
        while True:
            records, rtt_s = await self.hosts.alive(model, fresh, avoid)
            view = self._view(session, records, rtt_s)
            strangers = [one.peer_id for one in records if not self.suspects.is_proven(one.peer_id)]
            trying = number == 0 and self._trials.is_due(_now())
            try:
                choose = attempt.choose_with_one if trying else attempt.choose
                places = choose(model, records, view, conversation.holders, strangers)
            except NoPipeline as error:
                if fresh:
                    known = await self.hosts.known(model.model_id)
                    attempt.check(error, model, records, known, late=_now() > deadline_s)
                    told(attempt.waits_for(model, records, known))
                    await asyncio.sleep(_pause_s(session, attempt.num))
                attempt.begin_again()
                fresh = True
                continue
            if not fresh and any(place.peer in avoid for place in places):
                fresh = True  # others may have come since
                continue
            trial_s = self._trial_s(places, attempt.instead(model, records, view, strangers), view, num_tokens)
            conversation.asked(place.peer for place in places)
            num_prompt = len(conversation.tokens) - options.num_resumed
            line = ToldLine.of(options, tokens, num_prompt, self._num_guesses(options, places))
            answers = await self._open_all(conversation, options, number, digests, places, line)
            failed = {peer: answer for peer, answer in answers.items() if not isinstance(answer, Opened)}
            if not failed:
                return self._opened(session, places, answers, self._costs(session, places, rtt_s), line, trial_s)
            attempt.refused(failed)
            empty = [peer for peer, answer in answers.items() if isinstance(answer, Opened) and not answer.length]
            self.close(conversation, empty)

    def _num_guesses(self, options: ReplyOptions, places: Sequence[PipelineStage]) -> int:
        """That the judge is asked for: every stage must know the notes that it needs for them."""
        can = all(self._rpc.transport.can(place.peer, GUESSES) for place in places)
        return min(places[-1].record.num_guesses, options.num_guesses) if can else 0

    def _opened(
        self,
        session: bytes,
        places: tuple[PipelineStage, ...],
        answers: Mapping[bytes, object],
        costs: PipelineCost,
        line: ToldLine,
        trial_s: float | None,
    ) -> Route:
        lengths = tuple(answer.length for answer in answers.values() if isinstance(answer, Opened))
        for peer in answers:
            self._sessions.setdefault(peer, {})[session] = None
        max_positions = min(place.record.context_tokens for place in places)
        first_costs = self._first_seen(tuple(answers), costs)
        return Route(places, tuple(answers), lengths, max_positions, costs, first_costs, line, trial_s)

    def _trial_s(
        self,
        places: Sequence[PipelineStage],
        instead: Sequence[PipelineStage] | None,
        view: View,
        num_positions: int,
    ) -> float | None:
        """As in Route. What they say of their own speed does not count."""
        if instead is None or all(self.suspects.is_proven(place.peer) for place in places):
            return None
        self._trials.begun(_now())
        return TRIAL_S + TRIAL_PASSES * predict(instead, view).pass_s(num_positions)

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
        slowness, broken = self._slowness.factors(records, _now()), self.suspects.links(_now())
        return View(rtt_s, slowness, others, session, self.tuning, broken)

    async def trace(self, conversation: Conversation, route: Route, number: int, block: tuple[int, int]) -> Loss:
        """Where the `block` (epoch, end) was lost, by what the stages say of it.

        Who refuses to say has not passed it on: a stage that has lost the session says so itself, unasked.
        """
        message = Trace(conversation.session, number, *block)

        async def ask(peer: bytes) -> Message | None:
            try:
                answer, _ = await self._rpc.request(peer, message, timeout_s=PING_TIMEOUT_S, priority=Priority.CONTROL)
            except DsdError:
                return None
            return answer

        answers = await asyncio.gather(*(ask(peer) for peer in route.peers))
        traced = [answer if isinstance(answer, Traced) else None for answer in answers]
        first, second = lost_at([None if one is None else one.reached for one in traced])
        here = traced[first]
        if here is None:
            return Loss(first, second, silent=answers[first] is None)
        return Loss(first, second, printable(here.trouble), computing=here.reached == HERE)

    def suspect(self, route: Route, loss: Loss) -> None:
        """Other replies, and the next route, avoid that link or peer for a while."""
        self.suspects.note(route.peers[loss.first], route.peers[loss.second], _now())

    def passed(self, route: Route) -> None:
        """Something came round it."""
        if route.trial_s is not None and not all(map(self.suspects.is_proven, route.peers)):
            self._trials.passed()
        self.suspects.passed(route.peers)

    def disappointed(self, route: Route) -> str:
        """Nothing came of a trial; in words."""
        new = [index for index, peer in enumerate(route.peers) if not self.suspects.is_proven(peer)]
        self.suspects.failed([route.peers[index] for index in new], _now())
        return f"nothing has come yet from {', '.join(map(route.told, new))}, new here"

    def fruitless(self, route: Route) -> None:
        """Nothing came of it, again, and nobody knows why: others first, for a while."""
        self.suspects.failed(route.peers, _now())

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
        line: ToldLine,
    ) -> dict[bytes, Opened | Refused | DsdError]:
        """Each is asked for what it has room for, whatever the others have: they may be others at the next try, and a
        stage that has opened already takes no other terms under the same number."""
        where = tuple(StagePlace(place.contact, place.start, place.end) for place in places)
        stages = encode_body(
            OpenStages(
                where,
                options.shaping,
                line.num_prompt,
                line.num_line,
                options.num_logprobs,
                options.grammar is not None,
                line.num_guesses,
            )
        )

        async def ask(index: int, peer: bytes) -> Opened | Refused | DsdError:
            judges = index == len(places) - 1
            reserved = min(conversation.num_positions, places[index].record.context_tokens)
            message = Open(
                conversation.session, number, index, options.model.model_id, self._rpc.transport.contact,
                options.asked, reserved, options.lease_s, options.wire, options.acceptance,
                seal.key_for(conversation.secret, number, peer) if judges else b"",
            )  # fmt: skip
            if options.is_shaped and not self._rpc.transport.can(peer, SHAPING):
                return Refused("it does not know penalties, biases and log-probabilities: a newer version does")
            if judges and options.grammar is not None and not self._rpc.transport.can(peer, MASKS):
                return Refused("it draws under no masks, which constrained replies take: a newer version does")
            buffers = [stages, digests, *(line.buffers(options.key_tokens) if judges else [])]
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


def _now() -> float:
    return asyncio.get_running_loop().time()


def _pause_s(session: bytes, attempt: int) -> float:
    """Owners that wait for the same places must not come back in step for ever: each has its own rhythm."""
    return RETRY_S * (0.5 + session[attempt % len(session)] / 255)
