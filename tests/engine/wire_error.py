"""What the types in which hidden states travel do to the logits: `python -m tests.engine.wire_error [--gsm8k FILE]`.

The demo target in four shards, three crossings a position. The whole model answers each prompt greedily; then it and
the shards read prompt and answer, and the logits at the answer's tokens are compared: so no type is blamed for what it
would have said after another token. Prints a table in Markdown.

With weights in Q8_0 llama.cpp itself rounds what goes into each product to 8 bits, and a difference in the twelfth bit
tips some of these over: `--float` measures the same model with its weights in F32.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter
from gguf.quants import dequantize
from numpy.typing import NDArray

from dsdnode.engine.gguf import cut, read_manifest
from dsdnode.engine.ipc import EngineOptions
from dsdnode.engine.llama import LlamaEngine
from dsdnode.engine.llama_vocab import load_vocab
from dsdnode.engine.port import Chunk
from dsdnode.models import demo_target
from dsdnode.models.problems import problems
from dsdnode.speculation.sampling import Sampling
from dsdnode.wire.messages import WIRE_TYPES
from dsdnode.wire.tensors import pack_states, unpack_states

Rows = NDArray[np.float32]
Trip = Callable[[Rows], tuple[Rows, int]]
"""States as they arrive, and how many bytes that took."""
NUM_SHARDS = 4
OPTIONS = EngineOptions(threads=1, context_tokens=1024, max_sequences=1, batch_tokens=256)


@dataclass
class Errors:
    """Of one type, over all tokens of all answers."""

    differences: list[Rows] = field(default_factory=list)
    divergences: list[Rows] = field(default_factory=list)
    """In nats, of the type's distribution from the exact one, a token."""
    num_changed: int = 0
    num_bytes: int = 0
    num_positions: int = 0

    def row(self, name: str) -> str:
        differences, divergences = np.concatenate(self.differences), np.concatenate(self.divergences)
        cells = (
            f"{self.num_bytes / self.num_positions:.0f}",
            f"{differences.max():.4f}",
            f"{differences.mean():.5f}",
            f"{divergences.mean():.1e}",
            f"{divergences.max():.1e}",
            f"{self.num_changed} of {len(divergences)} ({100 * self.num_changed / len(divergences):.2f} %)",
        )
        return f"| {name} | " + " | ".join(cells) + " |"


class Ring:
    """The whole model, and its shards one after another."""

    def __init__(self, model: Path, folder: Path) -> None:
        num_layers = read_manifest(model).num_layers
        edges = [num_layers * i // NUM_SHARDS for i in range(NUM_SHARDS + 1)]
        self.whole = LlamaEngine(model, OPTIONS)
        self.vocab = load_vocab(model)
        self._stages: list[LlamaEngine] = []
        for start, end in itertools.pairwise(edges):
            path = folder / f"{start}-{end}.gguf"
            cut(model, start, end, path)
            self._stages.append(LlamaEngine(path, OPTIONS))

    def answer(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """The whole model's greedy one."""
        tokens: list[int] = []
        while len(tokens) < max_tokens:
            fed = tokens[-1:] or list(prompt)
            position = self.whole.length(0)
            token = int(_logits(self.whole, position, fed)[-1].argmax())
            if token in self.vocab.end_tokens():
                break
            tokens.append(token)
        self.whole.release(0)
        return tokens

    def exact(self, tokens: Sequence[int], num_logits: int) -> Rows:
        """At the last `num_logits` positions."""
        logits = np.concatenate([_logits(self.whole, start, piece) for start, piece in _pieces(tokens)])
        self.whole.release(0)
        return logits[-num_logits:]

    def travelled(self, tokens: Sequence[int], num_logits: int, trip: Trip, errors: Errors) -> Rows:
        rows = []
        for start, piece in _pieces(tokens):
            states, num_bytes = self._stages[0].decode([_chunk(start, piece)])[0], 0
            for stage in self._stages[1:-1]:
                arrived, num = trip(states)
                states, num_bytes = stage.decode([_chunk(start, arrived)])[0], num_bytes + num
            arrived, num = trip(states)
            rows.append(_logits(self._stages[-1], start, arrived))
            errors.num_bytes += num_bytes + num
            errors.num_positions += len(piece)
        for stage in self._stages:
            stage.release(0)
        return np.concatenate(rows)[-num_logits:]


def _pieces(tokens: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
    for start in range(0, len(tokens), OPTIONS.batch_tokens):
        yield start, tokens[start : start + OPTIONS.batch_tokens]


def _chunk(position: int, inputs: Sequence[int] | Rows, num_draws: int = 0) -> Chunk:
    array = inputs if isinstance(inputs, np.ndarray) else np.asarray(inputs, np.int32)
    return Chunk(0, position, array, num_draws, Sampling() if num_draws else None)


def _logits(engine: LlamaEngine, position: int, inputs: Sequence[int] | Rows) -> Rows:
    return engine.decode([_chunk(position, inputs, len(inputs))])[0].copy()


def by_type(wire: str) -> Trip:
    def trip(states: Rows) -> tuple[Rows, int]:
        packed = pack_states(np.ascontiguousarray(states), wire)
        num_positions, width = states.shape
        return np.array(unpack_states(packed, num_positions, width, wire)), len(packed)

    return trip


def compare(errors: Errors, exact: Rows, other: Rows) -> None:
    p, q = (_log_softmax(logits) for logits in (exact, other))
    errors.differences.append(np.abs(exact - other).ravel())
    errors.divergences.append((np.exp(p) * (p - q)).sum(axis=1))
    errors.num_changed += int((exact.argmax(axis=1) != other.argmax(axis=1)).sum())


def _log_softmax(logits: Rows) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def in_floats(model: Path, path: Path) -> Path:
    """The same weights in F32, at `path`."""
    reader = GGUFReader(model)
    writer = GGUFWriter(path, reader.fields["general.architecture"].contents())
    for name, one in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, one.contents(), one.types[0], one.types[-1] if len(one.types) > 1 else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def measure(
    questions: Sequence[str], trips: dict[str, Trip], max_tokens: int, *, in_float: bool = False
) -> dict[str, Errors]:
    result = {name: Errors() for name in trips}
    with tempfile.TemporaryDirectory() as folder:
        model = in_floats(demo_target(), Path(folder) / "model.gguf") if in_float else demo_target()
        ring = Ring(model, Path(folder))
        for question in questions:
            prompt = ring.vocab.render([("user", question)]).tolist()
            answer = ring.answer(prompt, max_tokens)
            if not answer:
                continue
            tokens = prompt + answer[:-1]
            exact = ring.exact(tokens, len(answer))
            for name, trip in trips.items():
                compare(result[name], exact, ring.travelled(tokens, len(answer), trip, result[name]))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gsm8k", type=Path, help="JSONL with questions (generated problems)")
    parser.add_argument("--float", action="store_true")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=64)
    args = parser.parse_args()
    if args.gsm8k:
        questions = [json.loads(line)["question"] for line in args.gsm8k.read_text().splitlines()]
    else:
        questions = [problem.question for problem in problems(seed=4711, count=args.prompts)]
    trips = {wire: by_type(wire) for wire in WIRE_TYPES}
    print("| wire | bytes a token (3 crossings) | logits: largest error | mean | KL: mean | largest | other greedy |")
    print("|---|---|---|---|---|---|---|")
    for name, errors in measure(questions[: args.prompts], trips, args.max_tokens, in_float=args.float).items():
        print(errors.row(name))


if __name__ == "__main__":
    main()
