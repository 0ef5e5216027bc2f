"""A member that we were to join by, called step by step: its name, its port, its greeting."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress

from dsdnode.addresses import is_ip, parse_address
from dsdnode.doctor.facts import Answer, Member, Tried
from dsdnode.errors import DsdError
from dsdnode.identity import peer_id
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
                hosts = (await _resolve(host, port))[:MAX_HOSTS]
        except socket.gaierror as error:
            is_unknown = error.errno in _NO_SUCH_NAME
            return Tried(address, Answer.UNKNOWN_NAME if is_unknown else Answer.NO_RESOLVER)
        except (OSError, UnicodeError, TimeoutError):
            return Tried(address, Answer.NO_RESOLVER)
    answers = await asyncio.gather(*(_connect(one, port) for one in hosts))
    return Tried(address, min(answers, key=_HOPES.index), () if is_ip(host) else tuple(hosts))


async def _resolve(host: str, port: int) -> list[str]:
    """In a thread that nobody waits for in the end: a name server that is silent takes it half a minute."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[str]] = loop.create_future()

    def settle(hosts: list[str], error: Exception | None) -> None:
        if future.done():  # given up meanwhile
            return
        if error is None:
            future.set_result(hosts)
        else:
            future.set_exception(error)

    def ask() -> None:
        hosts, error = list[str](), None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            hosts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        except (OSError, UnicodeError) as raised:
            error = raised
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, hosts, error)

    threading.Thread(target=ask, daemon=True).start()
    return await future


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
