"""Vectors of codes: whom alice invites by, and what must be refused of what became of a code on its way."""

from __future__ import annotations

from typing import Any

from dsdnode.wire.invitations import Invitation, write_code
from dsdnode.wire.messages import Contact
from tests.protocol.peers import SWARM_KEY, contact_of, identity_of

EXPIRES_S = 1_800_000_000
NAMED = Contact(identity_of("carol").public_key, ("tcp://carol.example:29171",))
HEX_KEY = "00112233445566778899aabbccddeeff"
INVITATIONS = {
    "alice alone": Invitation((contact_of("alice"),), EXPIRES_S),
    "alice, bob and carol": Invitation((contact_of("alice"), contact_of("bob"), NAMED), EXPIRES_S),
    "a swarm key of hex digits": Invitation((contact_of("alice"),), EXPIRES_S, (HEX_KEY,)),
    "two swarm keys": Invitation((contact_of("alice"),), EXPIRES_S, (HEX_KEY, SWARM_KEY)),
}


def codes() -> dict[str, Any]:
    return {
        "about": "Section 17: codes, and such as must be refused.",
        "cases": [_case(*one) for one in INVITATIONS.items()],
        "refused": spoiled(write_code(INVITATIONS["alice alone"])),
    }


def _case(what: str, invitation: Invitation) -> dict[str, Any]:
    return {
        "what": what,
        "members": [[one.public_key.hex(), list(one.addresses)] for one in invitation.members],
        "swarm_keys": list(invitation.swarm_keys),
        "expires_s": invitation.expires_s,
        "code": write_code(invitation),
    }


def spoiled(code: str) -> list[dict[str, str]]:
    """What must not pass for it."""
    middle = len(code) // 2
    other = "z" if code[middle] != "z" else "y"
    return [
        {"what": "another character", "code": code[:middle] + other + code[middle + 1 :]},
        {"what": "one is missing", "code": code[:middle] + code[middle + 1 :]},
        {"what": "the end is missing", "code": code[:-3]},
        {"what": "one too many", "code": code + code[-1]},
        {"what": "two are exchanged", "code": code[:10] + code[11] + code[10] + code[12:]},
        {"what": "a character of no code", "code": code[:-1] + "u"},
        {"what": "another version", "code": "dsd2" + code[4:]},
    ]
