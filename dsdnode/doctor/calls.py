"""A member that we were to join by, called step by step: its name, its port, its greeting."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from contextlib import suppress

from dsdnode.addresses import is_ip, parse_address
from dsdnode.doctor.facts import Answer, Member, Tried
from dsdnode.errors import DsdError
from dsdnode.identity import peer_id
from dsdnode.net.resolver import Resolver
from dsdnode.net.rpc import Rpc
from dsdnode.wire.joins import format_join
from dsdnode.wire.messages import Contact

RESOLVED_S = 2.5
OPENED_S = 2.5
"""Of TCP: a second attempt of the kernel's, where the first was lost, and a long way."""
GREETED_S = 4.0
MAX_HOSTS = 4
"""Of a name."""
_NO_SUCH_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
_REFUSED = (errno.ECONNREFUSED, errno.ECONNRESET)
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETDOWN)
_HOPES = (Answer.OPEN, Answer.REFUSED, Answer.SILENT, Answer.NO_WAY)


async def call(contact: Contact, rpc: Rpc, own_key: bytes, named: bool) -> Member:
    """Takes seconds at most. What is learnt of it stays with the transport."""
    join, key = format_join(contact), contact.public_key.hex()
    if contact.public_key == own_key:
        return Member(join, key, named, is_self=True)
    tried = tuple(await asyncio.gather(*map(_try, contact.addresses)))
    if not any(one.answer is Answer.OPEN for one in tried):
        return Member(join, key, named, tried=tried)
    rpc.transport.introduce(contact)
    peer = peer_id(contact.public_key)
    try:
        await rpc.ping(peer, timeout_s=GREETED_S)
    except DsdError as error:
        return Member(join, key, named, tried=tried, trouble=rpc.transport.trouble_with(peer) or str(error))
    return Member(join, key, named, tried=tried, greeted=True)


async def _try(address: str) -> Tried:
    host, port = parse_address(address)
    hosts: Sequence[str] = (host,)
    if not is_ip(host):
        try:
            async with asyncio.timeout(RESOLVED_S):
                hosts = (await Resolver().hosts(host))[:MAX_HOSTS]
        except socket.gaierror as error:
            is_unknown = error.errno in _NO_SUCH_NAME
            return Tried(address, Answer.UNKNOWN_NAME if is_unknown else Answer.NO_RESOLVER)
        except (OSError, UnicodeError, TimeoutError):
            return Tried(address, Answer.NO_RESOLVER)
    answers = await asyncio.gather(*(_connect(one, port) for one in hosts))
    return Tried(address, min(answers, key=_HOPES.index), () if is_ip(host) else tuple(hosts))


async def _connect(host: str, port: int) -> Answer:
    try:
        async with asyncio.timeout(OPENED_S):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return Answer.SILENT
    except OSError as error:
        return Answer.REFUSED if error.errno in _REFUSED else Answer.NO_WAY if error.errno in _NO_WAY else Answer.SILENT
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return Answer.OPEN
