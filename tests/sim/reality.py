"""What the simulator predicts and `dsdnode bench` measures, on the same replies: `python -m tests.sim.reality`.

For each cell the laboratory runs real daemons with emulated links and devices and records the pair's traces; then the
simulator replays those replies with the same cost lines. Tokens per second, medians over replies.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import structlog

from dsdnode.cli import render
from dsdnode.sim.scenario import Group, Links, LinkTerms, Load, Pair, Policies, Scenario
from dsdnode.sim.simulate import simulate

SHARDS = (2, 4, 8)
LATENCIES_MS = (2, 10, 20, 50)
SCHEMES = {"plain": ("fixed", 0), "rounds-4": ("fixed", 4), "stream:2:12": ("stream:2:12", 64)}
FED_SHARE = 1 / 16
"""Of the draft model's time for a token: a position that it is only fed (dsdnode bench --draft-ms)."""
LAYERS = 8
LONGEST_S = 3000


def measured(shards: int, latency_ms: float, arguments: argparse.Namespace, record: Path) -> dict[str, float]:
    """Tokens per second by scheme."""
    command = [
        *(sys.executable, "-m", "dsdnode.cli", "bench", "--json", "--record", str(record), "--ignore-eos"),
        *("--shards", str(shards), "--latency-ms", f"{latency_ms:g}", "--schemes", ",".join(SCHEMES)),
        *("--stage-ms", f"{arguments.stage_ms:g}", "--stage-slope-ms", f"{arguments.slope_ms:g}"),
        *("--draft-ms", f"{arguments.draft_ms:g}", "--num-prompts", str(arguments.prompts)),
        *("--max-tokens", str(arguments.tokens), "-q"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S)
    if done.returncode:
        raise SystemExit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    return {one["scheme"]: one["tokens_per_second"] for one in answer["schemes"]}


def predicted(shards: int, latency_ms: float, scheme: str, arguments: argparse.Namespace, record: Path) -> float:
    window, draft_max = SCHEMES[scheme]
    slope_ms = arguments.draft_ms * FED_SHARE
    regions = tuple(f"stage {i}" for i in range(shards))
    scenario = Scenario(
        peers=(
            Group(
                "shard", shards, stages=shards, regions=regions, fixed_ms=arguments.stage_ms,
                position_ms=arguments.slope_ms, max_sessions=2,
            ),
            Group("drafter", regions=("owner",), fixed_ms=arguments.draft_ms - slope_ms, position_ms=slope_ms),
        ),
        links=Links(latency_ms=latency_ms, between={"owner-owner": LinkTerms(0.0)}),
        pair=Pair(layers=LAYERS, trace=str(record)),
        load=Load(requests=arguments.prompts, replay=True, regions=("owner",)),
        policies=Policies(window=window, draft_max=draft_max),
    )  # fmt: skip
    return float(simulate(scenario, seed=1)["reply_tokens_per_second"]["p50"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=lambda text: [int(one) for one in text.split(",")], default=SHARDS)
    parser.add_argument("--latency-ms", type=lambda text: [float(one) for one in text.split(",")], default=LATENCIES_MS)
    parser.add_argument("--stage-ms", type=float, default=14)
    parser.add_argument("--slope-ms", type=float, default=6)
    parser.add_argument("--draft-ms", type=float, default=5)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    rows, errors = [], []
    for shards, latency_ms in itertools.product(arguments.shards, arguments.latency_ms):
        with tempfile.TemporaryDirectory() as folder:
            record = Path(folder) / "trace.jsonl"
            seen = measured(shards, latency_ms, arguments, record)
            for scheme in SCHEMES:
                expected = predicted(shards, latency_ms, scheme, arguments, record)
                errors.append(expected / seen[scheme] - 1)
                rows.append((shards, latency_ms, scheme, seen[scheme], expected, f"{100 * errors[-1]:+.1f} %"))
                print(*rows[-1], file=sys.stderr, flush=True)
    print(render.table(("SHARDS", "LATENCY MS", "SCHEME", "MEASURED", "PREDICTED", "OFF BY"), rows))
    sizes = sorted(map(abs, errors))
    print(f"median {100 * statistics.median(sizes):.1f} %, worst {100 * sizes[-1]:.1f} %")


if __name__ == "__main__":
    main()
