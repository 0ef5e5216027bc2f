"""One member of a village that lies as a stage, a drafter or a customer: a production node with one thing changed.

gang.py says in which worlds there are some, misdeeds.py what each does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from random import Random
from typing import Any

import msgspec

from dsdnode.dht.ids import MODELS_KEY, model_key, tokenizer_key
from dsdnode.errors import DsdError
from dsdnode.identity import LABEL, Identity, peer_id
from dsdnode.net.rpc import Response, Rpc
from dsdnode.wire.codec import encode_body
from dsdnode.wire.messages import Announce, Contact, Message
from dsdnode.wire.records import RECORD_VERSION, ProviderRecord, model_id_of

from .village import Place, Village, Villager

ANNOUNCE_S = (0.0, 2.0, 10.0)
"""Pauses between two announcements, the last again and again: who comes back has forgotten what it was told."""
ASK_S = 3.0
MANY = 1 << 30
HOURS_S = 3600.0
MADE_OF = ("weights_hash", "architecture", "num_layers", "width", "vocab_size", "tokenizer_hash")
FIELDS = ProviderRecord.__struct_fields__

Lie = Callable[[dict[str, Any]], None]
"""Changes the fields of a record."""


def sign_anything(identity: Identity, fields: Sequence[Any]) -> bytes:
    """A record as it travels, whatever it says (`sign_record` makes none that nobody would take)."""
    payload = encode_body(fields)
    return encode_body([RECORD_VERSION, payload, identity.sign(LABEL + b"provider record 1\n" + payload)])


class Rogue:
    """`await begin()`; then its misdeed gets hold of `rpc`, `villager` and `spawn`, until `await leave()`."""

    def __init__(self, village: Village, rng: Random, place: Place, counts: Counter[str]) -> None:
        self.village, self.rng, self.place = village, rng, place
        self.identity, _ = village._identity(place.name)
        self.boasts = rng.random() < 0.7
        """It is said to cost nothing and to have room for everybody, or else as the others."""
        self.lies: list[Lie] = []
        self._counts = counts
        self._tasks: list[asyncio.Task[None]] = []
        self.villager: Villager

    async def begin(self) -> None:
        """Join, as the others do. Raises DsdError."""
        self.villager = await self.village.start(self.place, offers=False)

    @property
    def rpc(self) -> Rpc:
        return self.villager.node.rpc

    @property
    def contact(self) -> Contact:
        return self.villager.transport.contact

    def did(self, deed: str) -> None:
        self._counts[f"rogue: {deed}"] += 1

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work, name=self.place.name))

    def on_request(self, kind: type[Message], answer: Callable[[bytes, Any, list[bytes]], Any]) -> None:
        """`answer` goes before what a node answers to that, which it does where this gives None."""
        honest = self.rpc._on_request[kind]

        async def handle(peer: bytes, message: Any, buffers: list[bytes]) -> Response:
            given = await answer(peer, message, buffers)
            return given if given is not None else await honest(peer, message, buffers)

        self.rpc.on_request(kind, handle)

    async def ask(self, peer: bytes, message: Message, buffers: Sequence[bytes] = ()) -> Message | None:
        """None: no answer."""
        with contextlib.suppress(DsdError):
            return (await self.rpc.request(peer, message, buffers, timeout_s=ASK_S))[0]
        return None

    def honest(self, *, drafters: bool) -> list[Villager]:
        """Stages, or drafters, that are up."""
        everybody = (one for _, one in sorted(self.village.villagers.items()))
        return [one for one in everybody if (one.place.layers is None) == drafters]

    async def announce(self) -> None:
        """For ever: what it offers, and its `lies` on top, to all that hold records."""
        pauses = iter(ANNOUNCE_S)
        pause_s, sequence = 0.0, 0
        while True:
            await asyncio.sleep(pause_s := next(pauses, pause_s))
            sequence += 1
            await self._tell([self.changed(record, sequence=sequence) for record in self.villager.node._records()])

    def changed(self, record: ProviderRecord, **changes: Any) -> dict[str, Any]:
        fields = dict(zip(FIELDS, msgspec.msgpack.decode(encode_body(record)), strict=True)) | changes
        if self.boasts:
            fields |= {"fixed_ms": 0.001, "slope_ms": 0.0, "queue": 0.0, "free_sessions": MANY}
        for lie in self.lies:
            lie(fields)
        return fields

    async def _tell(self, records: Sequence[dict[str, Any]]) -> None:
        """Of a provider's records all that belong under a key travel together."""
        told: dict[bytes, list[bytes]] = {}
        for fields in records:
            data = sign_anything(self.identity, list(fields.values()))
            model_id = model_id_of(*(fields[name] for name in MADE_OF))
            for key in (MODELS_KEY, model_key(model_id), tokenizer_key(fields["tokenizer_hash"])):
                told.setdefault(key, []).append(data)
        peers = [one.transport.contact for one in [*self.honest(drafters=True), *self.honest(drafters=False)]]
        await self.tell_all(peers, told.items())

    async def tell_all(self, contacts: Iterable[Contact], announcements: Iterable[tuple[bytes, list[bytes]]]) -> None:
        errands = [(contact, key, data) for contact in contacts for key, data in announcements]
        for contact, _, _ in errands:
            self.rpc.transport.introduce(contact)
        await asyncio.gather(
            *(self.ask(peer_id(contact.public_key), Announce(key), data) for contact, key, data in errands)
        )

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.villager.transport.end()
        with contextlib.suppress(DsdError):
            await self.villager.node.close()


def say(rogue: Rogue, client: bytes, message: Message, *buffers: bytes) -> None:
    rogue.village.loop.at(rogue.village.loop.now, _notify, rogue, client, message, list(buffers))


def _notify(rogue: Rogue, client: bytes, message: Message, buffers: list[bytes]) -> None:
    if rogue.village.network.hosts.get(client) is not None and not rogue.villager.transport.closed:
        with contextlib.suppress(DsdError):
            rogue.rpc.notify(client, message, buffers)
