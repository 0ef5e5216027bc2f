"""A role of a real node among hostile peers, in virtual time: what the games of the roles have in common.

Strangers say what their keys allow them to say, in frames, in any order: right in its types mostly, and near enough to
what makes sense. Nothing but words of errors.py may come of it, and when they have gone, everything is as it was.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import msgpack
import structlog

from dsdnode.addresses import Nearness, may_name
from dsdnode.errors import DsdError, PeerMisbehaved, PeerUnavailable
from dsdnode.identity import Identity, peer_id
from dsdnode.net.dials import Teacher
from dsdnode.net.port import Priority, Sighting, listed
from dsdnode.net.queues import Inbox
from dsdnode.net.rpc import Rpc
from dsdnode.sim.loop import JumpingLoop
from dsdnode.wire import codec
from dsdnode.wire.messages import Contact, Message, Ping, Pong, Refused
from tests.fuzz.mutate import Mutator
from tests.fuzz.parser import Case
from tests.protocol.peers import identity_of

CHANGED_SHARE, SCRATCHED_SHARE, MALFORMED_SHARE = 0.12, 0.06, 0.01
"""Of what strangers say: another value in the header, in a buffer, and what no peer says."""
LIMIT_S = 100_000.0
_QUIET = structlog.make_filtering_bound_logger(40)


@dataclass(frozen=True, slots=True)
class Person:
    """A peer that anybody may be, with a key of its own."""

    name: str
    identity: Identity
    source: str
    """Where its connection comes from."""

    @property
    def id(self) -> bytes:
        return self.identity.peer_id

    @property
    def contact(self) -> Contact:
        return Contact(self.identity.public_key, (f"tcp://{self.source}:29170",))


@cache
def person(name: str) -> Person:
    number = sum(name.encode()) % 200
    # Two in each of three networks.
    return Person(name, identity_of(name), f"198.51.{number % 3}.{number + 1}")


class Bugs:
    """Errors in the log, and what nobody caught: there are to be none."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __call__(self, logger: object, method: str, event: Mapping[str, Any]) -> Mapping[str, Any]:
        self.found.append(f"{event.get('event')}: {traceback.format_exc(limit=-6)}")
        raise structlog.DropEvent

    def unhandled(self, loop: object, context: Mapping[str, Any]) -> None:
        error = context.get("exception")
        told = "".join(traceback.format_exception(error, limit=-6)) if isinstance(error, BaseException) else ""
        self.found.append(f"{context.get('message')}: {told}")


class HostileTransport:
    """Implements net/port.py's Transport: whoever is played is told what is sent, and puts words into the inbox."""

    def __init__(self, game: Game, contact: Contact) -> None:
        self.contact = contact
        self.here = contact.addresses
        self.twin = ""
        self.why_no_port = self.seen = ""
        self.relays = self.outlook = self.paths = None
        self.given: tuple[str, ...] = ()
        self.relay_bytes_per_s = 0.0
        self.is_called = False
        self.is_stranded = False
        self.id = peer_id(contact.public_key)
        self.inbox = Inbox()
        self.banned: dict[bytes, None] = {}
        self.visited: list[Contact] = []
        self._game = game
        self._known: dict[bytes, Contact] = {}
        self._lost: list[Any] = []

    def greet_as(self, addresses: Sequence[str]) -> None: ...

    def introduce(self, contact: Contact, teacher: bytes | Teacher | None = None) -> None:
        self._known.setdefault(peer_id(contact.public_key), contact)

    def sighting(self, peer: bytes) -> Sighting:
        known = self._known.get(peer)
        return Sighting() if known is None or peer not in self._game.people else Sighting(known.addresses)

    async def reach(self, peer: bytes, address: str, anew: bool = False) -> bool:
        return True

    async def visit(self, contact: Contact, teacher: bytes) -> None:
        assert teacher in self._game.people
        assert all(may_name(Nearness.WORLD, one) for one in contact.addresses), "a visit to what is near"
        self.visited.append(contact)

    def linked(self) -> Iterator[bytes]:
        return iter(self._game.people)

    async def look_for_twin(self, places: Mapping[str, bytes | None]) -> None: ...

    def on_neighbour(self, callback: Any) -> bool:
        return False

    def on_moved(self, callback: Any) -> None: ...

    def on_broken(self, callback: Any) -> Callable[[], None]:
        return lambda: None

    def doubt(self, peer: bytes) -> None: ...

    def contact_of(self, peer: bytes) -> Contact | None:
        return self._known.get(peer)

    def can(self, peer: bytes, capability: str) -> bool:
        return True

    def source_of(self, peer: bytes) -> str:
        known = self._game.people.get(peer)
        return "" if known is None else known.source

    def refused_by(self, peer: bytes) -> bool:
        return False

    def leads_nowhere(self, peer: bytes) -> bool:
        return False

    def trouble_with(self, peer: bytes) -> str:
        return ""

    def on_peer_lost(self, callback: Any) -> Callable[[], None]:
        return listed(self._lost, callback)

    def lose(self, peer: bytes) -> None:
        for callback in list(self._lost):
            callback(peer, "gone", float("inf"))

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        if peer not in self._game.people:
            raise PeerUnavailable("nobody of that name is here")
        self._game.loop.call_soon(self._game.heard, self._game.people[peer], codec.decode(frames))

    async def receive(self) -> tuple[bytes, list[bytes]]:
        return await self.inbox.get()

    def ban(self, peer: bytes, duration_s: float) -> None:
        """Whoever is banned comes again under another key; here he keeps his, and is heard again."""
        self.banned[peer] = None

    async def close(self) -> None: ...


class Game:
    """One case. `names`: who is played; subclasses say what they do, and what must be true at the end."""

    names: tuple[str, ...] = ()

    def __init__(self, seed: bytes) -> None:
        self.rng = Random(seed)
        self.mutator = Mutator(self.rng)
        self.bugs = Bugs()
        self.people = {person(name).id: person(name) for name in self.names}
        self.loop = JumpingLoop(LIMIT_S)
        self.silent = False
        """They say nothing any more; but that they live, some of them."""
        self.lives = self.rng.random() < 0.5
        self._asked = 0
        self._unanswered: dict[tuple[bytes, int], None] = {}

    def play(self) -> None:
        before = structlog.get_config()
        structlog.configure(processors=[self.bugs], wrapper_class=_QUIET, cache_logger_on_first_use=False)
        self.loop.set_exception_handler(self.bugs.unhandled)
        try:
            self.loop.run_until_complete(self._game())
        finally:
            structlog.configure(**before)
            self.loop.close()
        assert not self.bugs.found, self.bugs.found[0]

    async def _game(self) -> None:
        self.transport = HostileTransport(self, person("host").contact)
        for one in self.people.values():
            self.transport.introduce(one.contact)
        self.rpc = Rpc(self.transport, Random(1))
        try:
            await self.story()
        finally:
            await self.rpc.close()

    async def story(self) -> None:
        raise NotImplementedError

    # --- what strangers say

    def says(self, who: Person, message: Message, *buffers: bytes) -> None:
        self._put(who, codec.encode(message, buffers))

    def asks(self, who: Person, message: Message, *buffers: bytes) -> int:
        """The number of the request, which is to be answered once at most."""
        self._asked += 1
        self._unanswered[who.id, self._asked] = None
        deadline_ms = self.rng.choice((0, 1, 1000, 10_000))
        self._put(who, codec.encode(message, buffers, self._asked, deadline_ms=deadline_ms))
        return self._asked

    def answers(self, who: Person, request_id: int, message: Message, *buffers: bytes) -> None:
        self._put(who, codec.encode(message, buffers, request_id, reply=True))

    def _put(self, who: Person, frames: list[bytes]) -> None:
        rng, mutator = self.rng, self.mutator
        chance = rng.random()
        if chance < CHANGED_SHARE:
            changed = _changed(mutator, frames)
            if is_message(changed) or rng.random() < MALFORMED_SHARE:
                frames = changed
        elif chance < CHANGED_SHARE + SCRATCHED_SHARE and len(frames) > 1:
            place = rng.randrange(1, len(frames))
            other = rng.choice((mutator.scratched(frames[place]), frames[place] * 2, b"", frames[-1]))
            frames = [*frames[:place], other, *frames[place + 1 :]]
        self.said(who, frames)
        self.transport.inbox.put(who.id, frames, who.source)

    def said(self, who: Person, frames: list[bytes]) -> None:
        """What was said in the end."""

    def heard(self, who: Person, envelope: codec.Envelope) -> None:
        """The role has told `who` something."""
        if envelope.reply:
            known = (who.id, envelope.request_id)
            assert known in self._unanswered or envelope.request_id > self._asked, "answered twice"
            self._unanswered.pop(known, None)
            self.answered(who, envelope)
        elif isinstance(envelope.message, Ping):
            if self.lives if self.silent else self.rng.random() < 0.9:
                self.answers(who, envelope.request_id, Pong())
        elif not self.silent:
            if envelope.request_id:
                self.asked(who, envelope)
            else:
                self.told(who, envelope)

    def answered(self, who: Person, envelope: codec.Envelope) -> None: ...

    def asked(self, who: Person, envelope: codec.Envelope) -> None:
        self.answers(who, envelope.request_id, Refused("why not"))

    def told(self, who: Person, envelope: codec.Envelope) -> None: ...

    def check_rpc(self) -> None:
        """Nothing is under way any more."""
        assert not self.rpc._serving and not self.rpc._num_served, "requests are left"
        assert not self.rpc._pending and not self.rpc._num_pending, "questions are left"


def _changed(mutator: Mutator, frames: list[bytes]) -> list[bytes]:
    """Another value in the message itself."""
    *delivery, (tag, *fields) = msgpack.unpackb(frames[0])
    changed = mutator.changed(fields) if fields else fields
    try:
        said = [*delivery, [tag, *changed] if isinstance(changed, list) else changed]
        return [msgpack.packb(said), *frames[1:]]
    except (OverflowError, ValueError):  # what no msgpack can say
        return frames


def is_message(frames: Sequence[bytes]) -> bool:
    try:
        codec.decode(frames)
    except (PeerMisbehaved, OverflowError):
        return False
    return True


def play(game: type[Game], case: Case) -> None:
    try:
        game(case[0]).play()
    except DsdError as error:  # nobody is there to hear it
        raise AssertionError(f"{type(error).__name__}: {error}") from error
