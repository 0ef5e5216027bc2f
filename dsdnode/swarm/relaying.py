"""Who needs a relay, and who is one: decided by where others reach this node, and nothing else.

Whom those far away do not reach asks peers that it reaches itself, and is called at the ports that they give it. Such
an address is one like all others: peers call it, and say whether it was answered. Each family counts alone: who has
IPv4 or IPv6 alone is called by those of the other one by way of a relay that has both.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator, Sequence

import structlog
from cachetools import LRUCache

from dsdnode.addresses import FAMILIES, LOWEST_PORT, Nearness, family, is_ip, nearness, network, parse_address
from dsdnode.dht.ids import node_id
from dsdnode.dht.table import Table
from dsdnode.errors import DsdError
from dsdnode.identity import short_id
from dsdnode.net.door import leads_here
from dsdnode.net.places import is_plain_ip, to_address
from dsdnode.net.port import RELAY
from dsdnode.net.relays import Relays
from dsdnode.net.rpc import Response, Rpc
from dsdnode.swarm.queries import Tasks
from dsdnode.swarm.reach import Reach, Verdict, of_family
from dsdnode.wire.messages import Contact, FindRelay, Refused, RelayAt

MAX_RELAYS = 2
"""At once: when one goes, the other one carries on. One, for whom those far away reach in the other family without."""
ASK_S = 5.0
FIRST_PAUSE_S, MOST_PAUSE_S = 1.0, 600.0
"""Before a peer that was of no use as a relay is asked again: each time twice as long, less a quarter by chance."""
MAX_RESTING = 256

log = structlog.get_logger(__name__)


class Relaying:
    def __init__(
        self, rpc: Rpc, table: Table, tasks: Tasks, reach: Reach, rng: random.Random, bytes_per_s: float
    ) -> None:
        """`bytes_per_s`: of all that this node relays for others; 0: nothing."""
        self._rpc = rpc
        self._table = table
        self._tasks = tasks
        self._reach = reach
        self._rng = rng
        self._bytes_per_s = bytes_per_s
        self._changing = False
        self._asking = False
        self._chosen: dict[bytes, str] = {}
        """Peers that were asked to relay for us, and said yes; their hosts."""
        self._resting: LRUCache[bytes, tuple[float, float]] = LRUCache(MAX_RESTING)
        """Until when a peer is not asked, and how long that pause is."""
        self.why_none = ""
        """Why the one that was asked last is of no use, in words; "": none was asked, or it is."""
        rpc.on_request(FindRelay, self._on_find_relay)

    def tick(self, now: float) -> None:
        relays = self._rpc.transport.relays
        if relays is None:
            return
        self._serve(relays)
        if self._reach.verdict is not Verdict.UNKNOWN:
            self._be_reached(now, relays)

    # --- being one

    def _serve(self, relays: Relays) -> None:
        fit = self._bytes_per_s > 0 and self._is_fit()
        if fit != bool(relays.port) and not self._changing:
            self._changing = True
            self._tasks.spawn(self._change(relays, fit))

    def _is_fit(self) -> bool:
        """Is it reached at an address of its own machine, and not by its neighbours alone while there are others? A
        router that passes a port on passes that one alone."""
        return not self._reach.is_cut_off and bool(self._own_hosts())

    def _own_hosts(self) -> list[str]:
        """Of this machine, where others reach it."""
        own = self._rpc.transport.contact.addresses
        hosts = [parse_address(address)[0] for address in filter(self._reach.is_reached, own)]
        return [host for host in hosts if is_ip(host) and leads_here(host)]

    async def _change(self, relays: Relays, fit: bool) -> None:
        if not fit:
            await relays.serve_no_more()
        elif not await relays.serve(self._bytes_per_s):
            self._bytes_per_s = 0.0
        self._changing = False

    async def _on_find_relay(self, peer: bytes, message: FindRelay, buffers: Sequence[bytes]) -> Response:
        relays = self._rpc.transport.relays
        if relays is None or not relays.port:
            return Refused("this peer is no relay now", retry=bool(self._bytes_per_s)), ()
        return RelayAt(relays.port, tuple(self._hosts_to_tell())), ()

    def _hosts_to_tell(self) -> list[str]:
        """Where others may be had to call, for a family in which the asker has no address: they will say whether it was
        answered. Perhaps nobody who has it was there yet to call us."""
        own = self._rpc.transport.contact.addresses
        maybe = [one for one in own if not self._reach.is_unreached(one)]
        hosts = [parse_address(one)[0] for one in sorted(maybe, key=self._reach.is_reached, reverse=True)]
        return list(dict.fromkeys(host for host in hosts if is_ip(host) and leads_here(host)))

    # --- being reached by way of some

    def _most(self, relays: Relays) -> int:
        """So many at once. Where our user has said where we are reached, it is enough if anybody reaches us there."""
        own = [one for one in self._rpc.transport.contact.addresses if one not in relays.given]
        if relays.is_last_resort and any(map(self._reach.is_reached, own)):
            return 0
        return MAX_RELAYS if not self._reach.open else len(FAMILIES) - len(self._reach.open)

    def _be_reached(self, now: float, relays: Relays) -> None:
        most = self._most(relays)
        for peer in list(self._chosen):
            self._look_at(peer, relays)
            spare = len(self._chosen) > most
            if peer not in relays.held or spare:
                del self._chosen[peer]
                relays.leave(peer)
                if not spare:
                    self._rest(now, peer)
        if self._reach.cut_off and len(self._chosen) < most and not self._asking:
            found = self._choose(now, relays)
            uncalled = None if found is not None else next(self._uncalled(now), None)
            if found is not None:
                self._asking = True
                self._tasks.spawn(self._ask(now, relays, *found))
            elif uncalled is not None:
                self._asking = True
                self._tasks.spawn(self._call(now, uncalled))

    def _look_at(self, peer: bytes, relays: Relays) -> None:
        """Of the addresses that a relay has given us, keep those that are of use; none, and it is left."""
        given = relays.held.get(peer, ())
        for address in given:
            is_wanted = any(of_family((address,), one) for one in FAMILIES if one not in self._reach.open)
            if self._reach.is_unreached(address) or not is_wanted:
                relays.forget(peer, address)
            elif self._reach.is_reached(address):
                self._resting.pop(peer, None)
        if given and not relays.held.get(peer):
            relays.leave(peer)

    def _choose(self, now: float, relays: Relays) -> tuple[bytes, str] | None:
        """Whom to ask, and its host: of another network than those that we have, where there is one."""
        transport = self._rpc.transport
        least = Nearness.WORLD if self._reach.is_far else Nearness.HERE
        own = own_networks(one for one in transport.contact.addresses if one not in relays.given)
        taken = {network(host) for host in self._chosen.values()}
        found: list[tuple[bytes, str]] = []
        for peer in self._candidates(now):
            hosts = [parse_address(address)[0] for address in transport.sighting(peer).reached]
            # (Of a name its owner may say by then that it leads to our own machine.)
            host = max(filter(is_ip, hosts), key=_nearness, default="")
            if host and _nearness(host) >= least and (least < Nearness.WORLD or network(host) not in own):
                found.append((peer, host))
        return next((one for one in found if network(one[1]) not in taken), found[0] if found else None)

    def _candidates(self, now: float) -> Iterator[bytes]:
        for peer in map(node_id, self._table.contacts()):
            until_s, _ = self._resting.get(peer, (float("-inf"), 0.0))
            if now >= until_s and peer not in self._chosen and self._rpc.transport.can(peer, RELAY):
                yield peer

    def _uncalled(self, now: float) -> Iterator[bytes]:
        """They have called us, so that we never had to call them: whether we can is not known."""
        transport = self._rpc.transport
        return (peer for peer in self._candidates(now) if not transport.sighting(peer).reached)

    async def _call(self, now: float, peer: bytes) -> None:
        try:
            known = self._rpc.transport.contact_of(peer)
            where = known.addresses if known is not None else ()
            await asyncio.gather(*(self._rpc.transport.reach(peer, address) for address in where))
        finally:
            self._asking = False
        if not self._rpc.transport.sighting(peer).reached:
            self._rest(now, peer)

    async def _ask(self, now: float, relays: Relays, peer: bytes, host: str) -> None:
        why = "it cannot be called"
        known = self._rpc.transport.contact_of(peer)
        try:
            answer, _ = await self._rpc.request(peer, FindRelay(), timeout_s=ASK_S)
            if isinstance(answer, RelayAt) and answer.port >= LOWEST_PORT and known is not None:
                hosts = self._hosts(host, answer.hosts)
                if hosts:
                    self._chosen[peer] = host
                    self.why_none = ""
                    return relays.reserve(Contact(known.public_key, (to_address(host, answer.port),)), hosts)
                why = "it is of no use to those who do not reach us"
            else:
                why = answer.reason if isinstance(answer, Refused) else "it gives no port that can be called"
        except DsdError as error:
            why = str(error)
        finally:
            self._asking = False
        self.why_none = f"peer {short_id(peer)}: {why}"
        log.debug("no relay for us", peer=short_id(peer), reason=why)
        self._rest(now, peer)

    def _hosts(self, host: str, said: Sequence[str]) -> list[str]:
        """Of a relay that we reach at `host`, and that has `said` where others do: one for each family in which we are
        cut off. Others will call there, and say what came of it."""
        if not self._reach.is_far:
            return [host]
        far = [one for one in (host, *said) if is_plain_ip(one) and nearness(one) is Nearness.WORLD]
        called = [next((one for one in far if family(one) == which), "") for which in self._reach.cut_off]
        return sorted(filter(None, called), key=lambda one: one != host)

    def _rest(self, now: float, peer: bytes) -> None:
        _, pause_s = self._resting.get(peer, (0.0, FIRST_PAUSE_S / 2))
        pause_s = min(2 * pause_s, MOST_PAUSE_S)
        self._resting[peer] = now + pause_s * self._rng.uniform(0.75, 1.0), pause_s


def own_networks(addresses: Iterable[str]) -> set[str]:
    """The public ones that we live in ourselves: who is in one of them is next door, and behind the same router."""
    return {one for one in (network(parse_address(address)[0]) for address in addresses) if one is not None}


def _nearness(host: str) -> Nearness:
    near = nearness(host)
    return Nearness.HERE if near is None else near
