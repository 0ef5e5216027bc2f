"""All looks and calls at once, in ten seconds at most.

A node that runs is asked what it knows of itself. Where none does, one is tried for the moment, under a key of its own:
it listens where a node would, joins, offers nothing, has others call it, and is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from random import SystemRandom

import msgspec

from dsdnode.addresses import ANY_HOST, parse_address
from dsdnode.config import NodeConfig
from dsdnode.doctor.calls import call
from dsdnode.doctor.facts import Facts, Listening, Member
from dsdnode.doctor.look import at_files, at_machine, who_listens
from dsdnode.errors import BadInput, DsdError
from dsdnode.identity import Identity, load
from dsdnode.net.handshake import swarm_names
from dsdnode.net.interfaces import own_addresses
from dsdnode.net.places import to_address, why_not_told
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.node.status import Situation
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.info import ReachInfo
from dsdnode.swarm.joining import remembered
from dsdnode.wire.joins import parse_join
from dsdnode.wire.messages import Contact

LONGEST_S = 8.0
"""For others to call us, and for a relay to be found and tried, where there is one."""
ALONE_S = 2.0
"""Where nobody is to be expected: for the router to say whether it gives a port."""
STEP_S = 0.1
MAX_MEMBERS = 16
"""That are called. (A typing error is found in fewer.)"""
MAX_REMEMBERED = 4
"""The best of them: where they are all gone, others would hardly help."""


async def examine(config: NodeConfig, situation: Situation | None, unanswered: str = "") -> Facts:
    """`situation`: what the node says that runs on this data dir; None: there is none, or it is `unanswered` (why)."""
    joins = config.joins or (situation.joins if situation is not None else ())
    named = list(map(parse_join, joins))
    known = remembered(config.data_dir, swarm_names(config.swarm_keys))
    members = named[:MAX_MEMBERS] or known[:MAX_REMEMBERED]
    guest = await Guest.open(config, listens=situation is None)
    listening = guest.listening
    if situation is not None:
        listening = Listening(situation.listen, situation.advertise)
    files = asyncio.create_task(asyncio.to_thread(at_files, config, situation is None))
    machine = asyncio.create_task(at_machine(parse_address(listening.where, lowest_port=0)[1]))
    try:
        called = await guest.call(members, _own_key(config), bool(named))
        is_alone = not any(member.greeted for member in called)
        reach = situation.reach if situation is not None else await guest.reach(is_alone)
    finally:
        await guest.close()
    return Facts(
        running=situation is not None,
        unanswered=unanswered,
        listening=listening,
        machine=msgspec.structs.replace(await machine, not_told=_not_told(listening, reach)),
        files=await files,
        reach=reach,
        members=called,
        troubles=situation.troubles if situation is not None else (),
    )


class Guest:
    """A peer for the moment."""

    def __init__(self, transport: ZmqTransport, identity: Identity, listening: Listening, is_newcomer: bool) -> None:
        """`is_newcomer`: it can be called; else it calls only."""
        self.listening = listening
        self._is_newcomer = is_newcomer
        self._rpc = Rpc(transport)
        self._discovery = Discovery(self._rpc, identity, SystemRandom(), relay_bits_per_s=0)
        self._until_s = asyncio.get_running_loop().time() + LONGEST_S
        self._rpc.start()
        if is_newcomer:
            self._discovery.start()

    @classmethod
    async def open(cls, config: NodeConfig, listens: bool) -> Guest:
        """`listens`: where a node would; where that cannot be, it is in `listening`, and the guest calls only."""
        identity, keys, trouble = Identity.generate(), config.swarm_keys, ""
        try:
            if listens:
                transport = await ZmqTransport.open(
                    identity, listen=config.listen, advertise=config.advertise, swarm_keys=keys
                )
                host, _ = parse_address(config.listen, lowest_port=0)
                where = to_address(host, parse_address(transport.here[0])[1])
                return cls(transport, identity, Listening(where, config.advertise), True)
        except BadInput as error:
            trouble = str(error)
        used_by = who_listens(parse_address(config.listen, lowest_port=0)[1]) if trouble else ""
        listening = Listening(config.listen, config.advertise, trouble, used_by)
        return cls(await ZmqTransport.open(identity, swarm_keys=keys), identity, listening, False)

    async def call(self, members: Sequence[Contact], own_key: bytes, named: bool) -> tuple[Member, ...]:
        return tuple(await asyncio.gather(*(self._call(contact, own_key, named) for contact in members)))

    async def _call(self, contact: Contact, own_key: bytes, named: bool) -> Member:
        member = await call(contact, self._rpc, own_key, named)
        if member.greeted and self._is_newcomer:
            with suppress(DsdError):
                await self._discovery.join([contact], timeout_s=STEP_S)
        return member

    async def reach(self, is_alone: bool) -> ReachInfo | None:
        """Once it is known, or time is up. `is_alone`: nobody could be joined; somebody of this house may be there."""
        if not self._is_newcomer:
            return None
        loop = asyncio.get_running_loop()
        is_alone = is_alone and not await self._discovery.joined_in_the_house()
        until_s = min(self._until_s, loop.time() + ALONE_S) if is_alone else self._until_s
        while True:
            info = self._discovery.checks.info()
            if is_settled(info) or loop.time() >= until_s:
                return info
            await asyncio.sleep(STEP_S)  # (nobody tells of that)

    async def close(self) -> None:
        await self._discovery.close()
        await self._rpc.close()


def is_settled(reach: ReachInfo) -> bool:
    """Will waiting change nothing any more?"""
    return reach.is_known and (not reach.is_cut_off or any(one.by and one.reached for one in reach.addresses))


def _own_key(config: NodeConfig) -> bytes:
    with suppress(DsdError, OSError):
        return load(config.identity_file).public_key
    return b""


def _not_told(listening: Listening, reach: ReachInfo | None) -> tuple[tuple[str, str], ...]:
    if reach is None:
        return ()
    host, _ = parse_address(listening.where, lowest_port=0)
    told = [one.address for one in reach.addresses]
    return why_not_told(own_addresses(), told, host if host in ANY_HOST and not listening.advertise else "")
