"""The judge's seal on a closing: by it the owner knows the judge's word, whichever stage repeats it.

Closings are repeated by stages that have long been told of them, so a verdict may come from another stage than the
judge. It counts only with a seal, which takes a key that the owner gives to the judge alone. What is sealed is the
digest of what stands, not the number of an epoch: a closing is that of the epoch's children, too, and of nothing that
begins with other tokens.
"""

from __future__ import annotations

from hashlib import blake2b
from hmac import compare_digest

from dsdnode.wire.messages import MAX_SEAL_BYTES, MAX_SEAL_KEY_BYTES, Closed, Verdict


def key_for(secret: bytes, route: int, judge: bytes) -> bytes:
    """What the owner gives to this judge (a peer id) on this route, and to nobody else: who judged the route before, or
    would have judged this one, seals nothing here. `secret`: the one that keys the digests, perhaps of many sessions.
    """
    place = route.to_bytes(4, "little") + judge
    return blake2b(place, key=secret, person=b"dsdnode seal", digest_size=MAX_SEAL_KEY_BYTES).digest()


def of(key: bytes, closed: Closed, digest: bytes) -> bytes:
    """The seal that belongs on a closing; `digest`: of the first `position` tokens of its epoch. Without key: none."""
    if not key:
        return b""
    numbers = (closed.route, closed.position, closed.token, *closed.relaxed)
    sealed = closed.session + digest + b"".join(number.to_bytes(4, "little") for number in numbers)
    return blake2b(sealed, key=key, digest_size=MAX_SEAL_BYTES).digest()


def fits(key: bytes, verdict: Verdict, digest: bytes) -> bool:
    """Is a verdict the judge's closing? `digest`: of the first `decided` tokens of its epoch, as the owner knows it."""
    place = verdict.session, verdict.route, verdict.epoch
    closed = Closed(*place, verdict.decided, verdict.token, verdict.relaxed)
    return compare_digest(verdict.seal, of(key, closed, digest))
