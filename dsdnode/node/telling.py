"""What a node tells its own user's commands of where it stands."""

from __future__ import annotations

from collections.abc import Iterable

from dsdnode.addresses import parse_address
from dsdnode.config import NodeConfig
from dsdnode.net.places import to_address
from dsdnode.net.port import Transport
from dsdnode.net.rpc import Rpc
from dsdnode.node.admission import Admission
from dsdnode.node.batching.batcher import Batcher
from dsdnode.node.ledger import Given
from dsdnode.node.offers import Offer
from dsdnode.node.status import Inviting, Situation
from dsdnode.swarm.checks import in_words
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.reach import Verdict
from dsdnode.wire.joins import format_join


def situation(config: NodeConfig, transport: Transport, discovery: Discovery, offers: Iterable[Offer]) -> Situation:
    host, _ = parse_address(config.listen, lowest_port=0)
    _, port = parse_address(transport.here[0])
    engines = [offer.status() for offer in offers]
    return Situation(
        listen=to_address(host, port),
        advertise=config.advertise,
        joins=config.joins,
        reach=discovery.checks.info(),
        troubles=tuple(
            f"the {one.role}'s engine is not offered: {one.quarantined}" for one in engines if one.quarantined
        ),
    )


def inviting(config: NodeConfig, transport: Transport, discovery: Discovery) -> Inviting:
    reach = discovery.reach
    joins = tuple(map(format_join, discovery.inviting))
    return Inviting(joins, config.swarm_keys, reach.verdict is Verdict.REACHED, in_words(reach, transport))


def given(rpc: Rpc, admission: Admission, batchers: Iterable[Batcher]) -> Given:
    """Since the start."""
    relays = rpc.transport.relays
    relayed_bytes = relays.relayed_bytes if relays is not None else 0
    num_tokens = sum(batcher.num_positions for batcher in batchers)
    return Given(num_tokens, admission.num_begun, rpc.sent_bytes + relayed_bytes, rpc.received_bytes + relayed_bytes)
