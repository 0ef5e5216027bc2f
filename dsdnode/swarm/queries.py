"""Asking peers: one request, one lookup. The table learns from how each went."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog
from cachetools import LRUCache

from dsdnode.dht.ids import node_id
from dsdnode.dht.lookup import Lookup
from dsdnode.dht.store import record_keys
from dsdnode.dht.table import Table
from dsdnode.errors import DsdError, Overloaded, PeerMisbehaved, PeerUnavailable
from dsdnode.net.rpc import Response, Rpc
from dsdnode.wire.codec import buffer_at
from dsdnode.wire.messages import Contact, FindNode, FindProviders, Message, Nodes, Ping, Providers, Refused
from dsdnode.wire.records import ProviderRecord, open_record, unpack_contacts, unpack_records


async def wait_until(event: asyncio.Event, when_s: float) -> None:
    """Return when `event` is set; at `when_s` of the loop's time it is set here.

    Not `asyncio.timeout`: in Python 3.11 a cancellation that is pending on entry to one that is due already comes out
    as TimeoutError; whoever suppresses that goes on, and whoever cancelled waits for ever.
    """
    timer = asyncio.get_running_loop().call_at(when_s, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()


log = structlog.get_logger(__name__)

REQUEST_TIMEOUT_S = 3.0
"""A first call needs 5.6 round trips: TCP, CURVE, HELLO and its own."""
LOOKUP_TIMEOUT_S = 10.0
MAX_LOOKUPS = 8
MAX_OPENED = 2048
MAX_ELSEWHERE = 8
"""Places where we are said to be that are looked at before more are heard of."""


class Tasks:
    """Work that ends by itself, or with its owner."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], None] = {}

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            log.error("bug in a task", exc_info=task.exception())


class Queries:
    """`answered` is told of every peer that answers. Nothing is asked before the loop runs."""

    def __init__(self, rpc: Rpc, own_id: bytes, table: Table, tasks: Tasks, answered: Callable[[bytes], None]) -> None:
        self._rpc = rpc
        self._own_id = own_id
        self._table = table
        self._tasks = tasks
        self._answered = answered
        self.elsewhere: dict[str, bytes | None] = {}
        """Addresses where others say that we are, and who says so (None: our user)."""
        self._slots = asyncio.Semaphore(MAX_LOOKUPS)
        self._opened: LRUCache[bytes, ProviderRecord] = LRUCache(MAX_OPENED)
        self._newest: LRUCache[tuple[bytes, str], bytes] = LRUCache(MAX_OPENED)
        """By provider and role: which of them is its newest. What it said before will not be shown again."""

    async def request(self, contact: Contact, message: Message, buffers: Sequence[bytes] = ()) -> Response:
        """Ask one peer, introduced before; the table learns from how it went. Raises DsdError."""
        peer = node_id(contact)
        reached = self._table.get(peer) if self._table.is_live(peer) else None
        if reached is not None:  # the transport may have forgotten it
            self._rpc.transport.introduce(reached)
        try:
            reply = await self._rpc.ask(peer, message, buffers, timeout_s=REQUEST_TIMEOUT_S)
        except PeerUnavailable:
            self._table.failed(peer, _now())
            raise
        self._answered(peer)
        return reply

    async def find_node(self, contact: Contact, target: bytes) -> None:
        """Ask one peer for a target, and hear what it says. Raises DsdError.

        Where we know nobody yet, though it answers, it is none to be asked further (it is called by way of a relay,
        say): those that it names may be.
        """
        request = FindNode(target)
        reply, buffers = await self.request(contact, request)
        contacts, records = self._read(request, reply, buffers)
        self._hear(node_id(contact), contacts, records)
        if not len(self._table):
            for other in contacts:
                self._tasks.spawn(self.ping(other))

    async def records(self, contact: Contact, key: bytes) -> list[ProviderRecord]:
        """What one peer says is known under `key`. Raises DsdError."""
        request = FindProviders(key)
        reply, buffers = await self.request(contact, request)
        contacts, records = self._read(request, reply, buffers)
        self._hear(node_id(contact), contacts, records)
        return records

    async def ping(self, contact: Contact) -> None:
        with contextlib.suppress(DsdError):
            await self.request(contact, Ping())

    async def lookup(self, target: bytes, request: Message, timeout_s: float, settle: bool = False) -> Lookup:
        """Run one lookup to its end, or with `settle` only until it is settled. Never raises DsdError."""
        async with self._slots:
            now = _now()
            exclude = [self._own_id, *self._table.shunned(now)]
            lookup = Lookup(target, self._table.closest(target), exclude, now + timeout_s, hurried=settle)
            changed = asyncio.Event()
            while not (lookup.done(now) or (settle and lookup.settled(now))):
                changed.clear()
                while (contact := lookup.next(now)) is not None:
                    self._tasks.spawn(self._ask(contact, request, lookup, changed))
                await wait_until(changed, lookup.wakes_at())
                now = _now()
            return lookup

    async def _ask(self, contact: Contact, request: Message, lookup: Lookup, changed: asyncio.Event) -> None:
        """One step of a lookup. It outlives the lookup: the table wants to know, too, who is slow and who is gone."""
        peer, began_s = node_id(contact), _now()
        try:
            reply, buffers = await self.request(contact, request)
            contacts, records = self._read(request, reply, buffers)
        except DsdError as error:
            if isinstance(error, PeerMisbehaved):
                self._rpc.misbehaved(peer, error)
                self._table.failed(peer, _now())
            lookup.on_failure(peer)
        else:
            self._hear(peer, contacts, records)
            networks = self._rpc.transport.sighting(peer).networks
            lookup.on_reply(peer, contacts, records, networks, _now() - began_s)
        changed.set()

    def _hear(self, teacher: bytes, contacts: Sequence[Contact], records: Sequence[ProviderRecord]) -> None:
        """Whom we call from now on is called on the word of who named it. Records first: each is its peer's own."""
        own = self._rpc.transport.contact
        for contact in (*(record.contact for record in records if not record.withdrawn), *contacts):
            if contact.public_key != own.public_key:
                self._rpc.transport.introduce(contact, teacher)
            elif len(self.elsewhere) < MAX_ELSEWHERE:
                self.elsewhere |= {one: teacher for one in contact.addresses if one not in own.addresses}

    def _read(
        self, request: Message, reply: Message, buffers: Sequence[bytes]
    ) -> tuple[list[Contact], list[ProviderRecord]]:
        """Contacts and verified records of a reply. Raises PeerMisbehaved, or Overloaded when it is a refusal."""
        if isinstance(reply, Refused):
            raise Overloaded(reply.reason)
        if isinstance(request, FindNode) and isinstance(reply, Nodes):
            return unpack_contacts(buffer_at(buffers, 0)), []
        if not (isinstance(request, FindProviders) and isinstance(reply, Providers)):
            raise PeerMisbehaved(f"{type(reply).__name__} is no answer to {type(request).__name__}")
        records = [self._open(data) for data in unpack_records(buffer_at(buffers, 1))]
        if any(request.key not in record_keys(record) for record in records):
            raise PeerMisbehaved("records of another key")
        return unpack_contacts(buffer_at(buffers, 0)), records

    def _open(self, data: bytes) -> ProviderRecord:
        """`open_record`, once for each: every holder of a key shows the same records."""
        digest = hashlib.sha256(data).digest()
        record = self._opened.get(digest)
        if record is None:
            record = open_record(data)
            name = record.public_key, record.role
            before = self._newest.get(name, b"")
            older = self._opened.get(before)
            if older is None or older.sequence < record.sequence:
                self._opened.pop(before, None)
                self._newest[name] = digest
        self._opened[digest] = record
        return record


def _now() -> float:
    return asyncio.get_running_loop().time()
