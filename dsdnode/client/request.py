"""What a client asks for and has got so far: everything that another drafter would need to go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random, SystemRandom
from typing import Any

import msgspec
from msgspec import structs

from dsdnode.client.calls import CallPart, CallReader
from dsdnode.client.losses import Died, Left, OtherPrompt, said
from dsdnode.client.offering import tools_json
from dsdnode.client.part import Ended, Part, Piece, Taken, Way, calls_of, ids_of
from dsdnode.client.patience import Patience
from dsdnode.client.shaping import check_logprobs, shaping_of
from dsdnode.config import DEFAULT_PATIENCE_S
from dsdnode.errors import BadInput, DsdError, NoPipeline, Overloaded, PeerMisbehaved, PeerUnavailable
from dsdnode.identity import short_id
from dsdnode.pacing.policies import parse_window
from dsdnode.swarm.catalogue import Model
from dsdnode.wire import messages as wire
from dsdnode.wire import replies
from dsdnode.wire.codec import decode_body, encode_body
from dsdnode.wire.numbers import parse_wire
from dsdnode.wire.replies import Constraint
from dsdnode.wire.shaping import WireShaping

NEW_SEED_BELOW = 1 << 32
"""Seeds that we draw for who names none stay short enough to be typed again."""
MORE = ("tool_calls", "tool_call_id", "name")
"""What templates may use of a message, beside its role and content."""
WORDS_EVERY_S = 0.5
"""What a reply waits for is told no more often. An honest drafter says it once a second at most; others could fill the
user's screen."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One of `messages` (role, content), `prompt` (raw) and `prompt_tokens`.

    `draft_max`, `threshold` None, `window`, `wire` empty: the drafter's own (names: config.py). `threshold` 0 is exact
    acceptance, above it relaxed, with `deferred` also where the next tokens match (speculation/acceptance.py).
    """

    messages: Sequence[dict[str, Any]] = ()
    """Of OpenAI's shape: role, content; tool_calls, tool_call_id, name where there are such."""
    tools: Sequence[dict[str, Any]] = ()
    """{"type": "function", "function": {"name", "description", "parameters"}}, which the model may call."""
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
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    repeat_last_n: int = -1
    """So many tokens before a position repetition looks at, the prompt's among them; -1: all; 0: none."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """By token id, what is added to its logit."""
    logprobs: int = -1
    """Also tell each token's log-probability, and those of so many of the most likely ones. -1: do not."""
    constraint: Constraint | None = None
    """What the text must be (constraints.py)."""
    ignore_eos: bool = False
    """End tokens do not end the reply."""
    keep: bool = False
    """The conversation may go on: its caches are kept for a while, and the next turn costs what is new in it."""


class ReplyStats(replies.Statistics, frozen=True, kw_only=True):
    """The drafter's figures, checked; and how the reply was accepted: exact, relaxed or deferred, by which threshold.

    Of a reply of several drafters, tokens and times are of the whole, the rest is the last drafter's.
    """

    acceptance: str = "exact"
    threshold: float = 0.0
    waited_s: float | None = None
    """From when it was asked for to the first token, by the user's own clock: a drafter's begins with the pipeline."""
    was_full: bool = False
    """A drafter had no place for it, before the first token."""


@dataclass(frozen=True, slots=True)
class Finished:
    """`reason`: stop, length, context, cancelled."""

    reason: str
    stats: ReplyStats


@dataclass(slots=True)
class PendingReply:
    """A reply in progress. `begin` a part with each drafter that is asked, `take` that of the one that gives the next
    token."""

    request: GenerateRequest
    model: Model
    rng: Random = field(default_factory=SystemRandom)
    patience: Patience = field(default_factory=lambda: Patience(_now(), DEFAULT_PATIENCE_S))
    told: Callable[[str], None] | None = None
    """Hears what the reply waits for."""
    asked_s: float = field(default_factory=lambda: _now())
    was_full: bool = False
    others: list[bytes] = field(default_factory=list)
    """Drafters to ask beside the one that is asked, in this order."""
    num_left_out: int = 0
    """Of those there are, by the user's word (--allow, --block)."""
    num_better: int = 0
    """Of them, and of those that were asked later than the one that goes on, whoever may be better."""
    prompt_tokens: tuple[int, ...] = ()
    """As the drafter named them to whose tokens the reply belongs."""
    acceptance: wire.WireAcceptance | None = None
    """What is asked for; once a drafter has accepted, its rule: a reply has one."""
    tokens: list[int] = field(default_factory=list)
    num_resumed: int = 0
    rest: Piece | None = None
    """Text that was held back until the end of what a drafter gave last."""
    died: set[bytes] = field(default_factory=set)
    """Drafters that said, without a token in between, that their engines died of it or could not do it."""
    _num_before: int = 0
    _arrivals_s: list[tuple[float, int]] = field(default_factory=list)
    """When the first tokens came and when the last, with how many there were then."""

    _reader: CallReader | None = None
    """Where the model may call tools."""
    _waits_for: str = ""
    _told: str = ""
    _told_s: float = float("-inf")
    _texts: list[str] = field(default_factory=list)
    """Of the tokens, as far as it came."""
    _text_bytes: int = 0

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
        if speaks and self.patience.leaves(now):
            raise Left(still)

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def num_pieces(self) -> int:
        return len(self._texts)

    def begin(self, way: Way = Way.ASKED, *, beside: bool = False) -> tuple[Part, bytes]:
        """With a new request id, so that nothing that an earlier drafter still says is heard; the body to send.
        `beside`: whoever gives the reply goes on meanwhile.

        Raises BadInput for what no drafter would accept.
        """
        if not beside:
            self._num_before = len(self.tokens)
        if self.request.window:
            parse_window(self.request.window)
        if self.request.wire:
            parse_wire(self.request.wire)
        asked = self.request.prompt_tokens or (0,)
        if not 0 <= min(asked) <= max(asked) < self.model.vocab_size:
            raise BadInput(f"{self.model.name} has token ids below {self.model.vocab_size}")
        try:
            data = encode_body(self._body(way))
            body = decode_body(data, replies.GenerateBody)
        except UnicodeEncodeError as error:
            raise BadInput(f"this cannot be asked, as it is not Unicode text: {error}") from None
        except ValueError as error:
            raise BadInput(f"the prompt is too long: {error}") from None
        except (PeerMisbehaved, OverflowError) as error:
            raise BadInput(f"this cannot be asked: {error}") from None
        if max(body.prompt_tokens, default=0) >= self.model.vocab_size:
            raise BadInput(f"{self.model.name} has token ids below {self.model.vocab_size}")
        here = tuple(self.tokens), self.text, self._text_bytes
        return Part(self.rng.randbytes(16), body, way, *here, vocab_size=self.model.vocab_size), data

    def way_after(self, way: Way) -> Way | None:
        """How to ask a drafter that takes another prompt for the one that was asked for.

        What ids a text has is decided by the tokenizer, which all of them share; what ids a conversation has also by a
        template, of which honest drafters may have two.
        """
        if way is Way.ASKED and not self.request.prompt_tokens:
            return Way.OVER
        return Way.NAMED if way is Way.OVER and self.request.messages else None

    def _body(self, way: Way) -> replies.GenerateBody:
        asked, named = self.request, way is Way.NAMED
        return replies.GenerateBody(
            messages=() if named else tuple(map(_message, asked.messages)),
            text="" if named else asked.prompt or "",
            prompt_tokens=self.prompt_tokens if named else tuple(asked.prompt_tokens or ()),
            tokens=() if way is Way.OVER else tuple(self.tokens),
            model=self.model.model_id,
            sampling=_sampling(asked),
            max_tokens=asked.max_tokens,
            stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop),
            draft_max=-1 if asked.draft_max is None else asked.draft_max,
            window=asked.window,
            wire=asked.wire,
            acceptance=self.acceptance,
            keep=asked.keep,
            ignore_eos=asked.ignore_eos,
            patience_s=min(self.patience.patience_s, replies.MAX_PATIENCE_S),
            shaping=_shaping(asked),
            num_logprobs=check_logprobs(asked.logprobs),
            tools=tools_json(asked.tools),
            constraint=asked.constraint,
        )

    @property
    def num_given(self) -> int:
        """Tokens, by the drafter that was asked last."""
        return len(self.tokens) - self._num_before

    def killed(self, drafter: bytes, error: DsdError) -> bool:
        """Did a drafter's engine die of it, or could it not do it? Raises NoPipeline when that is enough.

        What one of them says twice is still one's word.
        """
        if not isinstance(error, Died):
            return False
        if self.num_given:
            self.died.clear()
        self.died.add(drafter)
        if len(self.died) >= wire.MAX_KILLED:
            raise NoPipeline(
                f"{len(self.died)} drafters' engines died of this request or could not do it, the last one said: "
                f"{error}; it is not carried on to another"
            )
        return True

    def checked(self, part: Part, answer: wire.Message, buffers: Sequence[bytes]) -> Taken:
        """A drafter's answer. Raises what it says instead, PeerMisbehaved, or OtherPrompt."""
        if isinstance(answer, wire.Refused):
            raise Overloaded(answer.reason) if answer.retry else PeerUnavailable(answer.reason)
        if isinstance(answer, replies.Finished):
            raise said(answer)
        if not isinstance(answer, replies.Accepted):
            raise PeerMisbehaved(f"{type(answer).__name__} is no answer to Generate")
        if self.acceptance not in (None, answer.acceptance):
            raise PeerMisbehaved("the drafter accepts by another rule than was asked for")
        prompt, named = ids_of(buffers, part.vocab_size), part.body.prompt_tokens
        if named and prompt != named:
            raise PeerMisbehaved("the drafter answers another prompt than was asked")
        goes_on = part.tokens and not named
        if goes_on and part.way is Way.ASKED and prompt != self.prompt_tokens:
            raise OtherPrompt("the drafter takes what was asked for another prompt than the one before it")
        calls = calls_of(buffers) if part.body.tools else None
        most, usual = self._most_positions, self.usual_positions
        self.patience.accepted(min(len(prompt), most) + part.num_again)
        return Taken(prompt, answer.acceptance, min(len(prompt), usual) + part.num_again, calls)

    def take(self, taken: Taken) -> None:
        """Whoever goes on goes on from this; its drafter gives the next token."""
        self.acceptance, self.rest = taken.acceptance, None
        if self._reader is None and taken.calls is not None:
            self._reader = CallReader(taken.calls, self.request.tools)
        self._num_before = len(self.tokens)
        if self.request.prompt_tokens or not self.tokens:
            self.prompt_tokens = taken.prompt_tokens
        self.patience.won(_now(), self.num_better)

    @property
    def _most_positions(self) -> int:
        """Of the prompt, whatever a drafter says: a token a byte, and a template's own."""
        return 1024 + self._num_bytes + len(self.request.prompt_tokens or ())

    @property
    def usual_positions(self) -> int:
        return 64 + self._num_bytes // 2 + len(self.request.prompt_tokens or ())

    @property
    def _num_bytes(self) -> int:
        asked = self.request
        texts = [text for one in map(_message, asked.messages) for text in (one.content, one.more)]
        texts += [asked.prompt or "", tools_json(asked.tools)]
        return sum(len(text.encode()) for text in texts)

    def event(self, part: Part, news: Piece | Ended) -> Piece | Finished:
        """Of the part that was taken."""
        if isinstance(news, Piece):
            self._add(part, news)
            return replace(news, model=self.model.name)
        rule = self.acceptance or wire.WireAcceptance()
        name = "exact" if not rule.threshold else "deferred" if rule.deferred else "relaxed"
        figures = structs.asdict(self._whole(news.told) if self.num_resumed else news.told)
        waited_s = round(self._arrivals_s[0][0] - self.asked_s, 3) if self._arrivals_s else None
        stats = ReplyStats(
            **figures, acceptance=name, threshold=rule.threshold, waited_s=waited_s, was_full=self.was_full
        )
        return Finished(news.reason, stats)

    def read(self, event: Piece | Finished) -> list[Piece | Finished]:
        """Calls of tools, told apart from the text."""
        if self._reader is None:
            return [event]
        if isinstance(event, Finished):
            return [*_pieces(self._reader.finish(), Piece((), "", 0)), event]
        return _pieces(self._reader.feed(event.text), replace(event, text="")) or [replace(event, text="")]

    def _add(self, part: Part, piece: Piece) -> None:
        self.tokens.extend(piece.tokens)
        self._texts.append(piece.text)
        self._text_bytes = part.num_bytes
        if piece.tokens:
            if part.way is Way.OVER and part.taken is not None:
                self.prompt_tokens = part.taken.prompt_tokens
            self.patience.stepped(_now())
            self._waits_for = self._told = ""
            arrival = (_now(), len(self.tokens))
            self._arrivals_s = [*self._arrivals_s[:1], arrival]

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
            time_to_first_token_s=first_s - self.asked_s,
            tokens_per_second=(num_last - num_first) / took_s if took_s > 0 else None,
        )


def _pieces(read: Sequence[str | CallPart], first: Piece) -> list[Piece | Finished]:
    """`first` has the tokens."""
    pieces: list[Piece | Finished] = []
    for one in read:
        piece = replace(first, tokens=(), num_accepted=0, logprobs=()) if pieces else first
        pieces.append(replace(piece, text=one) if isinstance(one, str) else replace(piece, calls=(one,)))
    return pieces


def _message(said: Mapping[str, Any]) -> replies.ChatMessage:
    more = {key: said[key] for key in MORE if said.get(key)}
    return replies.ChatMessage(said["role"], said.get("content") or "", _json(more) if more else "")


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _sampling(asked: GenerateRequest) -> wire.WireSampling:
    """A temperature too small to make a difference is 0: programs write 1e-5 where 0 used to be refused."""
    temperature = 0.0 if 0 < asked.temperature < wire.MIN_TEMPERATURE else asked.temperature
    return wire.WireSampling(temperature, asked.top_k, asked.top_p, asked.min_p, asked.seed)


def _shaping(asked: GenerateRequest) -> WireShaping:
    penalties = asked.presence_penalty, asked.frequency_penalty, asked.repetition_penalty
    return shaping_of(*penalties, asked.repeat_last_n, asked.logit_bias)


def _now() -> float:
    return asyncio.get_running_loop().time()
