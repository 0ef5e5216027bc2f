"""How long a client waits: for one drafter, before it asks another, and for the reply, before it gives up. Pure."""

from __future__ import annotations

from dsdnode.config import POSITION_PATIENCE_S, STILL_S

ASIDE_S = 3.0
"""A drafter that gives no first token in this time is asked on, and another one beside it: whose token comes first goes
on. A pipeline of homes takes a second or two, for a short prompt."""
ASIDE_POSITION_S = 0.05
"""More for each position of the prompt."""
MAX_ASIDE = 3
"""Drafters that are asked at once; for one more the first of them is left, which had four times as long."""
THIRD = 4.0
"""So many times as long as for the second one, where that is asked sooner, the third one is waited for: if all are late
the swarm is busy."""
MIN_SHARE_S = 15.0
"""Of the patience, at most, for one of several drafters: a peer of its pipeline that is away for ten seconds is waited
for, where it has given enough."""
MARGIN_S = 10.0
"""More than a drafter has: if it is honest it ends the reply first, and knows why."""


class Patience:
    """Of one reply: `accepted` by one drafter or several, `won` by the one that goes on, `stepped` with each token."""

    def __init__(self, now: float, patience_s: float) -> None:
        self.patience_s = patience_s
        self._stepped_s = now
        self._ends_s = now + patience_s + MARGIN_S
        self._reading_s = 0.0
        self._share_s = patience_s
        self._leaves_s = float("inf")

    def accepted(self, num_positions: int) -> None:
        """The prompt that is to be read, by each drafter anew: but a row of them that only accept has an end, too."""
        reading_s = POSITION_PATIENCE_S * num_positions
        self._ends_s += max(0.0, reading_s - self._reading_s)
        self._reading_s = max(self._reading_s, reading_s)

    def won(self, now: float, num_others: int) -> None:
        """It gave a token before the others did; so many of them may be better."""
        self._share_s = max(MIN_SHARE_S, self.patience_s / (1 + num_others)) if num_others else float("inf")
        self._leaves_s = now + self._share_s

    def over(self) -> None:
        """Nobody goes on for now."""
        self._leaves_s = float("inf")

    def stepped(self, now: float) -> None:
        self._stepped_s = now
        self._ends_s, self._reading_s = now + self.patience_s + MARGIN_S, 0.0
        self._leaves_s = now + self._share_s

    def is_still(self, now: float) -> bool:
        """Should the user hear of it? The drafter has had time to say more."""
        return now >= self._stepped_s + 2 * STILL_S

    def still_s(self, now: float) -> float:
        return now - self._stepped_s

    def is_spent(self, now: float) -> bool:
        """Who is full need not be asked again."""
        return now >= self._stepped_s + self.patience_s

    def leaves(self, now: float) -> bool:
        """It is another drafter's turn."""
        return now >= self._leaves_s

    def is_over(self, now: float) -> bool:
        return now >= self._ends_s

    def left_s(self, now: float) -> float:
        """Until one of these comes true, if nothing happens."""
        return max(0.0, min(self._leaves_s, self._ends_s) - now)
