"""Whoever asks: a peer for the moment, without an address, that finds a drafter and can go on at another one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from math import inf
from random import Random, SystemRandom

import structlog
from cachetools import LRUCache

from dsdnode.client.asking import Asking, Askings, first_of
from dsdnode.client.drafters import Drafters, no_drafter
from dsdnode.client.failures import MAX_DENIALS, Failures
from dsdnode.client.losses import LOSSES, Contradiction, Denied, Died, Left, OtherPrompt
from dsdnode.client.part import Piece
from dsdnode.client.patience import MAX_ASIDE, THIRD, Patience
from dsdnode.client.reading import TextRead, read_text
from dsdnode.client.request import Finished, GenerateRequest, PendingReply, ReplyStats
from dsdnode.client.rivals import Rivals
from dsdnode.config import DEFAULT_PATIENCE_S
from dsdnode.dht.ids import MODELS_KEY
from dsdnode.errors import BadInput, DsdError, ModelRefused, NoPipeline, Overloaded
from dsdnode.identity import Identity, PeerChoice, peer_id, short_id
from dsdnode.net.port import Transport
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.swarm.catalogue import Model, called, describe_models, describe_peers, models_of, preferred, survey
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.info import ModelInfo, PeerInfo
from dsdnode.swarm.pings import Pings
from dsdnode.wire import messages as wire
from dsdnode.wire.joins import of_one_key, parse_join
from dsdnode.wire.records import ProviderRecord

__all__ = ["Client", "Finished", "GenerateRequest", "Piece", "ReplyStats", "TextRead"]

log = structlog.get_logger(__name__)

JOIN_TIMEOUT_S = 10.0
MAX_FRUITLESS = 256
MAX_TOLD, ID_DIGITS = 4, 12
"""Of those models, in a warning."""


class Client:
    """`async for event in client.generate(request)`: Pieces, then one Finished; several at once, too."""

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
        self._patience_s = patience_s
        self._pings = Pings(self._rpc)
        self._found: tuple[float, list[ProviderRecord]] = float("-inf"), []
        joined = [peer_id(contact.public_key) for contact in joins]
        self._drafters = Drafters(rpc, self._pings, rng, joined, self._records)
        self._askings = Askings(rpc, self._pings)
        self._fruitless: LRUCache[str, None] = LRUCache(MAX_FRUITLESS)
        """Models of which a reply came to nothing, for whatever reason its peers gave: of several that could be meant,
        others are tried first."""

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
        cls,
        joins: Sequence[str],
        swarm_keys: str | tuple[str, ...] = (),
        patience_s: float = DEFAULT_PATIENCE_S,
        told: Callable[[str], None] | None = None,
        identity: Identity | None = None,
    ) -> Client:
        """`swarm_keys`: one or two of a private swarm. `told` hears in words why nobody has answered yet. `identity`:
        of a guest of the first of `joins`, our own user's node.

        Raises BadInput (malformed join string), PeerUnavailable (none of them answers, or refuses us).
        """
        contacts = of_one_key([parse_join(join) for join in joins], ())
        own = identity or Identity.generate()
        keys = (swarm_keys,) if isinstance(swarm_keys, str) else swarm_keys
        transport = await ZmqTransport.open(own, swarm_keys=keys)
        client = cls.over(transport, own, contacts, patience_s=patience_s)
        client._discovery.home = contacts[0] if identity is not None else None
        try:
            await client.join(contacts, told)
        except BaseException:
            await client.close()
            raise
        return client

    async def join(self, contacts: Sequence[wire.Contact], told: Callable[[str], None] | None = None) -> None:
        """Raises PeerUnavailable."""
        self._start()
        await self._discovery.join(contacts, JOIN_TIMEOUT_S, told)

    def _start(self) -> None:
        self._rpc.transport.on_peer_lost(self._askings.peer_lost)
        self._rpc.start()
        self._discovery.start()

    def restrict(self, choice: PeerChoice) -> None:
        self._drafters.choice = choice  # nobody else is asked

    async def close(self) -> None:
        await self._drafters.close()
        await self._pings.close()
        await self._discovery.close()
        await self._rpc.close()

    # --- what is there

    async def models(self) -> list[ModelInfo]:
        return await describe_models(self._discovery, self._pings)

    async def peers(self) -> list[PeerInfo]:
        return await describe_peers(self._discovery, self._pings)

    async def hosts(self, named: str) -> tuple[str, list[bytes]]:
        """Who hosts layers of the model with this name, id, or SHA-256 of its files; and that SHA-256.

        Raises ModelRefused: there is none, or there are several.
        """
        records = [one for one in await self._discovery.find_providers(MODELS_KEY) if one.role == "shard"]
        models = {one.model_id for one in called(models_of(records), named)}
        meant = [one for one in records if one.model_id in models or one.weights_hash == named]
        hashes = dict.fromkeys(one.weights_hash for one in meant)
        if len(hashes) != 1:
            found = "there is none" if not hashes else f"{len(hashes)} are called so; name one by its id"
            raise ModelRefused(f"no model of the swarm is meant by {named!r}: {found} (`dsdnode models`)")
        return next(iter(hashes)), list(dict.fromkeys(one.peer_id for one in meant))

    @property
    def rpc(self) -> Rpc:
        return self._rpc

    async def survey(self, max_records: int, num_pings: int) -> tuple[list[ProviderRecord], dict[bytes, float]]:
        """What is offered, and the round trips, s, to those of the peers that answered `num_pings`."""
        await self._discovery.joined_all(JOIN_TIMEOUT_S)
        return await survey(self._discovery, self._pings, max_records, num_pings)

    async def _records(self, max_age_s: float = 0.0, *, thorough: bool = False) -> list[ProviderRecord]:
        found_s, records = self._found
        if thorough or not records or _now() > found_s + max_age_s:
            found = await self._discovery.find_providers(MODELS_KEY, thorough=thorough)
            if found or len(self._discovery.table):  # else nobody answers: our own network may be gone
                records = found
            self._found = _now(), records
        return records

    async def _choose_model(self, request: GenerateRequest) -> Model:
        models, name = models_of(self._drafters.allowed(await self._records())), request.model
        if not called(models, name) if name is not None else not models:  # who answered first may not know of all
            await self._discovery.joined_all(JOIN_TIMEOUT_S)
            models = models_of(self._drafters.allowed(await self._records(thorough=True)))
        if name is not None:
            meant = called(models, name)
            if not meant:
                known = ", ".join(dict.fromkeys(model.name for model in models)) or "none"
                raise ModelRefused(f"no model named {name!r} in this swarm (there is: {known})")
        elif not models:
            raise NoPipeline("nobody in this swarm hosts a model yet: `dsdnode start --role shard --join ...` adds one")
        else:
            meant = models
        meant = [model for model in meant if max(request.prompt_tokens or (0,)) < model.vocab_size] or meant
        servable = [model for model in meant if model.complete and model.drafters] or meant
        return servable[0] if len(servable) == 1 else await self._most_hosted(servable)

    async def _most_hosted(self, models: Sequence[Model]) -> Model:
        """Any of them could be meant: names are anybody's to give, and so are records."""
        models = await preferred(models, self._pings, self._drafters.joined)
        chosen, *others = sorted(models, key=lambda model: model.model_id in self._fruitless)
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
        asked_s = _now()
        model = await self._choose_model(request)
        pending = PendingReply(request, model, self._rng, Patience(_now(), self._patience_s), told, asked_s)
        failures = Failures()
        try:
            async with contextlib.aclosing(self._ask_all(pending, failures)) as events:
                async for event in events:
                    for one in pending.read(event):
                        yield one
        except DsdError as error:
            for one in pending.read(pending.rest) if pending.rest else ():
                yield one
            by_peers = bool(failures) or not isinstance(error, BadInput)  # else it can be asked of no model
            if by_peers and not pending.tokens:
                self._fruitless[model.model_id] = None
            raise
        self._fruitless.pop(model.model_id, None)

    async def read_text(self, request: GenerateRequest) -> TextRead:
        """Which ids a prompt has, and which text these have; nothing is computed. Raises as `generate`."""
        model = await self._choose_model(request)
        asked = replace(request, constraint=None)
        pending = PendingReply(asked, model, self._rng, Patience(_now(), self._patience_s))
        return await read_text(self._rpc, self._pings, self._drafters, pending)

    async def _ask_all(self, pending: PendingReply, failures: Failures) -> AsyncGenerator[Piece | Finished, None]:
        """One drafter after the other, or beside it, until the reply is over."""
        rivals = Rivals(self._askings, self._drafters, pending, failures)
        winner: Asking | None = None
        while True:
            asking = winner or await self._started(pending, failures)
            winner = None
            rivals.watch(asking)
            try:
                async with contextlib.aclosing(self._askings.follow(pending, asking)) as events:
                    async for event in events:
                        if isinstance(event, Finished):  # who reads it may stop there
                            self._over(pending, failures, asking)
                            yield event
                            return
                        yield event
                winner = asking.rival
                self._beaten(pending, failures, asking)
            except DsdError as error:
                self._failed(pending, failures, asking, error, others=True, beside=False)
            finally:
                rivals.stop(asking, winner)
                self._askings.leave(asking)
            pending.patience.over()
            pending.num_resumed += 1

    def _over(self, pending: PendingReply, failures: Failures, asking: Asking) -> None:
        log.debug("the reply has come", peer=short_id(asking.drafter), way=self._pings.link(asking.drafter))
        self._drafters.left(*failures.deniers)
        self._drafters.gave(pending.model.model_id, asking.drafter, asking.inbox.pace.tokens_per_s())

    def _beaten(self, pending: PendingReply, failures: Failures, slow: Asking) -> None:
        """Another one gives the reply's next token."""
        assert slow.rival is not None
        self._drafters.gave(pending.model.model_id, slow.drafter, 0.0)
        why = f"the drafter {short_id(slow.drafter)} was slower than another one"
        failures.slow(slow.drafter, Left(why), beaten_by=slow.rival.drafter)
        failures.givers.add(slow.drafter)
        self._drafters.last = slow.rival.drafter
        pending.num_better = sum(map(failures.may_be_better, pending.others))

    async def _started(self, pending: PendingReply, failures: Failures) -> Asking:
        """Whoever gives the reply's next token, or its end. A drafter that takes long for it is not left at once, but
        another one is asked beside it. Raises as `generate` does."""
        running: list[Asking] = []
        try:
            while True:
                if not running:
                    running.append(self._askings.ask(pending, await self._choose_drafter(pending, failures)))
                running[0].speaks = True
                due_s = self._aside_s(pending, running) if pending.others else inf
                done = await first_of(running, due_s)
                for asking in done:
                    error = asking.error
                    if error is None:
                        running.remove(asking)
                        self._won(pending, failures, asking, running)
                        return asking
                    self._askings.leave(asking)
                    if isinstance(error, OtherPrompt) and self._in_another_way(pending, running, asking):
                        continue
                    running.remove(asking)
                    others, beside = bool(pending.others), bool(running)
                    self._failed(pending, failures, asking, error, others=others, beside=beside)
                    if running and failures[asking.drafter].again:
                        pending.others.append(asking.drafter)  # those that run may give nothing
                if not done and pending.others and _now() >= self._aside_s(pending, running):
                    await self._go_aside(pending, failures, running)  # (what it took may be long)
        finally:
            for asking in running:
                self._askings.leave(asking)

    def _in_another_way(self, pending: PendingReply, running: list[Asking], asking: Asking) -> bool:
        """Asks the same drafter, in the place of what was asked first, if there is one."""
        way = pending.way_after(asking.part.way)
        if way is None:
            return False
        log.info("another prompt", peer=short_id(asking.drafter), next=way.name, reason=str(asking.error))
        running[running.index(asking)] = self._askings.ask(pending, asking.drafter, way)
        return True

    def _aside_s(self, pending: PendingReply, running: Sequence[Asking]) -> float:
        """When it is time for one more. Beside a stranger it is sooner in a fast swarm, and at once beside one that may
        be gone; nobody is left for that."""
        last, taken = running[-1], running[-1].part.taken
        if len(running) >= MAX_ASIDE:
            return max(last.aside_s(), running[0].aside_s(MAX_ASIDE))
        if last.is_silent:
            return _now()
        trusted = any(self._drafters.is_trusted(pending.model.model_id, asking.drafter) for asking in running)
        if trusted or self._drafters.are_doubted(pending):
            return last.aside_s()
        num_positions = taken.num_positions if taken else pending.usual_positions
        late_s = self._drafters.late_s(pending, num_positions + len(pending.tokens))
        return min(last.aside_s(), last.since_s + late_s * (1.0 if len(running) == 1 else THIRD))

    async def _go_aside(self, pending: PendingReply, failures: Failures, running: list[Asking]) -> None:
        if len(running) >= MAX_ASIDE:
            slow = running.pop(0)
            self._askings.leave(slow)
            self._drafters.left(slow.drafter)
            why = f"the drafter {short_id(slow.drafter)} gave nothing for {_now() - slow.since_s:.0f} s"
            failures.slow(slow.drafter, Left(why))
        since_s = await self._drafters.scout(pending)
        if any(asking.started.done() for asking in running) or _now() < self._aside_s(pending, running):  # meanwhile
            return
        beside = self._drafters.beside(pending, [*failures, *(asking.drafter for asking in running)], since_s)
        late, after_s = running[-1], _now() - running[-1].since_s
        log.info("late drafter", peer=short_id(late.drafter), after_s=round(after_s, 2), asked_beside=short_id(beside))
        running.append(self._askings.ask(pending, beside))

    def _won(self, pending: PendingReply, failures: Failures, winner: Asking, beaten: Sequence[Asking]) -> None:
        """Who was asked before it and gave nothing is no better, unless it has been left itself in this reply: it may
        give a few tokens at once, each time, while the others wait for their places."""
        log.debug("the reply comes", peer=short_id(winner.drafter), way=self._pings.link(winner.drafter))
        self._drafters.last = winner.drafter
        is_back = failures.was_left(winner.drafter)
        slower = [asking.drafter for asking in beaten if asking.since_s < winner.since_s and not is_back]
        later = [asking.drafter for asking in beaten if asking.drafter not in slower]
        self._drafters.left(*slower)
        full = failures.full if is_back else []
        pending.num_better = sum(map(failures.may_be_better, [*pending.others, *later, *full]))

    async def _choose_drafter(self, pending: PendingReply, failures: Failures) -> bytes:
        return await self._drafters.next(pending, failures)

    def _failed(
        self, pending: PendingReply, failures: Failures, asked: Asking, error: DsdError, *, others: bool, beside: bool
    ) -> None:
        """`others` may do better; it was asked `beside` one that has time of its own. Raises the error, or NoPipeline,
        where it is the end.

        What one drafter says of the whole reply is not believed before all others say so, too, or MAX_DENIALS of them.
        """
        log.info("drafter lost", peer=short_id(asked.drafter), reason=str(error))
        drafter, now, patience = asked.drafter, _now(), pending.patience
        if isinstance(error, Left | Died | NoPipeline):
            self._drafters.left(drafter)
        if not isinstance(error, LOSSES):
            raise error
        if isinstance(error, Contradiction):
            self._drafters.left(*failures.givers)  # of the two this one begins the next reply
            self._drafters.contradicted(failures.givers, drafter)
        if not (pending.killed(drafter, error) or isinstance(error, Overloaded | Denied | Contradiction)):
            self._pings.lost(drafter)
        failures.note(drafter, error, pending.num_given)
        pending.was_full |= isinstance(error, Overloaded) and not pending.tokens
        if beside and not patience.is_over(now) and len(failures.deniers) < MAX_DENIALS:
            return  # a prompt may be long
        if isinstance(error, Overloaded) and patience.is_spent(now):
            raise Overloaded(f"no place at the drafter {short_id(drafter)} in {patience.still_s(now):.0f} s ({error})")
        denied = isinstance(error, Denied)
        enough = not others or patience.is_spent(now) or len(failures.deniers) >= MAX_DENIALS
        if patience.is_over(now) or (denied and enough):
            raise no_drafter(pending, failures) from None


def _now() -> float:
    return asyncio.get_running_loop().time()


def _told(model: Model) -> str:
    return f"{model.name} ({model.model_id[:ID_DIGITS]})"
