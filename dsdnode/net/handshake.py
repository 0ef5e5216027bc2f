"""HELLO and WELCOME: who calls, which protocol is spoken, and that both sides know the swarm key, which never travels.

CURVE has proved the X25519 keys before; HELLO is believed only if its Ed25519 key converts to the very one that the
caller proved. Its layout never changes, so that any two versions can refuse each other in words.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from dsdnode.errors import PeerUnavailable
from dsdnode.identity import curve_public_key
from dsdnode.net.port import CALLS, GUESSES, MASKS, OBSERVE, PATH, PUNCH, REACH, RELAY, ROUTE, SHAPING, TOOLS, WEIGHTS
from dsdnode.wire.messages import PROTOCOL_VERSION, WIRE_TYPES, Contact, Hello, Refused, Welcome

CAPABILITIES = (*WIRE_TYPES, REACH, RELAY, OBSERVE, PATH, PUNCH, WEIGHTS, ROUTE, SHAPING, TOOLS, MASKS, CALLS, GUESSES)
"""What this version can do beyond the bare protocol: the wire types of hidden states, and single messages."""
REQUIRED = ("f32",)
"""What every peer must be able to do."""
WRONG_KEY = "wrong swarm key"
KEY_NEEDED = "this swarm is private: its key is needed (--swarm-key)"
NO_KEY_HERE = "this swarm has no swarm key, and one was given"
OTHER_VERSION = "protocol version"
"""What a refusal is about, in its words."""


@lru_cache
def derive_swarm_key(swarm_key: str) -> bytes:
    """32 bytes. Stretched: every peer that we dial gets an HMAC that it could try to guess a short key by.

    One salt for all swarms, since a swarm has no name that both sides know before HELLO, and a callee cannot stretch a
    key anew for each caller. So a key must not be guessable: of a random one neither the salt nor the HMAC tells.
    """
    return hashlib.scrypt(swarm_key.encode(), salt=b"dsdnode swarm key 1", n=1 << 14, r=8, p=1, dklen=32)


def swarm_names(swarm_keys: Sequence[str]) -> tuple[str, ...]:
    """By which a node remembers whose members it knew, one a key: those of another swarm are not greeted with ours."""
    if not swarm_keys:
        return ("open",)
    labelled = (b"dsdnode swarm name 1\n" + derive_swarm_key(key) for key in swarm_keys)
    return tuple(hashlib.sha256(one).hexdigest()[:16] for one in labelled)


@dataclass(frozen=True, slots=True, repr=False)
class Handshake:
    """Our side of it. `swarm_keys` (derived): none in an open swarm, two while one replaces the other, which is how a
    member is removed; all are accepted, and a callee that refuses one is greeted with the next."""

    contact: Contact
    swarm_keys: tuple[bytes, ...] = ()
    version: int = PROTOCOL_VERSION
    capabilities: tuple[str, ...] = CAPABILITIES
    named: tuple[str, ...] | None = None
    """Those of its addresses that a hello names; None: all."""

    @property
    def num_greetings(self) -> int:
        """How many hellos there are to try."""
        return len(self.swarm_keys) or 1

    def hello(self, callee: bytes, bulk: bool, attempt: int = 0) -> Hello:
        """What to say to the owner of a public key; `attempt` below `num_greetings` chooses the swarm key."""
        nonce = secrets.token_bytes(16)
        key = self.swarm_keys[attempt] if self.swarm_keys else b""
        proof = _proof(key, b"hello", self.contact.public_key, callee, nonce)
        named = self.contact.addresses if self.named is None else self.named
        contact = Contact(self.contact.public_key, named)
        return Hello(self.version, contact, self.capabilities, nonce, proof, bulk)

    def answer(self, hello: Hello, curve_key: bytes) -> Welcome | Refused:
        """Our answer to a caller that proved to own `curve_key` (X25519)."""
        caller = hello.contact.public_key
        refusal = self._impostor(caller, curve_key) or self._mismatch(hello.version, hello.capabilities)
        key = self._key_of(hello, self.contact.public_key)
        if not refusal and key is None:
            refusal = _wrong_key(here=bool(self.swarm_keys), there=bool(hello.proof))
        if refusal or key is None:
            return Refused(refusal)
        proof = _proof(key, b"welcome", self.contact.public_key, caller, hello.nonce)
        return Welcome(self.version, self.capabilities, proof)

    def check(self, welcome: Welcome, hello: Hello, callee: bytes) -> None:
        """Raises PeerUnavailable, in words, unless the owner of the public key answered our hello as one of us."""
        refusal = self._mismatch(welcome.version, welcome.capabilities)
        key = self._key_of(hello, callee)
        assert key is not None, "our own hello"
        if not refusal and not hmac.compare_digest(
            welcome.proof, _proof(key, b"welcome", callee, self.contact.public_key, hello.nonce)
        ):
            refusal = "it does not know the swarm key"
        if refusal:
            raise PeerUnavailable(refusal)

    def _key_of(self, hello: Hello, callee: bytes) -> bytes | None:
        """Which of our keys a hello was proven with; empty in an open swarm, None: with none of them."""
        for key in self.swarm_keys or (b"",):
            if hmac.compare_digest(hello.proof, _proof(key, b"hello", hello.contact.public_key, callee, hello.nonce)):
                return key
        return None

    def _impostor(self, public_key: bytes, curve_key: bytes) -> str:
        try:
            honest = hmac.compare_digest(curve_public_key(public_key), curve_key)
        except ValueError:
            honest = False
        return "" if honest else "the key in the greeting is not the one that the connection proved"

    def _mismatch(self, version: int, capabilities: tuple[str, ...]) -> str:
        if version != self.version:
            return f"{OTHER_VERSION} {version} meets version {self.version}: update the older one"
        lacking = [name for name in REQUIRED if name not in capabilities]
        return f"{OTHER_VERSION} {version} without {', '.join(lacking)} meets {self.version}" if lacking else ""


def _proof(key: bytes, label: bytes, speaker: bytes, listener: bytes, nonce: bytes) -> bytes:
    if not key:
        return b""
    return hmac.digest(key, b"dsdnode %s 1\n" % label + speaker + listener + nonce, "sha256")


def _wrong_key(here: bool, there: bool) -> str:
    if here and there:
        return WRONG_KEY
    return KEY_NEEDED if here else NO_KEY_HERE
