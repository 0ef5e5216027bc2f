"""Step 2: train the target (and, with it, the exit that becomes the draft).

The rate stays constant until the last `--decay-steps`, so a run may be cut anywhere: stop it, then resume with
`--steps` set to where it shall end (`--stop` ends a run before that, to go on with rows of another length). Batches
depend on the seed and the step alone, whenever it was resumed.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from crew import Crew, PartLoss
from data import Mixture, batch, gsm8k_documents
from model import Config, Model, load, save
from optimizer import Optimizers, schedule
from tokenizers import Tokenizer
from torch import Tensor

EXIT_WEIGHT = 0.3
REPORT = 20  # steps between printed lines
SAVE = 100  # steps between checkpoints


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


def build(args: argparse.Namespace) -> PartLoss:
    """Return the loss of one part of a batch, as a worker computes it."""
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    training, _ = gsm8k_documents(args.gsm8k)
    lossy = torch.compile(loss_of) if args.compile else loss_of

    def part_loss(model: Model, step: int, part: int) -> tuple[Tensor, list[float]]:
        mixture = Mixture(training, (args.seed * 1_000_000 + step) * 64 + part, args.long)
        loss, early = lossy(model, *map(torch.from_numpy, batch(mixture, tokenizer, args.rows, args.length)))
        return loss + EXIT_WEIGHT * early, [loss.item(), early.item()]

    return part_loss


def run(args: argparse.Namespace) -> None:
    """Train from `--resume` (or nothing) to `--steps`."""
    torch.manual_seed(args.seed)
    model = Model(Config(args.layers, args.width, args.heads, args.feed_forward, exit_layer=args.exit_layer))
    optimizers = Optimizers(model, args.muon_rate, args.adam_rate)
    start = 0
    if args.resume:
        model, saved = load(args.resume)
        optimizers = Optimizers(model, args.muon_rate, args.adam_rate)
        optimizers.load_state_dict(saved["optimizers"])
        start = int(saved["step"])
    crew = Crew(model, build, args, args.workers, args.parts)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, from step {start}", flush=True)
    began, mean = time.monotonic(), [0.0, 0.0]
    for step in range(start, min(args.stop, args.steps)):
        figures = crew.gradients(step)
        optimizers.step(schedule(step, args.steps, args.decay_steps))
        mean = [m + f / REPORT for m, f in zip(mean, figures, strict=True)]
        if (step + 1) % REPORT == 0:
            rate = REPORT * args.parts * args.rows * args.length / (time.monotonic() - began)
            print(f"{step + 1} loss {mean[0]:.3f} exit {mean[1]:.3f} {rate:.0f} tok/s", flush=True)
            began, mean = time.monotonic(), [0.0, 0.0]
        if (step + 1) % SAVE == 0 or step + 1 == min(args.stop, args.steps):
            save(model, args.out, step=step + 1, optimizers=optimizers.state_dict())
    crew.close()


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("gsm8k", "tokenizer", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    for name, value in {
        "steps": 100_000, "stop": 100_000, "decay-steps": 1, "parts": 4, "rows": 3, "length": 256, "seed": 1,
        "workers": 2, "layers": 8, "width": 160, "heads": 5, "feed-forward": 448, "exit-layer": 3,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--muon-rate", type=float, default=0.01)
    parser.add_argument("--adam-rate", type=float, default=0.002)
    parser.add_argument("--compile", action="store_true", help="faster after half a minute of compiling")
    parser.add_argument("--long", action="store_true", help="conversations of many turns, for long contexts")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
