"""What a daemon and its worker process say to each other over a socket pair.

Frame: `<u32 request id, u32 header bytes, u64 body bytes>`, the header (one msgpack struct below), the body (raw
arrays, little-endian, one after the other). Every request gets one reply with its id, in order.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from dsdnode.engine.cage import Protection
from dsdnode.engine.port import ShardInfo
from dsdnode.errors import BadInput, ModelRefused, Overloaded, PeerMisbehaved, WorkFailed
from dsdnode.speculation.sampling import Sampling
from dsdnode.wire.calls import CallFormat
from dsdnode.wire.replies import Constraint

SOCKET_BUFFER_BYTES = 1 << 20
"""A hop of hidden states goes through in one piece."""
PREFIX = struct.Struct("<IIQ")
MAX_HEADER_BYTES = 8 << 20
MAX_SEQUENCES = 256
"""Of one engine: LLAMA_MAX_SEQ. More of them did not make a decode slower (8 to 128, demo pair)."""
MAX_SPARE = 32
"""Copies of sequences with running states (hybrid.py): each may take its layers' states, some MB a layer, and llama.cpp
has room for all from the beginning."""
TEXT_CPU_S = 2.5
"""Of a processor, for one text: 1 MiB, the longest that `run` takes, takes 0.3 to 2 s to tokenize, a usual one 1 ms."""
GRAMMAR_CPU_S = 2.0
"""Of a processor, for one grammar, or the masks of one block. llguidance's own limits end most long before that."""
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
    guesses: bool = False
    """Load what guesses at the token after the next, where the model brings it (mtp.py)."""

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
    """First request to a process that has the file's tokenizer, and no layers. Answered by Vocabulary (`grammars`, to
    one for grammars alone: by Done) or Failed."""

    raw_path: bytes
    grammars: bool = False

    @staticmethod
    def of(path: Path, grammars: bool = False) -> LoadText:
        return LoadText(os.fsencode(path), grammars)

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
    masks: list[Count]
    """How many bytes each has."""
    has_line: bool
    num_guesses: Count


class Forward(Packet, frozen=True, tag=2):
    """Body: the chunks' inputs; then of each its past's tokens, int32, if it has one; their lines', where they have
    any; and their masks. Answered by Outputs or Failed."""

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


class OpenGrammar(Packet, frozen=True, tag=11):
    """For one reply, named by `key`. Answered by Done or Failed."""

    key: bytes
    constraint: Constraint
    vocab_size: Count


class UnknownGrammar(ValueError):
    """It is to be opened (again) first."""


class FindMasks(Packet, frozen=True, tag=12):
    """Body: the reply's tokens, int32. Answered by MasksFound (grammars.py) or Failed."""

    key: bytes
    first: Count
    again: bool


class Loaded(Packet, frozen=True, tag=20):
    shard: ShardInfo
    protection: Protection


class Outputs(Packet, frozen=True, tag=21):
    """Body: of each chunk states float32 [count, width]; or tokens int32 and probabilities float32, each [count].

    After these, where asked for: runners-up int32 and their probabilities float32, each [count]; the most likely
    tokens int32 and their probabilities float32, each [count, num_top], with the entropies float32 [count]; and
    log-probabilities: float32 [count] of the draws, tokens int32 and theirs float32, each [count, num_logprobs]; and
    guesses, tokens int32 and probabilities float32.
    """

    counts: list[Count]
    states: bool
    compute_s: Annotated[float, Meta(ge=0, le=1e6)]
    runners_up: list[bool]
    num_tops: list[Count]
    num_logprobs: list[Annotated[int, Meta(ge=-1, le=1 << 24)]]
    guesses: list[tuple[int, Count, float] | None]
    """From which position on, how many, and what time they took."""


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


class MasksFound(Packet, frozen=True, tag=27):
    """Hashes of masks; body: those named by `fresh`, all of the same size."""

    names: list[bytes]
    fresh: list[bytes]


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


Request = (
    Load | LoadText | Forward | Copy | Truncate | Release | Tokenize | Render | ReadCalls | OpenGrammar | FindMasks
)
Response = Loaded | Outputs | Done | Ids | Vocabulary | Calls | MasksFound | Failed

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
