"""Data-parallel steps by single-threaded workers that share the weights and take small parts of a batch as they can.

Why not threads: with other work on the machine, one late thread stalls every matrix product, thousands of times a
step. Here workers meet once a step, and a slowed one simply takes fewer parts. A part depends on (step, part) alone,
so the gradient does not depend on who computed it, up to rounding.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp
from model import Model
from torch import Tensor

PartLoss = Callable[[Model, int, int], tuple[Tensor, list[float]]]  # (model, step, part) -> loss, figures to report
Build = Callable[[Any], PartLoss]
NUM_FIGURES = 2


def _work(model: Model, grads: list[Tensor], shared: dict[str, Any], build: Build, args: Any) -> None:
    torch.set_num_threads(1)
    part_loss = build(args)
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        parameter.grad = grad
    while True:
        shared["start"].wait()
        if shared["step"].value < 0:
            return
        while True:
            with shared["part"].get_lock():
                part = shared["part"].value
                shared["part"].value += 1
            if part >= shared["parts"]:
                break
            loss, figures = part_loss(model, shared["step"].value, part)
            (loss / shared["parts"]).backward()
            with shared["figures"].get_lock():
                for place, value in enumerate(figures):
                    shared["figures"][place] += value / shared["parts"]
        shared["end"].wait()


class Crew:
    """Workers around one model. `build(args)` runs in each of them and gives the loss of a part."""

    def __init__(self, model: Model, build: Build, args: Any, workers: int, parts: int) -> None:
        torch.set_num_threads(1)
        context = mp.get_context("spawn")
        self._model = model.share_memory()
        self._grads = [[torch.zeros_like(p).share_memory_() for p in model.parameters()] for _ in range(workers)]
        self._shared = {
            "start": context.Barrier(workers + 1),
            "end": context.Barrier(workers + 1),
            "step": context.Value("i", 0),
            "part": context.Value("i", 0),
            "figures": context.Array("d", NUM_FIGURES),
            "parts": parts,
        }
        for grads in self._grads:
            context.Process(target=_work, args=(model, grads, self._shared, build, args), daemon=True).start()

    def gradients(self, step: int) -> list[float]:
        """Fill the model's gradients for one step; returns the figures, averaged over the parts."""
        self._shared["step"].value, self._shared["part"].value = step, 0
        self._shared["figures"][:] = [0.0] * NUM_FIGURES
        self._shared["start"].wait()
        self._shared["end"].wait()
        for place, parameter in enumerate(self._model.parameters()):
            parameter.grad = torch.stack([grads[place] for grads in self._grads]).sum(0)
            for grads in self._grads:
                grads[place].zero_()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        return list(self._shared["figures"])

    def close(self) -> None:
        """Send the workers home."""
        self._shared["step"].value = -1
        self._shared["start"].wait()
