"""The seam between the node and the network: what may carry messages, real (net/zmq.py) or simulated.

A transport delivers whole messages between verified peer ids, at most once, in order within one priority class, or not
at all. It never blocks the sender: a full queue drops the message and raises Overloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Protocol, TypeVar

from dsdnode.addresses import Nearness
from dsdnode.net.dials import Teacher
from dsdnode.wire.messages import Contact

if TYPE_CHECKING:
    from dsdnode.net.outlook import Outlook
    from dsdnode.net.paths import Paths
    from dsdnode.net.relays import Relays

T = TypeVar("T")
ATTEMPT_TIMEOUT_S = 5.0
"""From dialling an address to its WELCOME."""
RETRY_S = 0.5
"""A peer that could not be reached is not dialled again sooner."""
UNACKNOWLEDGED_S = 5.0
"""So long the kernel tries to send what the other end does not acknowledge, a probe of a silent connection, too."""
PROBE_AFTER_S, PROBE_EVERY_S = 2, 1
"""A connection that is silent is probed. (libzmq has heartbeats of its own, which end the whole process where a
connection breaks whose messages nobody takes for the moment: stream_engine_base.cpp:310.)"""
SILENT_S = PROBE_AFTER_S + UNACKNOWLEDGED_S
"""After so long a machine that has vanished without a word is missed, at the latest."""
RELAY = "relay"
"""The capability of whoever can be asked to relay (FindRelay)."""
RELAYED = "relayed"
"""In a Welcome alone: this connection has come by way of a relay."""
REACH = "reach"
"""The capability of whoever says where it reaches another (FindMe)."""
OBSERVE = "observe"
"""The capability of whoever says where it sees those come from who ask that (LOOK)."""
LOOK = "look"
"""Said in a Hello: this connection is made to be looked at. Nothing is sent over it, but where it is seen to come
from, in Welcome (SEEN)."""
SEEN = "seen "
"""Said in a Welcome to LOOK, followed by the caller's tcp://IP:PORT."""
PATH = "path"
"""The capability of whoever leaves links for better ones (Move) and says where it is reached without a relay."""
WEIGHTS = "weights"
"""The capability of whoever can be asked for bytes of models (FindWeights)."""
SHAPING = "shaping"
"""The capability of whoever shapes logits and tells log-probabilities, as a drafter, a stage and a judge."""
TOOLS = "tools"
"""The capability of a drafter that tells chat templates of tools (GenerateBody.tools, ChatMessage.more)."""
MASKS = "masks"
"""The capability of whoever constrains a reply, as a drafter, and draws under masks, as a judge (Masks)."""
GUESSES = "guesses"
"""The capability of whoever passes on, as a stage, what a judge needs to guess at what comes next."""
CALLS = "calls"
"""The capability of a drafter that has a reply call tools (Constraint of that kind)."""
PUNCH = "punch"
"""The capability of whoever calls just when he is called (Punch)."""
ROUTE = "route"
"""The capability of whoever wants to know by which stages its replies come (Routed)."""
PUNCHED = "punched"
"""Said in a Hello beside BESIDE: it was punched."""
BESIDE = "beside"
"""Said in a Hello: nothing is to be sent over this connection before another one is left for it."""
MAX_DIALLED = 128
"""Connections of ours; the one that was used longest ago is closed for one more."""
MAX_TURN = 64
"""Messages of one source that are dealt with before the loop turns to others."""
SEGMENT_BYTES = 1448
"""What TCP puts into one packet of an Ethernet; each may be lost."""
MIN_RESEND_S = 0.2
"""A lost segment is sent again after two round trips, but never sooner: Linux's lower bound of the timer."""


class Priority(IntEnum):
    """Order in which a link sends; lower goes first. Verdicts, cancels and the DHT never wait behind hidden states."""

    CONTROL = 0
    VERIFY = 1
    DRAFT = 2
    BULK = 3


class LinkKind(StrEnum):
    """How a link leads to its peer."""

    DIRECT = "direct"
    REVERSED = "reversed"
    """Called back: the other end cannot be called."""
    PUNCHED = "punched"
    """Both ends called at once, for neither can be called."""
    RELAYED = "relayed"


@dataclass(frozen=True, slots=True)
class Sighting:
    """What we have seen of a peer ourselves, whatever it says."""

    reached: tuple[str, ...] = ()
    """Addresses at which a call of ours was answered by its key, the last one first."""
    networks: tuple[str, ...] = ()
    """Public networks (addresses.network) of who answered there, and of where its connections come from."""
    relayed: tuple[str, ...] = ()
    """Of `reached` those where the call came by way of a relay, as its callee has said."""
    near: Nearness = Nearness.HERE
    """How far away it is: what it may name, and what it has any use for."""


class Transport(Protocol):
    @property
    def contact(self) -> Contact:
        """Our own key and the addresses where we can be dialled (none: we cannot)."""

    @property
    def here(self) -> tuple[str, ...]:
        """Where processes of this machine reach us, best first: what others are told may lead nowhere from inside."""

    @property
    def twin(self) -> str:
        """Where another process has our key ("": nowhere that we know of). One of them must have an identity made."""

    @property
    def given(self) -> tuple[str, ...]:
        """Of our addresses those that relays have given us."""

    @property
    def relay_bytes_per_s(self) -> float:
        """The most that one of these relays lets through for one caller (0: there is none)."""

    @property
    def is_called(self) -> bool:
        """Has anybody a connection to us that he made himself, from another machine, and without a relay?"""

    def greet_as(self, addresses: Sequence[str]) -> None:
        """Name these of our addresses in greetings from now on (until then: all of them)."""

    def introduce(self, contact: Contact, teacher: bytes | Teacher | None = None) -> None:
        """Remember where a peer can be dialled; nothing is sent.

        `teacher`: the peer that says so, or how it counts. It has us call nothing nearer than itself, no port of a
        machine's services, and only so many addresses a minute where nobody answers; and what is known already stays
        known. None: our own user, or ourselves.
        """

    def sighting(self, peer: bytes) -> Sighting: ...

    async def reach(self, peer: bytes, address: str, anew: bool = False) -> bool:
        """Call a peer at an address that it is said to have, if `sighting` does not name it yet; takes seconds at most.
        `anew`: also where it has answered, unless a connection of ours leads there now. Was it called? Not if too many
        such calls led nowhere."""

    async def visit(self, contact: Contact, teacher: bytes) -> None:
        """Call a peer where another one says that it is, so that it sees us come; it is no link, and nothing more is
        said. Takes seconds at most."""

    def linked(self) -> Iterator[bytes]:
        """Peers that there are links to."""

    async def look_for_twin(self, places: Mapping[str, bytes | None]) -> None:
        """Call addresses where we are said to be, each with its teacher: if our key answers there, and not ourselves,
        `twin` says so."""

    def contact_of(self, peer: bytes) -> Contact | None:
        """What a peer said of itself in its HELLO (its key is verified), else what was introduced, else None."""

    def can(self, peer: bytes, capability: str) -> bool:
        """Has it named that capability when it greeted us, or answered our greeting?"""

    def source_of(self, peer: bytes) -> str:
        """The IP address that a peer's connection comes from, or that we dialled; "" where that is not known. Nothing
        that it says of itself."""

    def refused_by(self, peer: bytes) -> bool:
        """Did the peer answer our last greeting with a no that is meant for good (another swarm key, say)?"""

    def leads_nowhere(self, peer: bytes) -> bool:
        """When the peer was dialled last, was it plain for each of its addresses that it is not there (nobody listens,
        the name is nobody's, somebody else answers)? Silence is not plain."""

    def trouble_with(self, peer: bytes) -> str:
        """Why a peer cannot be reached just now, in words; empty while there is a link to it, or nothing was tried."""

    def on_peer_lost(self, callback: Callable[[bytes, str, float], None]) -> Callable[[], None]:
        """Have `callback(peer, why, at_s)` called when the last connection to a peer is gone, or none could be made, at
        this moment of the loop's time; to call when that is to end.

        Messages queued for it until then are dropped. It is a hint to look, not a proof of death; the next send dials
        again, perhaps before this is told.
        """

    def on_broken(self, callback: Callable[[bytes, bool, float], None]) -> Callable[[], None]:
        """Have `callback(peer, bulk, since_s)` called when a connection to a peer has ended, and there is another one:
        what was sent in a lane (control, or `bulk`: everything else) since then, of the loop's time, may be lost, or
        what the peer has answered to it. To call when that is to end."""

    @property
    def is_stranded(self) -> bool:
        """Is this machine in no network any more? Then whoever does not answer may well be there."""

    def doubt(self, peer: bytes) -> None:
        """A peer does not answer: its connections may be dead without our knowing. Have it called anew, at its other
        addresses first, and what answers take their place; not too often."""

    def on_moved(self, callback: Callable[[], None]) -> None:
        """Have `callback()` called when this machine has other addresses than before; `contact` says them already."""

    def on_neighbour(self, callback: Callable[[Contact], None]) -> bool:
        """Have `callback(contact)` called for whoever says, in the house that we are in, that he is of our swarm.
        False: nobody is asked."""

    @property
    def relays(self) -> Relays | None:
        """What it does with relays; None: it can do nothing with them."""

    @property
    def outlook(self) -> Outlook | None:
        """How its ports look from outside; None: it cannot tell."""

    @property
    def seen(self) -> str:
        """Where others see the port that we listen on, if that is none of our own addresses, nor one that the router
        has given us; "": nowhere else, or nobody reaches us there."""

    @property
    def paths(self) -> Paths | None:
        """How peers are linked, and how to do without relays; None: all links lead straight to their peers."""

    @property
    def why_no_port(self) -> str:
        """Why the house's router passes no port on to us, in words; empty where it does, or is not asked."""

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        """Queue one message, dialling if need be. Raises PeerUnavailable (no address, just failed) or Overloaded."""

    async def receive(self) -> tuple[bytes, list[bytes]]:
        """The next message of any peer, with the sender's verified id."""

    def ban(self, peer: bytes, duration_s: float) -> None:
        """Close the peer's links, and let it in no more for a while."""

    async def close(self) -> None: ...


def listed(callbacks: list[T], callback: T) -> Callable[[], None]:
    """Add it; to call when it is to end."""
    callbacks.append(callback)
    return lambda: callbacks.remove(callback)
