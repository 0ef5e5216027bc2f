"""What one drafter gives of a reply, of several that may be asked beside one another: how it is asked, and what is new
in what it says. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from dsdnode.client.calls import CallPart
from dsdnode.client.losses import Contradiction, Left, OtherPrompt, said
from dsdnode.errors import PeerMisbehaved
from dsdnode.net.port import CALLS, MASKS, SHAPING, TOOLS
from dsdnode.wire import messages as wire
from dsdnode.wire import replies
from dsdnode.wire.calls import CallFormat
from dsdnode.wire.codec import buffer_at, decode_body, printable
from dsdnode.wire.logprobs import PieceLogprobs, SaidPosition
from dsdnode.wire.numbers import unpack_tokens
from dsdnode.wire.replies import StageInfo

MAX_VOCAB = 1 << 24
MAX_TOKEN_BYTES = 4096
"""Of text, on the average of a reply's tokens and one more for what was held back. The longest of any vocabulary that
we know have some hundreds; a stop text, of which all but the end may be held back, has 1,024 at most."""


class Way(Enum):
    """How a drafter is asked to go on with a reply."""

    ASKED = auto()
    """By what the user asked, behind the tokens so far: another drafter's word for the prompt does not count."""
    OVER = auto()
    """By what the user asked alone: it does the reply over again, and goes on if it comes to the same tokens."""
    NAMED = auto()
    """By the prompt's ids, as they were named by the drafter that began."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The first `num_accepted` of `tokens` were drafted; `text` is what can be shown now (whole characters).

    `threshold` 0: they are exactly the model's own; else some may have been accepted by a laxer rule.
    """

    tokens: tuple[int, ...]
    text: str
    num_accepted: int
    threshold: float = 0.0
    drafter: bytes = b""
    """Whose it is, and by which stages it came, as that one says; (): it has not said so."""
    route: tuple[StageInfo, ...] = ()
    logprobs: tuple[SaidPosition, ...] = ()
    """Of each of `tokens`, where they were asked for."""
    calls: tuple[CallPart, ...] = ()
    """What came of calls of tools."""
    model: str = field(default="", compare=False)
    """Its name."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A drafter takes the reply: the prompt as it reads it, the rule by which it accepts."""

    prompt_tokens: tuple[int, ...]
    acceptance: wire.WireAcceptance
    num_positions: int
    """Of the prompt, as is usual of what was asked, and of what it does over again: for these it may take time."""
    calls: CallFormat | None = None
    """Where tools were told of."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of what a drafter gives; its figures."""

    reason: str
    told: replies.Statistics


@dataclass(slots=True)
class Part:
    """`tokens` and `text`: of the reply, when the drafter was asked. What it says is for this part alone until `taken`
    by the reply (PendingReply.event)."""

    request: bytes
    body: replies.GenerateBody
    way: Way
    tokens: tuple[int, ...]
    text: str
    num_bytes: int
    """Of text that came, or that `tokens` came with."""
    taken: Taken | None = None
    drafter: bytes = b""
    route: tuple[StageInfo, ...] = ()
    vocab_size: int = MAX_VOCAB
    """Nobody could go on with a token beyond it."""
    rest: Piece | None = None
    """Without tokens, its last: text that was held back until the end."""
    _num_here: int = field(init=False)
    """Of the reply's tokens with what this drafter gave."""
    _again: str = ""
    """Of the text, as it came over again."""
    _had_rest: bool = False
    """The drafter has sent a piece without tokens, its last."""

    def __post_init__(self) -> None:
        self._num_here = len(self.body.tokens)
        if self.way is Way.OVER:
            self.num_bytes = 0
        else:
            self._again = self.text

    @property
    def needs(self) -> list[str]:
        """Capabilities that a drafter must have to do it."""
        body = self.body
        calls = body.constraint is not None and body.constraint.kind == "calls"
        asked = {
            SHAPING: body.is_shaped,
            MASKS: body.constraint is not None,
            CALLS: calls,
            TOOLS: body.needs_tools,
        }
        return [capability for capability, is_needed in asked.items() if is_needed]

    @property
    def num_again(self) -> int:
        """Tokens that it does over again."""
        return len(self.tokens) - len(self.body.tokens)

    def grow(self, tokens: tuple[int, ...], text: str) -> None:
        """So much of the reply is there now; another one gave it meanwhile."""
        self.tokens, self.text = tokens, text

    def by(self, routed: replies.Routed) -> None:
        """What comes from now on comes by these stages."""
        self.route = tuple(StageInfo(peer, (start, end)) for peer, start, end in routed.stages)

    def read(self, notice: wire.Message, buffers: Sequence[bytes]) -> Piece | Ended:
        """What is new in it. Raises PeerMisbehaved when something before it was lost, OtherPrompt or Contradiction when
        it is not the reply that was begun, or the error that ended it."""
        if isinstance(notice, replies.Piece):
            return self._piece(notice, buffers)
        assert isinstance(notice, replies.Finished)
        if notice.error:
            raise said(notice)
        told = decode_body(buffer_at(buffers, 0), replies.Statistics)
        if told.completion_tokens != self._num_here - len(self.body.tokens):
            raise PeerMisbehaved("the end of the drafter's stream is lost")
        if self._num_here < len(self.tokens):
            raise OtherPrompt("asked the same, the drafter ends where the one before it went on")
        return Ended(printable(notice.reason), told)

    def _piece(self, piece: replies.Piece, buffers: Sequence[bytes]) -> Piece:
        if piece.index != self._num_here:
            raise PeerMisbehaved(f"the drafter's stream has a gap at token {self._num_here}")
        given, text = ids_of(buffers, self.vocab_size), buffer_at(buffers, 1)
        num_tokens, num_bytes = self._num_here + len(given), self.num_bytes + len(text)
        if self._had_rest or num_tokens > self.body.max_tokens:
            raise Left("the drafter goes on after the end of the reply")
        if num_bytes > MAX_TOKEN_BYTES * (num_tokens + 1):
            raise Left("the drafter sends more text than so many tokens have")
        known = self.tokens[self._num_here : num_tokens]
        if given[: len(known)] != known:
            raise OtherPrompt("asked the same, the drafter comes to other tokens than the one before it")
        news = self._news(text.decode("utf-8", "replace"))
        self._had_rest, self.num_bytes, self._num_here = not given, num_bytes, num_tokens
        threshold = self.taken.acceptance.threshold if self.taken else 0.0
        num_accepted, rest = max(0, piece.accepted - len(known)), given[len(known) :]
        logprobs = self._logprobs(given, buffers)[len(known) :]
        told = Piece(rest, news, num_accepted, threshold, self.drafter, self.route, logprobs)
        self.rest = None if given else told
        return told

    def _logprobs(self, given: tuple[int, ...], buffers: Sequence[bytes]) -> tuple[SaidPosition, ...]:
        num = self.body.num_logprobs
        if num < 0 or not given:
            return ()
        told = decode_body(buffer_at(buffers, 2), PieceLogprobs).positions
        if tuple(one.said.token for one in told) != given or any(len(one.top) > num for one in told):
            raise PeerMisbehaved("the drafter has log-probabilities of other tokens than its own")
        return told

    def _news(self, text: str) -> str:
        """What of it was not shown yet."""
        if len(self._again) == len(self.text):
            return text
        again = self._again + text
        most = min(len(again), len(self.text))
        if again[:most] != self.text[:most]:
            raise Contradiction("the drafter has another text for the same tokens than the one before it")
        self._again = again[:most]
        return again[most:]


def calls_of(buffers: Sequence[bytes]) -> CallFormat:
    """How calls are written. Raises PeerMisbehaved."""
    return decode_body(buffer_at(buffers, 1), CallFormat)


def ids_of(buffers: Sequence[bytes], vocab_size: int = MAX_VOCAB) -> tuple[int, ...]:
    """Raises PeerMisbehaved."""
    ids = buffer_at(buffers, 0)
    return unpack_tokens(ids, len(ids) // 4, vocab_size)
