"""Same seed, same text: `python -m tests.node.same_text [--real]`.

At temperature 0.8 each prompt is answered many times under one seed, by whole swarms in virtual time that differ in all
else: the window (0 to 16) or a plan that changes at random (plain, rounds, stream, hedged; blocks of 1 to 4), cuts of
the layers, machines, links, and in half of the runs a stage that is killed in mid-reply. Every text must be the one of
the model decoding alone. With fake engines, or (--real) with the demo pair on llama.cpp in the strict setting. There
branches and copies change the order of cells in a cache, and that the rounding (by up to 0.1 on logits): a text that
differs is listed with the margin by which its token won alone, and more than a near-tie is a failure.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from dsdnode.cli.logs import set_up
from dsdnode.client.client import Finished, GenerateRequest
from dsdnode.engine.fake import FakeGrammar, FakeModel, fake_text
from dsdnode.engine.gguf import cut
from dsdnode.engine.gguf_header import read_header
from dsdnode.engine.gguf_text import text_file
from dsdnode.engine.grammars import Grammars
from dsdnode.engine.ipc import EngineOptions
from dsdnode.engine.llama import LlamaEngine
from dsdnode.engine.llama_vocab import load_vocab
from dsdnode.engine.port import Chunk, Engine, Output, ShardInfo
from dsdnode.engine.tokenizer import Vocab
from dsdnode.errors import EngineLost
from dsdnode.models import demo_draft, demo_target
from dsdnode.sim import loop as jumping
from dsdnode.speculation.sampling import Sampling
from dsdnode.wire.replies import Constraint
from tests.node.exactness import NUM_LAYERS, compare, rendered
from tests.node.reference import WholeModel
from tests.sim.village import Place, Village
from tests.sim.world import restless

TEMPERATURE = 0.8
NEAR_TIE = 0.1
MAX_WINDOW = 16
STRICT = EngineOptions.strict()
SETTLE_S = 3.0
"""Until everybody's offer is known."""


@dataclass
class Tally:
    runs: int = 0
    tokens: int = 0
    killed: int = 0
    recoveries: int = 0
    windows: Counter[int] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    unequal: list[str] = field(default_factory=list)
    num_near_ties: int = 0
    """Of these."""


def grammars_of(path: Path) -> Grammars:
    vocab = load_vocab(path)
    names = [vocab.name(token).encode() for token in range(vocab.size)]
    return Grammars(vocab.pieces(), names, vocab.end_tokens(), lambda text: vocab.tokenize_bytes(text).tolist())


class RealEngine:
    """llama.cpp in this process: as the worker process does it, in the simulation's time."""

    def __init__(self, path: Path, place: Place) -> None:
        self._path = path
        self._llama = LlamaEngine(path, STRICT)
        self._place = place
        self._closed = False
        self.quarantined = ""
        self.available = True

    @property
    def shard(self) -> ShardInfo:
        return self._llama.shard

    def on_lost(self, callback: Any) -> None:
        pass

    def on_change(self, callback: Any) -> None:
        pass

    async def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        seconds = self._place.cost(sum(len(chunk.inputs) + chunk.extend for chunk in chunks))
        await asyncio.sleep(seconds)
        self._check()
        return [replace(output, compute_s=seconds) for output in self._llama.forward(chunks)]

    async def copy(self, source: int, target: int, position: int) -> None:
        self._check()
        self._llama.copy(source, target, position)

    async def truncate(self, sequence: int, position: int) -> None:
        self._check()
        self._llama.truncate(sequence, position)

    async def release(self, sequence: int) -> None:
        self._check()
        self._llama.release(sequence)

    async def text_file(self) -> bytes:
        return text_file(read_header(self._path))

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._llama.close()

    async def vocabulary(self) -> Vocab:
        vocab = load_vocab(self._path)
        return Vocab(vocab.pieces(), frozenset(vocab.end_tokens()), vocab.has_template)

    async def constrain(self, constraint: Constraint, vocab_size: int) -> FakeGrammar:
        return FakeGrammar(grammars_of(self._path), constraint, vocab_size)

    def _check(self) -> None:
        if self._closed:
            raise EngineLost("the engine is closed")


@dataclass
class RealVillage(Village):
    folder: Path = Path()

    def shard_engine(self, place: Place) -> Any:
        assert place.layers is not None
        start, end = place.layers
        path = self.folder / f"{start}-{end}.gguf"
        if not path.exists():
            cut(demo_target(), start, end, path)
        engine: Engine = RealEngine(path, place)
        return engine

    def draft_engine(self, place: Place) -> Any:
        return RealEngine(demo_draft(), place)


async def answer(village: Village, request: GenerateRequest, kill_at: int | None, tally: Tally) -> tuple[int, ...]:
    """The reply's tokens; when there are `kill_at` of them, a stage of its pipeline is killed."""
    tokens: list[int] = []
    try:
        await village.build(num_clients=1)
        await asyncio.sleep(SETTLE_S)
        async with contextlib.aclosing(village.clients[0].generate(request)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    tally.recoveries += event.stats.recoveries
                    tally.modes.update({plan.mode for plan in event.stats.plans})
                    break
                tokens += event.tokens
                if kill_at is not None and len(tokens) >= kill_at and in_use(village):
                    kill_at = None
                    tally.killed += 1
                    await village.kill(village.rng.choice(in_use(village)), silent=False)
    finally:
        await village.close()
    return tuple(tokens)


def in_use(village: Village) -> list[str]:
    """The stages of the reply in progress."""
    drafters = [villager.node._drafter for villager in village.villagers.values()]
    replies = [reply for drafter in drafters if drafter is not None for reply in drafter._by_session.values()]
    peers = {peer for reply in replies if reply._route is not None for peer in reply._route.peers}
    return [name for name, villager in village.villagers.items() if villager.transport.id in peers]


def run_once(village: Any, request: GenerateRequest, number: int, tally: Tally) -> tuple[int, ...]:
    rng = Random(f"run {number}")
    window = rng.randint(0, MAX_WINDOW)
    kill_at = rng.randint(1, 12) if rng.random() < 0.5 else None
    asked = replace(request, draft_max=window, window=rng.choice(("fixed", "fixed", "throughput:hedged", "throughput")))

    async def main() -> tuple[int, ...]:
        return await answer(village(rng), asked, kill_at, tally)

    with restless(number, share=0.6):
        tokens = jumping.run(main(), 3600.0)
    tally.runs += 1
    tally.tokens += len(tokens)
    tally.windows[window] += 1
    return tokens


def fake(num_runs: int, num_prompts: int, max_tokens: int) -> Tally:
    tally, model = Tally(), FakeModel(num_layers=4)
    prompts = [tuple(Random(i).randrange(1, 97) for _ in range(3 + i)) for i in range(num_prompts)]

    def village(rng: Random) -> Village:
        return Village(rng, num_layers=model.num_layers, replicas=(2, 3))

    for number in range(num_runs):
        index = number % num_prompts
        request = _request(prompts[index], index, max_tokens)
        expected = fake_text(model, prompts[index], max_tokens, Sampling(TEMPERATURE, seed=index))
        expected = expected[: expected.index(0)] if 0 in expected else expected
        tokens = run_once(village, request, number, tally)
        if list(tokens) != expected:
            tally.unequal.append(f"run {number}: {tokens}, not {expected}")
    return tally


def real(num_runs: int, num_prompts: int, max_tokens: int, folder: Path) -> Tally:
    tally = Tally()
    questions = [
        "What is 17 plus 25?",
        "Sam has 3 boxes of 12 pens and",
        "Tell me of the sea.",
        "A baker sells 40 loaves",
    ]
    prompts, ends = asyncio.run(rendered((questions * num_prompts)[:num_prompts]))
    whole = WholeModel(demo_target(), strict=True)
    alone = [
        whole.decode(prompt, Sampling(TEMPERATURE, seed=index), max_tokens, ends)
        for index, prompt in enumerate(prompts)
    ]

    def village(rng: Random) -> Village:
        return RealVillage(rng, num_layers=NUM_LAYERS, replicas=(2,), strict=True, folder=folder)

    for number in range(num_runs):
        index = number % num_prompts
        tokens = run_once(village, _request(prompts[index], index, max_tokens), number, tally)
        tie = compare(alone[index], tokens)
        if tie is not None:
            tally.unequal.append(f"run {number}, prompt {index}, at {tie[0]}: margin {tie[1]:.4f}")
            tally.num_near_ties += tie[1] < NEAR_TIE
    return tally


def _request(prompt: tuple[int, ...], seed: int, max_tokens: int) -> GenerateRequest:
    return GenerateRequest(prompt_tokens=prompt, max_tokens=max_tokens, temperature=TEMPERATURE, seed=seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--max-tokens", type=int, default=40)
    options = parser.parse_args()
    set_up("error", "auto")
    if options.real:
        with tempfile.TemporaryDirectory() as folder:
            tally = real(options.runs or 48, options.prompts, options.max_tokens, Path(folder))
    else:
        tally = fake(options.runs or 2000, options.prompts, options.max_tokens)
    engines = "llama.cpp" if options.real else "fake engines"
    equal = f"{len(tally.unequal)} texts not equal, {tally.num_near_ties} of them by a near-tie"
    print(f"{tally.runs} runs of {options.prompts} prompts on {engines}: {equal}")
    print(f"{tally.tokens} tokens; {tally.killed} runs with a stage killed; {tally.recoveries} recoveries")
    print("windows: " + ", ".join(f"{window}: {count}" for window, count in sorted(tally.windows.items())))
    print("runs that went, for a time, by " + ", ".join(f"{mode}: {n}" for mode, n in sorted(tally.modes.items())))
    for text in tally.unequal:
        print(text)
    return int(len(tally.unequal) > tally.num_near_ties)


if __name__ == "__main__":
    sys.exit(main())
