"""One drafter, asked for a reply: whether it takes it, and what it says until the end. Nobody else is heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import structlog

from dsdnode.client.losses import Denied, Left
from dsdnode.client.pace import Pace
from dsdnode.client.part import Ended, Part, Piece, Way
from dsdnode.client.patience import ASIDE_POSITION_S, ASIDE_S
from dsdnode.client.request import Finished, PendingReply
from dsdnode.errors import DsdError, ModelRefused, PeerUnavailable
from dsdnode.identity import short_id
from dsdnode.net.port import CALLS, MASKS, SHAPING, TOOLS, Priority
from dsdnode.net.rpc import Rpc
from dsdnode.swarm.pings import PING_TIMEOUT_S, Pings
from dsdnode.swarm.queries import wait_until
from dsdnode.wire import messages as wire
from dsdnode.wire import replies
from dsdnode.wire.codec import printable

log = structlog.get_logger(__name__)

ASK_TIMEOUT_S = 10.0
"""A drafter tokenizes the prompt and looks for a model in this time."""
SILENCE_S = 2.0
"""A drafter that sends nothing for so long is asked whether it knows of the reply."""
PULSE_S, PULSE_SHARE = 0.2, 0.25
"""So soon, and then so much of the time that it took so far, one is asked whether it is there that has not given its
first token: a machine that vanishes says nothing, and everybody may be on it."""
LATE, LEAST_LATE_S = 3.0, 0.1
"""Times that its last answer took: an answer that takes longer is late."""
MAX_QUEUED_NOTICES = 4096
MAX_QUEUED_BYTES = 8 * 1024 * 1024
"""Of one reply, until they are read: what a drafter likes to send while its reader pauses, or another one is ahead."""
OVER_AGAIN = "the drafter before named another prompt: this one does the reply over again"

_Notice = tuple[wire.Message, Sequence[bytes]]


@dataclass(slots=True)
class Inbox:
    """What the drafter of one reply has said. Of others nothing gets in: they could fill it, or pass for its life."""

    drafter: bytes
    since_s: float = field(default_factory=lambda: _now())
    notices: asyncio.Queue[_Notice] = field(default_factory=lambda: asyncio.Queue(MAX_QUEUED_NOTICES))
    pace: Pace = field(default_factory=Pace)
    has_end: bool = False
    """Of the reply, among what was put in."""
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    _num_bytes: int = 0

    def put(self, peer: bytes, message: wire.Message, buffers: Sequence[bytes] = ()) -> None:
        """What does not fit is lost: a gap is seen by its index."""
        if peer != self.drafter:
            return
        if isinstance(message, replies.Piece):
            self.pace.heard(_now(), sum(map(len, buffers[:1])) // 4)
        self.has_end |= isinstance(message, replies.Finished)
        self.heard.set()
        num_bytes = self._num_bytes + sum(map(len, buffers))
        if not self.notices.full() and num_bytes <= MAX_QUEUED_BYTES:
            self._num_bytes = num_bytes
            self.notices.put_nowait((message, buffers))

    async def get(self) -> _Notice:
        message, buffers = await self.notices.get()
        self._num_bytes -= sum(map(len, buffers))
        return message, buffers


@dataclass(slots=True, eq=False)
class Asking:
    """`started` ends with the first token that is new, or the reply's end; `part.taken` is known once the drafter has
    accepted."""

    drafter: bytes
    part: Part
    inbox: Inbox
    started: asyncio.Task[None] = field(init=False)
    since_s: float = field(default_factory=lambda: _now())
    early: list[Piece | Ended] = field(default_factory=list)
    """Up to the first new token."""
    speaks: bool = False
    """Of several that are asked at once one tells the user what it waits for."""
    is_over: bool = False
    ahead: asyncio.Event = field(default_factory=asyncio.Event)
    """What it says is not read before. (Of one that is asked beside another that gives the reply.)"""
    is_silent: bool = False
    """Its answer to a ping is late: it may be gone."""
    on_silent: Callable[[], None] = lambda: None
    rival: Asking | None = None
    """Whoever is asked beside it."""

    def fall_silent(self) -> None:
        self.is_silent = True
        self.on_silent()

    @property
    def has_begun(self) -> bool:
        return self.started.done() and not self.started.cancelled() and self.error is None

    @property
    def is_beaten(self) -> bool:
        """The rival gives the reply's next token."""
        return self.rival is not None and self.rival.has_begun

    @property
    def request(self) -> bytes:
        return self.part.request

    @property
    def error(self) -> DsdError | None:
        """What ended it before the first token. Raises what is a bug."""
        error = self.started.exception()
        if error is not None and not isinstance(error, DsdError):
            raise error
        return error

    def aside_s(self, times: int = 1) -> float:
        """When it is time to ask another one beside it, whatever is usual here; or after so many times as long."""
        taken = self.part.taken
        return self.since_s + times * (ASIDE_S + ASIDE_POSITION_S * (taken.num_positions if taken else 0))


KNOWN = {
    SHAPING: "penalties, logit biases and log-probabilities",
    MASKS: "schemas and grammars that a reply is to keep to",
    CALLS: "replies that must call a tool",
    TOOLS: "tools",
}


async def check_can(rpc: Rpc, pings: Pings, drafter: bytes, capability: str) -> None:
    """An older one would leave it out, without a word. Raises Denied, PeerUnavailable."""
    if not rpc.transport.can(drafter, capability):
        await pings.ping(drafter)  # what it can is known once it is linked
    if not rpc.transport.can(drafter, capability):
        lacks = f"the drafter {short_id(drafter)} knows no {KNOWN[capability]}"
        raise Denied(ModelRefused(f"{lacks}: a newer version of it does"))


class Askings:
    """Those of one client. `ask` begins one, `follow` goes on with it, and `leave` ends it, however it stands."""

    def __init__(self, rpc: Rpc, pings: Pings) -> None:
        self._rpc = rpc
        self._pings = pings
        self.inboxes: dict[bytes, Inbox] = {}
        """By request."""
        for kind in (replies.Piece, replies.Finished, replies.Waiting, replies.Routed):
            rpc.on_notice(kind, self._notice)

    def ask(self, pending: PendingReply, drafter: bytes, way: Way = Way.ASKED, *, beside: bool = False) -> Asking:
        """`beside` another one that gives the reply: it begins when it is `ahead`. Raises BadInput for what no drafter
        would accept."""
        part, body = pending.begin(way, beside=beside)
        inbox = self.inboxes[part.request] = Inbox(drafter)
        part.drafter = drafter
        asking = Asking(drafter, part, inbox)
        if not beside:
            asking.ahead.set()
        asking.started = asyncio.create_task(self._start(pending, asking, body), name="ask a drafter")
        if not beside:
            pulse = asyncio.create_task(self._feel_pulse(asking), name="ask whether a drafter is there")
            asking.started.add_done_callback(lambda _: pulse.cancel())
        return asking

    async def _feel_pulse(self, asking: Asking) -> None:
        while True:
            await asyncio.sleep(max(PULSE_S, PULSE_SHARE * (_now() - asking.since_s)))
            late_s = max(LEAST_LATE_S, LATE * (self._pings.last_rtt_s(asking.drafter) or 0.0))
            timer = asyncio.get_running_loop().call_later(late_s, asking.fall_silent)
            try:
                if await self._pings.rtt_s(asking.drafter) is None:
                    asking.fall_silent()
                else:
                    asking.is_silent = False
            finally:
                timer.cancel()

    def leave(self, asking: Asking) -> None:
        if self.inboxes.pop(asking.request, None) is None:
            return
        asking.started.cancel()
        if asking.started.done() and not asking.started.cancelled():
            asking.started.exception()  # nobody asks any more
        if not asking.is_over:
            self._cancel(asking.drafter, asking.request)

    async def _start(self, pending: PendingReply, asking: Asking, body: bytes) -> None:
        part = asking.part
        for capability in part.needs:
            await check_can(self._rpc, self._pings, asking.drafter, capability)
        answer, buffers = await self._answered(asking.drafter, replies.Generate(asking.request), body)
        part.taken = pending.checked(part, answer, buffers)
        if part.way is Way.OVER and asking.speaks:
            pending.hear(OVER_AGAIN)
        await asking.ahead.wait()
        part.grow(tuple(pending.tokens), pending.text)
        num_pieces = pending.num_pieces
        while True:
            news = await self._read(pending, asking)
            if pending.num_pieces != num_pieces:
                raise Left("the drafter is not as far as it seemed")
            if isinstance(news, Ended) or news.tokens or news.text:
                asking.early.append(news)
            if isinstance(news, Ended) or news.tokens:
                return

    async def follow(self, pending: PendingReply, asking: Asking) -> AsyncGenerator[Piece | Finished, None]:
        """After `started` has ended well; to the end, or until it is beaten."""
        assert asking.part.taken is not None
        pending.take(asking.part.taken)
        if asking.part.way is Way.OVER and not asking.speaks:
            pending.hear(OVER_AGAIN)
        asking.speaks = True
        early = iter(asking.early)
        while (news := next(early, None)) is not None or not asking.is_over:
            if news is None:
                try:
                    news = await self._read(pending, asking)
                except DsdError:
                    if not asking.is_beaten:
                        raise
                if asking.is_beaten:  # from here to the rival's first token nothing else may be added
                    return
            assert news is not None
            if isinstance(news, Ended) and pending.rest is not None:
                yield pending.event(asking.part, pending.rest)
            if isinstance(news, Piece) and news is asking.part.rest:  # whoever goes on after an error has that, too
                pending.rest = replace(news, model=pending.model.name)
            else:
                yield pending.event(asking.part, news)

    async def _read(self, pending: PendingReply, asking: Asking) -> Piece | Ended:
        """What is new in the drafter's next notice."""
        notice, payload = await self._next(pending, asking)
        asking.is_over = isinstance(notice, replies.Finished)
        return asking.part.read(notice, payload)

    async def _answered(self, drafter: bytes, message: wire.Message, body: bytes) -> tuple[wire.Message, list[bytes]]:
        """Its answer, which may take a while. Raises PeerUnavailable at once when it does not even answer a ping."""
        request = self._rpc.request(drafter, message, [body], timeout_s=ASK_TIMEOUT_S, priority=Priority.CONTROL)
        asked = asyncio.ensure_future(request)
        try:
            answer, _ = await asyncio.gather(asked, self._pings.ping(drafter))
            return answer
        finally:
            asked.cancel()

    async def _next(self, pending: PendingReply, asking: Asking) -> _Notice:
        """The drafter's next piece, or its end. Raises PeerUnavailable when it is gone, knows nothing of the reply, or
        it is another one's turn; NoPipeline when nobody was better for too long."""
        inbox = asking.inbox
        while True:
            try:
                async with asyncio.timeout(min(SILENCE_S, pending.patience.left_s(_now()))):
                    message, buffers = await inbox.get()
            except TimeoutError:
                pending.check(asking.drafter, asking.speaks)
                await self._check(asking)
                continue
            if isinstance(message, replies.Cancel):
                raise PeerUnavailable("the connection to the drafter is gone")
            if isinstance(message, replies.Waiting | replies.Routed):  # words are no progress
                pending.check(asking.drafter, asking.speaks)
                if isinstance(message, replies.Routed):
                    asking.part.by(message)
                elif asking.speaks:
                    pending.hear(printable(message.reason))
                continue
            return message, buffers

    async def _check(self, asking: Asking) -> None:
        """Raises PeerUnavailable when the drafter is gone, or knows nothing of the reply."""
        question = replies.Generate(asking.request)
        answer, _ = await self._rpc.request(asking.drafter, question, timeout_s=PING_TIMEOUT_S)
        is_there = isinstance(answer, wire.Pong) or (isinstance(answer, wire.Refused) and answer.retry)
        if not is_there and asking.inbox.notices.empty():
            raise PeerUnavailable("the drafter has dropped the reply") from None

    def _notice(self, peer: bytes, message: Any, buffers: Sequence[bytes]) -> None:
        inbox = self.inboxes.get(message.request)
        if inbox is not None:
            inbox.put(peer, message, buffers)

    def peer_lost(self, peer: bytes, reason: str, at_s: float) -> None:
        for request, inbox in self.inboxes.items():
            if inbox.since_s <= at_s:  # (who was asked since goes by another connection)
                inbox.put(peer, replies.Cancel(request))

    def _cancel(self, drafter: bytes, request: bytes) -> None:
        try:
            self._rpc.notify(drafter, replies.Cancel(request))
        except DsdError as error:
            log.debug("cancel not sent", reason=str(error))


async def first_of(running: Sequence[Asking], due_s: float) -> list[Asking]:
    """Those that have begun, who gave something before who failed; nobody, when it is time for another one."""
    changed = asyncio.Event()
    for asking in running:
        asking.started.add_done_callback(lambda _: changed.set())
        asking.on_silent = changed.set
    await (changed.wait() if due_s == inf else wait_until(changed, due_s))
    done = [asking for asking in running if asking.started.done()]
    return sorted(done, key=lambda asking: asking.error is not None)


def _now() -> float:
    return asyncio.get_running_loop().time()
