"""Who gets how much of what is scarce, when not all can have what they ask for. Everything scarce asks this; pure.

Names cost nothing, addresses little, and networks more: charged is an owner, and with it the network and the address
that it is seen at. Networks have fair shares of the whole, the addresses of each fair shares of that, and the owners at
each of these fair shares of that: so a neighbour has what one address has, whatever names are next door. While nobody
else asks, one may have it all; when there is no room, who asks for no more than a fair share gets it from those who
have more than theirs. Where what is taken slows all others down though there is room, a network keeps to its share in
what is larger than others ask for, while they do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from operator import itemgetter
from typing import TypeVar

from cachetools import LRUCache

T = TypeVar("T")
ASKED_S = 10.0
"""Who asked so shortly ago is likely to be back."""
MAX_ASKING = 1024
TURN_S = 40.0
"""Where shares are less than a place each: so long somebody has a place before another one gets it. Two thirds of a
client's patience (config.py): with as much, whether who finds all places taken is served would hang on a second."""
BACK_S = 5.0
"""Who is back so soon at a place that he lost goes on with the turn that he had: it is free again because whoever took
it has not got what it needs elsewhere, and asks once more."""
SPENT_S = 600.0
"""A network that has had its turn waits so long for places that are free, and takes nobody's: otherwise nobody's reply
would ever be over where many wait."""
MAX_REMEMBERED = 4096
"""Accounts with credit, and networks that have had their turn."""


@dataclass(frozen=True, slots=True)
class Account:
    """`owner`: a peer id, proven; `network` and `address`: what its connection comes from."""

    owner: bytes
    network: str = ""
    address: str = ""

    @property
    def place(self) -> tuple[str, str]:
        return self.network, self.address


NOBODY = Account(b"")
"""Where nothing is shared with others."""
NEWCOMER = Account(b"", "nowhere yet")
"""Whoever may come next: nothing is held in its network."""
_LEVELS: tuple[Callable[[Account], Hashable], ...] = (
    lambda account: account.network,
    lambda account: account.place,
    lambda account: account,
)
"""What shares are of, each within the one before it."""


class Shares:
    """What there is of one scarce thing, in any unit, and who holds how much of it."""

    def __init__(self, capacity: float, held: Iterable[tuple[Account, float]]) -> None:
        self._capacity = capacity
        self._held: dict[Account, float] = {}
        for account, amount in held:
            self._held[account] = self._held.get(account, 0.0) + amount

    def over(self, asker: Account, amount: float) -> list[Account]:
        """Who is to give way to this account, which asks for so much more: whoever has most comes first.

        Empty: it asks for more than its own share, and there is nobody to take that from.
        """
        held, capacity = self._held | {asker: self._held.get(asker, 0.0) + amount}, self._capacity
        for depth, level in enumerate(_LEVELS):
            totals = _totals(held, level)
            share = _fair_share(totals.values(), capacity)
            if totals[level(asker)] <= share:
                return _above(held, capacity, depth)
            held = {account: amount for account, amount in held.items() if level(account) == level(asker)}
            capacity = share
        return []

    def is_modest(self, asker: Account, amount: float, asking: Mapping[str, float]) -> bool:
        """Is this no more than another network asks for (the largest of late, by network), or within a fair share of
        the asker's network, or all that it has?"""
        others = {network: largest for network, largest in asking.items() if network != asker.network}
        held = _totals(self._held, lambda account: account.network)
        mine = held.get(asker.network, 0.0)
        if not mine or amount <= max(others.values(), default=inf):
            return True
        return mine + amount <= self._capacity / len({*others, *held})

    def beside(self, asker: Account, amount: float) -> list[Account]:
        """With whom this account takes turns where there is no share for each: other names of its network, and those of
        networks that have no less than its own would have then."""
        totals = _totals(self._held, lambda account: account.network)
        mine = totals.get(asker.network, 0.0) + amount
        return [
            account
            for account in self._held
            if account != asker and (account.network == asker.network or totals[account.network] >= mine)
        ]

    def heaviest(self) -> list[Account]:
        """Who holds something, with most comes first."""
        totals = [(level, _totals(self._held, level)) for level in _LEVELS]
        return sorted(self._held, key=lambda one: [total[level(one)] for level, total in totals], reverse=True)


class Turns:
    """Which networks have had their turn, and when they lost it."""

    def __init__(self) -> None:
        self._lost_s: LRUCache[str, float] = LRUCache(MAX_REMEMBERED)
        self._since_s: LRUCache[str, float] = LRUCache(MAX_REMEMBERED)
        """When the turns began that were lost."""

    def lost(self, now: float, holder: Account, asker: Account, since_s: float) -> None:
        """`since_s`: the holder has had his place."""
        if holder.network != asker.network:
            self._lost_s[holder.network], self._since_s[holder.network] = now, since_s

    def since_s(self, now: float, holder: Account) -> float:
        """When the turn began of one who gets a place now."""
        is_back = self._lost_s.get(holder.network, -inf) + BACK_S > now
        return self._since_s.get(holder.network, now) if is_back else now

    def may_take(self, now: float, asker: Account, holder: Account) -> bool:
        """A place of one who has had it for long. In one network all are neighbours."""
        return asker.network == holder.network or self._lost_s.get(asker.network, -inf) + SPENT_S < now


class Asking:
    """What networks have asked for of late."""

    def __init__(self) -> None:
        self._asked: LRUCache[str, tuple[float, float]] = LRUCache(MAX_ASKING)
        """When last, and the largest since it last had been silent."""

    def asks(self, network: str, now: float, amount: float) -> None:
        self._asked[network] = now, max(amount, self.lately(now).get(network, 0.0))

    def lately(self, now: float) -> dict[str, float]:
        """The largest of each."""
        return {network: largest for network, (then, largest) in self._asked.items() if now < then + ASKED_S}


def _totals(held: Mapping[Account, float], level: Callable[[Account], Hashable]) -> dict[Hashable, float]:
    totals: dict[Hashable, float] = {}
    for account, amount in held.items():
        totals[level(account)] = totals.get(level(account), 0.0) + amount
    return totals


def _above(held: Mapping[Account, float], capacity: float, depth: int) -> list[Account]:
    """Who has more than a fair share of what there is, of those who have more than theirs of that, and so on."""
    if depth == len(_LEVELS):
        return list(held)
    level, found = _LEVELS[depth], list[Account]()
    totals = _totals(held, level)
    share = _fair_share(totals.values(), capacity)
    for group in sorted((one for one, total in totals.items() if total > share), key=lambda one: -totals[one]):
        inside = {account: amount for account, amount in held.items() if level(account) == group}
        found += _above(inside, share, depth + 1)
    return found


def _fair_share(wanted: Iterable[float], capacity: float) -> float:
    """What each may have at most: who wants less leaves the rest to the others."""
    left = sorted(wanted)
    for index, amount in enumerate(left):
        share = capacity / (len(left) - index)
        if amount > share:
            return share
        capacity -= amount
    return inf


def in_turn(items: Iterable[T], account_of: Callable[[T], Account]) -> list[T]:
    """In an order in which networks take turns, in each its addresses, and at each of these its owners; what is one
    owner's keeps its order."""
    order = list(items)
    if len(order) < 2:
        return order
    for level in reversed(_LEVELS):
        order = _take_turns(order, account_of, level)
    return order


def _take_turns(
    items: Sequence[T], account_of: Callable[[T], Account], level: Callable[[Account], Hashable]
) -> list[T]:
    """The first of each, then the second of each, and so on."""
    seen: Counter[Hashable] = Counter()
    ranked: list[tuple[int, T]] = []
    for item in items:
        group = level(account_of(item))
        ranked.append((seen[group], item))
        seen[group] += 1
    return [item for _, item in sorted(ranked, key=itemgetter(0))]


class Credits:
    """How often something may be done, by whom it is for: so many times at once, and so many more a second.

    Of whom nothing is known has all of it; of more than 4,096, those that were idle longest are forgotten.
    """

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left: LRUCache[Hashable, tuple[float, float]] = LRUCache(MAX_REMEMBERED)

    def __len__(self) -> int:
        return len(self._left)

    def left(self, key: Hashable, now: float) -> float:
        credit, then = self._left.get(key, (self._burst, now))
        return min(self._burst, credit + (now - then) * self._per_s)

    def spend(self, key: Hashable, now: float, cost: float = 1.0) -> bool:
        """Take `cost` away if one is left, which may lead into debt; False: nothing was left."""
        credit = self.left(key, now)
        allowed = credit >= 1
        self._left[key] = (credit - cost * allowed, now)
        return allowed

    def charge(self, key: Hashable, now: float, cost: float) -> None:
        """For what has happened anyway: later attempts pay for it. A negative `cost` is given back."""
        self._left[key] = (min(self._burst, self.left(key, now) - cost), now)
