"""What a client and its drafter say to each other. Tags, limits and buffers as in wire/messages.py."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from dsdnode.wire.messages import (
    MAX_BLOCK_POSITIONS,
    MAX_POSITIONS,
    Hex64,
    Message,
    Name,
    Position,
    Reason,
    SessionId,
    TokenId,
    WireAcceptance,
    WireSampling,
)


class Generate(Message, frozen=True, tag=30):
    """Client to drafter: own this reply. Buffer 0: msgpack of GenerateBody. Answered by Accepted, then by notices:
    Piece ..., Finished; or by Refused, or Finished with an error. Who resumes takes a new request id and names the
    prompt's ids and the tokens so far. Without a buffer: is this reply still in progress? Pong, or Refused.
    """

    request: SessionId


class ChatMessage(msgspec.Struct, frozen=True, array_like=True):
    role: Annotated[str, Meta(max_length=32)]
    content: Annotated[str, Meta(max_length=1 << 20)]


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


class Accepted(Message, frozen=True, tag=31):
    """Drafter to client. Buffer 0: the prompt's token ids, int32: with them any drafter of this tokenizer can go on.

    `acceptance` is the rule of this reply, asked for or the drafter's own: whoever goes on keeps it.
    """

    request: SessionId
    model_id: Hex64
    acceptance: WireAcceptance = WireAcceptance()


class Piece(Message, frozen=True, tag=32):
    """Drafter to client. Buffer 0: token ids int32, the first of them the reply's token `index`; buffer 1: their text,
    UTF-8, whole characters only. The first `accepted` of the tokens were drafted. `index` shows a gap: resume then.
    """

    request: SessionId
    index: Position
    accepted: Annotated[int, Meta(ge=0, le=MAX_BLOCK_POSITIONS)]


class Finished(Message, frozen=True, tag=33):
    """Drafter to client. Buffer 0: msgpack map of statistics, as `run --json` prints them. `error`: the name of the
    exception that ended the reply, empty when all went well.
    """

    request: SessionId
    reason: Name
    error: Name = ""
    message: Reason = ""


class Cancel(Message, frozen=True, tag=34):
    """Client to drafter: stop this reply."""

    request: SessionId
