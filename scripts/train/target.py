"""Step 2: train the target (and, with it, the exit that becomes the draft).

The rate stays constant until the last `--decay-steps`, so a run may be cut anywhere: stop it, then resume with
`--steps` set to where it shall end. Batches depend on the seed and the step alone, whenever it was resumed.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from data import Mixture, batches, gsm8k_documents
from model import Config, Model, load, save
from optimizer import Optimizers, schedule
from tokenizers import Tokenizer
from torch import Tensor

EXIT_WEIGHT = 0.3
SEGMENT = 250  # steps between checkpoints; each segment has its own batch seed


def loss_of(model: Model, ids: Tensor, targets: Tensor, weights: Tensor, documents: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted cross entropy of the last layer and of the exit (0 where there is none)."""
    with torch.autocast("cpu", torch.bfloat16):
        final, early = model(ids, documents)
        losses = []
        for states in (final, early):
            if states is None:
                losses.append(weights.new_zeros(()))
                continue
            each = F.cross_entropy(model.head(states).flatten(0, 1).float(), targets.flatten(), reduction="none")
            losses.append((each * weights.flatten()).sum() / weights.sum())
    return losses[0], losses[1]


def run(args: argparse.Namespace) -> None:
    """Train from `--resume` (or nothing) to `--steps`."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    training, _ = gsm8k_documents(args.gsm8k)
    model = Model(Config(args.layers, args.width, args.heads, args.feed_forward, exit_layer=args.exit_layer))
    optimizers = Optimizers(model, args.muon_rate, args.adam_rate)
    start = 0
    if args.resume:
        model, saved = load(args.resume)
        optimizers = Optimizers(model, args.muon_rate, args.adam_rate)
        optimizers.load_state_dict(saved["optimizers"])
        start = int(saved["step"])
    lossy = torch.compile(loss_of) if args.compile else loss_of
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, from step {start}", flush=True)
    began = time.monotonic()
    for step in range(start, args.steps):
        if step == start or step % SEGMENT == 0:
            stream = batches(Mixture(training, args.seed * 1000 + step, args.long), tokenizer, args.rows, args.length)
        loss, early = lossy(model, *(torch.from_numpy(part) for part in next(stream)))
        (loss + EXIT_WEIGHT * early).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(schedule(step, args.steps, args.decay_steps))
        if (step + 1) % 25 == 0:
            rate = (step + 1 - start) * args.rows * args.length / (time.monotonic() - began)
            print(f"{step + 1} loss {loss.item():.3f} exit {early.item():.3f} {rate:.0f} tok/s", flush=True)
        if (step + 1) % SEGMENT == 0 or step + 1 == args.steps:
            save(model, args.out, step=step + 1, optimizers=optimizers.state_dict())


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("gsm8k", "tokenizer", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    for name, value in {
        "steps": 100_000, "decay-steps": 1, "rows": 12, "length": 384, "seed": 1, "threads": 2,
        "layers": 8, "width": 256, "heads": 8, "feed-forward": 704, "exit-layer": 3,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=0.003)
    parser.add_argument("--compile", action="store_true", help="faster after half a minute of compiling")
    parser.add_argument("--long", action="store_true", help="conversations of many turns, for long contexts")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
