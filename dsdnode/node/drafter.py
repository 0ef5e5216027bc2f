"""The role `drafter`: owns replies. Hosts the draft model and the tokenizer, answers clients, drives one Reply each."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from dsdnode.dht.ids import tokenizer_key
from dsdnode.engine.port import TextEngine
from dsdnode.engine.tokenizer import Vocab
from dsdnode.errors import BadInput, DsdError, EngineLost, ModelRefused, NoPipeline
from dsdnode.identity import short_id
from dsdnode.net.port import Priority
from dsdnode.net.rpc import Rpc
from dsdnode.node.batcher import Batcher
from dsdnode.node.catalogue import Model, models_of
from dsdnode.node.discovery import Discovery
from dsdnode.node.generate import DraftLine, Reply
from dsdnode.node.routes import Router, Terms
from dsdnode.node.stops import StopFilter
from dsdnode.speculation.actions import Emit, Tokens
from dsdnode.speculation.sampling import Sampling
from dsdnode.speculation.session import SessionConfig
from dsdnode.speculation.window import Fixed
from dsdnode.wire import messages as wire
from dsdnode.wire.codec import MAX_FRAME_BYTES, buffer_at, decode_body, encode_body
from dsdnode.wire.tensors import pack_tokens

log = structlog.get_logger(__name__)

PREFILL_POSITIONS = 256
DRAFT_RESTART_S = 300.0


@dataclass(slots=True)
class _Serving:
    client: bytes
    request: bytes
    reply: Reply
    task: asyncio.Task[None]
    cancelled: bool = False


class DrafterHost:
    """Serves Generate and Cancel; hands the stages' answers to the reply they belong to."""

    def __init__(
        self,
        rpc: Rpc,
        discovery: Discovery,
        engine: TextEngine,
        vocabulary: Vocab,
        *,
        max_sessions: int,
        draft_max: int,
        wire_type: str,
        lease_s: float,
    ) -> None:
        self._rpc = rpc
        self._discovery = discovery
        self._engine = engine
        self._vocabulary = vocabulary
        self._batcher = Batcher(engine)
        self._router = Router(rpc, discovery)
        self._max_sessions = max_sessions
        self._draft_max = draft_max
        self._wire = wire_type
        self._lease_s = lease_s
        self._free = list(range(min(max_sessions, engine.shard.max_sequences)))
        self._serving: dict[bytes, _Serving] = {}
        self._by_session: dict[bytes, Reply] = {}
        self._waiting: asyncio.Task[None] | None = None
        self.draining = False
        self.on_change: Callable[[], None] = lambda: None

    def start(self) -> None:
        self._batcher.start()
        self._engine.on_lost(self._draft_lost)
        self._rpc.on_request(wire.Generate, self._generate)
        self._rpc.on_notice(wire.Cancel, self._cancel)
        self._rpc.on_notice(wire.Verdict, lambda peer, m, _: self._to_reply(m.session, Reply.on_verdict, peer, m))
        self._rpc.on_notice(wire.Nack, lambda peer, m, _: self._to_reply(m.session, Reply.on_nack, peer, m))
        self._rpc.on_notice(
            wire.SessionLost, lambda peer, m, _: self._to_reply(m.session, Reply.on_session_lost, peer, m)
        )
        self._rpc.transport.on_peer_lost(self._peer_lost)

    async def close(self) -> None:
        tasks = [serving.task for serving in self._serving.values()]
        if self._waiting is not None:
            tasks.append(self._waiting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._batcher.close()

    @property
    def num_sessions(self) -> int:
        return len(self._serving)

    @property
    def num_free_sessions(self) -> int:
        return 0 if self.draining else self._max_sessions - len(self._serving)

    # --- messages

    async def _generate(
        self, peer: bytes, message: wire.Generate, buffers: list[bytes]
    ) -> tuple[wire.Message, list[bytes]]:
        if self.num_free_sessions <= 0:
            return wire.Refused(f"all {self._max_sessions} replies of this drafter are taken", retry=True), []
        if message.request in self._serving:
            return wire.Refused("this request is being served"), []
        body = decode_body(buffer_at(buffers, 0), wire.GenerateBody)
        sequence = self._free.pop() if self._free else None
        try:
            prompt = await self._prompt(body)
            model = await self._model(body.model)
            reply = self._reply(body, model, prompt, sequence)
        except DsdError as error:
            self._give_back(sequence)
            return wire.Refused(str(error)[:512]), []
        task = asyncio.create_task(self._serve(peer, message.request, body, reply, sequence))
        self._serving[message.request] = _Serving(peer, message.request, reply, task)
        self.on_change()
        return wire.Accepted(message.request, model.model_id), [pack_tokens(prompt)]

    def _cancel(self, peer: bytes, message: wire.Cancel, buffers: list[bytes]) -> None:
        serving = self._serving.get(message.request)
        if serving is not None and serving.client == peer:
            serving.reply.cancel("cancelled")

    def _peer_lost(self, peer: bytes, reason: str) -> None:
        for serving in list(self._serving.values()):
            if serving.client == peer:
                serving.reply.cancel("cancelled")
            else:
                serving.reply.on_link_lost(peer)

    def _to_reply(self, session: bytes, event: Callable[..., None], *arguments: Any) -> None:
        reply = self._by_session.get(session)
        if reply is not None:
            event(reply, *arguments)

    def _draft_lost(self) -> None:
        """Replies go on, undrafted, until the worker is back."""
        for reply in list(self._by_session.values()):
            reply.on_drafter_lost()
        if self._waiting is None or self._waiting.done():
            self._waiting = asyncio.create_task(self._wait_for_draft(), name="wait for the draft engine")

    async def _wait_for_draft(self) -> None:
        try:
            await self._engine.ping(DRAFT_RESTART_S)
        except EngineLost as error:
            log.warning("drafting is over", reason=str(error))
            return
        for reply in list(self._by_session.values()):
            reply.on_drafter_back()

    # --- one reply

    async def _prompt(self, body: wire.GenerateBody) -> list[int]:
        if body.prompt_tokens:
            prompt = list(body.prompt_tokens)
        elif body.messages:
            prompt = await self._engine.render([(message.role, message.content) for message in body.messages])
        else:
            prompt = await self._engine.tokenize(body.text, parse_special=True)
        if not prompt:
            raise BadInput("the prompt is empty")
        vocab_size = self._engine.shard.vocab_size
        if max(prompt + list(body.tokens)) >= vocab_size:
            raise BadInput(f"a token id is outside of the vocabulary of {vocab_size}")
        return prompt

    async def _model(self, model_id: str) -> Model:
        """The model as the swarm has it now. Raises NoPipeline when nobody offers it with our tokenizer."""
        tokenizer_hash = self._engine.shard.tokenizer_hash
        records = await self._discovery.find_providers(tokenizer_key(tokenizer_hash))
        models = models_of(records)
        for model in models:
            if model.model_id == model_id:
                return model
        known = ", ".join(model.name for model in models)
        raise NoPipeline(
            f"no shard of that model with this drafter's tokenizer ({tokenizer_hash[:12]}) is in the swarm"
            + (f" (there is: {known})" if known else "")
        )

    def _reply(self, body: wire.GenerateBody, model: Model, prompt: list[int], sequence: int | None) -> Reply:
        if model.vocab_size < self._engine.shard.vocab_size:
            raise ModelRefused(f"{model.name} has a smaller vocabulary than this drafter")
        limit = model.context_tokens
        if len(prompt) >= limit:
            raise BadInput(f"the prompt is {len(prompt)} tokens long; the context of {model.name} here is {limit}")
        asked = body.sampling
        sampling = Sampling(asked.temperature, asked.top_k, asked.top_p, asked.min_p, asked.seed)
        max_positions = min(limit, len(prompt) + body.max_tokens)
        session = secrets.token_bytes(16)
        config = SessionConfig(
            session=session,
            secret=secrets.token_bytes(32),
            max_tokens=body.max_tokens - len(body.tokens),
            max_positions=limit,
            vocab_size=model.vocab_size,
            end_tokens=self._vocabulary.end_tokens,
            chunk_positions=max(1, min(PREFILL_POSITIONS, MAX_FRAME_BYTES // (4 * model.width))),
        )
        window = self._draft_max if body.draft_max < 0 else body.draft_max
        line = None if sequence is None or window == 0 else DraftLine(self._batcher, sequence, sampling)
        terms = Terms(session, model, asked, max_positions, self._lease_s, self._wire)
        reply = Reply(self._rpc, self._router, terms, config, prompt + list(body.tokens), Fixed(window), line)
        self._by_session[session] = reply
        return reply

    async def _serve(
        self, client: bytes, request: bytes, body: wire.GenerateBody, reply: Reply, sequence: int | None
    ) -> None:
        text = self._vocabulary.detokenizer()
        stops = StopFilter(body.stop)
        for token in body.tokens:  # what the client has shown already
            stops.feed(text.feed([token]))
        index, error = len(body.tokens), None
        reason = ""
        try:
            async for emit in reply.run():
                for tokens, num_accepted in _by_origin(emit):
                    shown = stops.feed(text.feed(tokens))
                    piece = wire.Piece(request, index, num_accepted)
                    self._tell(client, piece, [pack_tokens(list(tokens)), shown.encode()])
                    index += len(tokens)
                if stops.stopped:
                    reply.cancel("stop")
            reason = reply.reason
            rest = "" if stops.stopped else stops.feed(text.finish()) + stops.flush()
            if rest:
                self._tell(client, wire.Piece(request, index, 0), [b"", rest.encode()])
        except DsdError as failure:
            log.warning("reply failed", client=short_id(client), reason=str(failure))
            error = failure
        finally:
            self._forget(request, reply, sequence)
        self._tell(
            client,
            wire.Finished(request, reason, type(error).__name__ if error else "", str(error or "")[:512]),
            [encode_body(reply.statistics())],
        )

    def _forget(self, request: bytes, reply: Reply, sequence: int | None) -> None:
        self._serving.pop(request, None)
        self._by_session.pop(reply.session, None)
        self._give_back(sequence)
        self.on_change()

    def _give_back(self, sequence: int | None) -> None:
        if sequence is not None:
            self._free.append(sequence)

    def _tell(self, client: bytes, message: wire.Message, buffers: list[bytes]) -> None:
        try:
            self._rpc.notify(client, message, buffers, priority=Priority.CONTROL)
        except DsdError as error:
            log.info("client gone", client=short_id(client), reason=str(error))


def _by_origin(emit: Emit) -> list[tuple[Tokens, int]]:
    """The drafted tokens and the verdict's own apart, so that a client can colour the text of each."""
    drafted, own = emit.tokens[: emit.num_accepted], emit.tokens[emit.num_accepted :]
    return [(tokens, num) for tokens, num in ((drafted, len(drafted)), (own, 0)) if tokens]
