"""Where a node that listens is reached: what it tells others, and what processes of its own machine are told."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from dsdnode.addresses import ANY_HOST, LOWEST_PORT, check_reachable, parse_address
from dsdnode.errors import BadInput
from dsdnode.net.interfaces import hosts_to_tell
from dsdnode.wire.messages import MAX_ADDRESSES

log = structlog.get_logger(__name__)


def advertised(listen: str, advertise: Sequence[str], port: int) -> tuple[str, ...]:
    """`advertise`, else the address listened on, or this machine's, best first, with the real port. Raises BadInput."""
    for address in advertise:
        try:
            check_reachable(address)
        except ValueError as error:
            raise BadInput(f"cannot advertise: {error}") from error
        if parse_address(address)[1] < LOWEST_PORT:
            log.warning(f"a port below {LOWEST_PORT} is called by those alone who join it by hand", address=address)
    if len(advertise) > MAX_ADDRESSES:
        raise BadInput(f"cannot advertise {len(advertise)} addresses; at most {MAX_ADDRESSES}")
    if advertise:
        return tuple(advertise)
    host, _ = parse_address(listen, lowest_port=0)
    hosts = hosts_to_tell(host) if host in ANY_HOST else (host,)
    return tuple(_address(one, port) for one in hosts[:MAX_ADDRESSES])


def here_of(listen: str, port: int, addresses: Sequence[str]) -> tuple[str, ...]:
    """For processes of this machine: what is advertised may lead nowhere from inside its network."""
    host, _ = parse_address(listen, lowest_port=0)
    here = _address("127.0.0.1" if host in ANY_HOST else host, port)
    return (here, *(one for one in addresses if one != here))[:MAX_ADDRESSES]


def _address(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
