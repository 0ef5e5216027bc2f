"""The time that speculation saves on the links, a token, against the paper's formula, H t1 (k - 1)/k.

    dsdnode bench --shards 2,4,8 --latency-ms 0,10 --schemes rounds-1,rounds-3,rounds-7 --stage-ms 5 --json > grid.json
    python -m tests.bench.saved grid.json

What the links cost a token: its time with latency less its time without. k: tokens a pass. H: links crossed, N + 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COLUMNS = ("shards", "ms", "scheme", "k", "saved ms", "formula ms", "off")


def rows(cells: list[dict[str, Any]]) -> Iterator[tuple[int, float, str, float, float, float, float]]:
    """Of COLUMNS, for every cell with latency whose shards have one without."""
    times_ms = {
        (cell["shards"], cell["latency_ms"], scheme["scheme"]): 1e3 / scheme["tokens_per_second"]
        for cell in cells
        for scheme in cell["schemes"]
    }
    for cell in cells:
        num_shards, latency_ms = cell["shards"], cell["latency_ms"]
        if not latency_ms or (num_shards, 0.0, "plain") not in times_ms:
            continue

        def on_links_ms(name: str, where: tuple[int, float] = (num_shards, latency_ms)) -> float:
            return float(times_ms[*where, name] - times_ms[where[0], 0.0, name])

        for scheme in cell["schemes"]:
            name, tokens = scheme["scheme"], scheme["tokens_per_pass"]
            if name.startswith("rounds-"):
                saved_ms = on_links_ms("plain") - on_links_ms(name)
                formula_ms = (num_shards + 1) * latency_ms * (tokens - 1) / tokens
                yield num_shards, latency_ms, name, tokens, saved_ms, formula_ms, saved_ms / formula_ms - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="what `dsdnode bench --json` printed")
    args = parser.parse_args()
    print("  ".join(f"{column:>10}" for column in COLUMNS))
    for row in rows(json.loads(args.grid.read_text())["cells"]):
        print("  ".join(f"{value:>10.3g}" if isinstance(value, float) else f"{value:>10}" for value in row))


if __name__ == "__main__":
    main()
