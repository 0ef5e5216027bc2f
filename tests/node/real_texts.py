"""Texts of a real model, from a swarm and from the whole model alone: `python -m tests.node.real_texts`.

Gemma 3 270M in Q4_K_M (tests/engine/gemma.py), and two random models: a mixture of experts in Q4_K, its routers in F32,
and one in Q6_K. Nodes with CURVE on loopback, each engine in a worker process, f32 states; 40 prompts (three languages
and code, two of them long), 40 tokens each, greedy; windows of 0, 4 and 8, and a stream. The draft model is the target
without some of its layers: wrong at times. With `--strict` no text may differ from that of the whole model in the
strict setting, decoded alone, one token at a time. Else the texts that do are listed by the gap, in logits, between the
whole model's first and second choice at the token where they part, and by how many strict ones do.

Goes on where it ended: `--results FILE` has a line of JSON a text.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import psutil

from dsdnode.cli.logs import set_up
from dsdnode.client.client import Client, GenerateRequest
from dsdnode.engine.client import WorkerEngine
from dsdnode.engine.gguf_header import read_header
from dsdnode.engine.gguf_types import GGMLQuantizationType as Type
from dsdnode.engine.gguf_writer import NewTensor, write_gguf
from dsdnode.engine.ipc import EngineOptions
from dsdnode.engine.port import Chunk, Output
from dsdnode.models import demo_draft
from dsdnode.models.problems import problems
from dsdnode.speculation.sampling import Sampling
from tests.engine.gemma import NUM_LAYERS, fetch, write_without
from tests.engine.random_models import VARIANTS, write_random_model
from tests.node.exactness import reply, swarm
from tests.node.reference import PREFILL_POSITIONS

WINDOWS = ("0", "4", "8", "stream")
CONTEXT_TOKENS = 1024
ROUND_PROMPTS = 4
"""Through every swarm and window, before the next ones: what there is can be read at any time."""
MODELS = {"gemma": (1, 2, 3, NUM_LAYERS), "moe-q4_k": (1, 2, 3), "llama-q6_k": (1, 2, 3)}
"""And into how many shards each is cut."""
LEFT_OUT = {"gemma": (8, 10), "moe-q4_k": (5,), "llama-q6_k": (5,)}
"""Layers that the draft model lacks."""
RANDOM_LAYERS = 12
RANDOM = {"moe-q4_k": ("qwen3moe", Type.Q4_K), "llama-q6_k": ("llama", Type.Q6_K)}


class Key(msgspec.Struct, frozen=True):
    """`shards` 0: the whole model alone."""

    model: str
    strict: bool
    shards: int
    window: str
    prompt: int


class Text(msgspec.Struct, frozen=True):
    """`gaps`: the whole model's, at each token, in logits. `cpu_s`: of all processes."""

    key: Key
    tokens: list[int]
    cpu_s: float
    seconds: float
    gaps: list[float] = []
    judged: int = 0
    accepted: int = 0


class Results:
    """Those of a file, and what is added to it."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._decoder = msgspec.json.Decoder(Text)
        lines = path.read_bytes() if path and path.exists() else b""
        self.texts = {text.key: text for text in self._decoder.decode_lines(lines)}

    def add(self, text: Text) -> None:
        self.texts[text.key] = text
        if self._path:
            with self._path.open("ab") as out:
                out.write(msgspec.json.encode(text) + b"\n")


def questions() -> list[str]:
    """English, German, Chinese and code by turns; two of them are longer than a chunk of a prompt."""
    lines = Path(__file__).with_name("prompts.txt").read_text(encoding="utf-8").splitlines()
    long = [" ".join(problem.question for problem in problems(seed, 16)) for seed in (1, 2)]
    return [line.replace("\\n", "\n") for line in [*lines[:4], *long, *lines[4:]]]


def make_models(name: str, folder: Path) -> tuple[Path, Path]:
    """Target and draft."""
    target, draft = folder / f"{name}.gguf", folder / f"{name}-draft.gguf"
    if name == "gemma":
        target = fetch()
    else:
        _write_random(target, *RANDOM[name])
    write_without(target, LEFT_OUT[name], draft)
    return target, draft


def _write_random(path: Path, variant: str, kind: Type) -> None:
    """With the demo pair's tokenizer: there is no drafter without one."""
    donor, bare = read_header(demo_draft()), path.with_suffix(".bare")
    vocab_size = {"vocab_size": donor.tensors["token_embd.weight"].shape[1]}
    write_random_model(bare, VARIANTS[variant], RANDOM_LAYERS, kind, keys=vocab_size)
    header = read_header(bare)
    tokenizer = {key: value for key, value in donor.metadata.items() if key.startswith("tokenizer.")}
    tensors = [NewTensor(one.name, one.shape, one.type, source=one) for one in header.tensors.values()]
    with bare.open("rb") as file:
        write_gguf(path, header.metadata | tokenizer, tensors, file)


async def ids_of(draft: Path, texts: Sequence[str]) -> list[tuple[int, ...]]:
    engine = await WorkerEngine.start(draft, EngineOptions(context_tokens=CONTEXT_TOKENS))
    try:
        return [tuple(await engine.tokenize(text)) for text in texts]
    finally:
        await engine.close()


async def decode_alone(engine: WorkerEngine, prompt: Sequence[int], max_tokens: int) -> tuple[list[int], list[float]]:
    """The whole model's tokens, one at a time, and by how much each beat the next one."""
    await engine.release(0)
    outputs: list[Output] = []
    for start in range(0, len(prompt), PREFILL_POSITIONS):
        part = np.array(prompt[start : start + PREFILL_POSITIONS], np.int32)
        chunk = Chunk(0, start, part)
        if start + len(part) == len(prompt):
            chunk = Chunk(0, start, part, 1, Sampling(), extend=max_tokens - 1, num_top=2)
        outputs = await engine.forward([chunk])
    [output] = outputs
    assert output.tokens is not None and output.top is not None
    gaps = [math.log(first / second) if second > 0 else math.inf for first, second in output.top.probabilities.tolist()]
    return output.tokens.tolist(), gaps


def cpu_s() -> float:
    """Of this process and its children, so far."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    spent = [process.cpu_times() for process in processes]
    return float(sum(one.user + one.system for one in spent))


class Run:
    def __init__(self, name: str, strict: bool, max_tokens: int, results: Results, folder: Path) -> None:
        self._name, self._strict, self._max_tokens, self._results = name, strict, max_tokens, results
        self._target, self._draft = make_models(name, folder)
        self._prompts: list[tuple[int, ...]] = []

    async def play(self, shards: Sequence[int], num_prompts: int) -> None:
        self._prompts = await ids_of(self._draft, questions()[:num_prompts])
        await self._alone()
        for start in range(0, num_prompts, ROUND_PROMPTS):
            numbers = range(start, min(start + ROUND_PROMPTS, num_prompts))
            for num_shards in shards:
                keys = [self._key(num_shards, window, number) for number in numbers for window in WINDOWS]
                if left := [key for key in keys if key not in self._results.texts]:
                    await self._swarm(num_shards, left)

    def _key(self, num_shards: int, window: str, number: int) -> Key:
        return Key(self._name, self._strict, num_shards, window, number)

    async def _alone(self) -> None:
        keys = [self._key(0, "", number) for number in range(len(self._prompts))]
        if all(key in self._results.texts for key in keys):
            return
        usual = EngineOptions(threads=1, context_tokens=CONTEXT_TOKENS)
        options = EngineOptions.strict(CONTEXT_TOKENS) if self._strict else usual
        engine = await WorkerEngine.start(self._target, options)
        try:
            for key in keys:
                began, spent = time.monotonic(), cpu_s()
                tokens, gaps = await decode_alone(engine, self._prompts[key.prompt], self._max_tokens)
                self._results.add(Text(key, tokens, cpu_s() - spent, time.monotonic() - began, gaps))
        finally:
            await engine.close()

    async def _swarm(self, num_shards: int, keys: Sequence[Key]) -> None:
        options = {"model": self._target, "draft_model": self._draft, "context_tokens": CONTEXT_TOKENS}
        num_layers = NUM_LAYERS if self._name == "gemma" else RANDOM_LAYERS
        with tempfile.TemporaryDirectory() as folder:
            made = swarm(Path(folder), num_shards, strict=self._strict, num_layers=num_layers, **options)
            async with made as client:
                for key in keys:
                    self._results.add(await self._text(client, key))
        print(f"{keys[0].model}, {num_shards} shards: {len(keys)} texts", file=sys.stderr, flush=True)

    async def _text(self, client: Client, key: Key) -> Text:
        is_stream = key.window == "stream"
        request = GenerateRequest(
            prompt_tokens=self._prompts[key.prompt],
            max_tokens=self._max_tokens,
            draft_max=None if is_stream else int(key.window),
            window="throughput:stream" if is_stream else "fixed",
            ignore_eos=True,
        )
        began, spent = time.monotonic(), cpu_s()
        tokens, _, stats = await reply(client, request)
        seconds = time.monotonic() - began
        return Text(key, list(tokens), cpu_s() - spent, seconds, judged=stats.judged, accepted=stats.accepted)


def parted(text: Text, alone: Text) -> float | None:
    """The whole model's gap at the first token that is not its own; None: there is none."""
    for mine, its, gap in zip(text.tokens, alone.tokens, alone.gaps, strict=True):
        if mine != its:
            return gap
    return None


def rows(results: Results, name: str, strict: bool) -> Iterator[tuple[object, ...]]:
    texts = [text for text in results.texts.values() if (text.key.model, text.key.strict) == (name, strict)]
    alone = {text.key.prompt: text for text in texts if not text.key.shards}
    cells = sorted({(text.key.shards, text.key.window) for text in texts})
    for shards, window in cells:
        these = [text for text in texts if (text.key.shards, text.key.window) == (shards, window)]
        gaps = [gap for text in these if (gap := parted(text, alone[text.key.prompt])) is not None]
        num_tokens, judged = sum(len(text.tokens) for text in these), sum(text.judged for text in these)
        differing = f"{len(gaps)} ({', '.join(f'{gap:.2g}' for gap in sorted(gaps))})" if gaps else "0"
        yield (
            name,
            "strict" if strict else "default",
            shards or "whole",
            window or "-",
            len(these),
            num_tokens,
            f"{sum(text.accepted for text in these) / judged:.2f}" if judged else "-",
            differing,
            f"{1e3 * sum(text.cpu_s for text in these) / num_tokens:.1f}",
            f"{num_tokens / sum(text.seconds for text in these):.1f}",
        )


COLUMNS = "model | setting | shards | window | texts | tokens | accepted | differ (at gaps) | CPU ms a token | tok/s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--shards", type=int, nargs="+")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--max-tokens", type=int, default=40)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    set_up("error", "auto")
    results = Results(args.results)
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(name, args.strict, args.max_tokens, results, Path(folder))
            asyncio.run(run.play(args.shards or MODELS[name], args.prompts))
    print(f"| {COLUMNS} |")
    print("|---" * (COLUMNS.count("|") + 1) + "|")
    table = [row for name in args.models for row in rows(results, name, args.strict)]
    for row in table:
        print("| " + " | ".join(map(str, row)) + " |")
    return int(args.strict and any(row[7] != "0" for row in table))


if __name__ == "__main__":
    sys.exit(main())
