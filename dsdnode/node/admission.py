"""Whom this machine serves: its user's word, which each of its roles asks before it takes anything new."""

from __future__ import annotations

from dsdnode.wire.messages import Refused

PAUSED = Refused("this peer is paused", retry=True)
"""Why it is so is nobody else's business."""


class Admission:
    """`resting`: why nobody new is served, in words for its user; "": everybody is."""

    def __init__(self, own_id: bytes = b"") -> None:
        self._own_id = own_id
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
        self.num_begun += peer != self._own_id

    def refusal(self) -> Refused | None:
        """Of something new; what is in progress goes on."""
        return PAUSED if self._reasons else None
