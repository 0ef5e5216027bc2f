"""What a transport remembers of each peer: where it can be dialled, which links exist, which one is used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from dsdnode.identity import curve_public_key, parse_address, peer_id
from dsdnode.net.link import Dealer, Inbound, Link
from dsdnode.wire.messages import Contact

MAX_PEERS = 4096
MAX_ADDRESSES = 8


@dataclass(slots=True, eq=False)
class Peer:
    """Lanes: False is for control, True (bulk) for everything else. Messages keep to one link while it lives."""

    id: bytes
    public_key: bytes
    curve_key: bytes
    introduced: Contact | None = None
    said: Contact | None = None
    """From its HELLO: the key is verified, the addresses are what it claims."""
    answered: str = ""
    """The address that answered last; tried first, whatever others say now."""
    dealers: dict[bool, Dealer] = field(default_factory=dict)
    inbounds: dict[bool, Inbound] = field(default_factory=dict)
    used: dict[bool, Link] = field(default_factory=dict)
    why_lost: str = ""
    refused: bool = False
    """It answered our last greeting with a no that is meant for good."""
    retry_at: float = 0.0

    def links(self) -> Iterator[Link]:
        yield from self.dealers.values()
        yield from self.inbounds.values()

    def addresses(self) -> list[str]:
        """Where it may be dialled, best first."""
        contacts = [contact for contact in (self.said, self.introduced) if contact is not None]
        claimed = [address for contact in contacts for address in contact.addresses if _usable(address)]
        return list(dict.fromkeys([self.answered, *claimed] if self.answered else claimed))[:MAX_ADDRESSES]

    @property
    def source(self) -> str:
        """The IP address that it calls from; of one that never did, the one where it answered."""
        inbound = next(iter(self.inbounds.values()), None)
        if inbound is not None:
            return inbound.source
        return parse_address(self.answered)[0] if self.answered else ""

    def ready_link(self, bulk: bool) -> Link | None:
        """An open link of a lane, ours before theirs."""
        for link in (self.dealers.get(bulk), self.inbounds.get(bulk)):
            if link is not None and link.ready and not link.closed:
                return link
        return None


class PeerBook:
    """All peers, by id; of too many, the one met longest ago that has no link is forgotten."""

    def __init__(self) -> None:
        self._peers: OrderedDict[bytes, Peer] = OrderedDict()

    def get(self, peer: bytes) -> Peer | None:
        return self._peers.get(peer)

    def meet(self, public_key: bytes) -> Peer:
        """Raises ValueError for a key that is none."""
        name = peer_id(public_key)
        known = self._peers.get(name)
        if known is None:
            known = Peer(name, public_key, curve_public_key(public_key))
            self._peers[name] = known
            self._forget()
        self._peers.move_to_end(name)
        return known

    def _forget(self) -> None:
        if len(self._peers) > MAX_PEERS:
            oldest = next((peer for peer in self._peers.values() if not any(peer.links())), None)
            if oldest is not None:
                del self._peers[oldest.id]


def _usable(address: str) -> bool:
    try:
        parse_address(address)
    except ValueError:
        return False
    return True
