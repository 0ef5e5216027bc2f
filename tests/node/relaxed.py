"""What relaxed acceptance costs and gains: `python -m tests.node.relaxed` prints a table.

Generated problems whose answers are known (or, with --prompts, questions from a JSONL file), in rounds of a fixed
window, through a real swarm on loopback: nodes with CURVE, each engine in a worker process. Where links dominate,
tokens a pass are the speed of rounds, tokens a rejection that of a stream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from dsdnode.cli.logs import set_up
from dsdnode.client.client import Client, GenerateRequest, ReplyStats
from dsdnode.models.problems import Problem, is_right, problems
from tests.node.exactness import reply, swarm

SEED = 20_260
"""Training did not use it (models/MODEL_CARD.md)."""


@dataclass(frozen=True)
class Reply:
    right: bool | None
    tokens: tuple[int, ...]
    stats: ReplyStats


async def ask(client: Client, prompt: str, problem: Problem | None, request: GenerateRequest) -> Reply:
    messages = ({"role": "user", "content": prompt},)
    tokens, text, stats = await reply(client, replace(request, messages=messages))
    return Reply(problem and is_right(text, problem), tokens, stats)  # type: ignore[arg-type]


async def ask_all(
    client: Client, questions: list[tuple[str, Problem | None]], request: GenerateRequest, at_once: int
) -> list[Reply]:
    gate = asyncio.Semaphore(at_once)

    async def one(prompt: str, problem: Problem | None) -> Reply:
        async with gate:
            return await ask(client, prompt, problem, request)

    return await asyncio.gather(*(one(prompt, problem) for prompt, problem in questions))


def row(threshold: float, replies: list[Reply], exact: list[Reply]) -> str:
    def total(name: str, of: list[Reply] = replies) -> int:
        return sum(getattr(one.stats, name) for one in of)

    per_pass = total("completion_tokens") / total("passes")
    base = total("completion_tokens", exact) / total("passes", exact)
    right = [index for index, one in enumerate(replies) if one.right]
    lost = [index for index, one in enumerate(exact) if one.right and index not in right]
    won = [index for index in right if not exact[index].right]
    same = sum(one.tokens == other.tokens for one, other in zip(replies, exact, strict=True))
    known = replies[0].right is not None
    return (
        f"| {threshold:g} | {f'{len(right)} (-{len(lost)} +{len(won)})' if known else ''} | {same} "
        f"| {100 * total('relaxed') / total('completion_tokens'):.1f} % | {total('accepted') / total('judged'):.3f} "
        f"| {total('completion_tokens') / max(1, total('judged') - total('accepted')):.1f} "
        f"| {per_pass:.2f} | {100 * (per_pass / base - 1):+.1f} % |"
    )


async def measure(args: argparse.Namespace) -> None:
    questions: list[tuple[str, Problem | None]]
    if args.prompts:
        lines = [json.loads(line) for line in args.prompts.read_text().splitlines()[: args.problems]]
        questions = [(str(line.get("question", line.get("prompt"))), None) for line in lines]
    else:
        questions = [(problem.question, problem) for problem in islice(problems(SEED, args.problems), args.problems)]
    print(f"{len(questions)} prompts, window {args.window}, {'deferred' if args.deferred else 'top-set rule alone'}\n")
    titles = (
        "threshold",
        "right answers",
        "same text",
        "relaxed",
        "acceptance",
        "tokens a rejection",
        "a pass",
        "gain",
    )
    print(f"| {' | '.join(titles)} |")
    print(f"{'|---' * len(titles)}|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        async with swarm(Path(folder), args.shards, strict=False, max_sessions=args.at_once) as client:
            exact: list[Reply] = []
            for threshold in (0.0, *args.thresholds):
                request = GenerateRequest(
                    max_tokens=args.max_tokens,
                    draft_max=args.window,
                    temperature=args.temperature,
                    seed=SEED,
                    threshold=threshold,
                    deferred=args.deferred,
                )
                replies = await ask_all(client, questions, request, args.at_once)
                exact = exact or replies
                print(row(threshold, replies, exact), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.2, 0.3, 0.5])
    parser.add_argument("--deferred", action="store_true")
    parser.add_argument("--window", type=int, default=6)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument(
        "--prompts", type=Path, help="JSONL with `question` or `prompt`, in place of generated problems"
    )
    set_up("warning", "auto")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
