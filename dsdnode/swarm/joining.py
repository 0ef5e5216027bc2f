"""Peers that we keep to: those that our user has named, and those that are met in the house. They are called until they
answer, and again when they are lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from dsdnode.addresses import Nearness, nearness, parse_address
from dsdnode.config import read_joins, write_joins
from dsdnode.dht.ids import node_id
from dsdnode.dht.table import Table
from dsdnode.errors import BadInput, DsdError, PeerUnavailable
from dsdnode.identity import MAX_NAMED, short_id
from dsdnode.net.dials import Teacher
from dsdnode.net.port import Transport
from dsdnode.swarm.queries import Queries, Tasks, wait_until
from dsdnode.wire.joins import format_join, parse_join
from dsdnode.wire.messages import Contact

log = structlog.get_logger(__name__)
Tell = Callable[[str], None]
"""Hears what is tried, in words."""

MIN_RETRY_S = 0.25
MAX_RETRY_S = 30.0
RETRY_SHARE = 1 / 60
"""Back-off of a join: this share of the time spent trying so far."""
MAX_JOINED = 64
MAX_OF_A_HOST = 8
"""Neighbours that are heard at one address: daemons of one machine."""
UNHEARD_S = 300.0
"""A neighbour that has not answered for so long is called again when it is heard again."""
STARTING_S = 1.5
"""So long a peer that is plainly not there is called again: it may be just starting, as we are."""
LOOK_S = 0.25
"""Nobody tells that it has become plain."""
TELL_S = 1.0
"""Who waits for a join hears after so long what is tried; and again after each TELL_AGAIN_S, if that has changed."""
TELL_AGAIN_S = 3.0


def remember(known: Sequence[Contact], data_dir: Path, swarms: tuple[str, ...]) -> None:
    """Peers for the next start, so that it finds the swarm though every peer that it was told of is gone."""
    joins = tuple(format_join(contact) for contact in known if contact.addresses)
    if not joins:
        return
    try:
        write_joins(data_dir, joins, swarms)
    except (OSError, BadInput) as error:
        log.warning("known peers not saved", reason=str(error))


def remembered(data_dir: Path, swarms: tuple[str, ...]) -> list[Contact]:
    """Members of the swarm that was known when this node ended."""
    known = []
    for join in read_joins(data_dir, swarms):
        with contextlib.suppress(BadInput):
            known.append(parse_join(join))
    return known


@dataclass(slots=True)
class _Join:
    contact: Contact
    since: float
    next_at: float
    teacher: Teacher | None = None
    """Of a neighbour: whoever said in the house that it is there, by its address. None: our user has named it."""
    again: bool = False
    """It was heard while it was called: call it once more."""
    busy: bool = False
    spare: bool = False
    """It answered, and the table has no room for it: all is well, and it is no news."""
    answered: bool = False
    """Once."""
    error: DsdError | None = None


class Joining:
    """`look_around` is called when one has answered that had not, or was lost."""

    def __init__(
        self,
        transport: Transport,
        own_id: bytes,
        table: Table,
        queries: Queries,
        tasks: Tasks,
        rng: random.Random,
        look_around: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._own_id = own_id
        self._table = table
        self._queries = queries
        self._tasks = tasks
        self._rng = rng
        self._look_around = look_around
        self._joins: dict[bytes, _Join] = {}
        self._is_in = False
        """Somebody of the swarm has answered."""
        self._news = asyncio.Event()

    @property
    def is_in(self) -> bool:
        return self._is_in

    def add(self, contact: Contact) -> None:
        """Our user names it: where it is then, whatever was said in the house."""
        now = _now()
        join = self._joins.setdefault(node_id(contact), _Join(contact, now, now))
        if join.teacher is not None:
            join.contact, join.teacher, join.error = contact, None, None
            join.since, join.next_at, join.again = now, now, join.busy

    def meet(self, neighbour: Contact) -> bool:
        """Somebody says in our house that it is there; all its addresses are of one host. Is it called now? Not where
        there are too many that answer, or it does.

        Its word is not our user's: its host pays for calls that nobody answers.
        """
        peer, now = node_id(neighbour), _now()
        host, _ = parse_address(neighbour.addresses[0])
        near = nearness(host)
        teacher = Teacher(Nearness.WORLD if near is None else near, f"heard at {host}")
        join = self._joins.get(peer)
        if self._table.is_live(peer) or (join is None and not self._make_room(teacher)):
            return False
        if join is None:
            log.info("somebody of this swarm is in the same house", peer=short_id(peer), address=neighbour.addresses[0])
            join = self._joins[peer] = _Join(neighbour, now, now, teacher)
        elif join.teacher is not None:
            join.contact, join.teacher = neighbour, teacher
        self._transport.introduce(neighbour, teacher)
        join.next_at, join.again = now, join.busy
        return True

    def _make_room(self, teacher: Teacher) -> bool:
        """For another neighbour that is heard at that host: in the place of one that does not answer, if need be; the
        one that never did, and is here for longest, goes first."""
        met = {peer: join for peer, join in self._joins.items() if join.teacher is not None}
        here = [peer for peer, join in met.items() if join.teacher == teacher]
        if len(here) < MAX_OF_A_HOST and len(self._joins) < MAX_JOINED:
            return True
        among = here if len(here) >= MAX_OF_A_HOST else met
        silent = [peer for peer in among if not self._table.is_live(peer)]
        if silent:
            del self._joins[min(silent, key=lambda peer: (met[peer].answered, met[peer].since))]
        return bool(silent)

    def come_in(self) -> None:
        """A peer of this swarm has answered."""
        self._is_in = True
        self._news.set()

    def moved(self) -> None:
        """This machine has other addresses: all are called again."""
        for join in self._joins.values():
            join.since = join.next_at = _now()

    # --- waiting for them

    async def wait(self, timeout_s: float, told: Tell, starting_s: float) -> None:
        """Return when anybody has answered. Raises PeerUnavailable: nobody has in time, or plainly nobody will."""
        begun_s = _now()
        tell_s, said = begun_s + TELL_S, ""
        while self._joins and not self._is_in:
            now = _now()
            if now >= begun_s + timeout_s or self._is_vain(now >= begun_s + starting_s):
                raise PeerUnavailable(f"no peer to join answered: {self.why_not()}")
            if now >= tell_s and not self._is_vain(True):
                tell_s, before, said = now + TELL_AGAIN_S, said, self.why_not()
                if said != before:
                    told(f"trying to join: {said}")
            self._news.clear()
            await wait_until(self._news, min(begun_s + timeout_s, tell_s, now + LOOK_S))

    def _is_vain(self, is_over: bool) -> bool:
        """Has each of them said no for good, or is plainly not there, once the time to start `is_over`?"""
        refused, nowhere = self._transport.refused_by, self._transport.leads_nowhere
        joins = self._joins.items()
        return all((one.error and refused(peer)) or (is_over and nowhere(peer)) for peer, one in joins)

    async def wait_for_any(self, timeout_s: float) -> bool:
        """Has anybody answered by then?"""
        deadline = _now() + timeout_s
        while not self._is_in and _now() < deadline:
            self._news.clear()
            await wait_until(self._news, deadline)
        return self._is_in

    async def wait_for_all(self, timeout_s: float) -> None:
        """Return when each has answered once, or failed."""
        deadline = _now() + timeout_s
        while _now() < deadline and any(join.error is None and not join.answered for join in self._joins.values()):
            self._news.clear()
            await wait_until(self._news, deadline)

    def why_not(self) -> str:
        """Of some of them, in words."""
        return "; ".join([self._why_not(peer, join) for peer, join in self._joins.items()][:MAX_NAMED])

    def _why_not(self, peer: bytes, join: _Join) -> str:
        """In words, with the address that was given for it: a typing error is seen there."""
        trouble = self._transport.trouble_with(peer)
        name = f"peer {short_id(peer)}"
        why = f"{name}: {trouble}" if trouble else str(join.error or f"{name}: no answer yet")
        where = [address for address in join.contact.addresses if parse_address(address)[0] not in why]
        ours = (*self._transport.contact.addresses, *self._transport.here)
        mine = ". This node is there itself, and has another key" * any(one in ours for one in join.contact.addresses)
        return (f"{why} ({', '.join(where)})" if where else why) + mine

    # --- calling them

    def tick(self, now: float) -> None:
        for peer, join in list(self._joins.items()):
            if self._table.is_live(peer):
                join.since = now
            elif join.teacher is not None and now >= join.since + UNHEARD_S:
                del self._joins[peer]
            elif now >= join.next_at and not join.busy:
                join.busy = True
                self._tasks.spawn(self._dial(join))

    async def _dial(self, join: _Join) -> None:
        peer, was_spare, join.spare = node_id(join.contact), join.spare, False
        self._transport.introduce(join.contact, join.teacher)
        try:
            await self._queries.find_node(join.contact, self._own_id)
            join.answered = True
            self.come_in()
            join.since, join.spare = _now(), not self._table.is_live(peer)
            if not (was_spare and join.spare):
                self._look_around()
        except DsdError as error:
            say = log.debug if str(error) == str(join.error) else log.info
            say("a peer to join does not answer yet", peer=short_id(peer), reason=str(error))
            join.error = error
            self._news.set()
        finally:
            now = _now()
            delay_s = min(max((now - join.since) * RETRY_SHARE, MIN_RETRY_S), MAX_RETRY_S)
            delay_s = MAX_RETRY_S if join.spare else 0.0 if join.again else delay_s
            join.next_at = now + delay_s * self._rng.uniform(0.75, 1.25)
            join.busy = join.again = False


def _now() -> float:
    return asyncio.get_running_loop().time()
