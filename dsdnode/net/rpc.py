"""Requests, replies and notices over any transport; who is served how often, and who is sent away.

A request gets one reply: whatever its handler returns, or Refused in words. A notice gets none, and its handler runs
synchronously in the order of arrival: decide there, act later. All time is the loop's; no threads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from secrets import SystemRandom
from typing import Any, TypeVar

import structlog
from cachetools import LRUCache

from dsdnode.accounts import Account, Shares
from dsdnode.addresses import machine_of, network_of
from dsdnode.errors import DsdError, Overloaded, PeerMisbehaved, PeerUnavailable
from dsdnode.identity import peer_id, short_id
from dsdnode.net.port import MAX_TURN, Priority, Transport, listed
from dsdnode.wire.codec import Envelope, decode, encode, printable
from dsdnode.wire.messages import MAX_REASON, Message, Ping, Pong, Refused

MAX_PENDING = 4096
"""Requests of ours without an answer yet."""
MAX_SERVED = 1024
MAX_SERVED_PER_PEER = 32
"""Requests being handled at once; one more is refused."""
MAX_SERVE_S = 120.0
"""When the caller did not say how long it waits."""
DOUBT_AFTER_S = 2.0
"""Without an answer: longer than any round trip. Either the peer is slow, or its connection is dead."""
BULKY_BYTES = 64 * 1024
"""A larger reply must not hold up control messages."""
STRIKES = 10
STRIKES_WINDOW_S = 60.0
MAX_WATCHED = 4096
BAN_S = 600.0

_TOO_MANY = Refused("too many requests at once", retry=True)
M = TypeVar("M", bound=Message)
Response = tuple[Message, Sequence[bytes]]
RequestHandler = Callable[[bytes, M, list[bytes]], Awaitable[Response]]
NoticeHandler = Callable[[bytes, M, list[bytes]], None]

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Sent:
    """Messages of one kind, and their bytes before encryption."""

    num: int = 0
    num_bytes: int = 0


class LinkBroken(PeerUnavailable):
    """A connection ended while a peer's answer was awaited, and there is another one: ask again."""


class Rpc:
    """`rng` only makes the first request's number unlikely to meet a late reply to a process that was here before."""

    def __init__(self, transport: Transport, rng: Random | None = None) -> None:
        self.transport = transport
        self._next_id = (rng or SystemRandom()).getrandbits(48) + 1
        self._pending: dict[bytes, dict[int, _Pending]] = {}
        self._num_pending = 0
        self.sent: dict[str, Sent] = {}
        """By the kind of message: what was given to the transport."""
        self._own_id = peer_id(transport.contact.public_key)
        self.sent_bytes = self.received_bytes = 0
        """To and from others, before encryption."""
        self._on_request: dict[type[Message], RequestHandler[Any]] = {}
        self._on_notice: dict[type[Message], list[NoticeHandler[Any]]] = {}
        self._serving: dict[asyncio.Task[None], tuple[Account, Envelope]] = {}
        self._num_served: dict[bytes, int] = {}
        self._strikes = Strikes()
        self._reader: asyncio.Task[None] | None = None
        transport.on_peer_lost(self._peer_lost)
        transport.on_broken(self._broken)

    def start(self) -> None:
        """Begin to receive, within a running loop."""
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def close(self) -> None:
        """End everything that is under way, and close the transport."""
        tasks = [task for task in (self._reader, *self._serving) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for peer in list(self._pending):
            self._peer_lost(peer, "this node is closing", float("inf"))
        await self.transport.close()

    # --- asking

    async def request(
        self,
        peer: bytes,
        message: Message,
        buffers: Sequence[bytes] = (),
        *,
        timeout_s: float,
        priority: Priority = Priority.CONTROL,
    ) -> tuple[Message, list[bytes]]:
        """The reply, which may be Refused. Raises PeerUnavailable (no answer in time, unreachable; LinkBroken: it may
        answer if it is asked again) or Overloaded."""
        if self._num_pending >= MAX_PENDING:
            raise Overloaded(f"{MAX_PENDING} requests wait for an answer already")
        self._next_id += 1
        request_id = self._next_id
        frames = encode(message, buffers, request_id, deadline_ms=max(1, round(timeout_s * 1000)))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Message, list[bytes]]] = loop.create_future()
        self._pending.setdefault(peer, {})[request_id] = _Pending(future, priority is not Priority.CONTROL, loop.time())
        self._num_pending += 1
        try:
            self._send(peer, message, frames, priority)
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            if timeout_s >= DOUBT_AFTER_S:
                self.transport.doubt(peer)
            name = type(message).__name__
            raise PeerUnavailable(f"peer {short_id(peer)}: no answer to {name} within {timeout_s:g} s") from error
        finally:
            self._num_pending -= 1
            waiting = self._pending[peer]
            del waiting[request_id]
            if not waiting:
                del self._pending[peer]

    async def ask(
        self, peer: bytes, message: Message, buffers: Sequence[bytes] = (), *, timeout_s: float
    ) -> tuple[Message, list[bytes]]:
        """`request` of what may be asked twice: once more where a connection has ended, in the time that is left."""
        until_s = asyncio.get_running_loop().time() + timeout_s
        try:
            return await self.request(peer, message, buffers, timeout_s=timeout_s)
        except LinkBroken:
            left_s = until_s - asyncio.get_running_loop().time()
            return await self.request(peer, message, buffers, timeout_s=max(0.0, left_s))

    def notify(
        self,
        peer: bytes,
        message: Message,
        buffers: Sequence[bytes] = (),
        priority: Priority = Priority.CONTROL,
    ) -> None:
        """Queue a notice. Raises PeerUnavailable or Overloaded, now; nobody tells if it is lost later."""
        self._send(peer, message, encode(message, buffers), priority)

    async def ping(self, peer: bytes, *, timeout_s: float, priority: Priority = Priority.CONTROL) -> float:
        """Round trip in seconds, through the peer's event loop; asked once more where a connection has ended, in the
        time that is left. Raises PeerUnavailable or Overloaded."""
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        try:
            await self.request(peer, Ping(), timeout_s=timeout_s, priority=priority)
        except LinkBroken:
            left_s, start_s = start_s + timeout_s - loop.time(), loop.time()
            await self.request(peer, Ping(), timeout_s=max(0.0, left_s), priority=priority)
        return loop.time() - start_s

    def warm(self, peer: bytes) -> None:
        """Open both lanes to a peer before they are needed, without waiting."""
        for priority in (Priority.CONTROL, Priority.VERIFY):
            with contextlib.suppress(DsdError):
                self.notify(peer, Ping(), priority=priority)

    # --- being asked

    def account_of(self, peer: bytes) -> Account:
        """Whom is charged what this peer takes of us."""
        source = self.transport.source_of(peer)
        return Account(peer, network_of(source), machine_of(source))

    def on_request(self, kind: type[M], handler: RequestHandler[M]) -> None:
        self._on_request[kind] = handler

    def off_requests(self, kinds: Iterable[type[Message]]) -> None:
        """Nobody here answers them any more."""
        for kind in kinds:
            self._on_request.pop(kind, None)

    def on_notice(self, kind: type[M], handler: NoticeHandler[M]) -> Callable[[], None]:
        """Several roles of one node may hear the same notice: all handlers are called. To call when it is to end."""
        handlers = self._on_notice.setdefault(kind, [])
        return listed(handlers, handler)

    def misbehaved(self, peer: bytes, why: object) -> None:
        """Count it; too many within a minute, and the peer is banned for a while."""
        log.info("peer misbehaved", peer=short_id(peer), reason=str(why))
        if self._strikes.add(peer, asyncio.get_running_loop().time()):
            self.transport.ban(peer, BAN_S)

    async def _read(self) -> None:
        while True:
            for _ in range(MAX_TURN):
                peer, frames = await self.transport.receive()
                if peer != self._own_id:
                    self.received_bytes += sum(map(len, frames))
                self._dispatch(peer, frames)
            await asyncio.sleep(0)

    def _dispatch(self, peer: bytes, frames: list[bytes]) -> None:
        try:
            envelope = decode(frames)
        except PeerMisbehaved as error:
            self.misbehaved(peer, error)
            return
        if envelope.reply:
            self._replied(peer, envelope)
        elif envelope.request_id:
            self._requested(peer, envelope)
        else:
            self._noticed(peer, envelope)

    def _replied(self, peer: bytes, envelope: Envelope) -> None:
        pending = self._pending.get(peer, {}).get(envelope.request_id)
        if pending is None or pending.future.done():
            return  # too late
        message = envelope.message
        if isinstance(message, Refused):
            message = Refused(printable(message.reason), message.retry)
        pending.future.set_result((message, list(envelope.buffers)))

    def _noticed(self, peer: bytes, envelope: Envelope) -> None:
        for handler in self._on_notice.get(type(envelope.message), ()):
            self._hear(handler, peer, envelope)

    def _hear(self, handler: NoticeHandler[Any], peer: bytes, envelope: Envelope) -> None:
        try:
            handler(peer, envelope.message, list(envelope.buffers))
        except PeerMisbehaved as error:
            self.misbehaved(peer, error)
        except DsdError as error:
            log.info("notice not served", message=type(envelope.message).__name__, reason=str(error))
        except Exception:  # a bug in one handler must not end all others
            log.exception("bug in a handler", message=type(envelope.message).__name__)

    def _requested(self, peer: bytes, envelope: Envelope) -> None:
        kind = type(envelope.message)
        handler = self._on_request.get(kind)
        account = self.account_of(peer)
        if kind is Ping:
            self._reply(peer, envelope, Pong(), ())
        elif handler is None:
            self._reply(peer, envelope, Refused(f"{kind.__name__} is not served here"), ())
        elif self._num_served.get(peer, 0) >= MAX_SERVED_PER_PEER or not self._has_place(account):
            self._reply(peer, envelope, _TOO_MANY, ())
        else:
            task = asyncio.get_running_loop().create_task(self._serve(peer, envelope, handler))
            self._serving[task] = account, envelope
            self._num_served[peer] = self._num_served.get(peer, 0) + 1
            task.add_done_callback(self._served)

    def _has_place(self, asker: Account) -> bool:
        """At need the newest request goes of whoever has most here, of those who have more than a fair share."""
        if len(self._serving) < MAX_SERVED:
            return True
        shares = Shares(MAX_SERVED, ((account, 1) for account, _ in self._serving.values()))
        for account in shares.over(asker, 1)[:1]:
            task, envelope = next((task, one) for task, (who, one) in reversed(self._serving.items()) if who == account)
            self._served(task)
            task.cancel()
            self._reply(account.owner, envelope, _TOO_MANY, ())
            return True
        return False

    def _served(self, task: asyncio.Task[None]) -> None:
        account, _ = self._serving.pop(task, (None, None))
        if account is None:  # it gave way
            return
        peer = account.owner
        self._num_served[peer] -= 1
        if not self._num_served[peer]:
            del self._num_served[peer]

    async def _serve(self, peer: bytes, envelope: Envelope, handler: RequestHandler[Any]) -> None:
        reply: Message
        buffers: Sequence[bytes] = ()
        try:
            async with asyncio.timeout(envelope.deadline_ms / 1000 or MAX_SERVE_S):
                reply, buffers = await handler(peer, envelope.message, list(envelope.buffers))
        except TimeoutError:
            return  # nobody waits for the answer any more
        except DsdError as error:
            if isinstance(error, PeerMisbehaved):
                self.misbehaved(peer, error)
            reply = Refused(str(error)[:MAX_REASON], retry=isinstance(error, Overloaded))
        except Exception:
            log.exception("bug in a handler", message=type(envelope.message).__name__)
            reply = Refused("internal error")
        self._reply(peer, envelope, reply, buffers)

    def _reply(self, peer: bytes, envelope: Envelope, message: Message, buffers: Sequence[bytes]) -> None:
        bulky = sum(map(len, buffers)) > BULKY_BYTES
        try:
            frames = encode(message, buffers, envelope.request_id, reply=True)
            self._send(peer, message, frames, Priority.BULK if bulky else Priority.CONTROL)
        except (PeerUnavailable, Overloaded) as error:
            log.debug("reply not sent", reason=str(error))

    def _send(self, peer: bytes, message: Message, frames: list[bytes], priority: Priority) -> None:
        self.transport.send(peer, frames, priority)
        name = type(message).__name__
        sent = self.sent.get(name) or self.sent.setdefault(name, Sent())
        sent.num += 1
        num_bytes = sum(map(len, frames))
        sent.num_bytes += num_bytes
        if peer != self._own_id:
            self.sent_bytes += num_bytes

    def _peer_lost(self, peer: bytes, why: str, at_s: float) -> None:
        """What was asked since goes by another connection."""
        for pending in self._pending.get(peer, {}).values():
            if pending.sent_s <= at_s and not pending.future.done():
                pending.future.set_exception(PeerUnavailable(why))

    def _broken(self, peer: bytes, bulk: bool, since_s: float) -> None:
        """Nobody would answer what was asked by that connection."""
        for pending in self._pending.get(peer, {}).values():
            if pending.bulk is bulk and pending.sent_s >= since_s and not pending.future.done():
                pending.future.set_exception(LinkBroken(f"peer {short_id(peer)}: a connection to it has ended"))


@dataclass(slots=True)
class _Pending:
    """`bulk`: the lane in which it was asked."""

    future: asyncio.Future[tuple[Message, list[bytes]]]
    bulk: bool
    sent_s: float


@dataclass(slots=True)
class _Count:
    num: int
    since: float


class Strikes:
    """How often each peer misbehaved of late."""

    def __init__(self) -> None:
        self._counts: LRUCache[bytes, _Count] = LRUCache(MAX_WATCHED)

    def add(self, peer: bytes, now: float) -> bool:
        """Is this one too many? Then its count begins anew."""
        count = self._counts.pop(peer, None)
        if count is None or now - count.since > STRIKES_WINDOW_S:
            count = _Count(0, now)
        count.num += 1
        if count.num >= STRIKES:
            return True
        self._counts[peer] = count
        return False
