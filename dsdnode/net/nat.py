"""How what is between this machine and the world changes the ports that its calls leave from. Pure.

A home's router gives each call a port of its own (RFC 4787 has the words). What others see of a port of ours tells how:
the same for all, then one may be told of it whom we have not called yet; one after the other, then the next ones can be
guessed; or any, then nobody can know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from dsdnode.addresses import parse_address

MAX_STEP = 8
"""Between the ports of two calls that are begun at once. By chance two are as near once in four thousand times."""


class Kind(Enum):
    UNKNOWN = "unknown"
    SAME = "same"
    """One port for all that are called from a port of ours (endpoint-independent); or nothing is translated."""
    COUNTING = "counting"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Nat:
    """`step`: of COUNTING, from one call's port to the next one's, from whatever port of ours; else 0. `address`: of
    SAME, how the port that we listen on looks from outside, tcp://IP:PORT; else ""."""

    kind: Kind = Kind.UNKNOWN
    step: int = 0
    address: str = ""


def judged(seen: Iterable[str]) -> Nat | None:
    """By what peers of different networks have seen of the port that we listen on, an address each. One alone may lie:
    two must agree. None: no two do, and what `stepped` makes of it is to be found out."""
    said = Counter(seen)
    if said.total() < 2:
        return Nat()
    address, num = said.most_common(1)[0]
    return Nat(Kind.SAME, address=address) if num > 1 else None


def stepped(first: str, second: str) -> Nat:
    """By what two peers have seen of one port of ours, from which they were called one just after the other."""
    (host, port), (other_host, other_port) = parse_address(first), parse_address(second)
    step = other_port - port
    if host == other_host and abs(step) <= MAX_STEP:
        return Nat(Kind.COUNTING, step) if step else Nat()
    return Nat(Kind.RANDOM)
