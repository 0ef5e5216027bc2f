"""Chunks and outputs as they go to an engine process and back: a header (ipc.py), then the arrays, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from dsdnode.engine.ipc import Buffer, ChunkHeader, Forward, Outputs, PastHeader, Response
from dsdnode.engine.port import Chunk, Guesses, Logprobs, Output, ShardInfo, States, Tokens, Top, check_outputs
from dsdnode.speculation.shaper import Past


def pack_chunks(chunks: list[Chunk]) -> tuple[Forward, list[Buffer]]:
    """All chunks of a batch are fed alike: token ids, or hidden states."""
    states = any(chunk.inputs.ndim == 2 for chunk in chunks)
    kind = "<f4" if states else "<i4"
    headers = [_header_of(chunk) for chunk in chunks]
    pasts = [array for c in chunks if c.past is not None for array in (c.past.tokens, c.past.then) if array.size]
    bodies: list[Buffer] = [np.ascontiguousarray(c.inputs, kind).data.cast("B") for c in chunks]
    bodies += [np.ascontiguousarray(one, "<i4").data.cast("B") for one in pasts]
    bodies += [np.ascontiguousarray(c.line, "<i4").data.cast("B") for c in chunks if c.line is not None]
    bodies += [mask for c in chunks for mask in c.masks]
    return Forward(headers, states), bodies


def _header_of(c: Chunk) -> ChunkHeader:
    past = None if c.past is None else PastHeader(len(c.past.tokens), c.past.num_prompt, len(c.past.then))
    drawn = c.num_draws, c.sampling, c.extend, c.runners_up, c.num_top, c.num_logprobs
    guessed = c.line is not None, c.num_guesses
    return ChunkHeader(c.sequence, c.position, len(c.inputs), *drawn, past, list(map(len, c.masks)), *guessed)


def unpack_chunks(forward: Forward, body: Buffer, width: int) -> list[Chunk]:
    """Raises ValueError when the body is not what the header says."""
    reader = _Reader(body)
    inputs = [reader.floats(h.count, width) if forward.states else reader.ints(h.count) for h in forward.chunks]
    chunks = []
    for h, rows in zip(forward.chunks, inputs, strict=True):
        drawn = h.num_draws, h.sampling, h.extend, h.runners_up, h.num_top
        chunks.append(Chunk(h.sequence, h.position, rows, *drawn, _read_past(reader, h.past), h.num_logprobs))
    for index, h in enumerate(forward.chunks):
        if h.has_line:
            chunks[index] = replace(chunks[index], line=reader.ints(h.count), num_guesses=h.num_guesses)
    for index, h in enumerate(forward.chunks):
        if h.masks:
            chunks[index] = replace(chunks[index], masks=tuple(map(reader.bytes, h.masks)))
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
        if output.guesses is not None:
            arrays += [output.guesses.tokens, output.guesses.probabilities]
        present = [array for array in arrays if array is not None]
        bodies += [np.ascontiguousarray(array).data.cast("B") for array in present if array.size]
    header = Outputs(
        [_count(output) for output in outputs],
        bool(outputs) and outputs[0].states is not None,
        outputs[0].compute_s if outputs else 0.0,
        [output.runners_up is not None for output in outputs],
        [0 if output.top is None else output.top.tokens.shape[1] for output in outputs],
        [-1 if output.logprobs is None else output.logprobs.tokens.shape[1] for output in outputs],
        [
            None if o.guesses is None else (o.guesses.position, len(o.guesses.tokens), o.guesses.compute_s)
            for o in outputs
        ],
    )
    return header, bodies


def _count(output: Output) -> int:
    rows = output.tokens if output.states is None else output.states
    return 0 if rows is None else len(rows)


def unpack_outputs(header: Outputs, body: Buffer, width: int) -> list[Output]:
    """Raises ValueError when the body is not what the header says."""
    columns = header.counts, header.runners_up, header.num_tops, header.num_logprobs, header.guesses
    lengths = {len(column) for column in columns}
    if len(lengths) != 1:
        raise ValueError("the header does not say of how many outputs it is")
    reader = _Reader(body)
    outputs = []
    for count, runners_up, num_top, num_logprobs, guessed in zip(*columns, strict=True):
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
                    _read_guesses(reader, *guessed) if guessed is not None else None,
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


def _read_guesses(reader: _Reader, position: int, num: int, compute_s: float) -> Guesses:
    return Guesses(position, reader.ints(num), reader.floats(num), compute_s)


class _Reader:
    """The arrays of one body, one after the other; every number in it has 4 bytes. Masks come last."""

    def __init__(self, body: Buffer) -> None:
        self._body = memoryview(body)

    def ints(self, *shape: int) -> Tokens:
        return np.frombuffer(self._next(shape), "<i4").reshape(shape)

    def floats(self, *shape: int) -> States:
        return np.frombuffer(self._next(shape), "<f4").reshape(shape)

    def bytes(self, size: int) -> bytes:
        return bytes(self._take(size))

    def _next(self, shape: tuple[int, ...]) -> memoryview:
        return self._take(4 * prod(shape))

    def _take(self, size: int) -> memoryview:
        if size > len(self._body):
            raise ValueError("the body is too short")
        part, self._body = self._body[:size], self._body[size:]
        return part

    def end(self) -> None:
        if self._body:
            raise ValueError("the body is too long")
