"""What two peers say to be linked without a relay (docs/protocol.md, section 15.5), and to go from link to link."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from dsdnode.wire.messages import MAX_ADDRESSES, Address, Message, Milliseconds

Host = Annotated[str, Meta(max_length=64)]
Ports = Annotated[tuple[Annotated[int, Meta(ge=1, le=65535)], ...], Meta(max_length=4)]


class Move(Message, frozen=True, tag=6):
    """I say no more over this connection: leave it, too, for another one. Answered by Moved, over this one."""


class Moved(Message, frozen=True, tag=7):
    """All that came over this connection before your Move has been taken."""


class FindPath(Message, frozen=True, tag=8):
    """We talk by way of a relay: where do others reach you without one? (Me: at `reached`.) Answered by Path."""

    reached: Annotated[tuple[Address, ...], Meta(max_length=MAX_ADDRESSES)]


class Path(Message, frozen=True, tag=9):
    """At `reached`. Whoever is not reached calls whoever is."""

    reached: Annotated[tuple[Address, ...], Meta(max_length=MAX_ADDRESSES)]


class Punch(Message, frozen=True, tag=37):
    """Nobody reaches either of us: let us call each other at once, when I say PunchNow. I shall seem to come from one
    of `ports` at `host`; none: nobody can know. `at`: how the port that I listen on looks ("": it cannot be told).
    `bulk`: the lane. Answered by PunchAt."""

    host: Host
    ports: Ports
    at: Address
    bulk: bool


class PunchAt(Message, frozen=True, tag=38):
    """The same of me; so long it took to find that out."""

    host: Host
    ports: Ports
    at: Address
    took_ms: Milliseconds


class PunchNow(Message, frozen=True, tag=39):
    """I call when you hear this."""
