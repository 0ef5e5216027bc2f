"""Who a peer is: one Ed25519 key. Its id is the SHA-256 of the public key, and its CURVE (X25519) key derives from it.

So a verified CURVE key proves a peer id, and one file on disk is the whole identity.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from nacl.encoding import RawEncoder
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

from dsdnode.errors import BadInput

LABEL = b"dsdnode "
"""Whatever is signed begins with this, what it is, a version and a newline: no signature serves two purposes."""
MAX_VERIFIED = 256
"""Signatures that are remembered, good or not: one record comes from each of the peers that hold it."""
MAX_VERIFIED_BYTES = 4096
"""Of what was signed. Manifests are larger, and come once."""
_FILE_HEADER = "dsdnode identity 1\n"


@dataclass(frozen=True, repr=False)
class Identity:
    """An Ed25519 seed (32 bytes, secret) and everything that follows from it."""

    seed: bytes

    def __post_init__(self) -> None:
        if len(self.seed) != 32:
            raise ValueError("an Ed25519 seed has 32 bytes")

    @classmethod
    def generate(cls) -> Identity:
        """A new one, for as long as the process lives."""
        return cls(secrets.token_bytes(32))

    @functools.cached_property
    def _key(self) -> SigningKey:
        return SigningKey(self.seed)

    @functools.cached_property
    def public_key(self) -> bytes:
        return bytes(self._key.verify_key)

    @functools.cached_property
    def peer_id(self) -> bytes:
        return peer_id(self.public_key)

    @functools.cached_property
    def curve_public_key(self) -> bytes:
        """X25519, 32 bytes raw (net/ writes it as Z85)."""
        return curve_public_key(self.public_key)

    @functools.cached_property
    def curve_secret_key(self) -> bytes:
        return bytes(self._key.to_curve25519_private_key())

    def sign(self, message: bytes) -> bytes:
        """64 bytes. `message` begins with a label of its own (see LABEL), or ValueError."""
        _check_label(message)
        return self._key.sign(message, encoder=RawEncoder).signature

    def __repr__(self) -> str:
        return f"Identity({short_id(self.peer_id)})"


@functools.lru_cache(maxsize=4096)  # as many peers as a transport knows at once; each message asks for some
def peer_id(public_key: bytes) -> bytes:
    """SHA-256 of an Ed25519 public key."""
    return hashlib.sha256(public_key).digest()


MAX_NAMED = 4
"""Peers in a sentence."""


def short_id(peer: bytes) -> str:
    """The first 12 hex digits of a peer id, for people."""
    return peer.hex()[:12]


@dataclass(frozen=True, slots=True)
class PeerChoice:
    """Peers that one has to do with: those of `allow` (of none: anybody), but those of `block`. Beginnings of ids, in
    hex."""

    allow: tuple[str, ...] = ()
    block: tuple[str, ...] = ()

    def takes(self, peer: bytes) -> bool:
        name = peer.hex()
        return not name.startswith(self.block) and (not self.allow or name.startswith(self.allow))


ANYBODY = PeerChoice()


def curve_public_key(public_key: bytes) -> bytes:
    """The X25519 key (32 bytes) of an Ed25519 public key. Raises ValueError if it is no point that a key can have."""
    try:
        return bytes(VerifyKey(public_key).to_curve25519_public_key())
    except (CryptoError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError("not an Ed25519 public key") from error


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Did the owner of the key sign this labelled message?"""
    _check_label(message)
    check = _is_signed if len(message) <= MAX_VERIFIED_BYTES else _is_signed.__wrapped__
    return check(public_key, message, signature)


@functools.lru_cache(MAX_VERIFIED)
def _is_signed(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(public_key).verify(message, signature)
    except (CryptoError, ValueError, TypeError):
        return False
    return True


def _check_label(message: bytes) -> None:
    if not message.startswith(LABEL) or b"\n" not in message[:64]:
        raise ValueError("what is signed must begin with a label")


# --- on disk ------------------------------------------------------------------------------------------------------


def load_or_create(path: Path) -> Identity:
    """The identity in `path`, made (mode 0600, all or nothing) if there is none. Raises BadInput."""
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create(path)
        return load(path)
    except OSError as error:
        raise BadInput(f"cannot use the identity file {path}: {error.strerror or error}") from error


def load(path: Path) -> Identity:
    """The identity in `path`. Raises BadInput when it is not one, or when others may read it, and OSError."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # (a pipe would be waited for)
        mode = os.fstat(file.fileno()).st_mode
        raw = file.read(1024) if stat.S_ISREG(mode) else b""
    if os.name == "posix" and mode & 0o077:
        raise BadInput(f"the identity file {path} can be read by others: chmod 600 {path}")
    match = re.fullmatch(re.escape(_FILE_HEADER.encode()) + rb"([0-9a-f]{64})\n?", raw)
    if match is None:
        raise BadInput(f"{path} is not an identity file of dsdnode: use another (--identity), or move it away")
    return Identity(bytes.fromhex(match[1].decode()))


def _create(path: Path) -> None:
    """Written aside, then linked: nobody ever sees half a key, and of two at once the first wins."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(f"{_FILE_HEADER}{Identity.generate().seed.hex()}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    finally:
        aside.unlink()
