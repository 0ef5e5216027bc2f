"""What a liar knows of a village (liar.py), and what it says and hears there."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import msgspec

from dsdnode.net.port import Priority
from dsdnode.net.rpc import Rpc
from dsdnode.node.drafter.delivery import Delivery
from dsdnode.node.drafter.phases import Phase
from dsdnode.node.drafter.reply import Reply
from dsdnode.sim.transport import SimTransport
from dsdnode.speculation.owner.epochs import OwnEpoch
from dsdnode.wire import messages as wire
from dsdnode.wire import replies
from dsdnode.wire.codec import encode

from .village import Village, Villager, is_of_protocol

T = TypeVar("T")
PING, FIND_NODE, FIND_PROVIDERS, ANNOUNCE, OPEN, CLOSED, GENERATE = (
    int(str(kind.__struct_config__.tag))
    for kind in (wire.Ping, wire.FindNode, wire.FindProviders, wire.Announce, wire.Open, wire.Closed, replies.Generate)
)
MAX_HEARD = 200


@dataclass(frozen=True, slots=True)
class Tale:
    receiver: bytes
    frames: list[bytes]
    priority: Priority = Priority.CONTROL
    after_s: float = 0.0
    speaker: SimTransport | None = None
    """A stage's that is in league with the liar; None: it speaks itself."""


@dataclass(slots=True)
class Heard:
    """What others sent to each other of late."""

    notices: deque[Tale] = field(default_factory=lambda: deque(maxlen=MAX_HEARD))
    """Of the protocol between owners and stages."""
    others: deque[Tale] = field(default_factory=lambda: deque(maxlen=MAX_HEARD))

    def add(self, tale: Tale) -> None:
        (self.notices if is_of_protocol(tale.frames[0]) else self.others).append(tale)

    def seals(self) -> list[bytes]:
        """Of judges."""
        messages = [msgspec.msgpack.decode(tale.frames[0])[3] for tale in self.notices]
        return [message[-1] for message in messages if message[0] == CLOSED]

    def kind_of(self, receiver: bytes, number: int) -> int:
        """The tag of a request; 0: it was not heard."""
        for tale in reversed(self.others):
            if tale.receiver == receiver and msgspec.msgpack.decode(tale.frames[0])[0] == number:
                return question_of(tale.frames[0])[0]
        return 0


@dataclass(slots=True)
class Scene:
    """What the liar knows: everything but the keys of others. It reads all names and numbers out of their nodes."""

    village: Village
    rng: Random
    contact: wire.Contact
    own_id: bytes
    heard: Heard

    def some(self, things: Sequence[T]) -> list[T]:
        """One of them, if there is one."""
        return [self.rng.choice(things)] if things else []

    def villagers(self) -> list[Villager]:
        return [one for _, one in sorted(self.village.villagers.items())]

    def drafters(self) -> list[Villager]:
        return [one for one in self.villagers() if one.node._drafter is not None]

    def stages(self) -> list[Villager]:
        return [one for one in self.villagers() if one.node._stage is not None]

    def replies(self) -> list[tuple[bytes, Reply]]:
        """In progress, each with its owner."""
        return [
            (one.transport.id, reply) for one in self.drafters() for reply in one.node._drafter._by_session.values()
        ]

    def epochs(self) -> list[tuple[bytes, Reply, OwnEpoch]]:
        return [(owner, reply, epoch) for owner, reply in self.replies() for epoch in reply._machine._epochs.live]

    def deliveries(self) -> list[tuple[bytes, Delivery]]:
        """What drafters have on the way to others."""
        all_ = [(one.transport.id, each) for one in self.drafters() for each in one.node._drafter._deliveries.values()]
        return [(drafter, delivery) for drafter, delivery in all_ if delivery.client != self.own_id]

    def sessions(self) -> list[tuple[bytes, int]]:
        """Of all replies and of what rests, each with a route number; while some are being opened, of these alone."""
        if opening := [reply for _, reply in self.replies() if reply.phase is Phase.OPENING]:
            return [(reply.conversation.session, reply._machine.route) for reply in opening]
        owners = [one.node._drafter for one in self.drafters()]
        found = [
            (one.conversation.session, one._machine.route) for owner in owners for one in owner._by_session.values()
        ]
        return found + [
            (one.session, one.carried.route) for owner in owners for one in owner._conversations._resting.values()
        ]

    def talkers(self) -> list[tuple[bytes, Rpc]]:
        """All that ask something of others."""
        found = [(one.transport.id, one.node.rpc) for one in self.villagers()]
        return found + [(client._rpc.transport.id, client._rpc) for client in self.village.clients]  # type: ignore[attr-defined]

    def pending(self) -> list[tuple[bytes, bytes, int]]:
        """Who waits, for whom, and the number of the request."""
        asked = [(peer, other, waiting) for peer, rpc in self.talkers() for other, waiting in rpc._pending.items()]
        return [(peer, other, number) for peer, other, waiting in asked for number in waiting]

    def anyone(self) -> list[bytes]:
        return [peer for peer, _ in self.talkers()]

    def ask(self, receiver: bytes, message: wire.Message, buffers: Sequence[bytes] = ()) -> Tale:
        return Tale(receiver, encode(message, buffers, self.rng.getrandbits(48) + 1, deadline_ms=4000))


def request_of(header: bytes) -> bytes:
    """The name of the reply that is asked for."""
    kind, message = question_of(header)
    return bytes(message[1]) if kind == GENERATE else b""


def news_of_a_reply(header: bytes) -> float:
    """How much of news it is, from 0 to 1: that a reply is asked for; a place at a stage, or whether one lives."""
    return {GENERATE: 1.0, OPEN: 0.2, PING: 0.2}.get(question_of(header)[0], 0.0)


def question_of(header: bytes) -> tuple[int, list[Any]]:
    """Tag and message; 0: no request."""
    number, reply, _, message = msgspec.msgpack.decode(header)
    return (0, []) if reply or not number else (message[0], message)
