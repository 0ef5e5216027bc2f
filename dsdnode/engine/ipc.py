"""What a daemon and its worker process say to each other over a socket pair.

Frame: `<u32 request id, u32 header bytes, u64 body bytes>`, the header (one msgpack struct below), the body (raw
arrays, little-endian, one after the other). Every request gets one reply with its id, in order.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from dsdnode.engine.cage import Protection
from dsdnode.engine.port import Chunk, Logprobs, Output, ShardInfo, States, Tokens, Top, check_outputs
from dsdnode.errors import BadInput, ModelRefused, Overloaded, PeerMisbehaved, WorkFailed
from dsdnode.speculation.sampling import Sampling
from dsdnode.speculation.shaping import Past
from dsdnode.wire.calls import CallFormat

SOCKET_BUFFER_BYTES = 1 << 20
"""A hop of hidden states goes through in one piece."""
PREFIX = struct.Struct("<IIQ")
MAX_HEADER_BYTES = 8 << 20
MAX_SEQUENCES = 256
"""Of one engine: LLAMA_MAX_SEQ. More of them did not make a decode slower (8 to 128, demo pair)."""
TEXT_CPU_S = 2.5
"""Of a processor, for one text: 1 MiB, the longest that `run` takes, takes 0.3 to 2 s to tokenize, a usual one 1 ms."""
MAX_BODY_BYTES = 1 << 30
"""A prefill of 8,192 positions at width 16,384 is half of it."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine runs. `strict()` is the setting whose rounding does not depend on the block (__init__.py)."""

    threads: int = 0
    """0: one a physical core."""
    context_tokens: int = 4096
    """Cells of the cache, shared by all sequences; rounded up to a multiple of 256."""
    max_sequences: int = 64
    batch_tokens: int = 256
    """Positions of one decode; longer batches are split."""
    gpu_layers: int = 0
    flash_attention: bool | None = None
    """None: on a GPU only. On a CPU it took 5 to 18 times as long for a block of 3 to 16 after 2,048 positions."""
    max_memory_bytes: int = 0
    """Of private memory (the mapped file is not counted); beyond it the worker dies. 0: no limit."""
    alike: bool = False
    """What comes of a position is the same in blocks of every size (__init__.py)."""

    @staticmethod
    def strict(context_tokens: int = 4096, max_sequences: int = 64) -> EngineOptions:
        return EngineOptions(1, context_tokens, max_sequences, flash_attention=True, alike=True)


class Packet(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Base of every header."""


class Load(Packet, frozen=True, tag=1):
    """First request. Answered by Loaded or Failed."""

    raw_path: bytes
    options: EngineOptions
    raw_cache_folder: bytes = b""
    """As the system has them: a name need not be UTF-8."""

    @staticmethod
    def of(path: Path, options: EngineOptions, cache_folder: Path | None = None) -> Load:
        return Load(os.fsencode(path), options, os.fsencode(cache_folder or ""))

    @property
    def path(self) -> Path:
        return Path(os.fsdecode(self.raw_path))

    @property
    def cache_folder(self) -> Path | None:
        return Path(os.fsdecode(self.raw_cache_folder)) if self.raw_cache_folder else None


class LoadText(Packet, frozen=True, tag=9):
    """First request to a process that has the file's tokenizer, and no layers. Answered by Vocabulary or Failed."""

    raw_path: bytes

    @staticmethod
    def of(path: Path) -> LoadText:
        return LoadText(os.fsencode(path))

    @property
    def path(self) -> Path:
        return Path(os.fsdecode(self.raw_path))


Count = Annotated[int, Meta(ge=0, le=1 << 24)]
"""A negative one would be read as "whatever there is"."""


class PastHeader(msgspec.Struct, frozen=True, array_like=True):
    num_tokens: Count
    num_prompt: Count
    num_then: Count


class ChunkHeader(msgspec.Struct, frozen=True, array_like=True):
    sequence: int
    position: int
    count: Annotated[int, Meta(ge=1, le=1 << 24)]
    num_draws: int
    sampling: Sampling | None
    extend: int
    runners_up: bool
    num_top: int
    num_logprobs: int
    past: PastHeader | None


class Forward(Packet, frozen=True, tag=2):
    """Body: the chunks' inputs; then of each that has a past, the tokens of it, int32. Answered by Outputs or
    Failed."""

    chunks: list[ChunkHeader]
    states: bool


class Copy(Packet, frozen=True, tag=3):
    source: int
    target: int
    position: int


class Truncate(Packet, frozen=True, tag=4):
    sequence: int
    position: int


class Release(Packet, frozen=True, tag=5):
    sequence: int


class Tokenize(Packet, frozen=True, tag=7):
    """Answered by Ids."""

    text: str
    parse_special: bool


class Render(Packet, frozen=True, tag=8):
    """Messages (template.py) through the model's chat template. Answered by Ids."""

    messages: list[tuple[str, str, str]]
    tools: str = ""
    """JSON."""


class ReadCalls(Packet, frozen=True, tag=10):
    """How the model writes that it calls a tool, by its chat template. Answered by Calls."""


class Loaded(Packet, frozen=True, tag=20):
    shard: ShardInfo
    protection: Protection


class Outputs(Packet, frozen=True, tag=21):
    """Body: of each chunk states float32 [count, width]; or tokens int32 and probabilities float32, each [count].

    After these, where asked for: runners-up int32 and their probabilities float32, each [count]; the most likely
    tokens int32 and their probabilities float32, each [count, num_top], with the entropies float32 [count]; and
    log-probabilities: float32 [count] of the draws, tokens int32 and theirs float32, each [count, num_logprobs].
    """

    counts: list[Count]
    states: bool
    compute_s: Annotated[float, Meta(ge=0, le=1e6)]
    runners_up: list[bool]
    num_tops: list[Count]
    num_logprobs: list[Annotated[int, Meta(ge=-1, le=1 << 24)]]


class Done(Packet, frozen=True, tag=22):
    pass


class Ids(Packet, frozen=True, tag=23):
    """Body: token ids, int32."""


class Vocabulary(Packet, frozen=True, tag=24):
    """Body: lengths uint32 [vocab_size] of the tokens' texts, then the texts, UTF-8 or parts of it.

    `names`: tokens without a text (control tokens) by what a template calls them.
    """

    vocab_size: Count
    end_tokens: list[int]
    has_template: bool
    names: dict[str, int]


class Calls(Packet, frozen=True, tag=26):
    calls: CallFormat


class Failed(Packet, frozen=True, tag=25):
    """`kind` is the name of an error class, one of ERRORS. `sequences`: as CacheSpoiled's."""

    kind: str
    reason: str
    sequences: tuple[int, ...] = ()


ERRORS: dict[str, type[Exception]] = {
    error.__name__: error for error in (BadInput, ModelRefused, Overloaded, PeerMisbehaved, ValueError, WorkFailed)
}


def error_of(failed: Failed) -> Exception:
    return ERRORS.get(failed.kind, ValueError)(failed.reason)


Request = Load | LoadText | Forward | Copy | Truncate | Release | Tokenize | Render | ReadCalls
Response = Loaded | Outputs | Done | Ids | Vocabulary | Calls | Failed

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Response] = msgspec.msgpack.Decoder(Response)
Buffer = bytes | bytearray | memoryview


def pack(request_id: int, packet: Packet, *bodies: Buffer) -> list[Buffer]:
    """The buffers of one frame, in order."""
    header = _encoder.encode(packet)
    size_bytes = sum(memoryview(body).nbytes for body in bodies)
    if len(header) > MAX_HEADER_BYTES or size_bytes > MAX_BODY_BYTES:
        raise ValueError(f"a frame of {len(header)} + {size_bytes} bytes is too large")
    return [PREFIX.pack(request_id, len(header), size_bytes) + header, *bodies]


def sizes(prefix: Buffer) -> tuple[int, int, int]:
    """(request id, header bytes, body bytes). Raises ValueError beyond the limits."""
    request_id, header_bytes, body_bytes = PREFIX.unpack(prefix)
    if header_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
        raise ValueError(f"a frame of {header_bytes} + {body_bytes} bytes is too large")
    return request_id, header_bytes, body_bytes


def read_request(header: Buffer) -> Request:
    """Raises msgspec.ValidationError or msgspec.DecodeError."""
    return _requests.decode(header)


def read_response(header: Buffer) -> Response:
    """Raises msgspec.ValidationError or msgspec.DecodeError."""
    return _replies.decode(header)


def sequences_of(what: Packet | None) -> tuple[int, ...]:
    """Whose work a request is."""
    match what:
        case Forward():
            return tuple(chunk.sequence for chunk in what.chunks)
        case Copy():
            return what.source, what.target
        case Truncate() | Release():
            return (what.sequence,)
    return ()


def pack_chunks(chunks: list[Chunk]) -> tuple[Forward, list[Buffer]]:
    """All chunks of a batch are fed alike: token ids, or hidden states."""
    states = any(chunk.inputs.ndim == 2 for chunk in chunks)
    kind = "<f4" if states else "<i4"
    headers = [_header_of(chunk) for chunk in chunks]
    pasts = [array for c in chunks if c.past is not None for array in (c.past.tokens, c.past.then) if array.size]
    bodies: list[Buffer] = [np.ascontiguousarray(c.inputs, kind).data.cast("B") for c in chunks]
    bodies += [np.ascontiguousarray(one, "<i4").data.cast("B") for one in pasts]
    return Forward(headers, states), bodies


def _header_of(c: Chunk) -> ChunkHeader:
    past = None if c.past is None else PastHeader(len(c.past.tokens), c.past.num_prompt, len(c.past.then))
    drawn = c.num_draws, c.sampling, c.extend, c.runners_up, c.num_top, c.num_logprobs
    return ChunkHeader(c.sequence, c.position, len(c.inputs), *drawn, past)


def unpack_chunks(forward: Forward, body: Buffer, width: int) -> list[Chunk]:
    """Raises ValueError when the body is not what the header says."""
    reader = _Reader(body)
    inputs = [reader.floats(h.count, width) if forward.states else reader.ints(h.count) for h in forward.chunks]
    chunks = []
    for h, rows in zip(forward.chunks, inputs, strict=True):
        drawn = h.num_draws, h.sampling, h.extend, h.runners_up, h.num_top
        chunks.append(Chunk(h.sequence, h.position, rows, *drawn, _read_past(reader, h.past), h.num_logprobs))
    reader.end()
    return chunks


def pack_outputs(outputs: list[Output]) -> tuple[Outputs, list[Buffer]]:
    bodies: list[Buffer] = []
    for output in outputs:
        arrays = [output.states, output.tokens, output.probabilities, output.runners_up, output.runner_up_probabilities]
        if output.top is not None:
            arrays += [output.top.tokens, output.top.probabilities, output.top.entropies]
        if output.logprobs is not None:
            arrays += [output.logprobs.drawn, output.logprobs.tokens, output.logprobs.values]
        present = [array for array in arrays if array is not None]
        bodies += [np.ascontiguousarray(array).data.cast("B") for array in present if array.size]
    header = Outputs(
        [_count(output) for output in outputs],
        bool(outputs) and outputs[0].states is not None,
        outputs[0].compute_s if outputs else 0.0,
        [output.runners_up is not None for output in outputs],
        [0 if output.top is None else output.top.tokens.shape[1] for output in outputs],
        [-1 if output.logprobs is None else output.logprobs.tokens.shape[1] for output in outputs],
    )
    return header, bodies


def _count(output: Output) -> int:
    rows = output.tokens if output.states is None else output.states
    return 0 if rows is None else len(rows)


def unpack_outputs(header: Outputs, body: Buffer, width: int) -> list[Output]:
    """Raises ValueError when the body is not what the header says."""
    lengths = {len(header.counts), len(header.runners_up), len(header.num_tops), len(header.num_logprobs)}
    if len(lengths) != 1:
        raise ValueError("the header does not say of how many outputs it is")
    reader = _Reader(body)
    outputs = []
    columns = header.counts, header.runners_up, header.num_tops, header.num_logprobs
    for count, runners_up, num_top, num_logprobs in zip(*columns, strict=True):
        if header.states:
            outputs.append(Output(reader.floats(count, width), None, None, header.compute_s))
        else:
            outputs.append(
                Output(
                    None,
                    reader.ints(count),
                    reader.floats(count),
                    header.compute_s,
                    reader.ints(count) if runners_up else None,
                    reader.floats(count) if runners_up else None,
                    _read_top(reader, count, num_top) if num_top else None,
                    _read_logprobs(reader, count, num_logprobs) if num_logprobs >= 0 else None,
                )
            )
    reader.end()
    return outputs


def outputs_of(reply: Response, body: Buffer, chunks: Sequence[Chunk], shard: ShardInfo) -> list[Output]:
    """Raises ValueError when this is no answer to these chunks."""
    if not isinstance(reply, Outputs):
        raise ValueError(f"{type(reply).__name__} is no answer to Forward")
    outputs = unpack_outputs(reply, body, shard.width)
    check_outputs(outputs, chunks, shard)
    return outputs


def _read_top(reader: _Reader, count: int, num_top: int) -> Top:
    return Top(reader.ints(count, num_top), reader.floats(count, num_top), reader.floats(count))


def _read_past(reader: _Reader, header: PastHeader | None) -> Past | None:
    if header is None:
        return None
    return Past(reader.ints(header.num_tokens), header.num_prompt, reader.ints(header.num_then))


def _read_logprobs(reader: _Reader, count: int, num: int) -> Logprobs:
    return Logprobs(reader.floats(count), reader.ints(count, num), reader.floats(count, num))


class _Reader:
    """The arrays of one body, one after the other; every number in it has 4 bytes."""

    def __init__(self, body: Buffer) -> None:
        self._body = memoryview(body)

    def ints(self, *shape: int) -> Tokens:
        return np.frombuffer(self._next(shape), "<i4").reshape(shape)

    def floats(self, *shape: int) -> States:
        return np.frombuffer(self._next(shape), "<f4").reshape(shape)

    def _next(self, shape: tuple[int, ...]) -> memoryview:
        size = 4 * prod(shape)
        if size > len(self._body):
            raise ValueError("the body is too short")
        part, self._body = self._body[:size], self._body[size:]
        return part

    def end(self) -> None:
        if self._body:
            raise ValueError("the body is too long")
