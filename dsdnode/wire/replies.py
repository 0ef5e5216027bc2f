"""What a client and its drafter say to each other. Tags, limits and buffers as in wire/messages.py."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dsdnode.wire.messages import (
    MAX_BLOCK_POSITIONS,
    MAX_POSITIONS,
    MAX_STAGES,
    Hex64,
    Layer,
    Message,
    Name,
    Position,
    Reason,
    SessionId,
    TokenId,
    WireAcceptance,
    WireSampling,
)
from dsdnode.wire.shaping import PLAIN, NumLogprobs, WireShaping

MAX_PLANS = 256
MAX_DEPTHS = 64
"""Of a reply's statistics: that many changes of plan, the last ones, and places behind a rejection."""

MAX_ROUTED = 55
"""Stages that fit into a header: each takes 73 bytes of it."""
MAX_PATIENCE_S = 86_400.0
"""A day."""
MAX_CONSTRAINT = 1 << 16
"""Characters of a schema, an expression or a grammar."""

Count = Annotated[int, Meta(ge=0, le=1 << 40)]
PositiveCount = Annotated[int, Meta(ge=1, le=1 << 40)]
BlockSize = Annotated[int, Meta(ge=0, le=MAX_BLOCK_POSITIONS)]
Figure = Annotated[float, Meta(ge=0, le=1e18)]
"""Any number that can be measured: not negative, infinite or nan."""


class Generate(Message, frozen=True, tag=30):
    """Client to drafter: own this reply. Buffer 0: msgpack of GenerateBody. Answered by Accepted, then by notices:
    Piece ..., Finished; or by Refused, or Finished with an error. Who resumes takes a new request id and names the
    tokens so far. Without a buffer: is this reply still in progress? Pong, or Refused.
    """

    request: SessionId


class ChatMessage(msgspec.Struct, frozen=True, array_like=True):
    """`more`: a JSON object, what else a chat template may use of it (tool_calls, tool_call_id, name); or nothing."""

    role: Annotated[str, Meta(max_length=32)]
    content: Annotated[str, Meta(max_length=1 << 20)]
    more: Annotated[str, Meta(max_length=1 << 20)] = ""


class Constraint(msgspec.Struct, frozen=True, array_like=True):
    """What the text of a reply must be: valid by a JSON schema, matched by a regular expression as a whole, or derived
    from a grammar in llguidance's variant of Lark; or calls of tools (`calls`: JSON of CallRule, wire/calls.py; only to
    drafters with the capability of that name), as the model writes them."""

    kind: Literal["json_schema", "regex", "lark", "calls"]
    text: Annotated[str, Meta(min_length=1, max_length=MAX_CONSTRAINT)]


class GenerateBody(msgspec.Struct, frozen=True, array_like=True):
    """What to answer: `messages` (rendered by the drafter's chat template), or `text` (raw), or `prompt_tokens`.

    `tokens` are the reply's tokens that the client already has: the reply goes on after them, with the same text that
    it would have had (noise is keyed by position). `draft_max` -1 leaves the window to the drafter.
    `keep`: the conversation may go on; what is cached of it may be kept for a while, and used again for this client.
    `window` names a policy (config.py), `wire` a type of hidden states; empty, and no `acceptance`: the drafter's own.
    """

    messages: Annotated[tuple[ChatMessage, ...], Meta(max_length=1024)]
    text: Annotated[str, Meta(max_length=1 << 20)]
    prompt_tokens: Annotated[tuple[TokenId, ...], Meta(max_length=MAX_POSITIONS)]
    tokens: Annotated[tuple[TokenId, ...], Meta(max_length=MAX_POSITIONS)]
    model: Name
    sampling: WireSampling
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_POSITIONS)]
    stop: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...], Meta(max_length=16)]
    draft_max: Annotated[int, Meta(ge=-1, le=64)]
    window: Name = ""
    wire: Annotated[str, Meta(max_length=8)] = ""
    acceptance: WireAcceptance | None = None
    keep: bool = False
    ignore_eos: bool = False
    """The reply goes on to `max_tokens`, whatever it says."""
    patience_s: Annotated[float, Meta(ge=0, le=MAX_PATIENCE_S)] = 0.0
    """So long the client waits for a reply that stands still; 0: as long as the drafter does by itself."""
    shaping: WireShaping = PLAIN
    num_logprobs: NumLogprobs = -1
    tools: Annotated[str, Meta(max_length=1 << 20)] = ""
    """JSON of a list, as the chat template is given it; or nothing."""
    constraint: Constraint | None = None
    """Only to drafters with the capability `masks`."""

    @property
    def is_shaped(self) -> bool:
        """Does it ask for what only peers with the capability SHAPING do?"""
        return not self.shaping.is_plain or self.num_logprobs >= 0

    @property
    def needs_tools(self) -> bool:
        """Is there something of tools in it, which a drafter must know of?"""
        return bool(self.tools) or any(message.more for message in self.messages)


class ReadText(Message, frozen=True, tag=47):
    """Client to drafter: which ids has this prompt, and which text have these ids? Buffer 0: GenerateBody, as for
    Generate. Answered by TextRead, or as Generate is where it cannot begin. Nothing is computed, no place is taken.
    """


class TextRead(Message, frozen=True, tag=48):
    """Buffer 0: the prompt's token ids, int32; buffer 1: their text, UTF-8. Control tokens have none."""


class Accepted(Message, frozen=True, tag=31):
    """Drafter to client. Buffer 0: the prompt's token ids, int32: who goes on has the same, or one of the two lies.

    Buffer 1, where the body has tools: msgpack of CallFormat, a map.

    `acceptance` is the rule of this reply, asked for or the drafter's own: whoever goes on keeps it.
    """

    request: SessionId
    model_id: Hex64
    acceptance: WireAcceptance = WireAcceptance()


class Piece(Message, frozen=True, tag=32):
    """Drafter to client. Buffer 0: token ids int32, the first of them the reply's token `index`; buffer 1: their text,
    UTF-8, whole characters only. The first `accepted` of the tokens were drafted. `index` shows a gap: resume then.
    Buffer 2, where log-probabilities were asked for: PieceLogprobs, of each of the tokens.
    """

    request: SessionId
    index: Position
    accepted: Annotated[int, Meta(ge=0, le=MAX_BLOCK_POSITIONS)]


class Waiting(Message, frozen=True, tag=36):
    """Drafter to client, where a reply has stood still for a while: `reason` says in words what it waits for."""

    request: SessionId
    reason: Reason


class Finished(Message, frozen=True, tag=33):
    """Drafter to client. Buffer 0: msgpack of Statistics, a map. `error`: the name of the exception that ended the
    reply, empty when all went well.
    """

    request: SessionId
    reason: Name
    error: Name = ""
    message: Reason = ""


class PlanChange(msgspec.Struct, frozen=True):
    """From reply token `index` on, `at_s` after the start: another plan, and why."""

    index: Position
    at_s: Figure
    mode: Name
    block: BlockSize
    window: BlockSize
    hedges: BlockSize = 0
    reason: Reason = ""


class StageInfo(msgspec.Struct, frozen=True):
    """Who ran the layers [start, end)."""

    peer_id: Hex64
    layers: tuple[Layer, Layer]


class Routed(Message, frozen=True, tag=52):
    """Drafter to client, who has named the capability: the tokens from here on come by these stages, each (peer id,
    start, end). Nothing but a picture hangs on it.
    """

    request: SessionId
    stages: Annotated[tuple[tuple[Hex64, Layer, Layer], ...], Meta(max_length=MAX_STAGES)]


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a drafter says of a reply, as a map by name: keys that are not known are ignored, of those that are missing
    the default counts. None: not measured, or there was nothing to measure.

    `prompt_tokens_reused`: how many of the prompt's all stages had cached, from the turn before.
    `tokens_per_second`: of the tokens after the first pass; `plain_tokens_per_second`: plain decoding's, estimated.
    `acceptance_rate` is accepted / judged (alpha of speculation section 2: 1 - rejections / draft tokens judged);
    `acceptance_length_mean` counts the judge's own token; `drafted` are all draft tokens sent, the wasted among them.
    `copied_judged`, `copied_accepted`: of `judged` and `accepted`, those that were copied from text before (n-grams).
    `by_position[i]`: (judged, accepted) of the draft tokens i after the last rejection.
    `stop_text`: which of the request's ended the reply, if one did.
    `wire`: the type in which hidden states travelled; `links_share`: of the passes' time, what they took to be sent.
    """

    prompt_tokens: Count = 0
    prompt_tokens_reused: Count = 0
    completion_tokens: Count
    """Of this drafter: who got fewer has lost the end."""
    time_to_first_token_s: Figure | None = None
    tokens_per_second: Figure | None = None
    drafted: Count = 0
    judged: Count = 0
    accepted: Count = 0
    covered: Count = 0
    relaxed: Count = 0
    acceptance_rate: Figure | None = None
    acceptance_length_mean: Figure | None = None
    wasted_share: Figure | None = None
    passes: Count = 0
    recoveries: Count = 0
    by_position: Annotated[tuple[tuple[PositiveCount, Count], ...], Meta(max_length=MAX_DEPTHS)] = ()
    plans: Annotated[tuple[PlanChange, ...], Meta(max_length=MAX_PLANS)] = ()
    plain_tokens_per_second: Figure | None = None
    pipeline: Annotated[tuple[StageInfo, ...], Meta(max_length=MAX_STAGES)] = ()
    wire: Name = ""
    links_share: Figure | None = None
    stop_text: Annotated[str, Meta(max_length=256)] = ""
    copied_judged: Count = 0
    copied_accepted: Count = 0


class Cancel(Message, frozen=True, tag=34):
    """Client to drafter: stop this reply."""

    request: SessionId
