"""Calls that strangers have us make: how many on one's word, and how many to one address.

Whoever names peers to us decides where we knock. A call that its peer answers costs nothing in the end, so honest
answers are free; what nobody answers is paid for by who named it, and one alone cannot use up what a target is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from dsdnode.accounts import Credits
from dsdnode.addresses import Nearness, network, parse_address

PER_TEACHER = 32
"""Unanswered calls on one's word at once, and again each minute: a lookup asks 20 at most that one peer has named."""
PER_TARGET = 80
"""To one address of the world, or one port nearer by."""
PER_TEACHER_AND_TARGET = 4
"""Where one peer lives, others of other names do not: one who names forty there has them all called in vain."""

T = TypeVar("T")


def first_to_go(links: Collection[T], is_calling: Callable[[T], bool]) -> T:
    """Of too many links, the least recently used first: the one that makes room for another call. Where half of them
    are calls that nobody has answered yet, the first of those: whoever names peers that are not there does not take
    the links to those that are."""
    calling = [link for link in links if is_calling(link)]
    return calling[0] if len(calling) >= len(links) / 2 else next(iter(links))


@dataclass(frozen=True, slots=True)
class Teacher:
    """Who named an address, as far as that counts: how near it was seen, and on whose account its calls go."""

    near: Nearness
    account: str

    @classmethod
    def seen_at(cls, host: str, near: Nearness, peer: bytes) -> Teacher:
        """A peer whose own connection comes from (or leads to) `host`. In the world its network pays, here itself."""
        if near is Nearness.WORLD:
            return cls(near, network(host) or host)
        return cls(near, peer.hex() if near is Nearness.HERE else host)


class Dials:
    """Pure: which calls may be made at a time."""

    def __init__(self) -> None:
        self._limits = tuple(Credits(num, num / 60) for num in (PER_TEACHER, PER_TARGET, PER_TEACHER_AND_TARGET))

    def has_left(self, now: float, teacher: Teacher, address: str) -> bool:
        """May `address` be called on the word of `teacher` now?"""
        accounts = _accounts(teacher, address)
        return all(limit.left(one, now) >= 1 for limit, one in zip(self._limits, accounts, strict=True))

    def allow(self, now: float, teacher: Teacher, address: str) -> bool:
        """The same; then it is paid for."""
        allowed = self.has_left(now, teacher, address)
        if allowed:
            self._charge(now, _accounts(teacher, address), 1.0)
        return allowed

    def answered(self, now: float, teacher: Teacher, address: str) -> None:
        """It led to the peer that it was said to lead to: the price is given back."""
        self._charge(now, _accounts(teacher, address), -1.0)

    def _charge(self, now: float, accounts: tuple[str, str, str], cost: float) -> None:
        for limit, one in zip(self._limits, accounts, strict=True):
            limit.charge(one, now, cost)


def _accounts(teacher: Teacher, address: str) -> tuple[str, str, str]:
    target = _target(address)
    return teacher.account, target, f"{teacher.account} {target}"


def _target(address: str) -> str:
    """In the world a machine, whatever its port; nearer by many daemons share one."""
    host, port = parse_address(address)
    return host if network(host) else f"{host} {port}"
