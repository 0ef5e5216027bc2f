"""Whom this machine serves: its user's word, which each of its roles asks before it takes anything new."""

from __future__ import annotations

from cachetools import LRUCache

from dsdnode.identity import ANYBODY, Identity, PeerChoice
from dsdnode.wire.messages import Refused

PAUSED = Refused("this peer is paused", retry=True)
"""Why it is so is nobody else's business."""
NOT_YOU = Refused("this peer does not serve you")
MAX_GUESTS = 4096
"""That may come while one that stays, a gateway say, asks nothing. Every `dsdnode run` is one more."""


class Admission:
    """`resting`: why nobody new is served, in words for its user; "": everybody is."""

    def __init__(self, own_id: bytes = b"", choice: PeerChoice = ANYBODY) -> None:
        self._own_id = own_id
        self._choice = choice
        self._guests: LRUCache[bytes, None] = LRUCache(MAX_GUESTS)
        """Clients of this machine's own user."""
        self._reasons: dict[str, str] = {}
        self.num_begun = 0
        """Replies of others."""

    @property
    def resting(self) -> str:
        return "; ".join(self._reasons.values())

    def rest(self, who: str, why: str) -> bool:
        """What `who` (its user, a clock) says of it now; "": nothing. Is that news?"""
        before = dict(self._reasons)
        if why:
            self._reasons[who] = why
        else:
            self._reasons.pop(who, None)
        return before != self._reasons

    def begun(self, peer: bytes) -> None:
        """It has got a part of a reply here."""
        self.num_begun += peer != self._own_id and not self._is_guest(peer)

    def guest(self) -> Identity:
        """Of a client of this machine's own user, whoever is served."""
        made = Identity.generate()
        self._guests[made.peer_id] = None
        return made

    def _is_guest(self, peer: bytes) -> bool:
        """If so, it is the one used last from now on."""
        return peer in self._guests and self._guests[peer] is None

    def serves(self, peer: bytes) -> bool:
        return self._is_guest(peer) or self.trusts(peer)

    def trusts(self, peer: bytes) -> bool:
        """May it compute what is asked for here?"""
        return peer == self._own_id or self._choice.takes(peer)

    def refusal(self, peer: bytes) -> Refused | None:
        """Of something new; what is in progress goes on."""
        if not self.serves(peer):
            return NOT_YOU
        return PAUSED if self._reasons else None
