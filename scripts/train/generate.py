"""Step 4: let the target answer prompts, greedily and some at a temperature, for the draft to learn from.

Kinds of prompts: `gsm8k` (the training questions), `altered` (the same with other numbers), `continued` (a real
beginning, ended by the target itself), `mixture` (generated problems, drills, chat, several turns), `dev` (the
held-out questions, to watch the draft on).
"""

import argparse
import random
import re
import time
from pathlib import Path

import torch
from completions import END, Completion, complete, save_completions
from data import Document, Mixture, gsm8k_documents, render
from model import Model, load
from tokenizers import Tokenizer

KINDS = ("gsm8k", "altered", "continued", "mixture", "dev")


def alter(question: str, rng: random.Random) -> str:
    """Replace most numbers by others of as many digits: a new problem in the same words."""

    def other(found: re.Match[str]) -> str:
        digits = found.group()
        if rng.random() < 0.3:
            return digits
        return str(rng.randint(1, 9)) + "".join(str(rng.randint(0, 9)) for _ in digits[1:])

    return re.sub(r"\d+", other, question)


def in_batches(model: Model, prompts: list[list[int]], temperature: float, limit: int, rows: int) -> list[Completion]:
    """Complete many prompts, those of similar length together."""
    ordered = sorted(prompts, key=len)
    done: list[Completion] = []
    began = time.monotonic()
    for start in range(0, len(ordered), rows):
        done += complete(model, ordered[start : start + rows], temperature, limit)
        if start // rows % 10 == 9:
            tokens = sum(len(item.reply) for item in done)
            print(f"{len(done)} replies, {tokens / (time.monotonic() - began):.0f} tok/s", flush=True)
    return done


def questions(kind: str, documents: list[Document], count: int, rng: random.Random) -> list[str]:
    """Return rendered prompts; those to be `continued` stay open."""
    if kind == "mixture":
        mixture = Mixture(documents, rng.randrange(2**32))
        found = []
        while len(found) < count:
            turns = mixture.conversation()
            ends = [place for place, (role, _) in enumerate(turns) if role == "assistant"]
            found.append(render(turns[: rng.choice(ends)], reply=True))
        return found
    asked = [turns[0][1] for turns in documents]
    asked = asked[:count] if kind in ("gsm8k", "dev") else [rng.choice(asked) for _ in range(count)]
    if kind == "altered":
        asked = [alter(text, rng) for text in asked]
    if kind == "continued":
        return ["<|user|>" + text[: text.find(" ", int(len(text) * rng.uniform(0.15, 0.6)))] for text in asked]
    return [render([("user", text)], reply=True) for text in asked]


def main() -> None:
    """Parse the command line, complete, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("target", "gsm8k", "tokenizer", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--count", type=int, default=100_000, help="prompts; at most all of them for gsm8k and dev")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--limit", type=int, default=256, help="tokens of a reply at most")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="better several runs than several threads")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    model, _ = load(args.target)
    training, held_out = gsm8k_documents(args.gsm8k)
    rng = random.Random(args.seed)
    texts = questions(args.kind, held_out if args.kind == "dev" else training, args.count, rng)
    prompts = [tokenizer.encode(text).ids for text in texts]
    if args.kind == "continued":
        ended = in_batches(model, prompts, 0.9, 120, args.rows)
        header = tokenizer.encode("<|assistant|>").ids
        prompts = [item.prompt + item.reply + header for item in ended if item.reply[-1] == END]
    done = in_batches(model, prompts, args.temperature, args.limit, args.rows)
    ended_share = sum(item.reply[-1] == END for item in done) / len(done)
    print(f"{len(done)} replies, {sum(len(item.reply) for item in done)} tokens, {ended_share:.3f} of them end")
    save_completions(args.out, done)


if __name__ == "__main__":
    main()
