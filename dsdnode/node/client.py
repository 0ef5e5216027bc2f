"""Whoever asks: a peer for the moment, without an address, that finds a drafter and can go on at another one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from dsdnode.dht.ids import MODELS_KEY
from dsdnode.errors import BadInput, DsdError, ModelRefused, NoPipeline, Overloaded, PeerMisbehaved, PeerUnavailable
from dsdnode.identity import Identity, parse_join, peer_id, short_id
from dsdnode.net.port import Transport
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.node.catalogue import Model, describe_peers, models_of
from dsdnode.node.discovery import Discovery
from dsdnode.wire import messages as wire
from dsdnode.wire.codec import buffer_at, decode_body, encode_body, printable
from dsdnode.wire.records import ProviderRecord
from dsdnode.wire.tensors import unpack_tokens

log = structlog.get_logger(__name__)

JOIN_TIMEOUT_S = 10.0
ASK_TIMEOUT_S = 10.0
"""A drafter tokenizes the prompt and looks for a model in this time."""
SILENCE_S = 2.0
"""A drafter that sends nothing for so long is pinged ..."""
PING_TIMEOUT_S = 2.0
"""... and given up when it does not answer within this."""
FULL_PATIENCE_S = 30.0
MAX_VOCAB = 1 << 24
MAX_QUEUED_NOTICES = 4096
_ERRORS = {kind.__name__: kind for kind in (BadInput, ModelRefused, NoPipeline, Overloaded, PeerUnavailable)}


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One of `messages` (role, content), `prompt` (raw) and `prompt_tokens`. `draft_max` None: the drafter's window."""

    messages: Sequence[dict[str, str]] = ()
    prompt: str | None = None
    prompt_tokens: Sequence[int] | None = None
    model: str | None = None
    max_tokens: int = 512
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop: Sequence[str] = ()
    draft_max: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """The first `num_accepted` of `tokens` were drafted; `text` is what can be shown now (whole characters)."""

    tokens: tuple[int, ...]
    text: str
    num_accepted: int


@dataclass(frozen=True, slots=True)
class Finished:
    """`reason`: stop, length, context, cancelled. `stats` as `run --json` prints them."""

    reason: str
    stats: dict[str, Any]


@dataclass(slots=True)
class _Asked:
    """A reply in progress: everything that another drafter would need."""

    request: GenerateRequest
    model: Model
    id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    prompt_tokens: tuple[int, ...] = ()
    tokens: list[int] = field(default_factory=list)
    num_resumed: int = 0

    def body(self) -> wire.GenerateBody:
        asked, fresh = self.request, not self.prompt_tokens
        return wire.GenerateBody(
            messages=tuple(wire.ChatMessage(m["role"], m["content"]) for m in asked.messages) if fresh else (),
            text=asked.prompt or "" if fresh else "",
            prompt_tokens=self.prompt_tokens or tuple(asked.prompt_tokens or ()),
            tokens=tuple(self.tokens),
            model=self.model.model_id,
            sampling=wire.WireSampling(asked.temperature, asked.top_k, asked.top_p, asked.min_p, asked.seed),
            max_tokens=asked.max_tokens,
            stop=tuple(asked.stop),
            draft_max=-1 if asked.draft_max is None else asked.draft_max,
        )  # fmt: skip


class Client:
    """`async for event in client.generate(request)`: Pieces, then one Finished. One reply at a time is plenty."""

    def __init__(self, transport: Transport, identity: Identity, joins: Sequence[wire.Contact]) -> None:
        self._rpc = Rpc(transport)
        self._discovery = Discovery(self._rpc, identity, secrets.SystemRandom())
        self._joined = [peer_id(contact.public_key) for contact in joins]
        self._inboxes: dict[bytes, asyncio.Queue[tuple[bytes, wire.Message, Sequence[bytes]]]] = {}

    @classmethod
    async def connect(cls, joins: Sequence[str], swarm_key: str | None = None) -> Client:
        """Raises BadInput (malformed join string), PeerUnavailable (none of them answers, or refuses us)."""
        contacts = [parse_join(join) for join in joins]
        identity = Identity.generate()
        client = cls(await ZmqTransport.open(identity, swarm_key=swarm_key), identity, contacts)
        try:
            await client.join(contacts)
        except BaseException:
            await client.close()
            raise
        return client

    async def join(self, contacts: Sequence[wire.Contact]) -> None:
        """Raises PeerUnavailable."""
        self._start()
        await self._discovery.join(contacts, timeout_s=JOIN_TIMEOUT_S)

    def _start(self) -> None:
        for kind in (wire.Piece, wire.Finished):
            self._rpc.on_notice(kind, self._notice)
        self._rpc.transport.on_peer_lost(self._peer_lost)
        self._rpc.start()
        self._discovery.start()

    async def close(self) -> None:
        await self._discovery.close()
        await self._rpc.close()

    # --- what is there

    async def models(self) -> list[dict[str, Any]]:
        return [model.as_json() for model in models_of(await self._records())]

    async def peers(self) -> list[dict[str, Any]]:
        return await describe_peers(self._rpc, self._discovery)

    async def _records(self) -> list[ProviderRecord]:
        return await self._discovery.find_providers(MODELS_KEY)

    async def _choose_model(self, name: str | None) -> Model:
        models = models_of(await self._records())
        if name is not None:
            named = [model for model in models if name in (model.name, model.model_id)]
            if not named:
                known = ", ".join(model.name for model in models) or "none"
                raise ModelRefused(f"no model named {name!r} in this swarm (there is: {known})")
            return named[0]
        if not models:
            raise NoPipeline("nobody in this swarm hosts a model yet: `dsdnode start --role shard --join ...` adds one")
        servable = [model for model in models if model.complete and model.drafters] or models
        if len(servable) > 1:
            raise BadInput(f"several models here: {', '.join(m.name for m in servable)}; choose one with -m NAME")
        return servable[0]

    # --- replies

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Piece | Finished]:
        """Goes on at another drafter with the same tokenizer when one is lost: same text.

        Raises NoPipeline (no drafter left, or layers that nobody hosts), BadInput, ModelRefused, Overloaded; what was
        yielded before stands.
        """
        asked = _Asked(request, await self._choose_model(request.model))
        failed: dict[bytes, DsdError] = {}
        deadline = asyncio.get_running_loop().time() + FULL_PATIENCE_S
        while True:
            drafter = await self._choose_drafter(asked, failed)
            try:
                async for event in self._ask(asked, drafter):
                    yield event
                return
            except Overloaded as error:
                failed[drafter] = error
                if asyncio.get_running_loop().time() > deadline:
                    raise
            except (PeerUnavailable, PeerMisbehaved) as error:
                log.info("drafter lost", peer=short_id(drafter), reason=str(error))
                failed[drafter] = error
                asked.num_resumed += bool(asked.prompt_tokens)

    async def _choose_drafter(self, asked: _Asked, failed: dict[bytes, DsdError]) -> bytes:
        """The peer that we joined when it drafts, else the freest; full ones again when nobody else is left."""
        records = await self._records()
        drafters = [r for r in records if r.role == "drafter" and r.tokenizer_hash == asked.model.tokenizer_hash]
        for record in drafters:
            self._rpc.transport.introduce(record.contact)
        order = sorted(drafters, key=lambda r: (r.peer_id not in self._joined, -r.free_sessions, r.peer_id))
        for record in order:
            if record.peer_id not in failed:
                return record.peer_id
        full = [peer for peer, error in failed.items() if isinstance(error, Overloaded)]
        if full:
            await asyncio.sleep(0.5)
            return full[0]
        if failed:
            raise NoPipeline(f"no drafter is left for {asked.model.name} ({'; '.join(map(str, failed.values()))})")
        raise NoPipeline(
            f"no drafter with the tokenizer of {asked.model.name} in this swarm: `dsdnode start --role drafter "
            "--model-draft FILE --join ...` adds one"
        )

    async def _ask(self, asked: _Asked, drafter: bytes) -> AsyncIterator[Piece | Finished]:
        inbox: asyncio.Queue[tuple[bytes, wire.Message, Sequence[bytes]]] = asyncio.Queue(MAX_QUEUED_NOTICES)
        self._inboxes[asked.id] = inbox
        finished = False
        try:
            message = wire.Generate(asked.id)
            answer, buffers = await self._rpc.request(
                drafter, message, [encode_body(asked.body())], timeout_s=ASK_TIMEOUT_S
            )
            if isinstance(answer, wire.Refused):
                raise Overloaded(answer.reason) if answer.retry else ModelRefused(answer.reason)
            ids = buffer_at(buffers, 0)
            asked.prompt_tokens = tuple(unpack_tokens(ids, len(ids) // 4, MAX_VOCAB).tolist())
            while not finished:
                notice, payload = await self._next(inbox, drafter)
                event = self._event(asked, notice, payload)
                finished = isinstance(event, Finished)
                yield event
        finally:
            del self._inboxes[asked.id]
            if not finished:
                self._cancel(drafter, asked.id)

    def _event(self, asked: _Asked, notice: wire.Message, buffers: Sequence[bytes]) -> Piece | Finished:
        if isinstance(notice, wire.Piece):
            ids = buffer_at(buffers, 0)
            tokens = tuple(unpack_tokens(ids, len(ids) // 4, MAX_VOCAB).tolist())
            if notice.index != len(asked.tokens):
                raise PeerMisbehaved(f"the drafter's stream has a gap at token {len(asked.tokens)}")
            asked.tokens.extend(tokens)
            return Piece(tokens, buffer_at(buffers, 1).decode("utf-8", "replace"), notice.accepted)
        assert isinstance(notice, wire.Finished)
        if notice.error:
            raise _ERRORS.get(notice.error, DsdError)(printable(notice.message))
        stats = decode_body(buffer_at(buffers, 0), dict[str, Any])
        stats["recoveries"] = stats.get("recoveries", 0) + asked.num_resumed
        return Finished(notice.reason, stats)

    async def _next(
        self, inbox: asyncio.Queue[tuple[bytes, wire.Message, Sequence[bytes]]], drafter: bytes
    ) -> tuple[wire.Message, Sequence[bytes]]:
        """The drafter's next notice. Raises PeerUnavailable when it is gone."""
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    peer, message, buffers = await inbox.get()
            except TimeoutError:
                await self._rpc.ping(drafter, timeout_s=PING_TIMEOUT_S)
                continue
            if peer != drafter:
                continue  # a drafter that we gave up
            if isinstance(message, wire.Cancel):
                raise PeerUnavailable("the connection to the drafter is gone")
            return message, buffers

    def _notice(self, peer: bytes, message: Any, buffers: Sequence[bytes]) -> None:
        inbox = self._inboxes.get(message.request)
        if inbox is not None and not inbox.full():  # a gap is seen by its index
            inbox.put_nowait((peer, message, buffers))

    def _peer_lost(self, peer: bytes, reason: str) -> None:
        for request, inbox in self._inboxes.items():
            if not inbox.full():
                inbox.put_nowait((peer, wire.Cancel(request), ()))

    def _cancel(self, drafter: bytes, request: bytes) -> None:
        try:
            self._rpc.notify(drafter, wire.Cancel(request))
        except DsdError as error:
            log.debug("cancel not sent", reason=str(error))
