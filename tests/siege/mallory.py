"""One of mallory's many identities, with the project's own transport: she says what she likes, to real daemons."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from dsdnode.addresses import parse_address
from dsdnode.dht.ids import MODELS_KEY
from dsdnode.dht.store import record_keys
from dsdnode.errors import DsdError
from dsdnode.identity import Identity, peer_id
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.wire.codec import encode_body
from dsdnode.wire.joins import parse_join
from dsdnode.wire.messages import (
    PROTOCOL_VERSION,
    Announce,
    Contact,
    FindProviders,
    Message,
    Open,
    OpenStages,
    StagePlace,
    WireSampling,
    session_of,
)
from dsdnode.wire.records import ProviderRecord, open_record, sign_record, unpack_records

LIFE_S = 30.0
"""Of her records: what she has said of herself is over soon after she is."""
ANSWER_S = 5.0
MAX_NAMES = 24
"""That she has at once: each is sockets and threads of this machine."""


@dataclass(frozen=True, slots=True)
class Place:
    """A session that a stage has opened for her: what she was told, and at which index of her route it is."""

    session: bytes
    index: int
    answer: Message


class Mallory:
    """`comes` to the swarm under a new identity. `victims`: the peer ids of those behind `joins`."""

    def __init__(self, identity: Identity, transport: ZmqTransport, joins: Sequence[str]) -> None:
        self.identity = identity
        self.rpc = Rpc(transport)
        contacts = [parse_join(join) for join in joins]
        for contact in contacts:
            transport.introduce(contact)
        self.victims = [peer_id(contact.public_key) for contact in contacts]
        self.rpc.start()

    @classmethod
    async def comes(cls, joins: Sequence[str], host: str | None = None, version: int = PROTOCOL_VERSION) -> Mallory:
        """`host`: where she listens, or she is a client as others are."""
        identity = Identity.generate()
        listen = f"tcp://{host}:0" if host else None
        return cls(identity, await ZmqTransport.open(identity, listen=listen, version=version), joins)

    @property
    def contact(self) -> Contact:
        return self.rpc.transport.contact

    async def offers(self, role: str) -> list[ProviderRecord]:
        """What honest peers offer in that role: her own records name no victim."""
        _, buffers = await self.rpc.request(self.victims[0], FindProviders(MODELS_KEY), timeout_s=ANSWER_S)
        records = [open_record(data) for data in unpack_records(buffers[1])]
        return [record for record in records if record.role == role and record.peer_id in self.victims]

    async def claims(self, *like: ProviderRecord, addresses: tuple[str, ...] = ()) -> None:
        """That she offers what those do, for nothing, and has places without end. `addresses`: where somebody else
        lives, and then nobody finds her but who looks for any model."""
        mine = [self._mine(one, addresses or self.contact.addresses) for one in like]
        data = [sign_record(self.identity, one) for one in mine]
        keys = (MODELS_KEY,) if addresses else record_keys(mine[0])
        asked = (
            self.rpc.request(victim, Announce(key), data, timeout_s=ANSWER_S) for victim in self.victims for key in keys
        )
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(answer, BaseException) and not isinstance(answer, DsdError):
                raise answer

    def _mine(self, like: ProviderRecord, addresses: tuple[str, ...]) -> ProviderRecord:
        return msgspec.structs.replace(
            like, public_key=self.identity.public_key, addresses=addresses, sequence=1, fixed_ms=0.0, slope_ms=0.0,
            queue=0.0, free_sessions=1 << 20, round_trips=(), ttl_s=LIFE_S,
        )  # fmt: skip

    async def opens(self, shard: ProviderRecord, max_positions: int, lease_s: float = 3600.0) -> Place:
        """A session at `shard`, in a route whose other stages are she herself."""
        stages = [StagePlace(shard.contact, shard.start, shard.end)]
        if shard.start:
            stages.insert(0, StagePlace(self.contact, 0, shard.start))
        if shard.end < shard.num_layers:
            stages.append(StagePlace(self.contact, shard.end, shard.num_layers))
        session, index = session_of(self.identity.peer_id, os.urandom(8)), int(shard.start > 0)
        message = Open(
            session, 0, index, shard.model_id, self.contact, WireSampling(), max_positions, lease_s, "f32"
        )  # fmt: skip
        self.rpc.transport.introduce(shard.contact)
        buffers = (encode_body(OpenStages(tuple(stages))), digests(0, 0))
        answer, _ = await self.rpc.request(shard.peer_id, message, buffers, timeout_s=ANSWER_S)
        return Place(session, index, answer)

    async def goes(self) -> None:
        await self.rpc.close()


@dataclass
class Siege:
    """`joins`: those whom it is about; `hosts`: the addresses that are hers. `num`: what she did, by her own count."""

    joins: Sequence[str]
    hosts: Sequence[str]
    num: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    names: deque[Mallory] = field(default_factory=deque)

    async def name(self, version: int = PROTOCOL_VERSION) -> Mallory:
        """A new identity that answers; of too many the oldest goes."""
        if len(self.names) >= MAX_NAMES:
            await self.names.popleft().goes()
        mallory = await Mallory.comes(self.joins, self.hosts[0], version)
        self.names.append(mallory)
        return mallory

    def did(self, num: int = 1) -> None:
        self.num += num
        self.begun.set()

    @property
    def targets(self) -> list[tuple[str, int]]:
        return [parse_address(parse_join(join).addresses[0]) for join in self.joins]


def digests(position: int, num_positions: int) -> bytes:
    """Of a line of hers: a stage only compares them."""
    return b"".join((position + i).to_bytes(8, "big") for i in range(num_positions + 1))
