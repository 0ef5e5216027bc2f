"""Whom an invitation names: this node, and members that it has reached itself, each of another network. Pure.

A code is short: every member takes 62 of its characters, nearly all of them for its key, without which nobody can be
sure whom he calls. Three are enough: whoever comes in by one of them learns of all others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dsdnode.addresses import Nearness, nearness, network, parse_address
from dsdnode.wire.messages import Contact

MAX_INVITING = 3
MAX_TOLD_ADDRESSES = 2
"""Of each: one a family, where there are both, for those who have only one."""


def members_to_name(
    own: Contact, is_own_reached: bool, others: Sequence[Contact], given: Collection[str] = ()
) -> list[Contact]:
    """`own` with the addresses that are worth calling, some of them `given` by relays, whose places are not ours;
    `others`, the best first, with those where they have answered.

    The farther away they can be called from, the sooner; ourselves before others, but if nobody reaches us at the end.
    """
    known = list(map(_ranked, [own, *others] if is_own_reached or not others else others))
    farthest = max(_near(one.addresses[0]) for one in known)
    least = min(farthest, Nearness.HOUSE)
    found: list[Contact] = []
    taken: set[str] = set()
    for contact in sorted(known, key=lambda one: -_near(one.addresses[0])):
        near = _near(contact.addresses[0])
        places = {_place(one) for one in contact.addresses if _near(one) is near and one not in given}
        is_far_enough = near is farthest or (contact.public_key == own.public_key and near >= least)
        if taken.isdisjoint(places) and is_far_enough and len(found) < MAX_INVITING:
            found.append(Contact(contact.public_key, tuple(one for one in contact.addresses if _near(one) >= least)))
            taken |= places
    return found


def _ranked(contact: Contact) -> Contact:
    """With the best of its addresses, of both families if it has them."""
    ranked = sorted(contact.addresses, key=lambda address: -_near(address))
    first = ranked[:1]
    other = next((one for one in ranked if ("[" in one) != ("[" in first[0]) and _near(one) == _near(first[0])), None)
    rest = [one for one in ranked if one not in (*first, other)]
    return Contact(contact.public_key, tuple([*first, *([other] if other else []), *rest][:MAX_TOLD_ADDRESSES]))


def _near(address: str) -> Nearness:
    near = nearness(parse_address(address)[0])
    return Nearness.HERE if near is None else near


def _place(address: str) -> str:
    """What fails together: a network, nearby a machine."""
    host, port = parse_address(address)
    return network(host) or (f"{host} {port}" if _near(address) is Nearness.HERE else host)
