"""The role `drafter`: owns replies. Hosts the draft model and the tokenizer, answers clients, drives one Reply each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any
from weakref import WeakValueDictionary

import structlog

from dsdnode.accounts import TURN_S, Account, Asking, Shares, Turns
from dsdnode.dht.ids import tokenizer_key
from dsdnode.engine.port import Text, TextEngine
from dsdnode.engine.tokenizer import Detokenizer
from dsdnode.errors import BadInput, DsdError, NoPipeline, Overloaded, PeerUnavailable
from dsdnode.identity import peer_id
from dsdnode.net.rpc import Rpc
from dsdnode.node.admission import Admission
from dsdnode.node.batching.batcher import Batcher
from dsdnode.node.drafter.constrained import constrain
from dsdnode.node.drafter.conversations import Conversations
from dsdnode.node.drafter.delivery import Delivery, finished
from dsdnode.node.drafter.options import Options, ReplyOptions
from dsdnode.node.drafter.reply import Reply
from dsdnode.node.drafter.routes import Routes
from dsdnode.node.drafter.texts import Reading, Texts
from dsdnode.pacing.tuning import TUNING, Tuning
from dsdnode.placement.pipelines import Chooser, choose_pipeline
from dsdnode.swarm.catalogue import Model, models_of
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.pings import Pings
from dsdnode.wire import messages as wire
from dsdnode.wire import replies
from dsdnode.wire.codec import (
    MAX_FRAME_BYTES,
    MAX_HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    buffer_at,
    decode_body,
    encode_body,
)
from dsdnode.wire.masks import LackMasks
from dsdnode.wire.numbers import pack_tokens
from dsdnode.wire.records import ProviderRecord

log = structlog.get_logger(__name__)

READ_TOKENS = 16_384
"""Are made a text at once: that takes a few milliseconds."""
NO_REQUEST = bytes(16)
"""In an answer to what is no request for a reply."""


class DrafterHost:
    """Serves Generate and Cancel; hands the stages' answers to the reply they belong to."""

    def __init__(
        self,
        rpc: Rpc,
        discovery: Discovery,
        pings: Pings,
        engine: TextEngine,
        texts: Texts,
        *,
        max_sessions: int,
        options: Options,
        rng: Random,
        choose: Chooser = choose_pipeline,
        tuning: Tuning = TUNING,
        admission: Admission | None = None,
    ) -> None:
        """`rng`: of secrets."""
        self._rpc = rpc
        self._discovery = discovery
        self._pings = pings
        self._engine = engine
        self._texts = texts
        self._batcher = Batcher(engine)
        self._admission = admission or Admission()
        self._routes = Routes(rpc, discovery, pings, choose, tuning, self._admission)
        self._max_sessions = max_sessions
        self._options = options
        own_id, close = peer_id(rpc.transport.contact.public_key), self._routes.close
        self._conversations = Conversations(own_id, engine, self._batcher, close, max_sessions, rng)
        self._deliveries: dict[tuple[bytes, bytes], Delivery] = {}
        """By client and request: nobody takes a name from a client that is just asking under it."""
        self._prompting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._by_session: dict[bytes, Reply] = {}
        self._turns = Turns()
        self._asking = Asking()
        self._draining = False
        self._records: list[ProviderRecord] = []
        """Of all models with our tokenizer, as they were found last."""
        self.on_change: Callable[[], None] = lambda: None

    def start(self) -> None:
        self._batcher.start()
        self._batcher.on_lost(lambda _: self._draft_lost())
        self._engine.on_change(self._draft_changed)
        self._rpc.on_request(replies.Generate, self._generate)
        self._rpc.on_request(replies.ReadText, self._read_text)
        self._rpc.on_notice(replies.Cancel, self._cancel)
        self._rpc.on_notice(wire.Verdict, lambda peer, m, b: self._to_reply(m.session, Reply.on_verdict, peer, m, b))
        self._rpc.on_notice(wire.Nack, lambda peer, m, _: self._to_reply(m.session, Reply.on_nack, peer, m))
        self._rpc.on_notice(
            wire.SessionLost, lambda peer, m, _: self._to_reply(m.session, Reply.on_session_lost, peer, m)
        )
        self._rpc.on_notice(LackMasks, lambda peer, m, _: self._to_reply(m.session, Reply.on_lack_masks, peer, m))
        self._rpc.transport.on_peer_lost(self._peer_lost)
        self._rpc.transport.on_broken(lambda peer, bulk, since_s: self._link_broken(peer))

    async def close(self) -> None:
        tasks = [delivery.task for delivery in self._deliveries.values() if delivery.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._conversations.forget()
        await self._texts.close()
        await self._batcher.close()

    @property
    def draining(self) -> bool:
        return self._draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self._draining = value
        self._conversations.forget()

    @property
    def batcher(self) -> Batcher:
        return self._batcher

    @property
    def num_sessions(self) -> int:
        return len(self._deliveries)

    @property
    def num_free_sessions(self) -> int:
        """Who gives way, or does not listen any more, has no place."""
        taken = sum(one.failure is None for one in self._deliveries.values())
        return 0 if self.draining else max(0, self._max_sessions - taken)

    # --- messages

    async def _generate(
        self, peer: bytes, message: replies.Generate, buffers: list[bytes]
    ) -> tuple[wire.Message, list[bytes]]:
        if (peer, message.request) in self._deliveries:
            return wire.Pong(), []
        if not buffers:
            return wire.Refused("no such reply is in progress for you"), []
        if self.draining:
            return wire.Refused("this drafter is leaving", retry=True), []
        if (refusal := self._admission.refusal(peer)) is not None:
            return refusal, []
        account = self._rpc.account_of(peer)
        giving = self._giving(account)
        if giving is None:
            return wire.Refused(f"all {self._max_sessions} replies here are taken", retry=True), []
        body = decode_body(buffers[0], replies.GenerateBody)
        delivery = Delivery(self._rpc, self._pings, account, message.request)
        self._deliveries[peer, message.request] = delivery
        try:
            self._check_share(account, self._least_positions(body))
            for other in giving:
                other.give_way()
                if other.reply is not None:
                    await other.gone.wait()
            # Two lookups at once, as each takes its time; both have ended before either fails.
            looking = self._routes.hosts.look(body.model)
            model, looked = await asyncio.gather(self._model(body.model), looking, return_exceptions=True)
            for failed in (model, looked):
                if isinstance(failed, BaseException):
                    raise failed
            assert isinstance(model, Model)
            reading, prompt = await self._read(account, body, model)
            calls = await reading.text.calls() if body.tools else None
            options = self._options.reply(body, model, reading.vocabulary, reading.foreign)
            if body.constraint is not None:
                grammar = await constrain(reading.text, body, model.vocab_size, reading.vocabulary)
                options = replace(options, grammar=grammar)
            if delivery.cancelled:  # (nothing is awaited from here on)
                raise delivery.failure or PeerUnavailable("cancelled before it began")
            self._begin(delivery, body, options, prompt, reading.vocabulary.detokenizer(calls))
        except DsdError as error:
            self._forget(delivery)
            return finished(message.request, "", error), []
        except BaseException:
            self._forget(delivery)
            raise
        told = [] if calls is None else [encode_body(calls)]
        return replies.Accepted(message.request, model.model_id, options.acceptance), [pack_tokens(prompt), *told]

    async def _read_text(
        self, peer: bytes, message: replies.ReadText, buffers: list[bytes]
    ) -> tuple[wire.Message, list[bytes]]:
        """What a prompt comes to, without a place for a reply."""
        if (refusal := self._admission.refusal(peer)) is not None:
            return refusal, []
        body = decode_body(buffer_at(buffers, 0), replies.GenerateBody)
        try:
            model = await self._model(body.model)
            reading, prompt = await self._read(self._rpc.account_of(peer), body, model)
            self._check_ids(model, prompt)
            told = [pack_tokens(prompt), (await _text_of(prompt, reading.vocabulary.detokenizer())).encode()]
            if max(map(len, told)) > MAX_FRAME_BYTES or sum(map(len, told)) > MAX_MESSAGE_BYTES - MAX_HEADER_BYTES:
                raise BadInput(f"a prompt of {len(prompt)} tokens is too long to be told")
        except DsdError as error:
            return finished(NO_REQUEST, "", error), []
        return replies.TextRead(), told

    async def _read(self, account: Account, body: replies.GenerateBody, model: Model) -> tuple[Reading, list[int]]:
        """How the model's texts are read, and the prompt's ids. One at a time of a network: whoever sends long texts
        waits for himself."""
        reading = await self._texts.of(model)
        self._check_length(body, model, reading)
        async with self._prompting.setdefault(account.network, asyncio.Lock()):
            return reading, await self._prompt(body, reading.text)

    def _giving(self, asker: Account) -> list[Delivery] | None:
        """Whose place a client gets: nobody's, or the newest reply's of whoever has most. None: it gets none."""
        here = [one for one in self._deliveries.values() if one.failure is None]
        if len(here) < self._max_sessions:
            return []
        shares, now = Shares(self._max_sessions, ((one.account, 1) for one in here)), asyncio.get_running_loop().time()
        if over := shares.over(asker, 1):
            return [one for one in here if one.account == over[0]][-1:]
        takes_turns = set(shares.beside(asker, 1))
        beside = [one for one in here if one.account in takes_turns and self._turns.may_take(now, asker, one.account)]
        longest = min(beside, key=lambda one: one.since_s, default=None)
        if longest is None or longest.since_s + TURN_S >= now:
            return None
        self._turns.lost(now, longest.account, asker, longest.since_s)
        return [longest]

    def _begin(
        self,
        delivery: Delivery,
        body: replies.GenerateBody,
        options: ReplyOptions,
        prompt: list[int],
        text: Detokenizer,
    ) -> None:
        self._check(options.model, prompt, body.tokens)
        num_positions = min(options.model.context_tokens, len(prompt) + body.max_tokens)
        self._check_share(delivery.account, num_positions)
        delivery.num_positions = num_positions
        self._admission.begun(delivery.client)
        line = [*prompt, *body.tokens]
        conversation = self._conversations.take(delivery.account, line, num_positions, options)
        reply = self._by_session[conversation.session] = Reply(self._rpc, self._routes, conversation, options)
        delivery.start(reply, body, text, lambda: self._forget(delivery))
        self.on_change()

    def _check_share(self, account: Account, num_positions: int) -> None:
        """Long lines make all the others' slow, here and at the stages. Raises Overloaded."""
        now = asyncio.get_running_loop().time()
        self._asking.asks(account.network, now, num_positions)
        held = ((one.account, one.num_positions) for one in self._deliveries.values() if one.failure is None)
        shares = Shares(self._engine.shard.context_tokens, held)
        if not shares.is_modest(account, num_positions, self._asking.lately(now)):
            raise Overloaded("your network has its share of this drafter in long replies, while others ask")

    def _least_positions(self, body: replies.GenerateBody) -> int:
        """That its line may grow to, before anything was looked up or read."""
        num_tokens = len(body.prompt_tokens) or -(-_num_bytes(body) // self._texts.longest_bytes)
        return min(self._engine.shard.context_tokens, num_tokens + body.max_tokens)

    def _forget(self, delivery: Delivery) -> None:
        self._deliveries.pop((delivery.client, delivery.request), None)
        delivery.gone.set()
        if delivery.reply is not None:
            conversation = delivery.reply.conversation
            self._by_session.pop(conversation.session, None)
            self._conversations.leave(conversation, keep=not self.draining)
        self.on_change()

    def _cancel(self, peer: bytes, message: replies.Cancel, buffers: list[bytes]) -> None:
        """In the loop's next turn: the task that serves a Generate which came just before it is to run first."""
        asyncio.get_running_loop().call_soon(self._cancel_now, peer, message.request)

    def _cancel_now(self, client: bytes, request: bytes) -> None:
        delivery = self._deliveries.get((client, request))
        if delivery is not None:
            delivery.cancel("cancelled")

    def _peer_lost(self, peer: bytes, reason: str, at_s: float) -> None:
        self._conversations.forget(peer)
        for delivery in list(self._deliveries.values()):
            if delivery.client == peer:
                delivery.client_lost()
            elif delivery.reply is not None:
                delivery.reply.on_link_lost(peer)

    def _link_broken(self, peer: bytes) -> None:
        for reply in list(self._by_session.values()):
            reply.on_link_lost(peer)

    def _to_reply(self, session: bytes, event: Callable[..., None], *arguments: Any) -> None:
        reply = self._by_session.get(session)
        if reply is not None:
            event(reply, *arguments)

    def _draft_lost(self) -> None:
        """Replies go on, undrafted, until the worker is back."""
        self._conversations.draft_lost()
        for reply in list(self._by_session.values()):
            reply.on_drafter_lost()

    def _draft_changed(self) -> None:
        """It is back, empty; or it rests."""
        if self._engine.available:
            for reply in list(self._by_session.values()):
                reply.on_drafter_back()
        self.on_change()

    # --- one reply

    def _check_length(self, body: replies.GenerateBody, model: Model, reading: Reading) -> None:
        """Raises BadInput. The tokenizer is everybody's, and a text that cannot fit need not be read to be refused."""
        num_bytes = _num_bytes(body)
        most = model.context_tokens * reading.vocabulary.longest_bytes
        if num_bytes > most:
            known = f"the context of {model.name} here is {model.context_tokens} tokens, at most {most} bytes"
            raise BadInput(f"the prompt is {num_bytes} bytes long; {known}")

    async def _prompt(self, body: replies.GenerateBody, text: Text) -> list[int]:
        if body.prompt_tokens:
            prompt = list(body.prompt_tokens)
        elif self._engine.quarantined:
            raise PeerUnavailable(self._engine.quarantined)
        elif body.messages:
            messages = [(message.role, message.content, message.more) for message in body.messages]
            prompt = await text.render(messages, body.tools)
        else:
            prompt = await text.tokenize(body.text, parse_special=True)
        if not prompt:
            raise BadInput("the prompt is empty")
        return prompt

    async def _model(self, model_id: str) -> Model:
        """The model as the swarm has it now. Raises NoPipeline when nobody offers it with our tokenizer."""
        tokenizer_hash = self._texts.tokenizer_hash
        records = await self._discovery.find_providers(tokenizer_key(tokenizer_hash))
        self._records = records or self._records  # where nobody at all is found, our own network may be a new one
        models = models_of(self._records)
        for model in models:
            if model.model_id == model_id:
                return model
        known = ", ".join(model.name for model in models)
        raise NoPipeline(
            f"no shard of that model with this drafter's tokenizer ({tokenizer_hash[:12]}) is in the swarm"
            + (f" (there is: {known})" if known else "")
        )

    def _check(self, model: Model, prompt: list[int], tokens: Sequence[int]) -> None:
        """Raises BadInput. The draft model may have more rows than the target, or fewer."""
        if len(prompt) >= model.context_tokens:
            known = f"the context of {model.name} here is {model.context_tokens}"
            raise BadInput(f"the prompt is {len(prompt)} tokens long; {known}")
        self._check_ids(model, (*prompt, *tokens))

    def _check_ids(self, model: Model, ids: Sequence[int]) -> None:
        if max(ids, default=0) >= model.vocab_size:
            raise BadInput(f"a token id is outside of the vocabulary of {model.vocab_size} that {model.name} has")


async def _text_of(tokens: list[int], text: Detokenizer) -> str:
    """A text of a mebibyte may be a million of them: others are heard meanwhile."""
    parts = list[str]()
    for start in range(0, len(tokens), READ_TOKENS):
        parts.append(text.feed(tokens[start : start + READ_TOKENS]))
        await asyncio.sleep(0)
    return "".join([*parts, text.finish()])


def _num_bytes(body: replies.GenerateBody) -> int:
    texts = [body.text, body.tools, *(text for one in body.messages for text in (one.content, one.more))]
    return sum(len(text.encode("utf-8", "replace")) for text in texts)
