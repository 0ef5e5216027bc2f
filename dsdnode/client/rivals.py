"""While a drafter gives a reply slowly another one is asked beside it, and goes on if it is faster."""

from __future__ import annotations

import asyncio

import structlog

from dsdnode.client.asking import Asking, Askings
from dsdnode.client.drafters import Drafters
from dsdnode.client.failures import Failures
from dsdnode.client.losses import Contradiction, Died, OtherPrompt
from dsdnode.client.pace import SLOWER
from dsdnode.client.part import Way
from dsdnode.client.patience import ASIDE_S, MIN_SHARE_S
from dsdnode.client.request import PendingReply
from dsdnode.errors import BadInput, DsdError, Overloaded
from dsdnode.identity import short_id
from dsdnode.swarm.queries import wait_until
from dsdnode.wire import replies

log = structlog.get_logger(__name__)

LEAST_PAUSE_S = 1.0
"""In less time few tokens come even where all is well."""
BLOCK_POSITIONS = 16
"""Of a large block, whose tokens come all at once."""


class Rivals:
    """Of one reply: `watch` whoever gives it, and `stop` when it does not any more.

    One at a time is asked, after a pause in which too little came; the next pause is twice as long.
    """

    def __init__(self, askings: Askings, drafters: Drafters, pending: PendingReply, failures: Failures) -> None:
        self._failures = failures
        self._askings = askings
        self._drafters = drafters
        self._pending = pending
        self._pause_s = 0.0
        """The last one; 0: none yet."""
        self._asked: list[bytes] = []
        self._killed = False
        """An engine died of it: nobody else shall, for some speed."""
        self._watching: asyncio.Task[None] | None = None

    def watch(self, giver: Asking) -> None:
        self._asked.append(giver.drafter)
        self._watching = asyncio.create_task(self._watch(giver), name="look for a faster drafter")

    def stop(self, giver: Asking, winner: Asking | None) -> None:
        """Whoever is asked beside it is left, if it has not won."""
        if self._watching is not None:
            self._watching.cancel()
        if giver.rival is not None and giver.rival is not winner:
            self._askings.leave(giver.rival)

    async def _watch(self, giver: Asking) -> None:
        pace, pending = giver.inbox.pace, self._pending
        while not giver.is_beaten:
            pause_s, num_before = self._pause_s or self._first_pause_s(giver), pace.num_tokens
            await asyncio.sleep(pause_s)
            if giver.inbox.has_end:  # its reader pauses
                return
            least = self._drafters.paces.least(pending.model.model_id, giver.drafter) * pause_s
            given = pace.num_tokens - num_before
            if given < least and not self._killed:
                self._pause_s = max(ASIDE_S, 2 * pause_s)
                others = pending.others or await self._others(giver)
                pending.others = list(filter(self._failures.may_be_better, others))
                if pending.others:
                    drafter = self._drafters.beside(pending, self._asked)
                    self._asked.append(drafter)
                    unseen = pause_s < ASIDE_S  # one more may have come just behind
                    await self._try(giver, drafter, 1 + (given + unseen) * ASIDE_S / pause_s, pause_s)

    async def _others(self, giver: Asking) -> list[bytes]:
        """Who may be better, each in turn; then all of them again: a stage may have been gone when they had theirs."""
        others = await self._drafters.others(self._pending, self._asked)
        if not others:
            self._asked = [giver.drafter]
            others = await self._drafters.others(self._pending, self._asked)
        return others

    def _first_pause_s(self, giver: Asking) -> float:
        """Sooner in a fast swarm, beside a stranger; but who gave his first token late may be at work with many others,
        and who is as slow as is usual need not have given one yet."""
        model_id = self._pending.model.model_id
        if self._drafters.is_trusted(model_id, giver.drafter):
            return ASIDE_S
        first_s = (giver.inbox.pace.first_s or giver.since_s) - giver.since_s
        token_s = 1 / self._drafters.paces.least(model_id, giver.drafter)
        late_s = self._drafters.late_s(self._pending, BLOCK_POSITIONS)
        return min(ASIDE_S, max(LEAST_PAUSE_S, first_s, token_s, late_s))

    async def _try(self, giver: Asking, drafter: bytes, lead: float, pause_s: float) -> None:
        """`lead`: so many tokens ahead, of what the user has, is faster: of two that are alike one may be ahead by what
        a single pass gives. For its first token it has as long as was paused, at least (up to MIN_SHARE_S): it may have
        to find out which stages are of no use."""
        log.info("slow drafter", peer=short_id(giver.drafter), asked_beside=short_id(drafter))
        way: Way | None = Way.ASKED
        while way is not None:
            try:
                rival = giver.rival = self._askings.ask(self._pending, drafter, way, beside=True)
            except BadInput as refused:  # what is there already is too long to be asked for again
                log.debug("nobody is asked beside", reason=str(refused))
                return
            await self._settle(rival, lead, pause_s)
            if rival.has_begun:
                giver.inbox.put(giver.drafter, replies.Cancel(giver.request))  # it may be waited for
                return
            error = rival.error if rival.started.done() else None
            way = self._pending.way_after(way) if isinstance(error, OtherPrompt) else None
            self._askings.leave(rival)
            giver.rival = None
        self._lost(giver, rival, error)

    async def _settle(self, rival: Asking, lead: float, pause_s: float) -> None:
        """Until it is ahead, has failed, or has had its time."""
        heard, pace = rival.inbox.heard, rival.inbox.pace
        rival.started.add_done_callback(lambda _: heard.set())
        while not rival.started.done() and asyncio.get_running_loop().time() < _end_s(rival, pause_s):
            ahead = len(rival.part.body.tokens) + pace.num_tokens - len(self._pending.tokens)
            if ahead >= lead or rival.inbox.has_end:
                rival.ahead.set()
            heard.clear()
            await wait_until(heard, _end_s(rival, pause_s))

    def _lost(self, giver: Asking, rival: Asking, error: DsdError | None) -> None:
        now = asyncio.get_running_loop().time()
        given, own = (one.inbox.pace.tokens_per_s(now) or 0.0 for one in (giver, rival))
        if own > 0 and own * SLOWER >= given:  # then it is usual here; who stalls himself says nothing of others
            self._drafters.paces.note(self._pending.model.model_id, rival.drafter, own)
        elif not isinstance(error, Overloaded | Contradiction):
            self._drafters.left(rival.drafter)
        if isinstance(error, Contradiction):
            self._drafters.contradicted({*self._failures.givers, giver.drafter}, rival.drafter)
        self._killed |= isinstance(error, Died)


def _end_s(rival: Asking, pause_s: float) -> float:
    """When it has had its time: for the prompt, and, once it gives tokens, for what the other one gave meanwhile."""
    first_s = rival.inbox.pace.first_s
    most_s = max(rival.aside_s(2), rival.since_s + min(pause_s, MIN_SHARE_S))
    if first_s is None:
        return most_s
    return min(max(most_s, first_s + LEAST_PAUSE_S), first_s + 2 * ASIDE_S + (first_s - rival.since_s) / 2)
