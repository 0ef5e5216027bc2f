"""One message as frames: `[msgpack header, at most 4 KiB][at most 8 raw buffers]`.

The header is `[request_id, reply, deadline_ms, message]`. Strangers' bytes meet the limits of sizes first, then
msgpack's, then the types of wire/messages.py, strictly; whatever is left over raises PeerMisbehaved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgpack
import msgspec
from msgspec import Meta

from dsdnode.errors import PeerMisbehaved
from dsdnode.wire import masks, messages, paths, pieces, replies

MAX_HEADER_BYTES = 4 * 1024
MAX_BUFFERS = 8
MAX_FRAME_BYTES = 4 * 1024 * 1024
"""Of one buffer: hidden states of 256 positions of 4,096 values in f32. Longer prefills go in several blocks."""
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
MAX_REQUEST_ID = (1 << 63) - 1
MAX_DEADLINE_MS = 86_400_000
MAX_BODY_BYTES = 1024 * 1024
"""Of a buffer that is msgpack."""
_MAX_BODY_ITEMS = 64 * 1024
_MAX_CONTAINERS = 32 * 1024
"""Arrays and maps of a body, all together: PieceLogprobs may have 24,000. A mebibyte of empty ones took half a second
to be read, most of it Python's, looking through them for garbage."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message and what belongs to its delivery. `request_id` 0: a notice, nobody waits for an answer.

    `deadline_ms`: how much longer the caller waits (0: not said). Relative, for no two clocks agree.
    """

    message: messages.Message
    buffers: tuple[bytes, ...] = ()
    request_id: int = 0
    reply: bool = False
    deadline_ms: int = 0


def _kinds() -> dict[int, type[messages.Message]]:
    kinds = [
        kind
        for kind in (vars(messages) | vars(replies) | vars(paths) | vars(pieces) | vars(masks)).values()
        if isinstance(kind, type)
    ]
    concrete = [kind for kind in kinds if issubclass(kind, messages.Message) and kind is not messages.Message]
    return {int(str(kind.__struct_config__.tag)): kind for kind in concrete}


_KINDS = _kinds()
"""By tag. (As one Union, msgspec would work out the types anew for every message: 30 us.)"""


class _Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    request_id: Annotated[int, Meta(ge=0, le=MAX_REQUEST_ID)]
    reply: bool
    deadline_ms: Annotated[int, Meta(ge=0, le=MAX_DEADLINE_MS)]
    message: Any


_encoder = msgspec.msgpack.Encoder()


def encode(
    message: messages.Message,
    buffers: Sequence[bytes] = (),
    request_id: int = 0,
    reply: bool = False,
    deadline_ms: int = 0,
) -> list[bytes]:
    """The frames of one message. Raises ValueError for one that no peer would accept."""
    header = _encoder.encode(_Header(request_id, reply, deadline_ms, message))
    frames = [header, *buffers]
    problem = _oversize(frames)
    if problem:
        raise ValueError(f"{type(message).__name__}: {problem}")
    return frames


def decode(frames: Sequence[bytes]) -> Envelope:
    """The inverse of `encode`. Raises PeerMisbehaved for anything that it would not have made."""
    problem = _oversize(frames)
    if problem:
        raise PeerMisbehaved(problem)
    header = _strict(frames[0], _Header, max_items=1024)
    tag = header.message[0] if isinstance(header.message, list) and header.message else None
    kind = _KINDS.get(tag) if type(tag) is int else None
    if kind is None:
        raise PeerMisbehaved("a message of no kind that is known")
    message = _convert(header.message, kind)
    return Envelope(message, tuple(frames[1:]), header.request_id, header.reply, header.deadline_ms)


def encode_body(value: Any) -> bytes:
    """A buffer that is msgpack: structs, lists, maps. Raises ValueError when it is over MAX_BODY_BYTES."""
    body = _encoder.encode(value)
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"a body of {len(body)} bytes; at most {MAX_BODY_BYTES}")
    return body


def decode_body(buffer: bytes, kind: type[T]) -> T:
    """The inverse of `encode_body`, converted strictly to `kind`. Raises PeerMisbehaved."""
    if len(buffer) > MAX_BODY_BYTES:
        raise PeerMisbehaved(f"a body of {len(buffer)} bytes; at most {MAX_BODY_BYTES}")
    return _strict(buffer, kind, max_items=_MAX_BODY_ITEMS)


def buffer_at(buffers: Sequence[bytes], index: int) -> bytes:
    """The buffer that a message must have. Raises PeerMisbehaved if it has not."""
    if index >= len(buffers):
        raise PeerMisbehaved(f"{len(buffers)} buffers where there must be at least {index + 1}")
    return buffers[index]


def printable(text: str) -> str:
    """What a stranger wrote, fit for a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _oversize(frames: Sequence[bytes]) -> str:
    if not 1 <= len(frames) <= 1 + MAX_BUFFERS:
        return f"{len(frames)} frames; 1 to {1 + MAX_BUFFERS} are allowed"
    if len(frames[0]) > MAX_HEADER_BYTES:
        return f"a header of {len(frames[0])} bytes; at most {MAX_HEADER_BYTES}"
    if max(map(len, frames)) > MAX_FRAME_BYTES or sum(map(len, frames)) > MAX_MESSAGE_BYTES:
        return f"a message of {sum(map(len, frames))} bytes; at most {MAX_MESSAGE_BYTES}, {MAX_FRAME_BYTES} a buffer"
    return ""


def _strict(data: bytes, kind: type[T], max_items: int) -> T:
    """Nothing is allocated for a length that a stranger merely claims: msgpack checks each against these limits."""
    size_bytes = len(data)
    counted = _counter() if size_bytes > _MAX_CONTAINERS else None  # each takes a byte
    try:
        raw = msgpack.unpackb(
            data,
            list_hook=counted,
            object_hook=counted,
            strict_map_key=True,
            max_str_len=size_bytes,
            max_bin_len=size_bytes,
            max_array_len=max_items,
            max_map_len=1024,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        # TypeError: a list as the key of a map.
        raise PeerMisbehaved(f"malformed msgpack: {error}") from error
    return _convert(raw, kind)


def _counter() -> Callable[[Any], Any]:
    num = 0

    def count(container: Any) -> Any:
        nonlocal num
        num += 1
        if num > _MAX_CONTAINERS:
            raise ValueError(f"more than {_MAX_CONTAINERS} arrays and maps")
        return container

    return count


def _convert(raw: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(raw, kind, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise PeerMisbehaved(f"malformed message: {error}") from error
