"""What this machine has, and what layers of a model take of it."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from dsdnode.engine.ipc import MAX_SPARE, EngineOptions
from dsdnode.errors import ModelRefused

PROCESS_BYTES = 160_000_000
"""Of a worker without a model (104 MB on Linux), and what is rounded up."""
HEAD_WIDTH = 32
"""The narrowest usual: with wider heads there are fewer of them, and less is needed."""
SPARE_SHARE = 0.1
"""Of the memory that is free: whoever sits at the machine opens a page or two."""
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Machine:
    """`free_memory_bytes`: what a program can have now, without anything being swapped out."""

    free_memory_bytes: int
    free_disk_bytes: int

    def memory_for(self, max_memory_bytes: int | None) -> int:
        """Bytes that a node may take, by its user's limit too."""
        free = int(self.free_memory_bytes * (1 - SPARE_SHARE))
        return free if max_memory_bytes is None else min(free, max_memory_bytes)


def at_hand(data_dir: Path) -> Machine:
    """This machine, now; disk is counted where the node keeps its files."""
    folder = next(one for one in (data_dir, *data_dir.absolute().parents) if one.exists())
    free = psutil.virtual_memory().available
    return Machine(min(free, _container_free(free)), shutil.disk_usage(folder).free)


def _container_free(otherwise: int) -> int:
    """A container has less than its machine, and is killed for taking more."""
    with contextlib.suppress(OSError, ValueError):
        limit, used = ((CGROUP / name).read_text() for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - int(used) + int(cached.get("inactive_file", 0)))
    return otherwise


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes of memory: `beside` the layers, the process and, for each cell of the cache, the scores of a batch under
    every head; for each layer its weights, as if spread evenly, a cache of float16 keys and values, and where it has
    them the running states of all sequences and of copies of these."""

    beside: int
    layer: int

    @classmethod
    def of(
        cls, layer_bytes: int, width: int, context_tokens: int, state_bytes: int = 0, num_sequences: int = 0
    ) -> Needs:
        """Of layers of so many bytes; their keys and values are taken to be as wide as the model, which is the most.
        `state_bytes`: of one sequence in a layer."""
        scores = context_tokens * EngineOptions().batch_tokens * 4 * (width // HEAD_WIDTH + 1)
        states = state_bytes * (num_sequences + min(num_sequences, MAX_SPARE))
        return cls(PROCESS_BYTES + scores, layer_bytes + context_tokens * width * 2 * 2 + states)

    def of_layers(self, num_layers: int) -> int:
        return self.beside + num_layers * self.layer

    def capacity_layers(self, memory_bytes: int, num_layers: int) -> int:
        """How many layers of a model of `num_layers` fit; 0: not one."""
        return max(0, min(num_layers, (memory_bytes - self.beside) // self.layer))

    def capacity_of(self, name: str, memory_bytes: int, num_layers: int) -> int:
        """At least one. Raises ModelRefused in words for the user who set the limit."""
        layers = self.capacity_layers(memory_bytes, num_layers)
        if layers < 1:
            raise ModelRefused(
                f"not one layer of {name} fits --max-memory: it takes about {self.of_layers(1) / 1e6:.0f} MB, "
                f"each further one {self.layer / 1e6:.0f} MB (less with a smaller --ctx-size)"
            )
        return layers
