"""What a start would do, and what the swarm would give with this machine: looked at, tried and simulated, not done.

Of what hangs on the texts, how many draft tokens are right and how long replies are, the swarm's own replies tell;
where it gives none yet, both are assumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dsdnode.client.client import Client, Finished, GenerateRequest, ReplyStats
from dsdnode.config import NodeConfig
from dsdnode.errors import DsdError, NoPipeline, PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.models.problems import problems
from dsdnode.net.handshake import swarm_names
from dsdnode.node import machine
from dsdnode.node.fetching import Hubs, Nobody
from dsdnode.node.machine import Machine
from dsdnode.node.offers import NUM_PINGS
from dsdnode.node.proposal import Found, Proposal, propose
from dsdnode.node.settling import MAX_SURVEYED
from dsdnode.placement.pipelines import View, choose_pipeline
from dsdnode.sim.live import question_of
from dsdnode.sim.plan import SEED
from dsdnode.sim.scenario import Pair
from dsdnode.sim.simulate import simulate
from dsdnode.swarm.catalogue import models_of
from dsdnode.swarm.joining import remembered
from dsdnode.weights.pull import Quote
from dsdnode.wire.joins import format_join
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import NO_HASH, ProviderRecord

TRIALS = 4
TRIAL_TOKENS = 64
TRIAL_S = 30.0
"""For all of them: of a swarm that is slower than that, those count that were over by then."""
PROMPTS_SEED = 29
PLAIN = ("fixed", 0)
"""Without a draft model: what is copied hangs on the text."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Replies of a swarm: tokens a second and tokens of each, and the share of the draft tokens that were right (None:
    none was judged)."""

    tokens_per_second: tuple[float, ...] = ()
    num_tokens: tuple[int, ...] = ()
    acceptance: float | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """The swarm without this machine, the machine, what it would do, and what replies the swarm gives now."""

    found: Found
    machine: Machine
    proposal: Proposal
    quotes: tuple[Quote, ...]
    """Of what it would fetch."""
    trial: Trial


@dataclass(frozen=True, slots=True)
class Prediction:
    """Tokens a second in one reply, asked for at this machine: as measured now, and as simulated without it and with
    it (None: no reply). `missing`: what a reply lacks with it, in words. `acceptance`: what was reckoned with (None:
    nobody has a draft model)."""

    measured: float | None
    without: float | None
    with_it: float | None
    missing: str
    acceptance: float | None
    is_assumed: bool


async def look(config: NodeConfig) -> Sight:
    """As a client, which offers nothing to anybody. Raises PeerUnavailable, BadInput, ModelRefused, as the start."""
    here = machine.at_hand(config.data_dir)
    contact = Contact(Identity.generate().public_key, ())
    async with _client(config) as client:
        found = Found.of(*await client.survey(MAX_SURVEYED, NUM_PINGS)) if client else Found()
        async with Hubs(config, Nobody(), client.rpc if client else None) as sources:
            proposal = await propose(config, contact, found, here, sources, timed=True)
            quotes = tuple(pull.part(layers).quote() for pull, layers in proposal.pulls)
        trial = Trial()
        if client is not None and proposal.kind is not None:
            trial = await _try(client, found.records, proposal.kind.model_id)
    return Sight(found, here, proposal, quotes, trial)


@contextlib.asynccontextmanager
async def _client(config: NodeConfig) -> AsyncIterator[Client | None]:
    """None: no swarm is known, or the one last known does not answer."""
    known = remembered(config.data_dir, swarm_names(config.swarm_keys))
    joins = config.joins or tuple(map(format_join, known))
    client = None
    try:
        client = await Client.connect(joins, config.swarm_keys) if joins else None
    except PeerUnavailable:
        if config.joins:
            raise
    try:
        yield client
    finally:
        if client is not None:
            await client.close()


async def _try(client: Client, records: Sequence[ProviderRecord], model_id: str) -> Trial:
    """A few short replies, one after the other, if the swarm can give any."""
    models = [one for one in models_of(records) if one.model_id == model_id]
    if not models or not models[0].complete or not models[0].drafters:
        return Trial()
    done: list[ReplyStats] = []
    with contextlib.suppress(DsdError, TimeoutError):
        async with asyncio.timeout(TRIAL_S):
            for problem in problems(PROMPTS_SEED, TRIALS):
                messages = [{"role": "user", "content": problem.question}]
                request = GenerateRequest(messages=messages, model=model_id, max_tokens=TRIAL_TOKENS)
                async with contextlib.aclosing(client.generate(request)) as events:
                    done += [event.stats async for event in events if isinstance(event, Finished)]
    judged = sum(one.judged for one in done)
    return Trial(
        tuple(one.tokens_per_second for one in done if one.tokens_per_second),
        tuple(one.completion_tokens for one in done),
        sum(one.accepted for one in done) / judged if judged else None,
    )


def predict(config: NodeConfig, sight: Sight) -> Prediction | None:
    """None: of a machine that has no part in replies. Raises BadInput."""
    kind, trial, found = sight.proposal.kind, sight.trial, sight.found
    if kind is None:
        return None
    pair = Pair() if trial.acceptance is None else Pair(acceptance=trial.acceptance)
    tokens = round(statistics.mean(trial.num_tokens)) if trial.num_tokens else TRIAL_TOKENS
    own = sight.proposal.records
    rtt_s = {**found.rtt_s, **{one.peer_id: 0.0 for one in own}}
    case = _Case(kind.model_id, rtt_s, pair, (config.window, config.draft_max), tokens)
    without, _ = case.speed(found.records)
    with_it, missing = case.speed([*found.records, *own])
    measured = statistics.median(trial.tokens_per_second) if trial.tokens_per_second else None
    acceptance = pair.acceptance if _have_model([*found.records, *own]) else None
    return Prediction(measured, without, with_it, missing, acceptance, trial.acceptance is None)


def _have_model(drafters: Sequence[ProviderRecord]) -> bool:
    return any(one.role == "drafter" and one.weights_hash != NO_HASH for one in drafters)


@dataclass(frozen=True, slots=True)
class _Case:
    """`policy`: window and --draft-max; `tokens`: of a reply."""

    model_id: str
    rtt_s: Mapping[bytes, float]
    pair: Pair
    policy: tuple[str, int]
    tokens: int

    def speed(self, records: Sequence[ProviderRecord]) -> tuple[float | None, str]:
        """Of a reply, or what it lacks, in words."""
        shards = [one for one in records if one.role == "shard" and one.model_id == self.model_id]
        if not shards:
            return None, "nobody hosts layers of it"
        tokenizer = shards[0].tokenizer_hash
        drafters = [one for one in records if one.role == "drafter" and one.tokenizer_hash == tokenizer]
        try:
            choose_pipeline(shards, shards[0].num_layers, View.of(self.rtt_s))
            question = question_of([*shards, *drafters], self.rtt_s, self.pair)
        except NoPipeline as error:
            return None, str(error)
        question = replace(question, replies=TRIALS, reply_tokens=self.tokens)
        report = simulate(question.scenario(self.policy if _have_model(drafters) else PLAIN), SEED)
        speeds = report.reply_tokens_per_second
        return (None, next(iter(report.errors), "")) if speeds is None else (speeds.p50, "")
