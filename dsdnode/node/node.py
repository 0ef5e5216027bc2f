"""The daemon: one identity, one transport, one place in the DHT, and the roles that its configuration asks for.

`Node.start` is the production composition; a simulator makes a `Node` from another transport and other engines.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from functools import partial
from random import Random

import structlog

from dsdnode.config import AUTO, NodeConfig, next_life
from dsdnode.cost import UNKNOWN
from dsdnode.dht.ids import MODELS_KEY, model_key
from dsdnode.engine.port import TextEngine
from dsdnode.errors import DsdError, PeerUnavailable
from dsdnode.identity import Identity, PeerChoice, load_or_create, short_id
from dsdnode.net.handshake import swarm_names
from dsdnode.net.port import Transport
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.node import telling
from dsdnode.node.admission import Admission
from dsdnode.node.drafter.host import DrafterHost
from dsdnode.node.drafter.options import Options
from dsdnode.node.drafter.pairing import follow_targets, texts_of
from dsdnode.node.drafter.texts import Texts
from dsdnode.node.engines import measure, record_of
from dsdnode.node.fetching import Nobody, User
from dsdnode.node.giving import Giving
from dsdnode.node.ledger import Given
from dsdnode.node.offers import ASKED, Host, Offer, keep_current, starting, told, told_at_home
from dsdnode.node.organs import Organs, organs_of
from dsdnode.node.shard.host import StageHost
from dsdnode.node.shard.texts import TextGiver
from dsdnode.node.status import Inviting, NodeStatus, Sessions, Situation
from dsdnode.node.volunteering import Volunteering
from dsdnode.swarm.catalogue import Model, describe_models, describe_peers, models_of
from dsdnode.swarm.checks import in_words
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.info import ModelInfo, PeerInfo
from dsdnode.swarm.joining import remember, remembered
from dsdnode.swarm.pings import Pings
from dsdnode.swarm.queries import Tasks
from dsdnode.wire.joins import format_join, of_one_key, parse_join
from dsdnode.wire.messages import Contact, Open
from dsdnode.wire.records import ProviderRecord
from dsdnode.wire.replies import Generate

log = structlog.get_logger(__name__)

SAVE_PEERS_S = 30.0
AGAIN_S = 300.0
"""After so long layers that could not be hosted are tried again: there may be room for them by then."""


class Node:
    """`await Node.start(config)`: ready when it returns, and known to those who will be asked for it."""

    def __init__(
        self, config: NodeConfig, identity: Identity, transport: Transport, organs: Organs, rng: Random
    ) -> None:
        """All secrets of its replies come from `rng`."""
        self._config = config
        self._rng = rng
        self._identity = identity
        self._transport = transport
        self._organs = organs
        self.rpc = Rpc(transport, rng)
        life = next_life(config.identity_file) if organs.disk else 0
        self.discovery = Discovery(self.rpc, identity, rng, life, config.relaying_bits_per_s)
        self._pings = Pings(self.rpc)
        self._stage: StageHost | None = None
        self._drafter: DrafterHost | None = None
        self._offers: dict[str, Offer] = {}
        self._admission = Admission(identity.peer_id, PeerChoice(config.allow, config.block))
        self.discovery.keep_back(self._own_records, self._admission.is_own)
        renounce = partial(self.discovery.changed, at_once=True)
        self.volunteering = Volunteering(config, self._admission, renounce, self._count, organs.surroundings)
        self._giving: Giving | None = None
        self._tasks, self._changed = Tasks(), asyncio.Event()
        self._started_s = asyncio.get_running_loop().time()

    @classmethod
    async def start(cls, config: NodeConfig, user: User | None = None) -> Node:
        """Raises BadInput (of an identity in use elsewhere, too), PeerUnavailable (no peer of `joins` answers, or all
        refuse us), ModelRefused, and what `user` raises, who is asked before anything is fetched."""
        identity = load_or_create(config.identity_file)
        contacts = [parse_join(join) for join in config.joins]
        transport = await ZmqTransport.open(
            identity, listen=config.listen, advertise=config.advertise, swarm_keys=config.swarm_keys
        )
        if config.max_upload_bytes_per_s:
            transport.meter.hold(asyncio.get_running_loop().time(), config.max_upload_bytes_per_s)
        node = cls(config, identity, transport, organs_of(config, user or Nobody()), secrets.SystemRandom())
        try:
            await node.run(contacts)
            if node._offers:
                await node.discovery.announced()
        except BaseException:
            await node.close()
            raise
        return node

    async def run(self, contacts: Sequence[Contact]) -> None:
        """Join, then take up the roles."""
        if {"shard", AUTO} & {*self._config.roles}:  # it may have been one before, and who knows of it asks
            self.rpc.on_request(Open, starting)
        if {"drafter", AUTO} & {*self._config.roles}:
            self.rpc.on_request(Generate, starting)
        self.rpc.start()
        self.discovery.start()
        if self._organs.disk:
            self.volunteering.start()  # before any role: whoever knew it yesterday asks at once
        await self._join(contacts)
        if self._organs.settle is not None:
            self._config = await self._organs.settle(self.rpc, self.discovery, self._pings)
            self.rpc.off_requests([kind for role, kind in ASKED.items() if role not in self._config.roles])
        if "shard" in self._config.roles:
            await self._start_shard()
        if "drafter" in self._config.roles:
            await self._start_drafter()
        await self.discovery.check_identity()
        if self._organs.offers:
            self.discovery.provide(self._records)
        if self._organs.disk:
            self._tasks.spawn(self._save_peers())
            self._giving = Giving(self._config, self._identity, self.rpc, self._admission)
            self._giving.start()
        if "shard" in self._offers:
            self._tasks.spawn(self._keep_shard())

    async def _join(self, contacts: Sequence[Contact]) -> None:
        known = remembered(self._config.data_dir, swarm_names(self._config.swarm_keys)) if self._organs.disk else []
        if contacts:
            await self.discovery.join(of_one_key(contacts, known), self._config.timeouts.join_s)
            if any(contact.public_key != self._identity.public_key for contact in contacts):
                return
            log.info("the only peer to join is this node itself: the swarm begins here")
        known = [contact for contact in known if contact.public_key != self._identity.public_key]
        if not known:
            if not await self.discovery.joined_in_the_house():
                log.info("nobody to join is known or in this house: a swarm begins here")
            return
        try:
            join_s = self._config.timeouts.join_s
            await self.discovery.join(known, join_s, starting_s=join_s)  # they may be as late as we are
        except PeerUnavailable as error:
            log.warning("the swarm last known does not answer; beginning one, and looking for it", reason=str(error))

    async def _start_shard(self) -> None:
        engine = await self._organs.shard(self.discovery)
        source = self._organs.source("shard")
        offer = self._offers["shard"] = Offer(engine, "shard", source)  # from here on `close` ends it
        offer.measured = await measure(engine)
        self._stage = StageHost(
            self.rpc,
            self._pings,
            engine,
            max_sessions=1 if self._config.strict else self._config.max_sessions,
            max_lease_s=self._config.timeouts.lease_s,
            look=lambda: self.discovery.find_providers(model_key(engine.shard.model_id)),
            admission=self._admission,
        )
        if self._organs.scheduler is not None:
            self._stage.batcher.scheduler = self._organs.scheduler()
        self._stage.on_change = self._on_change
        offer.batcher = offer.decodes = self._stage.batcher
        offer.batcher.cost.expect(offer.measured, weight=0.0)
        self._stage.start()
        if engine.shard.text_hash:
            TextGiver(self.rpc, engine.shard.text_hash, engine.text_file, self._admission.serves)

    async def _keep_shard(self) -> None:
        """What it says of itself is as it is; and where others need other layers more, it changes over."""
        moves = self._organs.moves
        while True:
            offer = self._offers["shard"]
            current = keep_current(offer, self.rpc, self.discovery, self._pings, self._num_free)
            keeping = asyncio.create_task(current, name="keep the offer current")
            own = offer.record(self.discovery.contact, self._num_free(), asyncio.get_running_loop().time())
            try:
                if moves is None or not await moves(self.discovery, self._pings, own):
                    await keeping
            except DsdError as error:
                log.warning("other layers are needed, and cannot be had", reason=str(error))
                continue
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
            await self._change_over(offer)

    async def _change_over(self, left: Offer) -> None:
        """Replies in progress end first, or go on elsewhere."""
        stage = self._stage
        del self._offers["shard"]
        self.discovery.changed()
        try:
            if stage is not None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._drained(stage), self._config.timeouts.drain_s)
        finally:  # also if this node is closed meanwhile
            self._stage = None
            if stage is not None:
                await stage.close()
            await left.engine.close()
        while "shard" not in self._offers:
            try:
                await self._start_shard()
            except DsdError as error:
                log.error("these layers cannot be hosted", reason=str(error), again_in_s=AGAIN_S)
                failed = self._offers.pop("shard", None)
                if failed is not None:  # the engine was there, and could not be measured
                    await failed.engine.close()
                await asyncio.sleep(AGAIN_S)
        if self._organs.offers:
            self.discovery.provide(self._records)

    async def _drained(self, *hosts: StageHost | DrafterHost) -> None:
        for host in hosts:
            host.draining = True
        self._on_change()
        while any(host.num_sessions for host in hosts):
            self._changed.clear()
            await self._changed.wait()

    async def _start_drafter(self) -> None:
        engine = await self._organs.draft()
        offer = self._offers["drafter"] = Offer(engine, "drafter", self._organs.source("drafter"))
        texts = await self._texts(engine)
        offer.tokenizer_hash = texts.tokenizer_hash
        offer.measured = await measure(engine)
        self._drafter = DrafterHost(
            self.rpc,
            self.discovery,
            self._pings,
            engine,
            texts,
            max_sessions=self._config.max_sessions,
            options=Options.of(self._config, self._organs.tuning),
            rng=self._rng,
            choose=self._organs.choose,
            tuning=self._organs.tuning,
            admission=self._admission,
        )
        offer.decodes = self._drafter.batcher
        self._drafter.on_change = self._on_change
        self._drafter.start()

    async def _texts(self, draft: TextEngine) -> Texts:
        """Raises ModelRefused for a draft model that fits none of the targets here, or else in the swarm."""
        shard = self._offers["shard"].engine if "shard" in self._offers else None
        here = shard and record_of(shard, "shard", UNKNOWN, 0, self.discovery.contact)
        models = models_of([here]) if here else await self._targets()
        tools = self._organs.texts() if self._organs.texts is not None else None
        texts = await texts_of(self.rpc, self._pings, draft, tools, self._config.data_dir / "texts", models, shard)
        if here is None and tools is not None:
            changed = partial(self._drafts_for, texts)
            self._tasks.spawn(follow_targets(texts, self._pings, draft, bool(models), self._targets, changed))
        return texts

    async def _targets(self) -> list[Model]:
        return models_of(await self.discovery.find_providers(MODELS_KEY))

    def _drafts_for(self, texts: Texts) -> None:
        self._offers["drafter"].tokenizer_hash = texts.tokenizer_hash
        self.discovery.changed()

    def _on_change(self) -> None:
        """A session came or went: the offer says how many more are welcome, and a drain may be over."""
        self._changed.set()
        self.discovery.changed()

    def _num_free(self) -> int:
        return self._stage.num_free_sessions if self._stage and not self._admission.rests else 0

    def _records(self) -> list[ProviderRecord]:
        return told(self._offers, self._hosts, self.discovery.contact, self._config.name, rests=self._admission.rests)

    def _own_records(self) -> list[ProviderRecord]:
        """What this machine's user finds here while it rests for others alone."""
        found = self._offers if self._admission.rests_for_others else {}
        return told_at_home(found, self._hosts, self.discovery.contact)

    @property
    def _hosts(self) -> dict[str, Host | None]:
        return {"shard": self._stage, "drafter": self._drafter}

    # --- what it is

    @property
    def peer_id(self) -> bytes:
        return self._identity.peer_id

    @property
    def address(self) -> str:
        return self.discovery.joined_at.addresses[0]

    @property
    def join(self) -> str:
        return format_join(self.discovery.joined_at)

    async def reached_elsewhere(self, told: str) -> str:
        """Wait until others reach this node at an address that is not in the join string `told`; another one."""
        await self.discovery.reached_elsewhere(parse_join(told).addresses)
        return self.join

    async def inviting(self) -> Inviting:
        return telling.inviting(self._config, self._transport, self.discovery)

    @property
    def join_here(self) -> str:
        """For this user's own commands, on this machine."""
        contact = self._transport.contact
        return format_join(Contact(contact.public_key, self._transport.here))

    @property
    def roles(self) -> tuple[str, ...]:
        return self._config.roles

    @property
    def layers(self) -> tuple[int, int] | None:
        if "shard" not in self._offers:
            return None
        shard = self._offers["shard"].engine.shard
        return shard.start, shard.end

    def status(self) -> NodeStatus:
        return NodeStatus(
            uptime_s=asyncio.get_running_loop().time() - self._started_s,
            peer_id=self.peer_id.hex(),
            name=self._config.name,
            address=self.address,
            join=self.join,
            roles=self.roles,
            layers=self.layers,
            known_peers=len(self.discovery.known_peers()),
            sent={kind: (sent.num, sent.num_bytes) for kind, sent in self.rpc.sent.items()},
            sessions=Sessions(*(host.num_sessions if host else 0 for host in (self._stage, self._drafter))),
            engines=tuple(offer.status() for offer in self._offers.values()),
            protection=next((offer.protection for offer in self._offers.values()), None),
            num_records=len(self.discovery.store),
            num_relay_circuits=self._transport.relays.num_circuits if self._transport.relays is not None else 0,
            twin=self._transport.twin,
            reach=in_words(self.discovery.reach, self._transport),
            resting=self._admission.resting,
            given=self.volunteering.given(),
        )

    def situation(self) -> Situation:
        return telling.situation(self._config, self._transport, self.discovery, self._offers.values())

    async def peers(self) -> list[PeerInfo]:
        return await describe_peers(self.discovery, self._pings)

    async def models(self) -> list[ModelInfo]:
        return await describe_models(self.discovery, self._pings)

    def _count(self) -> Given:
        hosts = [host for host in (self._stage, self._drafter) if host is not None]
        return telling.given(self.rpc, self._admission, [host.batcher for host in hosts])

    # --- its end

    async def drain(self) -> None:
        """Take no new replies, wait for those in progress."""
        await self._drained(*(host for host in (self._stage, self._drafter) if host is not None))

    async def close(self) -> None:
        """Say goodbye and free everything; replies in progress break off."""
        await self._tasks.close()
        if self._giving is not None:
            self._write_peers()
            await self._giving.close()
        await self.volunteering.close()
        with contextlib.suppress(DsdError):
            await self.discovery.withdraw()
        for host in (self._drafter, self._stage):
            if host is not None:
                await host.close()
        await asyncio.gather(*(offer.engine.close() for offer in self._offers.values()))
        await self._pings.close()
        await self.discovery.close()
        await self.rpc.close()
        log.info("stopped", peer=short_id(self.peer_id))

    async def _save_peers(self) -> None:
        """So that a restart finds the swarm though every peer it was told of is gone."""
        while True:
            self._write_peers()
            await asyncio.sleep(SAVE_PEERS_S)

    def _write_peers(self) -> None:
        remember(self.discovery.known_peers(), self._config.data_dir, swarm_names(self._config.swarm_keys))
