"""What a judge's own guesses bring: `python -m tests.node.guesses [--noise 0 0.3 1] [--latency 0 20]`.

Real daemons and workers: three shards of a made model whose block for it (multi-token prediction) guesses well, with
some noise less often (tests/engine/knowing.py), and a drafter without a draft model. Links of so many milliseconds one
way. Texts at temperature 0.8, so that nothing is said twice; each is also made without draft tokens, right before or
after, and the two are compared: any that differ are counted, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from statistics import fmean, median

from dsdnode.bench.config import BenchConfig
from dsdnode.bench.emulator import Emulator
from dsdnode.bench.swarm import Swarm, swarm
from dsdnode.cli.logs import set_up
from dsdnode.client.client import Client, GenerateRequest, Piece
from dsdnode.client.request import Finished, ReplyStats
from dsdnode.engine.gguf_header import read_header
from dsdnode.models import demo_target
from tests.engine.knowing import with_texts_of, write_knowing_model
from tests.node.copies import interval

NUM_SHARDS, NUM_LAYERS, WIDTH = 3, 12, 256
WAYS = {"plain": 0, "guesses": -1}


def model(folder: Path, architecture: str, noise: float) -> Path:
    vocab_size = read_header(demo_target()).tensors["token_embd.weight"].shape[1]
    keys = {"vocab_size": vocab_size, "embedding_length": WIDTH, "feed_forward_length": 4 * WIDTH}
    write_knowing_model(folder / "bare.gguf", architecture, NUM_LAYERS, noise, keys)
    with_texts_of(folder / "bare.gguf", demo_target(), folder / f"knowing-{noise}.gguf")
    return folder / f"knowing-{noise}.gguf"


async def played(client: Client, way: str, seed: int, num_tokens: int) -> tuple[list[int], ReplyStats]:
    tokens: list[int] = []
    ask = GenerateRequest(
        prompt_tokens=(5, 6, 7 + seed), max_tokens=num_tokens, ignore_eos=True, temperature=0.8, seed=seed,
        draft_max=WAYS[way],
    )  # fmt: skip
    async for event in client.generate(ask):
        if isinstance(event, Piece):
            tokens += event.tokens
        elif isinstance(event, Finished):
            return tokens, event.stats
    raise AssertionError("a reply without an end")


async def offered(client: Client) -> None:
    """The drafter has found what it may draft for."""
    while not any(model.drafters for model in await client.models()):  # noqa: ASYNC110 (nobody tells of it)
        await asyncio.sleep(0.5)


async def measure(made: Swarm, rounds: int, num_tokens: int) -> tuple[str, int]:
    """A line of the table, and how many texts differ."""
    client, ratios, speeds, seen, num_wrong = await Client.connect([made.join]), [], [], [], 0
    try:
        await offered(client)
        for turn in range(rounds + 1):
            ways = list(WAYS) if turn % 2 else list(reversed(WAYS))
            replies = {way: await played(client, way, turn, num_tokens) for way in ways}
            num_wrong += replies["plain"][0] != replies["guesses"][0]
            if turn:
                plain, with_guesses = (replies[way][1].tokens_per_second or 0.0 for way in WAYS)
                ratios.append(with_guesses / plain)
                speeds.append((plain, with_guesses))
                seen.append(replies["guesses"][1])
    finally:
        await client.close()
    low, high = interval(ratios)
    accepted = sum(one.accepted for one in seen) / max(1, sum(one.judged for one in seen))
    plain, with_guesses = (median(one[index] for one in speeds) for index in (0, 1))
    passes = fmean(one.passes for one in seen) / num_tokens
    return (
        f"{plain:8.1f} {with_guesses:9.1f} {fmean(ratios):8.2f} {f'{low:.2f}-{high:.2f}':>11} {accepted:9.2f} "
        f"{passes:14.2f}"
    ), num_wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="qwen35", choices=("qwen35", "qwen35moe", "glm4moe"))
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.5, 2.0])
    parser.add_argument("--latency", type=float, nargs="+", default=[0.0, 20.0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96)
    args = parser.parse_args()
    set_up("error", "auto")
    print(f"{'noise':>5} {'ms':>4} {'plain/s':>8} {'guesses/s':>9} {'x plain':>8} {'95 %':>11} {'accepted':>9} "
          f"{'passes a token':>14}")  # fmt: skip
    num_wrong = 0
    for noise in args.noise:
        with tempfile.TemporaryDirectory() as folder, Emulator(0) as emulator:
            path = model(Path(folder), args.architecture, noise)
            config = BenchConfig((), model=path, draft_model=Path("none"))
            with swarm(config, NUM_SHARDS, emulator, Path(folder)) as made:
                for latency_ms in args.latency:
                    made.link((latency_ms,))
                    line, wrong = asyncio.run(measure(made, args.rounds, args.tokens))
                    num_wrong += wrong
                    print(f"{noise:5.1f} {latency_ms:4.0f} {line}", flush=True)
    print(f"texts that differ from plain's: {num_wrong}")
    return int(num_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
