"""What comes from engines: packets of a worker process, and the model files for them."""

from __future__ import annotations

import os
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import numpy as np

from dsdnode.engine import arrays, gguf, gguf_cut, gguf_header, gguf_tokenizer, grammar, ipc, text
from dsdnode.engine.cage import Protection
from dsdnode.engine.gguf_arch import supported
from dsdnode.engine.port import Chunk, Logprobs, Output, ShardInfo, Top
from dsdnode.errors import BadInput, EngineLost, ModelRefused
from dsdnode.speculation.sampling import Sampling
from dsdnode.speculation.shaper import Past
from dsdnode.speculation.shaping import Shaping
from dsdnode.wire.calls import CallFormat
from dsdnode.wire.replies import Constraint
from tests.engine.random_models import VARIANTS, write_random_model
from tests.fuzz.mutate import Mutator
from tests.fuzz.parser import Case, Parser

WIDTH = 4
MAX_LONGER_BYTES = 8192
"""So much longer may a header get before the tensors no longer fit."""
GARBAGE = (ValueError, msgspec.DecodeError)
"""What both ends of a worker's socket take for garbage."""


# --- packets


def _chunks() -> list[Chunk]:
    tokens = np.arange(3, dtype=np.int32)
    shaping = Shaping(0.5, 0.25, 1.25, 64, ((7, -100.0),))
    past = Past.of([1, 2], 1, [3])
    return [
        Chunk(0, 0, tokens, 1, Sampling(0.7, 40, 0.9, 0.1, 7)), Chunk(1, 5, tokens[:2], 2, Sampling(), 0, True, 2),
        Chunk(2, 5, tokens, 2, Sampling(shaping=shaping), 0, False, 0, past, 1, (b"\7\0", b"\1\0")),
    ]  # fmt: skip


def _outputs() -> list[Output]:
    ints, reals = np.arange(2, dtype=np.int32), np.ones(2, np.float32)
    top = Top(np.ones((2, 3), np.int32), np.ones((2, 3), np.float32), reals)
    said = Logprobs(reals, np.ones((2, 3), np.int32), np.ones((2, 3), np.float32))
    both = Output(None, ints, reals, 0.1, ints, reals, top), Output(None, ints, reals, 0.1, logprobs=said)
    return [Output(None, ints, reals, 0.1), *both]


def _packet(packet: ipc.Packet, bodies: list[ipc.Buffer]) -> tuple[Any, bytes]:
    return msgpack.unpackb(msgspec.msgpack.encode(packet)), b"".join(map(bytes, bodies))


STATES = np.ones((2, WIDTH), np.float32)
SHARD = ShardInfo("a" * 64, "m", "llama", 0, 2, 2, WIDTH, 8, "b" * 64, 256, 512, 8, True)
REQUESTS = (
    _packet(*arrays.pack_chunks(_chunks())),
    _packet(*arrays.pack_chunks(_chunks())),
    _packet(*arrays.pack_chunks([Chunk(0, 0, STATES)])),
    _packet(ipc.Load(b"/m.gguf", ipc.EngineOptions()), []),
    _packet(ipc.Copy(0, 1, 2), []),
    _packet(ipc.Tokenize("fünf", True), []),
    _packet(ipc.Render([("user", "hi", ""), ("assistant", "yes", "{}")], "[]"), []),
    _packet(ipc.LoadText(b"/m.gguf", True), []),
    _packet(ipc.ReadCalls(), []),
    _packet(ipc.OpenGrammar(b"k", Constraint("regex", "a+"), 8), []),
    _packet(ipc.FindMasks(b"k", 1, False), [b"\1\0\0\0" * 3]),
)
RESPONSES = (
    _packet(*arrays.pack_outputs(_outputs())),
    _packet(*arrays.pack_outputs(_outputs())),
    _packet(*arrays.pack_outputs([Output(STATES, None, None, 0.1)])),
    _packet(ipc.Loaded(SHARD, Protection(("no network",))), []),
    _packet(ipc.Ids(), [b"\1\0\0\0" * 3]),
    _packet(ipc.Calls(CallFormat(open="<tool_call>", close="</tool_call>")), []),
    _packet(ipc.MasksFound([b"m"], [b"m"]), [b"\7"]),
    _packet(ipc.Failed("BadInput", "why"), []),
)


def _frame(mutator: Mutator, packets: tuple[tuple[Any, bytes], ...]) -> Case:
    """A prefix that is right, mostly, a header and a body."""
    plain, body = mutator.any_of(packets)
    header = mutator.packed(plain)
    if body and mutator.rng.random() < 0.3:
        body = mutator.scratched(body)
    prefix = ipc.PREFIX.pack(mutator.below(1 << 32), len(header), len(body))
    return mutator.scratched(prefix) if mutator.rng.random() < 0.05 else prefix, header, body


def _fits_frame(case: Case) -> bool:
    prefix, header, body = case
    return len(prefix) == ipc.PREFIX.size and ipc.PREFIX.unpack(prefix)[1:] == (len(header), len(body))


def _framed(case: Case) -> tuple[bytes, bytes]:
    """As a reader takes a frame out of the stream; it waits for what is not there."""
    prefix, header, body = case
    if len(prefix) != ipc.PREFIX.size:
        raise ValueError("still waiting")
    _, header_bytes, body_bytes = ipc.sizes(prefix)
    if header_bytes > len(header) or body_bytes > len(body):
        raise ValueError("still waiting")
    return header[:header_bytes], body[:body_bytes]


def _read_request(case: Case) -> None:
    header, body = _framed(case)
    request = ipc.read_request(header)
    if isinstance(request, ipc.Forward):
        chunks = arrays.unpack_chunks(request, body, WIDTH)
        assert all(len(chunk.inputs) == told.count for chunk, told in zip(chunks, request.chunks, strict=True))


def _read_response(case: Case) -> None:
    header, body = _framed(case)
    response = ipc.read_response(header)
    if isinstance(response, ipc.Outputs):
        for output, count in zip(arrays.unpack_outputs(response, body, WIDTH), response.counts, strict=True):
            rows = output.tokens if output.states is None else output.states
            assert rows is not None and len(rows) == count, "not as many rows as were told of"


# --- what a process with grammars, or a chat template, answers

MASK_BYTES, MAX_MASKS = 2, 3
ANSWERS = (
    ipc.MasksFound([b"n" * 8, b"o" * 8], [b"n" * 8, b"o" * 8]), ipc.MasksFound([b"n" * 8] * 3, [b"n" * 8]),
    ipc.MasksFound([], []), ipc.Failed("UnknownGrammar", "why"), ipc.Failed("BadInput", "why"), ipc.Done(),
    ipc.Calls(CallFormat()), ipc.Calls(CallFormat(open="[TOOL_CALLS]", close="")),
)  # fmt: skip


def _answer(mutator: Mutator) -> Case:
    answer = mutator.any_of(ANSWERS if mutator.rng.random() < 0.5 else ANSWERS[:2])
    header, _ = _packet(answer, [])
    if isinstance(answer, ipc.Calls):
        header[1] = {"kind": "json"} | header[1]
    body = b"\7\0" * len(getattr(answer, "fresh", ()))
    return mutator.packed(header), mutator.scratched(body) if mutator.rng.random() < 0.1 else body


def _read_answer(case: Case) -> None:
    told = ipc.read_response(case[0])
    if isinstance(told, ipc.Calls):
        text._calls_of(told, case[1])
    else:
        found = grammar._found(grammar.checked(told, ipc.MasksFound), case[1], MAX_MASKS, MASK_BYTES)
        assert len(found.names) <= MAX_MASKS and {len(mask) for _, mask in found.fresh} <= {MASK_BYTES}


# --- model files


@cache
def _model() -> tuple[list[Any], int]:
    """Keys and tensors of a file as lists, and its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "alice.gguf"
        keys = {"attention.sliding_window_pattern": [True, False]}
        write_random_model(path, VARIANTS["gemma3"], 2, keys=keys)
        header, size_bytes = gguf_header.read_header(path), path.stat().st_size
    first = min(tensor.offset for tensor in header.tensors.values())
    pairs = [[key, value.type, value.element_type, _told(value.data)] for key, value in header.metadata.items()]
    pairs += [["tokenizer.ggml.tokens", gguf_header.ARRAY, gguf_header.STRING, [b"a", b"b", b"\xff"]]]
    pairs += [["tokenizer.chat_template", gguf_header.STRING, 0, "{{ messages }}"], ["x.label", 8, 0, "why"]]
    rows = [[one.name, list(one.shape), int(one.type), one.offset - first] for one in header.tensors.values()]
    return [3, pairs, rows], size_bytes + MAX_LONGER_BYTES


def _told(data: Any) -> Any:
    return data.tolist() if isinstance(data, np.ndarray) else list(data) if isinstance(data, tuple) else data


def _gguf(mutator: Mutator) -> Case:
    """The header; the file is as long as it should be, all zeros behind that."""
    plain, _ = _model()
    if mutator.rng.random() < 0.03:
        plain = [mutator.any_of((2, 4, 3 << 24)), *plain[1:]]
    data = _written(plain[0], mutator.changed(plain[1:])) or _written(plain[0], plain[1:])
    if mutator.rng.random() < 0.15:
        data = data[:24] + mutator.scratched(data[24:])
    return (data,)


def _written(version: int, plain: Any) -> bytes:
    """As GGUF has it; nothing for what cannot be said there."""
    try:
        pairs, rows = plain
        head = b"GGUF" + struct.pack("<IQQ", version, len(rows), len(pairs))
        return head + b"".join(map(_pair, pairs)) + b"".join(map(_row, rows))
    except (struct.error, TypeError, ValueError, AttributeError, KeyError, OverflowError):
        return b""


def _pair(pair: Any) -> bytes:
    key, kind, element, data = pair
    raw = _string(key) + struct.pack("<I", kind)
    if kind != gguf_header.ARRAY:
        return raw + (_string(data) if kind == gguf_header.STRING else _number(kind, data))
    one = _string if element == gguf_header.STRING else lambda item: _number(element, item)
    return raw + struct.pack("<IQ", element, len(data)) + b"".join(map(one, data))


def _row(row: Any) -> bytes:
    name, shape, kind, offset = row
    return _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def _string(text: Any) -> bytes:
    raw: bytes = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text + b""
    return struct.pack("<Q", len(raw)) + raw


def _number(kind: int, value: Any) -> bytes:
    return struct.pack("<" + gguf_header.NUMBER_FORMATS.get(kind, "I"), value)


@cache
def _scratch() -> Path:
    """One file in memory, for all cases of this process."""
    descriptor = os.memfd_create("case.gguf")
    return Path(f"/proc/self/fd/{descriptor}")


def _read_gguf(case: Case) -> None:
    """Header, manifest, and the plans of both its halves."""
    path, size_bytes = _scratch(), max(_model()[1], len(case[0]))
    with path.open("wb") as file:
        file.write(case[0])
        file.truncate(size_bytes)
    header = gguf_header.read_header(path)
    assert all(tensor.offset + tensor.size_bytes <= size_bytes for tensor in header.tensors.values())
    manifest, architecture = gguf.read_manifest(path), supported(header)
    assert manifest.model_name.isprintable()
    middle = max(1, manifest.num_layers // 2)
    for start, end in ((0, middle), (middle, manifest.num_layers)):
        if start < end:
            gguf_cut.check_cut(header, architecture, start, end)
            gguf_cut.plan_metadata(header, architecture, start, end)
            gguf_cut.plan_tensors(header, architecture, start, end)


def _fits_gguf(case: Case) -> bool:
    """Magic, version, and counts within the limits."""
    magic, version, num_tensors, num_keys = struct.unpack("<4sIQQ", case[0][:24].ljust(24, b"\0"))
    few = num_tensors <= gguf_header.MAX_TENSORS and num_keys <= gguf_header.MAX_KEYS
    return bool(magic == b"GGUF" and version in (2, 3) and few)


GGUF = (
    gguf_header._Parser, gguf_header.read_header, gguf_header._alignment, gguf.read_manifest,
    gguf_tokenizer.tokenizer_hash, gguf_cut.plan_metadata, gguf_cut.plan_tensors, gguf_cut._end_tensors,
    gguf_cut._layer, gguf_cut._cut_value,
)  # fmt: skip
PARSERS = (
    Parser(
        "worker-request", lambda mutator: _frame(mutator, REQUESTS), _read_request, GARBAGE,
        (ipc.sizes, arrays.unpack_chunks, arrays._read_past, arrays._Reader, ipc.read_request), _fits_frame,
    ),
    Parser(
        "worker-response", lambda mutator: _frame(mutator, RESPONSES), _read_response, GARBAGE,
        (ipc.sizes, arrays.unpack_outputs, arrays._read_top, arrays._read_logprobs, arrays._Reader, ipc.read_response),
        _fits_frame,
    ),
    Parser(
        "grammar-answer", _answer, _read_answer, (*GARBAGE, EngineLost, BadInput, ModelRefused),
        (grammar._found, grammar.checked, text._calls_of, ipc.read_response, CallFormat),
        lambda case: len(case[0]) <= ipc.MAX_HEADER_BYTES,
    ),
    Parser("gguf", _gguf, _read_gguf, (ModelRefused, BadInput), GGUF, _fits_gguf),
)  # fmt: skip
