"""What keeping to a grammar costs: `python -m tests.node.constrained_speed`. Real daemons, greedy, the same texts.

The demo pair over two shards answers word problems free, and under expressions that its answers keep to by
themselves: any text, one of so many characters, and sentences of words and sums. Gemma 3 270M (tests/engine/gemma.py)
with a drafter that has no draft model goes on with a list of records in JSON. Each round asks every question once in
each way, one after the other, so that whatever else this machine does hits all of them; a ratio is taken within its
round, and printed with the 95 % interval of its mean. A text that differs from the free one says nothing of speed, is
left out and counted.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

from dsdnode.cli.logs import set_up
from dsdnode.client.client import Client, Finished, GenerateRequest, Piece
from dsdnode.models.problems import problems
from dsdnode.wire.replies import Constraint
from tests.node.copies import PEOPLE, RECORD, gemma, interval
from tests.node.processes import swarm

ANSWERS: Mapping[str, str | None] = {
    "free": None,
    "any text": r"(?s:.*)",
    "characters": r"[A-Za-z0-9 .,'+*/=?\n-]*",
    "sentences": r"([A-Z][a-z]*( ([A-Za-z']+|[0-9]+( [+*/=-] [0-9]+)*))*[.,?]\n?)+",
}
LETTERS, WORDS = '"[A-Za-z0-9 ]*"', r'\[("[a-z]*"(, "[a-z]*")*)?\]'
RECORDS: Mapping[str, str | None] = {
    "free": None,
    "records": rf' (\{{"id": [0-9]+, "name": {LETTERS}, "address": \{{"street": {LETTERS}, "town": {LETTERS}\}}, '
    rf'"active": (true|false), "tags": {WORDS}\}}(,\n )?)+(.|\n)*',
}


async def asked(client: Client, request: GenerateRequest, expression: str | None) -> tuple[str, float]:
    """The text, and tokens a second."""
    if expression is not None:
        request = replace(request, constraint=Constraint("regex", expression))
    text = ""
    async for event in client.generate(request):
        if isinstance(event, Piece):
            text += event.text
        elif isinstance(event, Finished):
            return text, event.stats.tokens_per_second or 0.0
    raise AssertionError("a reply without an end")


async def measure(
    join: str, requests: Sequence[GenerateRequest], expressions: Mapping[str, str | None], rounds: int
) -> None:
    """Prints the table."""
    speeds, ratios = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    differ: Counter[str] = Counter()
    client = await Client.connect([join])
    try:
        for turn in range(rounds + 1):
            for request in requests:
                seen = {way: await asked(client, request, one) for way, one in expressions.items()}
                text, free = seen["free"]
                differ.update(way for way, (other, _) in seen.items() if other != text)
                for way, (other, speed) in seen.items() if turn and free else ():  # one round to get warm
                    if other == text:
                        speeds[way].append(speed)
                        ratios[way].append(speed / free)
            print(f"round {turn} of {rounds}", file=sys.stderr, flush=True)
    finally:
        await client.close()
    print(f"{'under':12} {'tokens/s':>9} {'x free':>7} {'95 %':>13} {'texts that differ':>18}")
    for way in expressions:
        low, high = interval(ratios[way] or [0.0])
        print(f"{way:12} {median(speeds[way] or [0.0]):9.1f} {fmean(ratios[way] or [0.0]):7.2f} "
              f"{f'{low:.2f}-{high:.2f}':>13} {differ[way]:18}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--only", choices=("gemma", "demo"))
    args = parser.parse_args()
    set_up("error", "auto")
    questions = [({"role": "user", "content": one.question},) for one in problems(31, args.questions)]
    demo = [GenerateRequest(messages=question, max_tokens=args.tokens) for question in questions]
    text = "[" + ",\n ".join(RECORD % (number, *one) for number, one in enumerate(PEOPLE, 1)) + ",\n"
    records = [GenerateRequest(prompt=text, max_tokens=args.tokens)]
    for name in ("demo", "gemma") if args.only is None else (args.only,):
        with tempfile.TemporaryDirectory() as folder, swarm(Path(folder)) as made:
            print(f"{name}: two shards on this machine, f32", flush=True)
            if name == "demo":
                asyncio.run(measure(made.start_ring(("0:4", "4:8")), demo, ANSWERS, args.rounds))
            else:
                asyncio.run(measure(gemma(made), records, RECORDS, args.rounds))


if __name__ == "__main__":
    main()
