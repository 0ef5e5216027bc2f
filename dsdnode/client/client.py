"""Whoever asks: a peer for the moment, without an address, that finds a drafter and can go on at another one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from random import Random, SystemRandom
from typing import Any

import structlog
from cachetools import LRUCache

from dsdnode.client.patience import Patience
from dsdnode.client.preference import by_preference
from dsdnode.client.request import LOSSES, Finished, GenerateRequest, Left, PendingReply, Piece, ReplyStats
from dsdnode.config import DEFAULT_PATIENCE_S
from dsdnode.dht.ids import MODELS_KEY
from dsdnode.errors import DsdError, ModelRefused, NoPipeline, Overloaded, PeerUnavailable
from dsdnode.identity import Identity, peer_id, short_id
from dsdnode.net.port import Priority, Transport
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.swarm.catalogue import Model, called, describe_models, describe_peers, models_of
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.info import ModelInfo, PeerInfo
from dsdnode.swarm.pings import PING_TIMEOUT_S, Pings
from dsdnode.wire import messages as wire
from dsdnode.wire import replies
from dsdnode.wire.codec import printable
from dsdnode.wire.joins import parse_join
from dsdnode.wire.records import ProviderRecord

__all__ = ["Client", "Finished", "GenerateRequest", "Piece", "ReplyStats"]

log = structlog.get_logger(__name__)

JOIN_TIMEOUT_S = 10.0
ASK_TIMEOUT_S = 10.0
"""A drafter tokenizes the prompt and looks for a model in this time."""
SILENCE_S = 2.0
"""A drafter that sends nothing for so long is asked whether it knows of the reply."""
RECENT_S = 2.0
"""What a lookup found so shortly ago is still so."""
FULL_PAUSE_S = 0.5
MAX_TRIES = 2
"""Of one drafter, without a token: a link may break under a drafter that lives."""
MAX_QUEUED_NOTICES = 4096
MAX_LEFT = 256
MAX_ASKED_HOSTS = 32
"""Of one of several models that could be meant: they are asked whether they are there."""
MAX_TOLD, ID_DIGITS = 4, 12
"""Of those models, in a warning."""


@dataclass(slots=True)
class _Failure:
    """What came of asking a drafter last; `num`: in a row, without a token in between."""

    error: DsdError
    num: int

    @property
    def final(self) -> bool:
        return not isinstance(self.error, Overloaded) and self.num >= MAX_TRIES


_Notice = tuple[wire.Message, Sequence[bytes]]


@dataclass(slots=True)
class _Inbox:
    """What the drafter of one reply has said. Of others nothing gets in: they could fill it, or pass for its life."""

    drafter: bytes
    notices: asyncio.Queue[_Notice] = field(default_factory=lambda: asyncio.Queue(MAX_QUEUED_NOTICES))

    def put(self, peer: bytes, message: wire.Message, buffers: Sequence[bytes] = ()) -> None:
        """What does not fit is lost: a gap is seen by its index."""
        if peer == self.drafter and not self.notices.full():
            self.notices.put_nowait((message, buffers))


class Client:
    """`async for event in client.generate(request)`: Pieces, then one Finished. One reply at a time is plenty."""

    def __init__(
        self,
        rpc: Rpc,
        discovery: Discovery,
        rng: Random,
        joins: Sequence[wire.Contact] = (),
        patience_s: float = DEFAULT_PATIENCE_S,
    ) -> None:
        self._rpc = rpc
        self._discovery = discovery
        self._rng = rng
        self._joined = [peer_id(contact.public_key) for contact in joins]
        self._patience_s = patience_s
        self._left: LRUCache[bytes, None] = LRUCache(MAX_LEFT)
        """Drafters that gave a reply nothing, or too little: others are asked first from then on."""
        self._last_drafter = b""
        """It may have kept what it computed."""
        self._pings = Pings(self._rpc)
        """Knows which drafters were silent when they were asked last: they may be in the records for minutes yet."""
        self._found: tuple[float, list[ProviderRecord]] = float("-inf"), []
        self._inboxes: dict[bytes, _Inbox] = {}
        """By request."""

        for kind in (replies.Piece, replies.Finished, replies.Waiting):
            rpc.on_notice(kind, self._notice)

    @classmethod
    def over(
        cls,
        transport: Transport,
        identity: Identity,
        joins: Sequence[wire.Contact],
        rng: Random | None = None,
        patience_s: float = DEFAULT_PATIENCE_S,
    ) -> Client:
        """A peer of its own."""
        rng = rng or SystemRandom()
        rpc = Rpc(transport, rng)
        return cls(rpc, Discovery(rpc, identity, rng), rng, joins, patience_s)

    @classmethod
    async def connect(
        cls, joins: Sequence[str], swarm_keys: str | tuple[str, ...] = (), patience_s: float = DEFAULT_PATIENCE_S
    ) -> Client:
        """`swarm_keys`: of a private swarm, one or two.

        Raises BadInput (malformed join string), PeerUnavailable (none of them answers, or refuses us).
        """
        contacts = [parse_join(join) for join in joins]
        identity = Identity.generate()
        keys = (swarm_keys,) if isinstance(swarm_keys, str) else swarm_keys
        transport = await ZmqTransport.open(identity, swarm_keys=keys)
        client = cls.over(transport, identity, contacts, patience_s=patience_s)
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
        self._rpc.transport.on_peer_lost(self._peer_lost)
        self._rpc.start()
        self._discovery.start()

    async def close(self) -> None:
        await self._pings.close()
        await self._discovery.close()
        await self._rpc.close()

    # --- what is there

    async def models(self) -> list[ModelInfo]:
        return await describe_models(self._discovery, self._pings)

    async def peers(self) -> list[PeerInfo]:
        return await describe_peers(self._discovery, self._pings)

    async def survey(self, max_records: int, num_pings: int) -> tuple[list[ProviderRecord], dict[bytes, float]]:
        """What is offered, and the round trips, s, to those of the peers that answered `num_pings`."""
        records = (await self._discovery.find_providers(MODELS_KEY))[:max_records]
        peers = dict.fromkeys(record.peer_id for record in records)
        rtts_s = await asyncio.gather(*(self._pings.rtt_s(peer, num_pings) for peer in peers))
        return records, {peer: took_s for peer, took_s in zip(peers, rtts_s, strict=True) if took_s is not None}

    async def _records(self, max_age_s: float = 0.0, *, thorough: bool = False) -> list[ProviderRecord]:
        loop = asyncio.get_running_loop()
        found_s, records = self._found
        if thorough or not records or loop.time() > found_s + max_age_s:
            records = await self._discovery.find_providers(MODELS_KEY, thorough=thorough)
            self._found = loop.time(), records
        return records

    async def _choose_model(self, name: str | None) -> Model:
        models = models_of(await self._records())
        if name is not None:
            meant = called(models, name)
            if not meant:
                known = ", ".join(dict.fromkeys(model.name for model in models)) or "none"
                raise ModelRefused(f"no model named {name!r} in this swarm (there is: {known})")
        elif not models:
            raise NoPipeline("nobody in this swarm hosts a model yet: `dsdnode start --role shard --join ...` adds one")
        else:
            meant = models
        servable = [model for model in meant if model.complete and model.drafters] or meant
        return servable[0] if len(servable) == 1 else await self._most_hosted(servable)

    async def _most_hosted(self, models: Sequence[Model]) -> Model:
        """Any of them could be meant: names are anybody's to give, and so are records."""
        shards = [shard for model in models for shard in model.shards[:MAX_ASKED_HOSTS]]
        peers = list(dict.fromkeys(shard.peer_id for shard in shards))
        rtts_s = await asyncio.gather(*(self._pings.rtt_s(peer) for peer in peers))
        answering = {peer for peer, rtt_s in zip(peers, rtts_s, strict=True) if rtt_s is not None}
        chosen, *others = sorted(models, key=lambda model: model.rank(answering, self._joined))
        log.warning(
            "several models could be meant; choose one with -m NAME, or -m and the beginning of its id",
            chosen=_told(chosen),
            others=", ".join(map(_told, others[:MAX_TOLD])),
        )
        return chosen

    # --- replies

    async def generate(
        self, request: GenerateRequest, told: Callable[[str], None] | None = None
    ) -> AsyncGenerator[Piece | Finished, None]:
        """Goes on at another drafter with the same tokenizer when one is lost: same text. `told` hears in words what a
        reply that stands still is waiting for; after `patience_s` without a token it ends.

        Raises NoPipeline (no drafter left, layers that nobody hosts, or nothing came), BadInput, ModelRefused,
        Overloaded; what was yielded before stands.
        """
        patience = Patience(_now(), self._patience_s)
        pending = PendingReply(request, await self._choose_model(request.model), self._rng, patience, told)
        failures: dict[bytes, _Failure] = {}
        while True:
            drafter = await self._choose_drafter(pending, failures)
            try:
                async with contextlib.aclosing(self._ask(pending, drafter)) as events:
                    async for event in events:
                        yield event
                return
            except LOSSES as error:
                log.info("drafter lost", peer=short_id(drafter), reason=str(error))
                if not (pending.killed(error) or isinstance(error, Overloaded)):
                    self._pings.lost(drafter)
                known = failures.pop(drafter, None)
                num = 1 if known is None or pending.progressed else known.num + 1
                if isinstance(error, Left):
                    num = MAX_TRIES
                    self._left[drafter] = None
                failures[drafter] = _Failure(error, num)
                if isinstance(error, Overloaded) and patience.is_spent(_now()):
                    raise
                if patience.is_over(_now()):
                    raise _no_drafter(pending, failures) from None
                pending.num_resumed += bool(pending.prompt_tokens)

    async def _choose_drafter(self, pending: PendingReply, failures: dict[bytes, _Failure]) -> bytes:
        """The one to be preferred (`by_preference`); when all were asked, who was full, or failed but once.

        Raises NoPipeline.
        """
        thorough = False
        while True:
            records = await self._records(0.0 if failures or thorough else RECENT_S, thorough=thorough)
            drafters = [r for r in records if r.role == "drafter" and r.tokenizer_hash == pending.model.tokenizer_hash]
            last = self._last_drafter if pending.request.keep else b""
            order = by_preference(drafters, last, self._joined, self._is_shunned)
            fresh = [record.peer_id for record in order if record.peer_id not in failures]
            if fresh:
                pending.patience.asked(_now(), len(fresh) - 1)
                return fresh[0]
            pending.patience.asked(_now(), 0)
            offered = {record.peer_id for record in order}
            again = [peer for peer, failure in failures.items() if peer in offered and not failure.final]
            if not again:
                if thorough:
                    raise _no_drafter(pending, failures)
                thorough = True  # those who answered first may not know of all
                continue
            peer = min(again, key=lambda peer: not isinstance(failures[peer].error, Overloaded))
            if isinstance(failures[peer].error, Overloaded):
                await asyncio.sleep(FULL_PAUSE_S)
                return peer
            try:
                await self._pings.ping(peer)
            except DsdError as error:
                failures[peer] = _Failure(error, MAX_TRIES)
                continue
            return peer

    def _is_shunned(self, peer: bytes) -> bool:
        return peer in self._left or self._pings.is_silent(peer)

    async def _ask(self, pending: PendingReply, drafter: bytes) -> AsyncGenerator[Piece | Finished, None]:
        body = pending.begin()
        request = pending.id
        inbox = self._inboxes[request] = _Inbox(drafter)
        finished = False
        try:
            answer, buffers = await self._answered(drafter, replies.Generate(request), body)
            pending.accepted(answer, buffers)
            self._last_drafter = drafter
            while not finished:
                notice, payload = await self._next(pending, inbox)
                if isinstance(notice, replies.Waiting):
                    pending.hear(printable(notice.reason))
                    continue
                event = pending.event(notice, payload)
                finished = isinstance(event, Finished)
                yield event
        finally:
            del self._inboxes[request]
            if not finished:
                self._cancel(drafter, request)

    async def _answered(self, drafter: bytes, message: wire.Message, body: bytes) -> tuple[wire.Message, list[bytes]]:
        """Its answer, which may take a while. Raises PeerUnavailable at once when it does not even answer a ping."""
        request = self._rpc.request(drafter, message, [body], timeout_s=ASK_TIMEOUT_S, priority=Priority.CONTROL)
        asked = asyncio.ensure_future(request)
        try:
            answer, _ = await asyncio.gather(asked, self._pings.ping(drafter))
            return answer
        finally:
            asked.cancel()

    async def _next(self, pending: PendingReply, inbox: _Inbox) -> _Notice:
        """The drafter's next notice. Raises PeerUnavailable when it is gone, knows nothing of the reply, or it is
        another one's turn; NoPipeline when nobody was better for too long."""
        while True:
            try:
                async with asyncio.timeout(min(SILENCE_S, pending.patience.left_s(_now()))):
                    message, buffers = await inbox.notices.get()
            except TimeoutError:
                pending.check(inbox.drafter)
                await self._check(pending, inbox)
                continue
            if isinstance(message, replies.Cancel):
                raise PeerUnavailable("the connection to the drafter is gone")
            if isinstance(message, replies.Waiting):  # words are no progress
                pending.check(inbox.drafter)
            return message, buffers

    async def _check(self, pending: PendingReply, inbox: _Inbox) -> None:
        """Raises PeerUnavailable when the drafter is gone, or knows nothing of the reply."""
        question = replies.Generate(pending.id)
        answer, _ = await self._rpc.request(inbox.drafter, question, timeout_s=PING_TIMEOUT_S)
        is_there = isinstance(answer, wire.Pong) or (isinstance(answer, wire.Refused) and answer.retry)
        if not is_there and inbox.notices.empty():
            raise PeerUnavailable("the drafter has dropped the reply") from None

    def _notice(self, peer: bytes, message: Any, buffers: Sequence[bytes]) -> None:
        inbox = self._inboxes.get(message.request)
        if inbox is not None:
            inbox.put(peer, message, buffers)

    def _peer_lost(self, peer: bytes, reason: str) -> None:
        for request, inbox in self._inboxes.items():
            inbox.put(peer, replies.Cancel(request))

    def _cancel(self, drafter: bytes, request: bytes) -> None:
        try:
            self._rpc.notify(drafter, replies.Cancel(request))
        except DsdError as error:
            log.debug("cancel not sent", reason=str(error))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _told(model: Model) -> str:
    return f"{model.name} ({model.model_id[:ID_DIGITS]})"


def _no_drafter(pending: PendingReply, failures: dict[bytes, _Failure]) -> NoPipeline:
    if failures:
        reasons = "; ".join(dict.fromkeys(str(failure.error) for failure in failures.values()))
        return NoPipeline(f"no drafter is left for {pending.model.name} ({reasons})")
    return NoPipeline(
        f"no drafter with the tokenizer of {pending.model.name} in this swarm: `dsdnode start --role drafter "
        "--model-draft FILE --join ...` adds one"
    )
