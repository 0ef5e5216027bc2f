"""HELLO and WELCOME: who calls, which protocol is spoken, and that both sides know the swarm key, which never travels.

CURVE has proved the X25519 keys before; HELLO is believed only if its Ed25519 key converts to the very one that the
caller proved. Its layout never changes, so that any two versions can refuse each other in words.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from dsdnode.errors import PeerUnavailable
from dsdnode.identity import curve_public_key
from dsdnode.wire.messages import PROTOCOL_VERSION, WIRE_TYPES, Contact, Hello, Refused, Welcome

CAPABILITIES = WIRE_TYPES
"""What this version can do beyond the bare protocol: the wire types of hidden states."""
REQUIRED = ("f32",)
"""What every peer must be able to do."""


def derive_swarm_key(swarm_key: str) -> bytes:
    """32 bytes. Stretched: every peer that we dial gets an HMAC that it could try to guess a short key by."""
    return hashlib.scrypt(swarm_key.encode(), salt=b"dsdnode swarm key 1", n=1 << 14, r=8, p=1, dklen=32)


@dataclass(frozen=True, slots=True, repr=False)
class Handshake:
    """Our side of it; `swarm_key` (derived) is empty in an open swarm."""

    contact: Contact
    swarm_key: bytes = b""
    version: int = PROTOCOL_VERSION
    capabilities: tuple[str, ...] = CAPABILITIES

    def hello(self, callee: bytes, bulk: bool) -> Hello:
        """What to say to the owner of a public key."""
        nonce = secrets.token_bytes(16)
        proof = self._proof(b"hello", self.contact.public_key, callee, nonce)
        return Hello(self.version, self.contact, self.capabilities, nonce, proof, bulk)

    def answer(self, hello: Hello, curve_key: bytes) -> Welcome | Refused:
        """Our answer to a caller that proved to own `curve_key` (X25519)."""
        caller = hello.contact.public_key
        refusal = self._impostor(caller, curve_key) or self._mismatch(hello.version, hello.capabilities)
        if not refusal and not hmac.compare_digest(
            hello.proof, self._proof(b"hello", caller, self.contact.public_key, hello.nonce)
        ):
            refusal = _wrong_key(here=bool(self.swarm_key), there=bool(hello.proof))
        if refusal:
            return Refused(refusal)
        proof = self._proof(b"welcome", self.contact.public_key, caller, hello.nonce)
        return Welcome(self.version, self.capabilities, proof)

    def check(self, welcome: Welcome, hello: Hello, callee: bytes) -> None:
        """Raises PeerUnavailable, in words, unless the owner of the public key answered our hello as one of us."""
        refusal = self._mismatch(welcome.version, welcome.capabilities)
        if not refusal and not hmac.compare_digest(
            welcome.proof, self._proof(b"welcome", callee, self.contact.public_key, hello.nonce)
        ):
            refusal = "it does not know the swarm key"
        if refusal:
            raise PeerUnavailable(refusal)

    def _proof(self, label: bytes, speaker: bytes, listener: bytes, nonce: bytes) -> bytes:
        if not self.swarm_key:
            return b""
        return hmac.digest(self.swarm_key, b"dsdnode %s 1\n" % label + speaker + listener + nonce, "sha256")

    def _impostor(self, public_key: bytes, curve_key: bytes) -> str:
        try:
            honest = hmac.compare_digest(curve_public_key(public_key), curve_key)
        except ValueError:
            honest = False
        return "" if honest else "the key in the greeting is not the one that the connection proved"

    def _mismatch(self, version: int, capabilities: tuple[str, ...]) -> str:
        if version != self.version:
            return f"protocol version {version} meets version {self.version}: update the older one"
        lacking = [name for name in REQUIRED if name not in capabilities]
        return f"protocol version {version} without {', '.join(lacking)} meets {self.version}" if lacking else ""


def _wrong_key(here: bool, there: bool) -> str:
    if here and there:
        return "wrong swarm key"
    if here:
        return "this swarm is private: its key is needed (--swarm-key)"
    return "this swarm has no swarm key, and one was given"
