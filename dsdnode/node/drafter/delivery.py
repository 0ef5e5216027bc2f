"""One reply on its way from a drafter to a client: text, stop strings, and whether anybody still listens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import structlog
from msgspec import structs

from dsdnode.accounts import Account
from dsdnode.config import STILL_S
from dsdnode.engine.tokenizer import Detokenizer
from dsdnode.errors import DsdError, NoPipeline, Overloaded, PeerUnavailable
from dsdnode.identity import short_id
from dsdnode.net.port import ROUTE, Priority
from dsdnode.net.rpc import Rpc
from dsdnode.node.drafter.reply import Reply
from dsdnode.speculation.actions import Emit
from dsdnode.swarm.pings import Pings
from dsdnode.wire import messages as wire
from dsdnode.wire import replies
from dsdnode.wire.codec import encode_body
from dsdnode.wire.logprobs import MAX_TOKEN_BYTES, PieceLogprobs, SaidPosition, SaidToken, TokenLogprobs
from dsdnode.wire.numbers import pack_tokens

log = structlog.get_logger(__name__)

WATCH_S = 5.0
"""So often a client is asked whether it is there: a process that hangs, or a cut cable, says no goodbye."""
EXPLAIN_S = 1.0
"""So often a reply is looked at, whether it stands still: silence would be taken for a fault of ours."""
ANSWER_TIMEOUT_S = 5.0
"""Longer than a stage has: to give a reply up is worse than to route round a peer, and a client may be busy writing."""


class Delivery:
    """Made when a client asks, before anything is known of the reply: from then on it can be cancelled."""

    def __init__(self, rpc: Rpc, pings: Pings, account: Account, request: bytes) -> None:
        """`account`: the client's."""
        self.account = account
        self.num_positions = 0
        """That its line may grow to, once that is known."""
        self.since_s = asyncio.get_running_loop().time()
        self.cancelled = False
        self.gone = asyncio.Event()
        """What it held is free."""
        self.reply: Reply | None = None
        self.task: asyncio.Task[None] | None = None
        self._rpc = rpc
        self._pings = pings
        self.request = request
        self._num_told, self._stop_text = 0, ""
        self.failure: DsdError | None = None
        """The client does not take what it is sent, or others need the place; it may resume."""
        self._told_route: tuple[replies.StageInfo, ...] = ()

    @property
    def client(self) -> bytes:
        return self.account.owner

    def give_way(self) -> None:
        """To another client; this one has had its share."""
        self.failure = Overloaded("others have asked for their share of this drafter")
        self.client_lost()

    def client_lost(self) -> None:
        """Nobody comes back for another turn."""
        if self.reply is not None:
            self.reply.keep = False
        self.cancel("cancelled")

    def cancel(self, reason: str) -> None:
        self.cancelled = True
        if self.reply is not None:
            self.reply.cancel(reason)

    def start(self, reply: Reply, body: replies.GenerateBody, text: Detokenizer, over: Callable[[], None]) -> None:
        """`over` is called before the client is told the end: what it held is free then."""
        self.reply = reply
        self.task = asyncio.create_task(self._run(reply, body, text, over), name="serve a reply")

    async def _run(self, reply: Reply, body: replies.GenerateBody, text: Detokenizer, over: Callable[[], None]) -> None:
        watches = [asyncio.create_task(self._watch()), asyncio.create_task(self._explain(reply))]
        reason = ""
        error: DsdError | None = None
        try:
            reason = await self._stream(reply, body, text)
            error = self.failure
        except DsdError as failure:
            log.warning("reply failed", client=short_id(self.client), reason=str(failure))
            error = failure
        except asyncio.CancelledError:
            error = PeerUnavailable("this drafter is leaving")
            raise
        except Exception:
            log.exception("bug in a reply")
            error = DsdError("the drafter failed; its log says how")
        finally:
            for watch in watches:
                watch.cancel()
            self._end(reply, reason, error, over)

    def _end(self, reply: Reply, reason: str, error: DsdError | None, over: Callable[[], None]) -> None:
        """The client is told, whatever fails here: it would wait for ever."""
        figures = replies.Statistics(completion_tokens=0)
        try:
            over()
            figures = structs.replace(reply.statistics(), completion_tokens=self._num_told, stop_text=self._stop_text)
        except Exception:
            log.exception("bug at the end of a reply")
            error = error or DsdError("the drafter failed at the end of the reply; its log says how")
        self._tell(finished(self.request, reason, error), [encode_body(figures)])

    async def _stream(self, reply: Reply, body: replies.GenerateBody, text: Detokenizer) -> str:
        """The reply's reason to end, all of it sent. Raises DsdError."""
        stops, index = StopFilter(body.stop), len(body.tokens)
        stops.feed(text.feed(body.tokens))  # what the client has seen of it already
        over, self._stop_text = stops.stopped, stops.stop_text
        if over:
            return "stop"
        try:
            async with contextlib.aclosing(reply.run()) as emits:
                async for emit in emits:
                    self._tell_route(reply)
                    for tokens, num_accepted, logprobs in _by_origin(emit):
                        shown = stops.feed(text.feed(tokens)).encode()
                        buffers = [pack_tokens(tokens), shown, *([_said(logprobs, text)] if logprobs else [])]
                        self._tell(replies.Piece(self.request, index, num_accepted), buffers)
                        index += len(tokens)
                        self._num_told += len(tokens)
                    if stops.stopped:
                        self._stop_text = stops.stop_text
                        reply.cancel("stop")
        except DsdError as error:
            if stops.stopped:
                return "stop"  # what went wrong stands behind the end
            if isinstance(error, NoPipeline):  # else whoever goes on with it shows what was held back
                self._tell_rest(index, text, stops)
            raise
        self._tell_rest(index, text, stops)
        return reply.reason

    def _tell_route(self, reply: Reply) -> None:
        """To whoever wants to see it, when it is another one."""
        stages = reply.pipeline
        if stages != self._told_route and self._rpc.transport.can(self.client, ROUTE):
            self._told_route = stages
            told = tuple((stage.peer_id, *stage.layers) for stage in stages[: replies.MAX_ROUTED])
            self._tell(replies.Routed(self.request, told), [])

    def _tell_rest(self, index: int, text: Detokenizer, stops: StopFilter) -> None:
        rest = "" if stops.stopped else stops.feed(text.finish()) + stops.flush()
        if rest:
            self._tell(replies.Piece(self.request, index, 0), [b"", rest.encode()])

    async def _watch(self) -> None:
        while self.failure is None:
            await asyncio.sleep(WATCH_S)
            try:
                await self._pings.ping(self.client, ANSWER_TIMEOUT_S)
            except DsdError as error:
                self._lost(error)

    async def _explain(self, reply: Reply) -> None:
        """What the reply waits for, while it stands still."""
        told, told_s = "", 0.0
        while self.failure is None:
            await asyncio.sleep(EXPLAIN_S)
            if reply.still_s < STILL_S:
                told, told_s = "", 0.0
            elif reply.waits_for != told or reply.still_s >= told_s + STILL_S:
                told, told_s = reply.waits_for, reply.still_s
                self._tell(replies.Waiting(self.request, told[: wire.MAX_REASON]), [])

    def _tell(self, message: wire.Message, buffers: list[bytes]) -> None:
        try:
            self._rpc.notify(self.client, message, buffers, priority=Priority.CONTROL)
        except DsdError as error:
            self._lost(error)

    def _lost(self, error: DsdError) -> None:
        log.info("client gone", client=short_id(self.client), reason=str(error))
        self.failure = PeerUnavailable("the client did not answer, or take what it was sent")
        self.client_lost()


def finished(request: bytes, reason: str, error: Exception | None) -> replies.Finished:
    """How a reply ended: for a `reason`, or with an `error` that the client raises."""
    if error is None:
        return replies.Finished(request, reason)
    return replies.Finished(request, "", type(error).__name__, str(error)[: wire.MAX_REASON])


def _by_origin(emit: Emit) -> list[tuple[list[int], int, tuple[TokenLogprobs, ...]]]:
    """The drafted tokens and the verdict's own apart, so that a client can colour the text of each."""
    num = emit.num_accepted
    drafted, own = (emit.tokens[:num], num, emit.logprobs[:num]), (emit.tokens[num:], 0, emit.logprobs[num:])
    return [(list(tokens), num_accepted, told) for tokens, num_accepted, told in (drafted, own) if tokens]


def _said(logprobs: Sequence[TokenLogprobs], text: Detokenizer) -> bytes:
    """With the bytes of each token: a client has no tokenizer."""

    def said(token: int, logprob: float) -> SaidToken:
        return SaidToken(token, logprob, text.bytes_of(token)[:MAX_TOKEN_BYTES])

    positions = [SaidPosition(said(one.token, one.logprob), tuple(said(*pair) for pair in one.top)) for one in logprobs]
    return encode_body(PieceLogprobs(tuple(positions)))


class StopFilter:
    """Feed text as it comes; what may be shown comes out. A pure function of all text fed so far."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        self.stop_text = ""
        """The one that was seen."""

    def feed(self, text: str) -> str:
        """The text that is safe to show; after a stop string was seen, nothing more."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [(text.find(stop), stop) for stop in self._stops if stop in text]
        if found:
            at, self.stop_text = min(found)
            self.stopped, self._held = True, ""
            return text[:at]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The reply ended otherwise: what was held back belongs to it."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if stop.startswith(text[-size:])), 0)
