"""Random schedules on real engines whose layers have running states: `python -m tests.engine.hybrid_schedules`.

Blocks, rollbacks into and across them, branches at and before the tip, releases: after each step that says anything the
rows, of the whole model and of its shards, must be those of an engine that was fed the same tokens one at a time and
never took one back. Odd seeds: one sequence in the strict setting, to the last bit. Even ones: several sequences, whose
cells lie in another order then, in F32 and without flash attention: what rounds coarsely gives other numbers in other
orders; to a hundredth. Exit code 1: some were not.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dsdnode.engine.gguf import cut, fits
from dsdnode.engine.gguf_types import GGMLQuantizationType as Type
from dsdnode.engine.hybrid import HybridEngine, open_engine
from dsdnode.engine.llama import LlamaEngine
from dsdnode.engine.port import Chunk
from dsdnode.engine.worker import ALIKE
from dsdnode.speculation.sampling import Sampling
from tests.engine.exactness import STRICT, Pair, ranges
from tests.engine.loader_models import VOCAB
from tests.engine.random_models import make

MODELS = ("qwen35", "kimi-linear", "nemotron_h", "mamba2", "lfm2", "jamba")
NUM_LAYERS, NUM_STEPS = 15, 24
MOST_TOKENS = 90
NEAR = 1e-2
"""A state of another position is off by 0.1 and more."""
ROUNDED = replace(STRICT, flash_attention=False)


class Schedule:
    """`lines`: of each sequence, the tokens that it has by now."""

    def __init__(self, engines: Sequence[LlamaEngine], alone: LlamaEngine, seed: int) -> None:
        self.pair = Pair(engines[0], engines[1:], seed=seed)
        self.alone = alone
        self.rng = random.Random(seed)
        self.lines: dict[int, list[int]] = {}
        self.num_lines, self.near = (STRICT.max_sequences, NEAR) if seed % 2 == 0 else (1, 0.0)
        self.num_wrong = 0

    def step(self) -> None:
        lines = self.lines
        sequence = self.rng.randrange(self.num_lines)
        line = lines.setdefault(sequence, [])
        match self.rng.choice(("block", "block", "block", "back", "branch", "release")):
            case "back" if line:
                position = self.rng.choice((self.rng.randint(0, len(line)), max(0, len(line) - self.rng.randint(1, 9))))
                self.pair.truncate(sequence, position)
                del line[position:]
            case "branch" if line and (free := [one for one in range(self.num_lines) if not lines.get(one)]):
                position = self.rng.choice((len(line), self.rng.randint(0, len(line))))
                self.pair.copy(sequence, free[0], position)
                lines[free[0]] = line[:position]
            case "release":
                self.pair.release(sequence)
                line.clear()
            case _ if sum(map(len, lines.values())) < MOST_TOKENS:
                self._block(sequence, line)

    def _block(self, sequence: int, line: list[int]) -> None:
        tokens = [self.rng.randrange(VOCAB) for _ in range(self.rng.randint(1, 12))]
        rows = self.pair.feed(sequence, tokens)
        line += tokens
        wanted = [
            self.alone.decode([Chunk(0, position, np.array([token], np.int32), 1, Sampling())])[0]
            for position, token in enumerate(line)
        ][-len(tokens) :]
        self.alone.release(0)
        difference = float(np.abs(rows - np.concatenate(wanted)).max())
        self.num_wrong += max(difference, self.pair.max_difference) > self.near


def play(name: str, seed: int, folder: Path) -> int:
    """Steps that came out wrong: the whole model, or its shards."""
    several = seed % 2 == 0
    model = make(folder, name, NUM_LAYERS, Type.F32 if several else Type.Q8_0)
    paths = []
    for start, end in ranges(NUM_LAYERS, 2, fits(model)):
        paths.append(folder / f"{start}.gguf")
        cut(model, start, end, paths[-1])
    options = ROUNDED if several else STRICT
    engines = [open_engine(path, options) for path in (model, *paths, model)]
    assert all(isinstance(engine, HybridEngine) for engine in engines)
    try:
        schedule = Schedule(engines[:-1], engines[-1], seed)
        for _ in range(NUM_STEPS):
            schedule.step()
        return schedule.num_wrong
    finally:
        for engine in engines:
            engine.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    num_wrong = 0
    for seed in range(options.first, options.first + options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            name = MODELS[seed // 2 % len(MODELS)]
            wrong = play(name, seed, Path(folder))
            num_wrong += wrong
            print(f"{seed} {name}: {wrong} wrong", flush=True)
    print(f"{options.seeds} schedules, {num_wrong} wrong")
    return 1 if num_wrong else 0


if __name__ == "__main__":
    if not ALIKE.items() <= os.environ.items():  # llama.cpp reads it when it is loaded
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.engine.hybrid_schedules", *sys.argv[1:]], os.environ | ALIKE
        )
    sys.exit(main())
