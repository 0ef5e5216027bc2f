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
from crew import Crew, PartLoss
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


def drawn(sources: list[tuple[list[Completion], float]], rng: random.Random) -> Iterator[Completion]:
    """Draw for ever: a source by its share, then any of its completions."""
    shares = [share for _, share in sources]
    while True:
        items, _ = rng.choices(sources, shares)[0]
        yield rng.choice(items)


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


def build(args: argparse.Namespace) -> PartLoss:
    """Return the loss of one part of a batch, as a worker computes it."""
    pairs = (text.rpartition(":") for text in args.data)
    sources = [(load_completions(Path(path)), float(share)) for path, _, share in pairs]
    lossy = torch.compile(loss_of) if args.compile else loss_of

    def part_loss(model: Model, step: int, part: int) -> tuple[Tensor, list[float]]:
        items = drawn(sources, random.Random((args.seed * 1_000_000 + step) * 64 + part))
        loss = lossy(model, *map(torch.from_numpy, pack(items, args.rows, args.length)), args.hard)
        return loss, [loss.item()]

    return part_loss


def run(args: argparse.Namespace) -> None:
    """Distil from `--draft` to `--steps`."""
    torch.manual_seed(args.seed)
    model, saved = load(args.draft)
    optimizers = Optimizers(model, args.muon_rate, args.adam_rate)
    start = 0
    if "optimizers" in saved:  # a distillation cut short goes on where it was
        optimizers.load_state_dict(saved["optimizers"])
        start = int(saved["step"])
    watched = [load_completions(path)[:: args.watch_every] for path in args.watch]
    crew = Crew(model, build, args, args.workers, args.parts)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, from step {start}", flush=True)
    began, mean = time.monotonic(), 0.0
    for step in range(start, args.steps):
        if step % args.report == 0:
            figures = "  ".join("{:.4f} {:.3f}".format(*watch(model, items)) for items in watched)
            rate = args.report * args.parts * args.rows * args.length / (time.monotonic() - began)
            print(f"{step} loss {mean:.3f} {rate:.0f} tok/s  watched: {figures}", flush=True)
            save(model, args.out, step=step, optimizers=optimizers.state_dict())
            began, mean = time.monotonic(), 0.0
        mean += crew.gradients(step)[0] / args.report
        optimizers.step(schedule(step, args.steps, args.decay_steps, warmup=50))
    save(model, args.out, step=args.steps, optimizers=optimizers.state_dict())
    print("end", *(watch(model, items) for items in watched), flush=True)
    crew.close()


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("draft", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--data", nargs="+", required=True, help="completions.npz:share ...")
    parser.add_argument("--watch", nargs="*", type=Path, default=[], help="completions of held-out prompts")
    for name, value in {
        "watch-every": 1, "steps": 1000, "decay-steps": 400, "parts": 4, "rows": 3, "length": 384, "seed": 1,
        "workers": 2, "report": 200,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--muon-rate", type=float, default=0.006)
    parser.add_argument("--adam-rate", type=float, default=0.001)
    parser.add_argument("--hard", type=float, default=0.5, help="weight of the first choice alone")
    parser.add_argument("--compile", action="store_true")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
