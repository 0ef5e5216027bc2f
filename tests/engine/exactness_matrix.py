"""The full table of exactness: every architecture, type, real layer count and number of shards.

    python -m tests.engine.exactness_matrix [architecture ...]

Prints a line a case on stderr and the table in Markdown on stdout; minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from gguf.constants import GGMLQuantizationType as Type

from tests.engine.exactness import max_difference
from tests.engine.random_models import VARIANTS, write_random_model

KINDS = (Type.F32, Type.F16, Type.Q8_0, Type.Q4_K)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="*", metavar="ARCHITECTURE", help=", ".join(VARIANTS))
    names = parser.parse_args().architectures or list(VARIANTS)
    if unknown := [name for name in names if name not in VARIANTS]:
        parser.error(f"no such architecture: {', '.join(unknown)}")
    print("| architecture | layers of the models | cut into | " + " | ".join(kind.name for kind in KINDS) + " |")
    print("|---|---|---|" + "---|" * len(KINDS))
    exact = True
    for name in names:
        worst = [_worst(name, kind) for kind in KINDS]
        exact &= not any(worst)
        layers = ", ".join(str(count) for count in VARIANTS[name].num_layers)
        print(f"| {name} | {layers} | 1, 2, 3, all | " + " | ".join(str(one) for one in worst) + " |", flush=True)
    return 0 if exact else 1


def _worst(name: str, kind: Type) -> float:
    worst = 0.0
    for num_layers in VARIANTS[name].num_layers:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model.gguf"
            write_random_model(model, VARIANTS[name], num_layers, kind)
            for num_shards in (1, 2, 3, num_layers):
                difference = max_difference(model, num_layers, num_shards, Path(folder))
                print(f"{name} {kind.name} {num_layers} layers, {num_shards} shards: {difference}", file=sys.stderr)
                worst = max(worst, difference)
    return worst


if __name__ == "__main__":
    sys.exit(main())
