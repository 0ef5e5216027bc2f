"""Links to peers: Dealer (we dialled) and Inbound (we were dialled). Either carries messages both ways.

A link is `ready` once HELLO was answered by WELCOME. Until then, and while libzmq's own queue is full, messages wait in
the link's queue, by priority. A link that is `closed` never comes back: its owner makes another.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import zmq

from dsdnode.addresses import is_ip, parse_address
from dsdnode.errors import PeerMisbehaved, PeerUnavailable
from dsdnode.identity import Identity, peer_id
from dsdnode.net.call import Call, Way
from dsdnode.net.handshake import Handshake
from dsdnode.net.meter import Meter
from dsdnode.net.port import BESIDE, LOOK, RELAYED, LinkKind, Priority
from dsdnode.net.queues import SendQueue
from dsdnode.net.resolver import Resolver
from dsdnode.net.sockets import Names, Pump, transmit
from dsdnode.wire.codec import decode, printable
from dsdnode.wire.messages import Hello, Refused, Welcome

RESOLVE_TIMEOUT_S = 3.0
MAX_RESOLVED = 4
"""Addresses of one name that are called."""
STAGGER_S = 0.25
"""After so long without an answer the next address is called beside the others: most answer sooner (RFC 8305)."""


class Link:
    """What both kinds share: a queue before a socket."""

    def __init__(self, peer: bytes, bulk: bool) -> None:
        self.peer = peer
        self.bulk = bulk
        self.ready = self.closed = False
        self.since_s = asyncio.get_running_loop().time()
        self.heard_s = float("-inf")
        """When something came over it last."""
        self.kind = LinkKind.DIRECT
        self.queue, self.meter = SendQueue(), Meter()
        self.waits_for: dict[Link, None] = {}
        """Links that were used before it: nothing is sent until all has been taken that was sent over these."""
        self.beside = False
        """Its peer has made it beside others, to leave these for it soon: not to be used before."""
        self.leaving = self.is_left = False
        """We, the peer, have said that nothing more follows."""
        self.is_over = False
        """The peer has taken all that we have sent."""
        self.is_stale = False
        """The peer has made a newer one since, perhaps because it has lost this one."""
        self._urgent: deque[list[bytes]] = deque()
        """What concerns the link itself: it waits for nothing but room."""

    @property
    def has_work(self) -> bool:
        """Is there anything that could be sent if libzmq had room?"""
        return self.ready and bool(self._urgent or (self.queue and not self.waits_for))

    @property
    def is_usable(self) -> bool:
        return self.ready and not self.closed and not self.leaving

    def send(self, frames: list[bytes], priority: Priority) -> bool:
        """Now if that is possible, else when it is: has it left, with all before it? Raises Overloaded."""
        waits = self.waits_for or self.queue or self._urgent
        if self.ready and not waits and self._pass(frames, priority):
            return True
        self.queue.push(frames, priority)
        if priority is Priority.CONTROL:
            self.flush()  # before bulk that the meter holds
        return False

    def say(self, frames: list[bytes]) -> None:
        """Before all that waits."""
        self._urgent.append(frames)
        self.flush()

    def flush(self) -> bool:
        """Has anything left?"""
        while self.ready and self._urgent:
            if not self._transmit(self._urgent[0]):
                return False
            self._urgent.popleft()
        before = len(self.queue)
        while self.ready and not self.waits_for and (first := self.queue.first()) and self._pass(*first):
            self.queue.pop(first[1])
        return len(self.queue) < before

    def _pass(self, frames: list[bytes], priority: Priority) -> bool:
        """False: not now."""
        now = asyncio.get_running_loop().time()
        waits = priority is not Priority.CONTROL and not self.meter.passes(now)
        if waits or not self._transmit(frames):
            return False
        self.meter.took(now, frames)
        return True

    def _transmit(self, frames: list[bytes]) -> bool:
        """False: libzmq's queue is full."""
        raise NotImplementedError


class Inbound(Link):
    """A connection that a peer made to our router. Its routing id stays between us and libzmq."""

    def __init__(
        self,
        router: zmq.Socket[bytes],
        pump: Pump,
        routing_id: bytes,
        hello: Hello,
        user: str,
        descriptor: int,
        host: str,
        hang_up: Callable[[], None],
    ) -> None:
        """`host`: the IP address that it comes from ("": gone before that was seen)."""
        super().__init__(peer_id(hello.contact.public_key), hello.bulk)
        self.contact, self.capabilities = hello.contact, hello.capabilities
        self.is_look = LOOK in hello.capabilities
        """Made to be looked at: nothing is to be sent over it, or heard."""
        self.beside = BESIDE in hello.capabilities
        self.hang_up = hang_up
        self.host, self.relay = host, b""
        """Where it comes from, and the relay that says so, if one does."""
        self._router = router
        self._pump = pump
        self.routing_id = routing_id
        self.user = user
        self.descriptor = descriptor
        self.num_seen_bytes = 0
        """Of what came over it, in whole messages."""
        self.ready = True

    def _transmit(self, frames: list[bytes]) -> bool:
        try:
            transmit(self._router, self.routing_id, *frames)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            return True  # just gone: the monitor tells in a moment, and the message is lost with it
        self._pump.sent()
        return True


class DealerOwner(Protocol):
    """What a dealer asks of, and tells, whoever made it."""

    context: zmq.Context[zmq.Socket[bytes]]
    names: Names
    identity: Identity
    handshake: Handshake
    resolver: Resolver

    def may_dial(self, way: Way) -> bool:
        """Is there anything left of what strangers may have us dial? Then it is paid for."""

    def received(self, link: Link, frames: list[bytes]) -> None: ...

    def dealer_ready(self, dealer: Dealer) -> None: ...

    def dealer_ended(self, dealer: Dealer, was_ready: bool, why: str) -> None:
        """The dealer is closed; its queue is for the owner to move or drop."""


class Dealer(Link):
    """A connection that we make: addresses are called side by side until one answers; then HELLO, then messages.

    One is greeted at a time: a second greeting would look like a newer link to a peer that answers at two addresses.
    """

    def __init__(
        self,
        owner: DealerOwner,
        peer: bytes,
        public_key: bytes,
        bulk: bool,
        ways: Sequence[Way],
        stagger_s: float = STAGGER_S,
    ) -> None:
        super().__init__(peer, bulk)
        self._stagger_s = stagger_s
        self.owner = owner
        self._public_key = public_key
        self._ways = list(ways)
        self._calls: list[Call] = []
        """Under way, the first begun first; of them the one that is greeted, or carries messages: `_call`."""
        self._call: Call | None = None
        self._resolutions: dict[asyncio.Task[None], str] = {}
        """Hosts whose addresses are asked for."""
        self._whys: dict[str, None] = {}
        self._attempt = 0
        self.capabilities: tuple[str, ...] = ()
        """That the peer has named in its answer."""
        self.refused = False
        """The peer itself said no, and will say so again."""
        self._is_known = True
        """Of all calls so far that led nowhere it is known why."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.failed: list[str] = []
        """Addresses, as they were told, where the peer did not answer."""
        self.answering: list[Way] = []
        """Where whoever has the peer's key was, when he answered the greeting: whatever he said."""
        self._start()

    @property
    def way(self) -> Way:
        """The one that is taken, or greeted."""
        return self._call.way if self._call is not None else Way("")

    @property
    def is_connected(self) -> bool:
        return any(call.is_connected for call in self._calls)

    @property
    def local(self) -> str:
        """The IP address of ours that it is made from ("": there is no connection)."""
        return self._call.local if self._call is not None else ""

    @property
    def nonce(self) -> bytes:
        """Of the greeting."""
        return self._call.hello.nonce if self._call is not None and self._call.hello is not None else b""

    def close(self) -> None:
        self.closed, self.ready = True, False
        if self._timer is not None:
            self._timer.cancel()
        for call in self._calls:
            call.close()
        for resolution in self._resolutions:
            resolution.cancel()

    # --- finding an address that answers

    def _start(self) -> None:
        """Call the next address, and soon the one after it."""
        if self._timer is not None:
            self._timer.cancel()
        while self._ways and not self.closed:
            way = self._ways.pop(0)
            if not self.owner.may_dial(way):
                self._note(f"{way.address} is not called again yet: too many such calls led nowhere", is_known=False)
                continue
            self._timer = self._loop.call_later(self._stagger_s, self._start)
            host, port = parse_address(way.address)
            if is_ip(host):
                self._dial(way)
            else:
                resolution = self._loop.create_task(self._resolve(way, host, port))
                self._resolutions[resolution] = host
            return
        if not self._calls and not self._resolutions:
            self._loop.call_soon(self._end)  # its owner may not have it in its books yet

    @property
    def leads_nowhere(self) -> bool:
        """Each of its addresses was called, and has said, or this machine has, that the peer is not there; or whoever
        is there does not say a word."""
        is_tried = not (self.ready or self._ways or self._resolutions) and bool(self._whys or self._calls)
        return self._is_known and is_tried and all(call.hears_nothing for call in self._calls)

    @property
    def why(self) -> str:
        """What keeps it, or has ended it, in words."""
        asked = [f"no name server has said yet where {host} is" for host in self._resolutions.values()]
        return "; ".join([*self._whys, *asked, *(call.why for call in self._calls)]) or "no address"

    def _note(self, why: str, is_known: bool = True) -> None:
        self._whys[why] = None
        self._is_known &= is_known

    def _dial(self, way: Way) -> None:
        owner = self.owner
        self._calls.append(Call(self, owner.context, owner.names, owner.identity, self._public_key, way))

    async def _resolve(self, named: Way, host: str, port: int) -> None:
        """Ask for a name's addresses here: libzmq would, in the thread that serves every connection."""
        why, ips = f"{host} cannot be found", list[str]()
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                found = await self.owner.resolver.hosts(host, named.by_user)
        except TimeoutError:
            why = f"no name server has said in {RESOLVE_TIMEOUT_S:g} s where {host} is"
        except (OSError, UnicodeError):
            pass
        else:
            plain = [ip for ip in found if "%" not in ip]  # (else it has a zone: it is of one cable, and no address)
            hosts = [ip for ip in plain if named.may_lead_to(ip)]
            if found and not hosts:
                why = (
                    f"{host} leads to an address that nobody {'far away may name' if plain else 'calls: it has a zone'}"
                )
            ips = [f"[{ip}]" if ":" in ip else ip for ip in hosts][:MAX_RESOLVED]
        self._ways[:0] = [replace(named, address=f"tcp://{ip}:{port}", name=named.address) for ip in ips]
        if not ips:
            self._note(why)
            self.failed.append(named.address)
        task = asyncio.current_task()
        assert task is not None
        del self._resolutions[task]
        if self._call is None:
            self._start()

    def _end(self) -> None:
        if self.closed:
            return
        was_ready = self.ready
        self.close()
        self._calls.clear()
        self._resolutions.clear()
        self.owner.dealer_ended(self, was_ready, self.why)

    # --- the calls (implements Caller)

    def call_proven(self, call: Call) -> None:
        if self._call is None:
            self._greet(call)

    def _greet(self, call: Call) -> None:
        self._call = call
        if self._timer is not None:
            self._timer.cancel()
        call.greet(self.owner.handshake.hello(self._public_key, self.bulk, self._attempt))

    def call_ended(self, call: Call, why: str) -> None:
        if self.ready:
            self._whys = {"the connection was closed": None}
            return self._end()
        self._calls.remove(call)
        self.failed.append(call.way.told)
        self._note(why, call.is_known)
        if call is self._call:
            self._call = next((other for other in self._calls if other.is_proven), None)
            if self._call is not None:
                return self._greet(self._call)
        if self._call is None:
            self._start()

    def call_idle(self) -> None:
        self.flush()

    def call_heard(self, call: Call, frames: list[bytes]) -> None:
        if self.ready:
            self.owner.received(self, frames)
        elif call is self._call and call.hello is not None:
            self._answered(call, frames, call.hello)

    def _answered(self, call: Call, raw: list[bytes], hello: Hello) -> None:
        """The peer's first message: WELCOME or REFUSED."""
        self._is_known = True
        try:
            answer = decode(raw).message
            if not isinstance(answer, Welcome | Refused):
                raise PeerMisbehaved("it did not answer the greeting")
            self.answering = [one.way for one in self._calls if one.is_proven]
            if isinstance(answer, Refused):
                self.refused = self._is_known = not answer.retry
                raise PeerUnavailable(printable(answer.reason))
            self.owner.handshake.check(answer, hello, self._public_key)
        except (PeerUnavailable, PeerMisbehaved) as error:
            if self.refused and self._attempt + 1 < self.owner.handshake.num_greetings:
                self._attempt += 1  # it may not know our newest swarm key yet
                return self._call_again(call)
            self._whys, self._ways = {f"{call.way.address} refused: {error}": None}, []
            self._end()  # whoever has this key says no: other addresses would lead to the same
            return
        call.take()
        for other in [one for one in self._calls if one is not call]:
            other.close()
        self._calls, self._ways = [call], []
        self.capabilities, self.ready = answer.capabilities, True
        if RELAYED in answer.capabilities:
            self.kind = LinkKind.RELAYED
        self.owner.dealer_ready(self)
        self.flush()

    def _call_again(self, call: Call) -> None:
        """The same address; a connection carries one greeting."""
        call.close()
        self._calls.remove(call)
        self._call = None
        self._dial(call.way)

    def _transmit(self, frames: list[bytes]) -> bool:
        assert self._call is not None
        return self._call.transmit(frames)
