"""What copied draft tokens bring: `python -m tests.node.copies`. Real daemons, greedy; texts are compared with plain's.

Two swarms of two shards on this machine: Gemma 3 270M (tests/engine/gemma.py) with a drafter that has no draft model,
and the demo pair. Gemma is a base model, so examples show it what to do: rewrite, quote, fill in JSON, answer by a
tool's result; its prose goes on with a story. The demo model answers word problems; told not to stop it repeats itself,
and that is its rewriting. Each round plays every prompt once by each way, one after the other, so that whatever else
this machine does hits all of them; a ratio is taken within its round, and printed with the 95 % interval of its mean
over prompts and rounds. Near-ties may tip either way where blocks are cut otherwise (--strict is for that): texts that
differ are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median, stdev

from dsdnode.cli.logs import set_up
from dsdnode.client.client import Client, GenerateRequest, Piece
from dsdnode.client.request import Finished, ReplyStats
from dsdnode.models.problems import problems
from tests.engine.gemma import fetch
from tests.node.processes import Swarm, swarm

WAYS: Mapping[str, Mapping[str, object]] = {
    "plain": {"draft_max": 0},
    "model": {"window": "throughput:model"},
    "ngrams": {"window": "throughput:ngrams"},
    "both": {"window": "throughput"},
}
STORY = (
    "The old lighthouse keeper climbed the spiral stairs every evening, lit the great lamp, and wrote the names of all "
    "ships that passed into a thick leather book. One night in November a small boat came out of the fog."
)
NOTE = (
    "The meeting of the garden club takes place on the third Tuesday in March at half past seven in the upper room of "
    "the Red Lion. Please bring seeds that you would like to exchange, and a chair if you have a light one."
)
RECORD = '{"id": %d, "name": "%s", "address": {"street": "%s", "town": "%s"}, "active": true, "tags": ["new", "mail"]}'
PEOPLE = (("Ann Lee", "Mill Lane 4", "Leeds"), ("Bo Chen", "High Street 12", "York"), ("Cy Dow", "Park Road 9", "Hull"))


def rewriting(text: str) -> str:
    """Two examples of a text said again with one word changed, and one that is to be."""
    shown = [
        ("The cat sat on the mat and slept.", "cat", "dog"),
        ("We sail on Monday if the wind is fair.", "Monday", "Friday"),
    ]
    lines = [f"Text: {one}\nReplace {old} by {new}: {one.replace(old, new)}\n" for one, old, new in shown]
    return "".join([*lines, f"Text: {text}\nReplace ships by boats and March by April:"])


GEMMA = {
    "rewriting": [rewriting(STORY), rewriting(NOTE)],
    "quoting": [f'He wrote: "{text}" And then he wrote the very same again: "{text[:40]}' for text in (STORY, NOTE)],
    "json": ["[" + ",\n ".join(RECORD % (number, *one) for number, one in enumerate(PEOPLE, 1)) + ",\n {"],
    "tools": [
        "".join(
            f'call: {{"tool": "weather", "arguments": {{"town": "{town}", "unit": "celsius"}}}}\n'
            f'result: {{"town": "{town}", "temperature": {degrees}, "sky": "clear"}}\n'
            f"answer: The sky over {town} is clear, at {degrees} degrees celsius.\n"
            for town, degrees in (("Leeds", 11), ("York", 12), ("Hull", 9))
        )
    ],
    "prose": [
        STORY,
        "Letter to my grandmother, written on a long train journey through the mountains:\n\nDear Grandma,",
    ],
}


@dataclass(frozen=True, slots=True)
class Case:
    kind: str
    ask: GenerateRequest


def gemma_cases(num_tokens: int) -> list[Case]:
    return [
        Case(kind, GenerateRequest(prompt=text, max_tokens=num_tokens, ignore_eos=True))
        for kind, texts in GEMMA.items()
        for text in texts
    ]


def demo_cases(num_tokens: int) -> list[Case]:
    asked = [problem.question for problem in problems(29, 4)]
    return [
        Case(kind, GenerateRequest(messages=({"role": "user", "content": text},), max_tokens=num, ignore_eos=ends))
        for kind, num, ends in (("repeating", num_tokens, True), ("prose", num_tokens, False))
        for text in asked
    ]


async def played(client: Client, case: Case, way: str) -> tuple[list[int], ReplyStats]:
    tokens: list[int] = []
    async for event in client.generate(replace(case.ask, **WAYS[way])):  # type: ignore[arg-type]
        if isinstance(event, Piece):
            tokens += event.tokens
        elif isinstance(event, Finished):
            return tokens, event.stats
    raise AssertionError("a reply without an end")


async def measure(join: str, cases: Sequence[Case], ways: Sequence[str], rounds: int) -> None:
    """Prints the table."""
    speeds: dict[tuple[str, str], list[float]] = defaultdict(list)
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    copied: dict[tuple[str, str], list[int]] = defaultdict(list)
    num_wrong = 0
    client = await Client.connect([join])
    try:
        for turn in range(rounds + 1):
            for case in cases:
                seen = {way: await played(client, case, way) for way in ways}
                text, plain = seen["plain"]
                num_wrong += sum(tokens != text for tokens, _ in seen.values())
                if turn == 0 or not plain.tokens_per_second:
                    continue  # to get warm
                for way, (_, stats) in seen.items():
                    speeds[case.kind, way].append(stats.tokens_per_second or 0.0)
                    ratios[case.kind, way].append((stats.tokens_per_second or 0.0) / plain.tokens_per_second)
                    copied[case.kind, way].append(stats.copied_accepted)
            print(f"round {turn} of {rounds}", file=sys.stderr, flush=True)
    finally:
        await client.close()
    print(f"{'text':10} {'way':7} {'tokens/s':>9} {'x plain':>8} {'95 %':>13} {'copied a reply':>15}")
    for kind, way in speeds:
        low, high = interval(ratios[kind, way])
        print(f"{kind:10} {way:7} {median(speeds[kind, way]):9.1f} {fmean(ratios[kind, way]):8.2f} "
              f"{f'{low:.2f}-{high:.2f}':>13} {fmean(copied[kind, way]):15.1f}")  # fmt: skip
    print(f"texts that differ from plain's: {num_wrong}", flush=True)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the mean."""
    reach = 1.96 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return fmean(values) - reach, fmean(values) + reach


def gemma(made: Swarm) -> str:
    path = str(fetch())
    join = made.start("boot", "--role", "bootstrap").join
    for index, layers in enumerate(("0:9", "9:18")):
        made.start(f"shard{index}", "--role", "shard", "-m", path, "--layers", layers, "-t", "1", "--join", join)
    for daemon in made.daemons.values():
        assert daemon.ready
    assert made.start("drafter", "--role", "drafter", "--model-draft", "none", "--join", join).ready
    return join


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--only", choices=("gemma", "demo"))
    args = parser.parse_args()
    set_up("error", "auto")
    for name in ("gemma", "demo") if args.only is None else (args.only,):
        with tempfile.TemporaryDirectory() as folder, swarm(Path(folder)) as made:
            join = gemma(made) if name == "gemma" else made.start_ring(("0:4", "4:8"))
            cases = gemma_cases(args.tokens) if name == "gemma" else demo_cases(2 * args.tokens)
            print(f"{name}: two shards on this machine, f32")
            ways = ("plain", "ngrams") if name == "gemma" else tuple(WAYS)
            asyncio.run(measure(join, cases, ways, args.rounds))


if __name__ == "__main__":
    main()
