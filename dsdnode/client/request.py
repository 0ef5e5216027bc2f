"""What a client asks for and has got so far: everything that another drafter would need to go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random, SystemRandom

from msgspec import structs

from dsdnode.client.patience import Patience
from dsdnode.config import DEFAULT_PATIENCE_S
from dsdnode.errors import (
    BadInput,
    DsdError,
    ModelRefused,
    NoPipeline,
    Overloaded,
    PeerMisbehaved,
    PeerUnavailable,
    WorkerDied,
    WorkFailed,
)
from dsdnode.identity import short_id
from dsdnode.pacing.policies import parse_window
from dsdnode.swarm.catalogue import Model
from dsdnode.wire import messages as wire
from dsdnode.wire import replies
from dsdnode.wire.codec import buffer_at, decode_body, encode_body, printable
from dsdnode.wire.tensors import parse_wire, unpack_tokens

MAX_VOCAB = 1 << 24
WORDS_EVERY_S = 2.0
"""A drafter's new words come no faster to the terminal."""
_KINDS: tuple[type[DsdError], ...] = (
    *(BadInput, ModelRefused, NoPipeline, Overloaded, PeerUnavailable),
    *(WorkerDied, WorkFailed),
)
LOSSES = (Overloaded, PeerUnavailable, PeerMisbehaved, WorkerDied, WorkFailed)
"""Another drafter may do better."""
ERRORS = {kind.__name__: kind for kind in _KINDS} | {"EngineLost": PeerUnavailable}


MAX_TOKEN_BYTES = 4096
"""Of text, on the average of a reply's tokens and one more for what was held back. The longest of any vocabulary that
we know have some hundreds; a stop text, of which all but the end may be held back, has 1,024 at most."""
WORDS_EVERY_S = 0.5
"""What a reply waits for is told no more often. An honest drafter says it once a second at most; others could fill the
user's screen."""


class Left(PeerUnavailable):
    """A drafter gives a reply too little, or nothing: others may be better."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One of `messages` (role, content), `prompt` (raw) and `prompt_tokens`.

    `draft_max`, `threshold` None, `window`, `wire` empty: the drafter's own (names: config.py). `threshold` 0 is exact
    acceptance, above it relaxed, with `deferred` also where the next tokens match (speculation/acceptance.py).
    """

    messages: Sequence[dict[str, str]] = ()
    prompt: str | None = None
    prompt_tokens: Sequence[int] | None = None
    model: str | None = None
    max_tokens: int = 512
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop: Sequence[str] = ()
    draft_max: int | None = None
    window: str = ""
    wire: str = ""
    threshold: float | None = None
    deferred: bool = False
    ignore_eos: bool = False
    """End tokens do not end the reply."""
    keep: bool = False
    """The conversation may go on: its caches are kept for a while, and the next turn costs what is new in it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The first `num_accepted` of `tokens` were drafted; `text` is what can be shown now (whole characters).

    `threshold` 0: they are exactly the model's own; else some may have been accepted by a laxer rule.
    """

    tokens: tuple[int, ...]
    text: str
    num_accepted: int
    threshold: float = 0.0


class ReplyStats(replies.Statistics, frozen=True, kw_only=True):
    """The drafter's figures, checked; and how the reply was accepted: exact, relaxed or deferred, by which threshold.

    Of a reply of several drafters, tokens and times are of the whole, the rest is the last drafter's.
    """

    acceptance: str = "exact"
    threshold: float = 0.0


@dataclass(frozen=True, slots=True)
class Finished:
    """`reason`: stop, length, context, cancelled."""

    reason: str
    stats: ReplyStats


@dataclass(frozen=True, slots=True)
class Taken:
    """A drafter takes the reply: the prompt as it reads it, the rule by which it accepts."""

    prompt_tokens: tuple[int, ...]
    acceptance: wire.WireAcceptance
    num_positions: int
    """Of the prompt, for which it may take time."""


@dataclass(slots=True)
class PendingReply:
    """A reply in progress. `begin` for each drafter that is asked, `take` for the one that gives the next token."""

    request: GenerateRequest
    model: Model
    rng: Random = field(default_factory=SystemRandom)
    patience: Patience = field(default_factory=lambda: Patience(_now(), DEFAULT_PATIENCE_S))
    told: Callable[[str], None] | None = None
    """Hears what the reply waits for."""
    others: list[bytes] = field(default_factory=list)
    """Drafters that were not tried yet, in the order in which to try them."""
    prompt_tokens: tuple[int, ...] = ()
    acceptance: wire.WireAcceptance | None = None
    """What is asked for; once a drafter has accepted, its rule: a reply has one."""
    tokens: list[int] = field(default_factory=list)
    num_resumed: int = 0
    num_killed: int = 0
    """Engines of drafters that died of it, or could not do it, without a token in between."""
    _num_before: int = 0
    _started_s: float = field(default_factory=lambda: _now())
    _arrivals_s: list[tuple[float, int]] = field(default_factory=list)
    """When the first tokens came and when the last, with how many there were then."""

    _waits_for: str = ""
    _told: str = ""
    _told_s: float = float("-inf")
    _text_bytes: int = 0
    _had_rest: bool = False
    """The drafter has sent a piece without tokens, its last."""

    def __post_init__(self) -> None:
        if self.request.threshold is not None:
            self.acceptance = wire.WireAcceptance(self.request.threshold, self.request.deferred)

    def hear(self, words: str) -> None:
        """What the drafter says that it is waiting for."""
        self._waits_for = words
        if self.told is not None and words and words != self._told and _now() >= self._told_s + WORDS_EVERY_S:
            self.told(words)
            self._told, self._told_s = words, _now()

    def check(self, drafter: bytes, speaks: bool = True) -> None:
        """Nothing has come for a while. Raises Left when it is another drafter's turn, NoPipeline at the end.

        `speaks`: it is the one of which the user hears.
        """
        now = _now()
        if speaks and not self._waits_for and self.patience.is_still(now):
            self.hear(f"waiting for the drafter {short_id(drafter)}, which says nothing")
            self._waits_for = ""
        why = self._waits_for or f"the drafter {short_id(drafter)} says nothing"
        still = f"{why}; nothing came for {self.patience.still_s(now):.0f} s"
        if self.patience.is_over(now):
            raise NoPipeline(still)
        if self.patience.leaves(now):
            raise Left(still)

    def begin(self) -> tuple[bytes, bytes]:
        """A new request id, so that nothing that an earlier drafter still says is heard; the body to send with it.

        Raises BadInput for what no drafter would accept.
        """
        self._num_before, self._had_rest = len(self.tokens), False
        if self.request.window:
            parse_window(self.request.window)
        if self.request.wire:
            parse_wire(self.request.wire)
        try:
            data = encode_body(self._body())
            body = decode_body(data, replies.GenerateBody)
        except UnicodeEncodeError as error:
            raise BadInput(f"this cannot be asked, as it is not Unicode text: {error}") from None
        except ValueError as error:
            raise BadInput(f"the prompt is too long: {error}") from None
        except PeerMisbehaved as error:
            raise BadInput(f"this cannot be asked: {error}") from None
        if max(body.prompt_tokens, default=0) >= self.model.vocab_size:
            raise BadInput(f"{self.model.name} has token ids below {self.model.vocab_size}")
        return self.rng.randbytes(16), data

    def _body(self) -> replies.GenerateBody:
        asked, fresh = self.request, not self.tokens  # before the first token nobody's word for the prompt counts
        return replies.GenerateBody(
            messages=tuple(replies.ChatMessage(m["role"], m["content"]) for m in asked.messages) if fresh else (),
            text=asked.prompt or "" if fresh else "",
            prompt_tokens=tuple(asked.prompt_tokens or ()) if fresh else self.prompt_tokens,
            tokens=tuple(self.tokens),
            model=self.model.model_id,
            sampling=_sampling(asked),
            max_tokens=asked.max_tokens,
            stop=tuple(asked.stop),
            draft_max=-1 if asked.draft_max is None else asked.draft_max,
            window=asked.window,
            wire=asked.wire,
            acceptance=self.acceptance,
            keep=asked.keep,
            ignore_eos=asked.ignore_eos,
            patience_s=min(self.patience.patience_s, replies.MAX_PATIENCE_S),
        )

    @property
    def progressed(self) -> bool:
        """Did the drafter that was asked last give anything?"""
        return len(self.tokens) > self._num_before

    def killed(self, error: DsdError) -> bool:
        """Did a drafter's engine die of it, or could it not do it? Raises NoPipeline when that is enough."""
        if not isinstance(error, WorkerDied | WorkFailed):
            return False
        self.num_killed = 1 if self.progressed else self.num_killed + 1
        if self.num_killed >= wire.MAX_KILLED:
            raise NoPipeline(
                f"{self.num_killed} drafters' engines died of this request or could not do it, the last one said: "
                f"{error}; it is not carried on to another"
            )
        return True

    def checked(self, answer: wire.Message, buffers: Sequence[bytes]) -> Taken:
        """A drafter's answer. Raises what it says instead, or PeerMisbehaved."""
        if isinstance(answer, wire.Refused):
            raise Overloaded(answer.reason) if answer.retry else PeerUnavailable(answer.reason)
        if isinstance(answer, replies.Finished):
            raise _error(answer)
        if not isinstance(answer, replies.Accepted):
            raise PeerMisbehaved(f"{type(answer).__name__} is no answer to Generate")
        if self.acceptance not in (None, answer.acceptance):
            raise PeerMisbehaved("the drafter accepts by another rule than was asked for")
        prompt, named = _ids(buffers), self._body().prompt_tokens
        if named and prompt != named:  # whoever goes on would go on from these
            raise PeerMisbehaved("the drafter answers another prompt than was asked")
        num_positions = min(len(prompt), self._most_positions)
        self.patience.accepted(num_positions)
        return Taken(prompt, answer.acceptance, num_positions)

    def take(self, taken: Taken) -> None:
        """Whoever goes on goes on from this; its drafter gives the next token."""
        self.prompt_tokens, self.acceptance = taken.prompt_tokens, taken.acceptance
        self.patience.won(_now(), len(self.others))

    @property
    def _most_positions(self) -> int:
        """Of the prompt, whatever a drafter says: a token a byte, and a template's own."""
        asked = self.request
        texts = [*(message["content"] for message in asked.messages), asked.prompt or ""]
        return 1024 + sum(len(text.encode()) for text in texts) + len(asked.prompt_tokens or ())

    def event(self, notice: wire.Message, buffers: Sequence[bytes]) -> Piece | Finished:
        """Raises PeerMisbehaved when something before it was lost, or the error that ended the reply."""
        if isinstance(notice, replies.Piece):
            return self._piece(notice, buffers)
        assert isinstance(notice, replies.Finished)
        if notice.error:
            raise _error(notice)
        told = decode_body(buffer_at(buffers, 0), replies.Statistics)
        if told.completion_tokens != len(self.tokens) - self._num_before:
            raise PeerMisbehaved("the end of the drafter's stream is lost")
        rule = self.acceptance or wire.WireAcceptance()
        name = "exact" if not rule.threshold else "deferred" if rule.deferred else "relaxed"
        figures = structs.asdict(self._whole(told) if self.num_resumed else told)
        return Finished(printable(notice.reason), ReplyStats(**figures, acceptance=name, threshold=rule.threshold))

    def _piece(self, piece: replies.Piece, buffers: Sequence[bytes]) -> Piece:
        if piece.index != len(self.tokens):
            raise PeerMisbehaved(f"the drafter's stream has a gap at token {len(self.tokens)}")
        tokens, text = _ids(buffers), buffer_at(buffers, 1)
        num_tokens, num_bytes = len(self.tokens) + len(tokens), self._text_bytes + len(text)
        if self._had_rest or num_tokens > self.request.max_tokens:
            raise Left("the drafter goes on after the end of the reply")
        if num_bytes > MAX_TOKEN_BYTES * (num_tokens + 1):
            raise Left("the drafter sends more text than so many tokens have")
        self._had_rest, self._text_bytes = not tokens, num_bytes
        self.tokens.extend(tokens)
        if tokens:
            self.patience.stepped(_now(), len(tokens))
            self._waits_for = self._told = ""
            arrival = (_now(), len(self.tokens))
            self._arrivals_s = [*self._arrivals_s[:1], arrival]
        return Piece(
            tokens,
            text.decode("utf-8", "replace"),
            piece.accepted,
            self.acceptance.threshold if self.acceptance else 0.0,
        )

    def _whole(self, told: replies.Statistics) -> replies.Statistics:
        """Of a reply of several drafters: tokens and times are the client's own; the rest is the last drafter's."""
        whole = structs.replace(
            told,
            prompt_tokens=len(self.prompt_tokens),
            completion_tokens=len(self.tokens),
            recoveries=told.recoveries + self.num_resumed,
        )
        if not self._arrivals_s:
            return whole
        (first_s, num_first), (last_s, num_last) = self._arrivals_s[0], self._arrivals_s[-1]
        took_s = last_s - first_s
        return structs.replace(
            whole,
            time_to_first_token_s=first_s - self._started_s,
            tokens_per_second=(num_last - num_first) / took_s if took_s > 0 else None,
        )


def _sampling(asked: GenerateRequest) -> wire.WireSampling:
    """A temperature too small to make a difference is 0: programs write 1e-5 where 0 used to be refused."""
    temperature = 0.0 if 0 < asked.temperature < wire.MIN_TEMPERATURE else asked.temperature
    return wire.WireSampling(temperature, asked.top_k, asked.top_p, asked.min_p, asked.seed)


def _ids(buffers: Sequence[bytes]) -> tuple[int, ...]:
    ids = buffer_at(buffers, 0)
    return tuple(unpack_tokens(ids, len(ids) // 4, MAX_VOCAB).tolist())


def _error(notice: replies.Finished) -> DsdError:
    return ERRORS.get(notice.error, DsdError)(printable(notice.message))


def _now() -> float:
    return asyncio.get_running_loop().time()
