"""Where others reach this node, as they have seen it themselves. Pure.

What a machine takes for its addresses may mean something in its own house alone, or lead to somebody else's. So others
call them, and say at which they were answered; what most of them say counts, one voice for each network.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from dsdnode.addresses import FAMILIES, Nearness, family, nearness, parse_address

MAX_VOICES = 8
"""That are remembered of an address; the oldest goes."""
ENOUGH = 3
"""Voices: who is asked next would hardly change what most of them say."""
FIRST_S = 0.5
"""After a network has changed, or more peers have come, until they are asked."""
ASK_AGAIN_S = 10.0
"""While there are not enough voices."""
UNREACHED_S = 600.0
REACHED_S = 1800.0
MAX_HASTY = 3
"""Times that others are asked again soon because some were not through with calling us."""


class Verdict(Enum):
    UNKNOWN = "nobody has said yet whether others reach this node"
    REACHED = "others reach this node"
    UNREACHED = "others do not reach this node"


@dataclass(slots=True)
class _Voices:
    said: OrderedDict[str, bool] = field(default_factory=OrderedDict)

    def add(self, voice: str, reached: bool) -> None:
        self.said.pop(voice, None)
        self.said[voice] = reached
        while len(self.said) > MAX_VOICES:
            self.said.popitem(last=False)

    @property
    def is_reached(self) -> bool:
        return 2 * sum(self.said.values()) > len(self.said)

    @property
    def is_unreached(self) -> bool:
        return 2 * sum(self.said.values()) < len(self.said)


@dataclass(frozen=True, slots=True)
class _Far:
    """At which of our addresses one reaches us, of those that it has called."""

    reached: frozenset[str]
    called: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Families:
    """Of FAMILIES: see Reach.cut_off and Reach.open."""

    cut_off: tuple[int, ...]
    open: tuple[int, ...]


class Reach:
    """`due` says when others are to be asked; `heard` takes what one has said."""

    def __init__(self, now: float) -> None:
        self._voices: dict[str, _Voices] = {}
        self._far: OrderedDict[str, _Far] = OrderedDict()
        """Of those far away; whoever has spoken last is last."""
        self._public: frozenset[str] = frozenset()
        """Addresses of ours that those far away may call, if they can."""
        self._discounted: frozenset[str] = frozenset()
        self._known: _Families | None = None
        """What follows for the families; None: something has been said since it was found. (It is asked for all the
        time.)"""
        self._due_s = now + FIRST_S
        self._is_left = False
        """Was some address still being called when they answered?"""
        self._num_hasty = 0
        """Times in succession that they have been asked for that."""

    def moved(self, now: float, given: Collection[str] = ()) -> None:
        """What was said is of another place, but of the addresses that relays have `given`: these are in theirs."""
        self._is_left = False
        self._known = None
        self._forget_all_but(given)
        self._far.clear()
        self._due_s = now + FIRST_S

    def ask_now(self, now: float, addresses: Sequence[str]) -> None:
        """There is one address more, or one less; the others are what they were."""
        self._known = None
        self._forget_all_but(addresses)
        self._due_s = now

    def discount(self, addresses: Iterable[str]) -> None:
        """Who is reached there is not for all that reached by all by himself: relays have given them, or they are
        perhaps open for those alone whom we have called."""
        if self._discounted != (discounted := frozenset(addresses)):
            self._discounted, self._known = discounted, None

    def _forget_all_but(self, addresses: Collection[str]) -> None:
        for address in [one for one in self._voices if one not in addresses]:
            del self._voices[address]

    def due(self, now: float) -> bool:
        return now >= self._due_s

    def asking(self, now: float) -> None:
        """They are being asked."""
        self._due_s = now + ASK_AGAIN_S
        self._num_hasty = self._num_hasty + 1 if self._is_left else 0
        self._is_left = False

    def heard(
        self,
        now: float,
        voice: str,
        addresses: Sequence[str],
        reached: Collection[str],
        tried: Collection[str],
        far: bool = False,
        is_left: bool = False,
    ) -> None:
        """`voice`: whose word it is (a network's, which is `far` away, or a peer's nearby); of `addresses`, ours, it
        called `tried`, and is not through with all that it calls if `is_left`."""
        self._public = frozenset(one for one in addresses if nearness(parse_address(one)[0]) is Nearness.WORLD)
        if far:
            before = self._far.pop(voice, _Far(frozenset(), frozenset()))
            heard = frozenset(one for one in addresses if one in reached)
            called = heard.union(one for one in addresses if one in tried)
            # Of what it cannot call, or calls still, it says nothing: that is no other word than before.
            self._far[voice] = _Far(
                heard | (before.reached - called).intersection(addresses),
                called | before.called.intersection(addresses),
            )
            while len(self._far) > MAX_VOICES:
                self._far.popitem(last=False)
        for address in addresses:
            if address in tried or address in reached:
                self._voices.setdefault(address, _Voices()).add(voice, address in reached)
        self._forget_all_but(addresses)
        self._is_left |= is_left
        self._known = None
        if len({*self._far, *(one for voices in self._voices.values() for one in voices.said)}) >= ENOUGH:
            is_well = self.verdict is Verdict.REACHED and not self.is_cut_off
            is_hasty = self._is_left and self._num_hasty < MAX_HASTY
            self._due_s = now + (ASK_AGAIN_S if is_hasty else REACHED_S if is_well else UNREACHED_S)

    def told(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """Those of our addresses that are worth telling: who looks for us calls them all. Without a word of others the
        first, which is the likeliest."""
        reached = tuple(filter(self.is_reached, addresses))
        return reached or tuple(addresses[:1])

    def worth_calling(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """Where a newcomer is to call: those where others reach us; without a word of theirs any may be the one."""
        reached = tuple(filter(self.is_reached, addresses))
        return reached or tuple(one for one in addresses if not self.is_unreached(one)) or tuple(addresses)

    @property
    def is_far(self) -> bool:
        """Has anybody far away said a word?"""
        return bool(self._far)

    @property
    def cut_off(self) -> tuple[int, ...]:
        """The families in which those far away (where there is nobody: all others) do not reach us, but by way of
        relays. Whoever has that family alone does not at all."""
        return self._families.cut_off

    @property
    def is_cut_off(self) -> bool:
        """In all families."""
        return self.cut_off == FAMILIES

    @property
    def open(self) -> tuple[int, ...]:
        """The families in which they reach us without relays. (Of a place that is new to us nobody knows.)"""
        return self._families.open

    @property
    def is_open(self) -> bool:
        return bool(self.open)

    @property
    def _families(self) -> _Families:
        if self._known is None:
            self._known = self._found_of_families()
        return self._known

    def _found_of_families(self) -> _Families:
        if self.is_far:
            is_open = tuple(one for one in FAMILIES if 2 * sum(heard := self._heard(one)) > len(heard))
            return _Families(tuple(one for one in FAMILIES if self._is_cut_off_in(one)), is_open)
        direct = self._direct
        is_reached = any(one.is_reached for one in direct)
        return _Families(FAMILIES if direct and not is_reached else (), FAMILIES if is_reached else ())

    @property
    def _direct(self) -> list[_Voices]:
        return [voices for address, voices in self._voices.items() if address not in self._discounted]

    def _is_cut_off_in(self, which: int) -> bool:
        heard = self._heard(which)
        return 2 * sum(heard) <= len(heard) if heard else not self._own(self._public, which)

    def _heard(self, which: int) -> list[bool]:
        """Whether those who have called an address of that family reach us: who has the other one can call none."""
        return [bool(own & far.reached) for far in self._far.values() if (own := self._own(far.called, which))]

    def _own(self, addresses: Iterable[str], which: int) -> set[str]:
        return {one for one in of_family(addresses, which) if one not in self._discounted}

    def is_reached(self, address: str) -> bool:
        return address in self._voices and self._voices[address].is_reached

    def was_called(self, address: str) -> bool:
        return address in self._voices

    def is_unreached(self, address: str) -> bool:
        """Most have called it in vain."""
        return address in self._voices and self._voices[address].is_unreached

    @property
    def verdict(self) -> Verdict:
        if not self._voices and not self.is_far:
            return Verdict.UNKNOWN
        return Verdict.REACHED if any(one.is_reached for one in self._voices.values()) else Verdict.UNREACHED


def of_family(addresses: Iterable[str], which: int) -> list[str]:
    """Those of them; names are of both."""
    return [one for one in addresses if family(parse_address(one)[0]) in (which, None)]
