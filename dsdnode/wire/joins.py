"""Join strings, which people hand around: how to reach a member, and by which key it is known."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dsdnode.addresses import check_reachable, read_host
from dsdnode.errors import BadInput
from dsdnode.identity import curve_public_key
from dsdnode.wire.messages import MAX_ADDRESSES, Contact

_JOIN = re.compile(r"(?i:dsd)://([^/\s]{1,600})/([0-9a-fA-F]{64})/?")


def parse_join(text: str) -> Contact:
    """The peer of `dsd://HOST:PORT[,HOST:PORT...]/PEERKEY` (the key in hex, IPv6 in brackets). Raises BadInput."""
    match = _JOIN.fullmatch(text.strip())
    if match is None:
        raise BadInput(f"{text!r} is not a join address: those look like dsd://HOST:PORT/KEY, KEY 64 hex digits")
    public_key = bytes.fromhex(match[2])
    try:
        curve_public_key(public_key)
        addresses = tuple(f"tcp://{read_host(part)}" for part in match[1].split(","))
        for address in addresses:
            check_reachable(address)
    except ValueError as error:
        raise BadInput(f"{text!r} is not a join address: {error}") from error
    if len(addresses) > MAX_ADDRESSES:
        raise BadInput(f"{text!r} names {len(addresses)} hosts; at most {MAX_ADDRESSES}")
    return Contact(public_key, addresses)


def format_join(contact: Contact) -> str:
    """The inverse of `parse_join`. Raises ValueError for a contact that nobody can dial."""
    if not contact.addresses:
        raise ValueError("a peer without an address cannot be joined")
    hosts = ",".join(address.removeprefix("tcp://") for address in contact.addresses)
    return f"dsd://{hosts}/{contact.public_key.hex()}"


def of_one_key(contacts: Sequence[Contact], known: Sequence[Contact]) -> list[Contact]:
    """These contacts, each key once; behind their own addresses those of `known` that has the same key: a name may be
    asked for in vain, and an address be an old one."""
    found: dict[bytes, dict[str, None]] = {}
    for contact in contacts:
        found.setdefault(contact.public_key, {}).update(dict.fromkeys(contact.addresses))
    for contact in known:
        if contact.public_key in found:
            found[contact.public_key].update(dict.fromkeys(contact.addresses))
    return [Contact(key, tuple(addresses)[:MAX_ADDRESSES]) for key, addresses in found.items()]
