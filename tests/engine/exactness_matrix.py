"""The full table of exactness: every architecture, type, real layer count and number of shards.

    python -m tests.engine.exactness_matrix [architecture ...] [--results FILE]

Prints a line a model on stderr and the table in Markdown on stdout, then what is refused, and why; an hour on one core.
With --results a run goes on where another ended. A model that makes llama.cpp end its process is infinitely far off.
Layers with running states are computed in the strict setting (exactness.py), all others as a node does it that was not
asked for more.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import gguf
import msgspec

from dsdnode.engine.gguf_arch import REFUSED, SUPPORTED
from dsdnode.engine.gguf_types import GGMLQuantizationType as Type
from dsdnode.engine.worker import ALIKE
from tests.engine.exactness import max_difference
from tests.engine.random_models import VARIANTS, write_random_model

KINDS = (Type.F32, Type.Q8_0, Type.Q4_K)


class Case(msgspec.Struct, frozen=True):
    """`num_layers` of which are cut into 1, 2, 3 shards and as many as there can be."""

    name: str
    kind: str
    num_layers: int


class Result(msgspec.Struct, frozen=True):
    """`difference`: the largest of any logit to the whole model, infinite where llama.cpp ended the process."""

    case: Case
    difference: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="*", metavar="ARCHITECTURE", help=", ".join(VARIANTS))
    parser.add_argument("--results", type=Path, metavar="FILE", help="a line of JSON a model; those in it are not run")
    options = parser.parse_args()
    names = options.architectures or list(VARIANTS)
    if unknown := [name for name in names if name not in VARIANTS]:
        parser.error(f"no such architecture: {', '.join(unknown)}")
    known = _read(options.results) if options.results and options.results.exists() else {}
    print("| architecture | layers of the models | cut into | " + " | ".join(kind.name for kind in KINDS) + " |")
    print("|---|---|---|" + "---|" * len(KINDS))
    exact, processes = True, _Processes()
    for name in names:
        worst = [max(_results(name, kind, known, processes, options.results)) for kind in KINDS]
        exact &= not any(worst)
        layers = ", ".join(str(count) for count in VARIANTS[name].num_layers)
        print(f"| {name} | {layers} | 1, 2, 3, all | " + " | ".join(str(one) for one in worst) + " |", flush=True)
    if not options.architectures:
        _print_refused()
    return 0 if exact else 1


def _read(path: Path) -> dict[Case, float]:
    results = msgspec.json.Decoder(Result).decode_lines(path.read_bytes())
    return {result.case: result.difference for result in results}


def _results(
    name: str, kind: Type, known: dict[Case, float], processes: _Processes, path: Path | None
) -> Iterator[float]:
    for num_layers in VARIANTS[name].num_layers:
        case = Case(name, kind.name, num_layers)
        if case not in known:
            known[case] = processes.difference(case)
            print(f"{name} {kind.name} {num_layers} layers: {known[case]}", file=sys.stderr, flush=True)
            if path:
                with path.open("ab") as out:
                    out.write(msgspec.json.encode(Result(case, known[case])) + b"\n")
        yield known[case]


class _Processes:
    """One for models with running states, one for the others; a new one where llama.cpp has ended it."""

    def __init__(self) -> None:
        self._pools: dict[bool, ProcessPoolExecutor] = {}

    def difference(self, case: Case) -> float:
        alike = SUPPORTED[VARIANTS[case.name].architecture].is_recurrent
        os.environ |= {name: value if alike else "0" for name, value in ALIKE.items()}  # read when llama.cpp is loaded
        if alike not in self._pools:
            self._pools[alike] = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            return self._pools[alike].submit(_difference, case).result()
        except BrokenProcessPool:
            del self._pools[alike]
            return float("inf")


def _difference(case: Case) -> float:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.gguf"
        write_random_model(model, VARIANTS[case.name], case.num_layers, Type[case.kind])
        return max_difference(model, case.num_layers, Path(folder), 1, 2, 3, case.num_layers)


def _print_refused() -> None:
    print(f"\n{len(SUPPORTED)} architectures. Refused:\n")
    for name, reason in REFUSED.items():
        print(f"- {name}: {reason}")
    others = sorted(set(gguf.MODEL_ARCH_NAMES.values()) - set(SUPPORTED) - set(REFUSED))
    print(f"- not proven exact: {', '.join(others)}")


if __name__ == "__main__":
    sys.exit(main())
