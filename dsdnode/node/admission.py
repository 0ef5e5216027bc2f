"""Whom this machine serves: its user's word, which each of its roles asks before it takes anything new."""

from __future__ import annotations

from cachetools import LRUCache

from dsdnode.identity import ANYBODY, Identity, PeerChoice
from dsdnode.wire.messages import Refused

PAUSED = Refused("this peer is paused", retry=True)
"""Why it is so is nobody else's business."""
NOT_YOU = Refused("this peer does not serve you")
USER = "user"
"""Who has it rest for everybody, himself too; a clock, or a battery, for others alone."""
MAX_GUESTS = 4096
"""That may come while one that stays, a gateway say, asks nothing. Every `dsdnode run` is one more."""


class Admission:
    """`resting`: why nobody else is served anew, in words for its user; "": everybody is."""

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

    @property
    def rests(self) -> bool:
        """For others at least."""
        return bool(self._reasons)

    def rests_for(self, peer: bytes) -> bool:
        return self.rests and not (self.rests_for_others and self.is_own(peer))

    @property
    def rests_for_others(self) -> bool:
        """And not for its own user."""
        return self.rests and USER not in self._reasons

    def is_own(self, peer: bytes) -> bool:
        """This node, or a client of its user."""
        return peer == self._own_id or self._is_guest(peer)

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
        self.num_begun += not self.is_own(peer)

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
        return PAUSED if self.rests_for(peer) else None
