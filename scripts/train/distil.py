"""Step 5: train the draft to say what the target says, from stored completions (see generate.py).

The loss per reply token is half the cross entropy with the target's (renormalised) top probabilities, half that
with its first choice: greedy acceptance asks only for the first, sampling for the whole distribution. The printed
figures are on held-out prompts: agreement of first choices, and the tokens per pass it would give in window 8.
"""

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from completions import TOP, Completion, load_completions
from model import Model, load, save
from optimizer import Optimizers, schedule
from torch import Tensor

Packed = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def pack(items: Iterator[Completion], rows: int, width: int) -> Packed:
    """Fill rows x width with whole completions; returns ids, documents, top tokens, their log-probabilities."""
    ids = np.zeros((rows, width), np.int64)
    documents = np.zeros((rows, width), np.int64)
    best = np.zeros((rows, width, TOP), np.int64)
    scores = np.full((rows, width, TOP), -np.inf, np.float32)
    for row in range(rows):
        filled = number = misses = 0
        while misses < 6 and filled < width - 24:
            item = next(items)
            tokens = (item.prompt + item.reply)[:-1]
            if filled + len(tokens) > width:
                misses += 1
                continue
            number += 1
            end = filled + len(tokens)
            first = end - len(item.reply)
            ids[row, filled:end], documents[row, filled:end] = tokens, number
            best[row, first:end], scores[row, first:end] = item.best, item.scores
            filled = end
    return ids, documents, best, scores


def shuffled(sources: list[tuple[list[Completion], float]], seed: int) -> Iterator[Completion]:
    """Draw for ever: a source by its share, then the next of its shuffled completions."""
    rng = random.Random(seed)
    queues: list[list[Completion]] = [[] for _ in sources]
    shares = [share for _, share in sources]
    while True:
        number = rng.choices(range(len(sources)), shares)[0]
        if not queues[number]:
            queues[number] = rng.sample(sources[number][0], len(sources[number][0]))
        yield queues[number].pop()


def loss_of(model: Model, ids: Tensor, documents: Tensor, best: Tensor, scores: Tensor, hard: float) -> Tensor:
    """Return the mean loss over reply positions."""
    with torch.autocast("cpu", torch.bfloat16):
        states, _ = model(ids, documents)
        logits = model.head(states).float()
    picked = logits.gather(2, best) - logits.logsumexp(2, keepdim=True)
    taught = (scores[:, :, 0] > -1e4).float()
    soft = torch.nan_to_num(scores.softmax(2))
    each = -(1 - hard) * (soft * picked).sum(2) - hard * picked[:, :, 0]
    return (each * taught).sum() / taught.sum()


@torch.no_grad()
def watch(model: Model, items: list[Completion], window: int = 8) -> tuple[float, float]:
    """Return agreement of first choices and greedy tokens per pass on stored greedy completions."""
    right = total = tokens = passes = 0
    for item in items:
        ids = torch.tensor([(item.prompt + item.reply)[:-1]])
        with torch.autocast("cpu", torch.bfloat16):
            states, _ = model(ids, torch.zeros_like(ids))
            choices = model.head(states[0, len(item.prompt) - 1 :]).argmax(1).tolist()
        same = [a == b for a, b in zip(choices, item.reply, strict=True)]
        right, total = right + sum(same), total + len(same)
        place = 0
        while place < len(same):
            run = next((i for i, ok in enumerate(same[place : place + window]) if not ok), window)
            place, passes = place + run + 1, passes + 1
        tokens += len(same)
    return right / total, tokens / passes


def run(args: argparse.Namespace) -> None:
    """Distil from `--draft` for `--steps`."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    model, saved = load(args.draft)
    optimizers = Optimizers(model, args.muon_rate, args.adam_rate)
    start = 0
    if args.resume and "optimizers" in saved:
        optimizers.load_state_dict(saved["optimizers"])
        start = int(saved["step"])
    pairs = (text.rpartition(":") for text in args.data)
    sources = [(load_completions(Path(path)), float(share)) for path, _, share in pairs]
    stream = shuffled(sources, args.seed + start)
    watched = [load_completions(path)[:: args.watch_every] for path in args.watch]
    lossy = torch.compile(loss_of) if args.compile else loss_of
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, from step {start}", flush=True)
    began = time.monotonic()
    for step in range(start, args.steps):
        if step % args.report == 0:
            figures = "  ".join("{:.3f} {:.2f}".format(*watch(model, items)) for items in watched)
            print(f"{step} watched (agreement, tokens per pass): {figures}", flush=True)
        loss = lossy(model, *map(torch.from_numpy, pack(stream, args.rows, args.length)), args.hard)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(schedule(step, args.steps, args.decay_steps, warmup=50))
        if (step + 1) % 50 == 0:
            rate = (step + 1 - start) * args.rows * args.length / (time.monotonic() - began)
            print(f"{step + 1} loss {loss.item():.3f} {rate:.0f} tok/s", flush=True)
        if (step + 1) % args.report == 0 or step + 1 == args.steps:
            save(model, args.out, step=step + 1, optimizers=optimizers.state_dict())
    print("end watched:", *(watch(model, items) for items in watched), flush=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("draft", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--data", nargs="+", required=True, help="completions.npz:share ...")
    parser.add_argument("--watch", nargs="*", type=Path, default=[], help="completions of held-out prompts")
    for name, value in {
        "watch-every": 1, "steps": 1000, "decay-steps": 400, "rows": 12, "length": 384, "seed": 1, "threads": 2,
        "report": 250,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--muon-rate", type=float, default=0.01)
    parser.add_argument("--adam-rate", type=float, default=0.0015)
    parser.add_argument("--hard", type=float, default=0.5, help="weight of the first choice alone")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--resume", action="store_true", help="go on with the optimizer state beside the draft")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
