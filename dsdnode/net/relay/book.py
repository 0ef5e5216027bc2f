"""What a relay decides: who may reserve, who gets a circuit to whom, how much it carries, when it ends.

Pure: time is told, randomness is given. Whatever is kept is bounded. Refusals are raised as Overloaded, in words that
the guest is told, and counted by these words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from random import Random

from cachetools import LRUCache

from dsdnode.accounts import MAX_REMEMBERED, Account, Credits, Shares
from dsdnode.addresses import machine_of, network_of
from dsdnode.errors import Overloaded
from dsdnode.identity import peer_id, verify
from dsdnode.net.meter import Meter
from dsdnode.net.relay.frames import Reserved, to_accept
from dsdnode.net.relay.rates import Flow, Rates

DESCRIPTORS_ELSEWHERE = 700
"""Of a node that relays beside its own work: 400 connections of peers, 128 of strangers, 128 dialled, and files."""


@dataclass(frozen=True)
class Limits:
    """Of a relay. Times in seconds; a caller is an IPv4 address, or a /64 of IPv6."""

    bytes_per_s: float = 2.5e6
    """Of all circuits together: 20 Mbit/s."""
    circuit_bytes_per_s: float = 2.5e6
    circuit_bytes: int = 1 << 30
    """Both ways together."""
    circuits: int = 512
    circuits_per_callee: int = 64
    """Whoever has called a peer keeps the connection, and a pipeline two."""
    circuits_per_caller: int = 32
    dials_burst: float = 16.0
    """Of one caller: a drafter opens both lanes to all stages at once."""
    dials_per_s: float = 4.0
    calls_burst: float = 32.0
    """That one callee is told of; it leaves a relay that says more than 256 things in 20 s (agent.py)."""
    calls_per_s: float = 8.0
    network_burst: float = 16.0
    """Of these of one network: who calls from there does not keep all others from that callee."""
    network_per_s: float = 2.0
    reservations: int = 64
    """Each with a connection, and a port that is listened on."""
    reservations_per_caller: int = 8
    """A household, or some neighbours behind one address."""
    guests: int = 64
    """Connections that have not said what they want, or are not served yet."""
    connections_burst: float = 32.0
    """Of one caller; a circuit is one for either end."""
    connections_per_s: float = 16.0
    lease_s: float = 3600.0
    silent_s: float = 60.0
    """A reservation is over after so long without a word: three pings."""
    preamble_s: float = 5.0
    answer_s: float = 5.0
    """For a callee to call back."""
    idle_s: float = 120.0
    circuit_s: float = 3600.0
    unanswered_s: float = 10.0
    """Of one that stands, and whose callee has not sent a byte: its ROUTER does so at once."""
    unanswered: int = 5
    """Circuits of one caller to one callee in a row that were of no use; then it waits before it calls that one."""
    unanswered_pause_s: float = 60.0


def limits_for(descriptors: int, bytes_per_s: float = Limits.bytes_per_s) -> Limits:
    """For a process that may have so many of them. Each circuit takes two."""
    others = DESCRIPTORS_ELSEWHERE + 2 * Limits.reservations + Limits.guests
    return Limits(bytes_per_s=bytes_per_s, circuits=max(0, min(Limits.circuits, (descriptors - others) // 2)))


@dataclass(slots=True, eq=False)
class Reservation:
    """`until_s`: the end of its lease; `heard_s`: when it spoke last; `port`: where it is called."""

    public_key: bytes
    account: Account
    until_s: float
    heard_s: float
    port: int = 0

    @property
    def peer(self) -> bytes:
        return self.account.owner


@dataclass(slots=True, eq=False)
class Circuit:
    """From when it is asked for. `answered`: a byte of the callee's has come."""

    token: bytes
    caller: Account
    callee: Reservation
    flow: Flow
    since_s: float
    used_s: float
    accepted: bool = False
    answered: bool = False
    num_bytes: int = 0


@dataclass(slots=True)
class _Vain:
    """Of one caller and callee: circuits in a row that were not answered, and until when the caller must wait. Others
    are called all the same: a callee that answers nobody cannot keep anybody from them."""

    num: int = 0
    until_s: float = 0.0


@dataclass(slots=True)
class Book:
    limits: Limits
    rng: Random
    """Tokens are drawn from it: outside of tests one that nobody can foretell."""
    now: float
    refusals: Counter[str] = field(default_factory=Counter)
    meter: Meter = field(default_factory=Meter)
    num_bytes: int = 0
    """Passed on since the start."""
    _guests: dict[Hashable, str] = field(default_factory=dict)
    _reserved: dict[bytes, Reservation] = field(default_factory=dict)
    _circuits: dict[bytes, Circuit] = field(default_factory=dict)
    _by_flow: dict[Flow, Circuit] = field(default_factory=dict)
    _vain: LRUCache[tuple[str, bytes], _Vain] = field(default_factory=lambda: LRUCache(MAX_REMEMBERED))
    _connections: Credits = field(init=False)
    _dials: Credits = field(init=False)
    _calls: Credits = field(init=False)
    _of_networks: Credits = field(init=False)
    _words: Credits = field(init=False)
    _rates: Rates = field(init=False)

    def __post_init__(self) -> None:
        limits = self.limits
        self._connections = Credits(limits.connections_burst, limits.connections_per_s)
        self._dials = Credits(limits.dials_burst, limits.dials_per_s)
        self._calls = Credits(limits.calls_burst, limits.calls_per_s)
        self._of_networks = Credits(limits.network_burst, limits.network_per_s)
        self._words = Credits(16, 1)
        self._rates = Rates(self.now, limits.bytes_per_s, limits.circuit_bytes_per_s)

    def _refuse(self, words: str) -> Overloaded:
        self.refusals[words] += 1
        return Overloaded(words)

    # --- who comes

    def arrived(self, now: float, guest: Hashable, host: str) -> Hashable | None:
        """A connection from there; which other one is to be ended for it. Raises Overloaded."""
        if not self._connections.spend(machine_of(host), now):
            raise self._refuse("too many connections from this address")
        self._guests[guest] = network_of(host)
        if len(self._guests) <= self.limits.guests:
            return None
        heaviest = Counter(self._guests.values()).most_common(1)[0][0]
        oldest = next(one for one, network in self._guests.items() if network == heaviest)
        self.settled(oldest)
        return oldest

    def settled(self, guest: Hashable) -> None:
        """It is served, or gone."""
        self._guests.pop(guest, None)

    # --- reservations

    def terms(self, port: int) -> Reserved:
        limits = self.limits
        rate = min(limits.circuit_bytes_per_s, limits.bytes_per_s)
        return Reserved(port, round(limits.lease_s), limits.circuits_per_callee, round(rate), limits.circuit_bytes)

    def reserve(self, now: float, public_key: bytes, host: str) -> tuple[Reservation, list[Reservation]]:
        """For a key that is proven, and which others end for it: its own older one, too. Raises Overloaded."""
        account = Account(peer_id(public_key), network_of(host), machine_of(host))
        older = self._reserved.get(account.owner)
        others = [one for one in self._reserved.values() if one is not older]
        if sum(one.account.address == account.address for one in others) >= self.limits.reservations_per_caller:
            raise self._refuse("as many peers as may reserve from one address have")
        ended = [older] if older is not None else []
        if len(others) >= self.limits.reservations:
            ended.append(self._makes_way(account, {one.account: one for one in others}))
        for one in ended:
            self.release(one)
        new = Reservation(public_key, account, now + self.limits.lease_s, now)
        self._reserved[account.owner] = new
        return new, ended

    def _makes_way(self, asker: Account, held: dict[Account, Reservation]) -> Reservation:
        heaviest = Shares(self.limits.reservations, ((one, 1.0) for one in held)).over(asker, 1.0)
        if not heaviest:
            raise self._refuse("all reservations are taken")
        return held[heaviest[0]]

    def heard(self, now: float, reservation: Reservation) -> bool:
        """It has said something. False: it says too much."""
        reservation.heard_s = now
        return self._words.spend(reservation.peer, now)

    def renew(self, now: float, reservation: Reservation) -> None:
        reservation.until_s = now + self.limits.lease_s

    def release(self, reservation: Reservation) -> None:
        if self._reserved.get(reservation.peer) is reservation:
            del self._reserved[reservation.peer]

    # --- circuits

    @property
    def num_circuits(self) -> int:
        return len(self._circuits)

    def dial(self, now: float, host: str, reservation: Reservation) -> tuple[Circuit, list[Circuit]]:
        """Somebody calls from there: a circuit that the callee is to be told of, and which others end for it. Raises
        Overloaded."""
        caller = Account(b"", network_of(host), machine_of(host))
        if not self._dials.spend(caller.address, now):
            raise self._refuse("too many circuits asked for from this address")
        vain = self._vain.get(_way(caller, reservation))
        if vain is not None and now < vain.until_s:
            raise self._refuse("too many circuits from this address to this peer were of no use: wait a minute")
        limits, circuits = self.limits, list(self._circuits.values())
        to_callee = [one for one in circuits if one.callee.peer == reservation.peer]
        if sum(one.caller.address == caller.address for one in circuits) >= limits.circuits_per_caller:
            raise self._refuse("this address has as many circuits as it may have")
        if not self._of_networks.spend((reservation.peer, caller.network), now):
            raise self._refuse("this peer is called too often from this network")
        ended: list[Circuit] = []
        if len(to_callee) >= limits.circuits_per_callee:
            words = "this peer has as many circuits as it may have"
            ended.append(self._gives_way(caller, to_callee, limits.circuits_per_callee, words))
        elif len(circuits) >= limits.circuits:
            ended.append(self._gives_way(caller, circuits, limits.circuits, "all circuits are taken"))
        if not self._calls.spend(reservation.peer, now):
            raise self._refuse("this peer is called too often")
        circuit = Circuit(self.rng.randbytes(16), caller, reservation, self._rates.open(now, caller), now, now)
        self._circuits[circuit.token] = self._by_flow[circuit.flow] = circuit
        return circuit, ended

    def _gives_way(self, asker: Account, circuits: Iterable[Circuit], most: int, words: str) -> Circuit:
        """Of these, which are all that there may be: the newest one of whoever has more than a fair share."""
        newest = {one.caller: one for one in circuits}
        heaviest = Shares(most, ((one.caller, 1.0) for one in circuits)).over(asker, 1.0)
        if not heaviest:
            raise self._refuse(words)
        return newest[heaviest[0]]

    def accept(self, now: float, relay_key: bytes, token: bytes, signature: bytes) -> Circuit | None:
        """The circuit that its callee calls back for; None: there is none that waits for this one."""
        circuit = self._circuits.get(token)
        if circuit is None or circuit.accepted or now > circuit.since_s + self.limits.answer_s:
            return None
        if not verify(circuit.callee.public_key, to_accept(relay_key, token), signature):
            return None
        circuit.accepted, circuit.used_s = True, now
        return circuit

    def end(self, now: float, circuit: Circuit) -> None:
        """It is over, for whatever reason; once."""
        if self._circuits.pop(circuit.token, None) is None:
            return
        del self._by_flow[circuit.flow]
        self._rates.close(circuit.flow)
        vain = self._vain.setdefault(_way(circuit.caller, circuit.callee), _Vain())
        vain.num = 0 if circuit.answered else vain.num + 1
        if vain.num >= self.limits.unanswered:
            vain.num, vain.until_s = 0, now + self.limits.unanswered_pause_s

    # --- what they carry

    def carried(self, now: float, circuit: Circuit, num_bytes: int, by_callee: bool) -> bool:
        """So much was read of one end. False: nothing more until `resumed` names it."""
        circuit.used_s = now
        circuit.num_bytes += num_bytes
        circuit.answered |= by_callee
        self.num_bytes += num_bytes
        self.meter.relayed(now, num_bytes)
        return self._rates.took(now, circuit.flow, num_bytes)

    def is_spent(self, circuit: Circuit) -> bool:
        return circuit.num_bytes >= self.limits.circuit_bytes

    @property
    def has_waiting(self) -> bool:
        return self._rates.has_waiting

    def resumed(self, now: float) -> list[Circuit]:
        return [self._by_flow[flow] for flow in self._rates.resumed(now)]

    # --- what is over

    def overdue_circuits(self, now: float) -> list[Circuit]:
        """Those that stand. Whoever waits for its callee has a time of its own."""
        limits = self.limits
        longest = {True: limits.circuit_s, False: limits.unanswered_s}
        return [
            one
            for one in self._circuits.values()
            if one.accepted and (now >= one.used_s + limits.idle_s or now >= one.since_s + longest[one.answered])
        ]

    def overdue_reservations(self, now: float) -> list[Reservation]:
        silent_s = self.limits.silent_s
        return [one for one in self._reserved.values() if now >= min(one.until_s, one.heard_s + silent_s)]

    def circuits_to(self, reservation: Reservation) -> list[Circuit]:
        return [one for one in self._circuits.values() if one.callee is reservation]

    def waiting_for(self, reservation: Reservation) -> list[Circuit]:
        return [one for one in self.circuits_to(reservation) if not one.accepted]


def _way(caller: Account, callee: Reservation) -> tuple[str, bytes]:
    return caller.address, callee.peer
