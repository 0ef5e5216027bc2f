"""What a node does in the house that it is in: it asks the router for a port, and who else of its swarm is there.

Neither is trusted: what the router gives is an address that others have to reach, who is heard proves his key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from dsdnode.addresses import Nearness, may_name, parse_address
from dsdnode.errors import PeerMisbehaved
from dsdnode.identity import Identity
from dsdnode.net.beacon import Beacon, Neighbours
from dsdnode.net.mapper import PortMapper
from dsdnode.net.mapping import Mapped
from dsdnode.net.places import to_address
from dsdnode.wire.codec import decode_body, encode_body
from dsdnode.wire.messages import Contact

log = structlog.get_logger(__name__)


class House:
    """`changed` is called when the router gives another port, or none any more. `close` it at the end."""

    def __init__(
        self,
        port: int,
        contact: Contact,
        swarm_names: Sequence[str],
        changed: Callable[[], None],
        identity: Identity | None = None,
    ) -> None:
        """`port`: where the node listens, by TCP; `identity`: whose it is to the router."""
        self._changed = changed
        self._met: list[Callable[[Contact], None]] = []
        self._neighbours = Neighbours(swarm_names, encode_body(contact))
        self._beacon: Beacon | None = None
        try:
            self._beacon = Beacon(self._neighbours, self._hear)
        except OSError as error:
            log.info("nobody is looked for in this house", reason=str(error))
        self._mapper = PortMapper(port, self._mapped, identity=identity)
        self._mapper.start()

    @property
    def address(self) -> str:
        """That the router has given us ("": none)."""
        mapped = self._mapper.mapped
        return to_address(mapped.host, mapped.port) if mapped is not None else ""

    @property
    def why_no_port(self) -> str:
        return self._mapper.why_not

    def on_neighbour(self, callback: Callable[[Contact], None]) -> None:
        self._met.append(callback)

    def say(self, contact: Contact) -> None:
        """How to reach us from now on."""
        self._neighbours.say(encode_body(contact))

    def moved(self) -> None:
        """Our own addresses are others: so may be the router, and who is there."""
        self._mapper.stop()
        self._mapper.start()
        if self._beacon is not None:
            self._beacon.addresses_changed()

    async def close(self) -> None:
        if self._beacon is not None:
            self._beacon.close()
        await self._mapper.close()

    def _mapped(self, mapped: Mapped | None) -> None:
        self._changed()

    def _hear(self, data: bytes, host: str) -> None:
        """Somebody of our swarm, by his own word: he is called where he was heard, and nowhere else; at no port of a
        machine's services, for anybody of the house may write his name on it."""
        try:
            contact = decode_body(data, Contact)
        except PeerMisbehaved:
            return
        may_be = [one for one in contact.addresses if may_name(Nearness.CABLE, one)]
        heard = tuple(one for one in may_be if parse_address(one)[0] == host)
        if heard:
            for callback in self._met:
                callback(Contact(contact.public_key, heard))
