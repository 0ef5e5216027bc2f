"""What members say to give each other bytes of models (docs/protocol.md, section 18)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from dsdnode.wire.messages import Hex64, Message

MAX_PIECE_BYTES = 1 << 20
"""Of one answer: a quarter of a frame, so that nothing waits long behind it."""

TensorName = Annotated[str, Meta(pattern=r"^[ -~]{1,63}\Z")]
Bytes = Annotated[int, Meta(ge=0, lt=1 << 60)]


class FindWeights(Message, frozen=True, tag=41):
    """What have you of the model whose files have this hash? Answered by HasWeights or Refused."""

    weights_hash: Hex64


class HasWeights(Message, frozen=True, tag=42):
    """Buffers: 0: a signed manifest; 1: a bitmap of its tensors that are here, least significant bit first."""


class GetWeights(Message, frozen=True, tag=43):
    """Bytes [offset, offset + num_bytes) of a tensor, as the whole model names it. Answered by Weights or Refused."""

    weights_hash: Hex64
    tensor: TensorName
    offset: Bytes
    num_bytes: Annotated[int, Meta(ge=1, le=MAX_PIECE_BYTES)]


class Weights(Message, frozen=True, tag=44):
    """Buffer 0: the bytes."""
