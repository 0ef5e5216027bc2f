"""Who gets how much of what is scarce, when not all can have what they ask for. Everything scarce asks this; pure.

Names cost nothing and networks do: charged is an owner, and with it the network that it is seen in. Networks have fair
shares of the whole, and the owners in each of them fair shares of that. While nobody else asks, one may have it all;
when there is no room, who asks for no more than a fair share gets it from those who have more than theirs.
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
TURN_S = 60.0
"""Where one network's shares are less than a place each: so long somebody there has a place before another gets it."""
MAX_REMEMBERED = 4096
"""Accounts with credit."""


@dataclass(frozen=True, slots=True)
class Account:
    """`owner`: a peer id, proven; `network`: the one that its connection comes from."""

    owner: bytes
    network: str = ""


NOBODY = Account(b"")
"""Where nothing is shared with others."""


NEWCOMER = Account(b"", "nowhere yet")
"""Whoever may come next: nothing is held in its network."""


class Shares:
    """What there is of one scarce thing, in any unit, and who holds how much of it."""

    def __init__(self, capacity: float, held: Iterable[tuple[Account, float]]) -> None:
        self._capacity = capacity
        self._held: dict[str, dict[Account, float]] = {}
        for account, amount in held:
            owners = self._held.setdefault(account.network, {})
            owners[account] = owners.get(account, 0.0) + amount

    def over(self, asker: Account, amount: float) -> list[Account]:
        """Who is to give way to this account, which asks for so much more: whoever has most comes first.

        Empty: it asks for more than its own share, and there is nobody to take that from.
        """
        networks = {network: sum(owners.values()) for network, owners in self._held.items()}
        networks[asker.network] = networks.get(asker.network, 0.0) + amount
        share = _fair_share(networks.values(), self._capacity)
        owners = self._held.get(asker.network, {})
        mine = owners | {asker: owners.get(asker, 0.0) + amount}
        if networks[asker.network] <= share:
            giving = [network for network, total in networks.items() if total > share]
        elif mine[asker] <= _fair_share(mine.values(), share):
            giving = [asker.network]
        else:
            return []
        found: list[Account] = []
        for network in sorted(giving, key=lambda network: -networks[network]):
            inside = mine if network == asker.network else self._held[network]
            found += _above(inside, _fair_share(inside.values(), share), but=asker)
        return found

    def heaviest(self) -> list[Account]:
        """Who holds something, with most comes first."""
        totals = {network: sum(owners.values()) for network, owners in self._held.items()}
        accounts = {account: amount for owners in self._held.values() for account, amount in owners.items()}
        return sorted(accounts, key=lambda one: (totals[one.network], accounts[one]), reverse=True)


def _above(held: Mapping[Account, float], share: float, but: Account) -> list[Account]:
    over = [account for account, amount in held.items() if amount > share and account != but]
    return sorted(over, key=lambda account: -held[account])


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
    """In an order in which networks take turns, and in each its owners; what is one owner's keeps its order."""
    waiting = list(items)
    if len(waiting) < 2:
        return waiting
    by_owner = _take_turns(waiting, account_of)
    return _take_turns(by_owner, lambda item: account_of(item).network)


def _take_turns(items: Sequence[T], key: Callable[[T], Hashable]) -> list[T]:
    """The first of each, then the second of each, and so on."""
    seen: Counter[Hashable] = Counter()
    ranked: list[tuple[int, T]] = []
    for item in items:
        ranked.append((seen[key(item)], item))
        seen[key(item)] += 1
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
