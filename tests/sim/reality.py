"""What the simulator predicts and `dsdnode bench` measures, on the same replies: `python -m tests.sim.reality`.

For each cell the laboratory runs real daemons with emulated links and devices, and records the pair's traces; then the
simulator replays those replies with the same cost lines. What handling a message takes on this machine is measured by
plain decoding in a swarm that is no cell of the table. Tokens per second, medians over replies.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from dsdnode.cli import render
from dsdnode.sim.scenario import Group, LinkTerms, LoadTerms, NetworkTerms, Pair, Policies, Scenario
from dsdnode.sim.simulate import simulate

SHARDS = (2, 4, 8)
LATENCIES_MS = "2,10,20,50"
SCHEMES = {"plain": ("fixed", 0), "rounds-4": ("fixed", 4), "stream:2:12": ("stream:2:12", 64)}
STAGE_MS, SLOPE_MS, DRAFT_MS = 10.0, 2.0, 3.0
PROMPTS, TOKENS = 3, 64
FED_SHARE = 1 / 16
"""Of the draft model's time for a token: a position that it is only fed (dsdnode bench --draft-ms)."""
LAYERS = 8
GAUGE, GAUGE_MS = 4, 5.0
"""Shards and latency of the swarm that gauges the handling: at none the emulated links cannot make up for their own."""
LONGEST_S = 3000


@dataclass(frozen=True, slots=True)
class Figure:
    """Tokens per second of one scheme in one cell."""

    shards: int
    latency_ms: float
    scheme: str
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


# --- measuring ----------------------------------------------------------------------------------------------------


def measure(folder: Path) -> None:
    """The gauge, and one bench call for each number of shards; what is there already is not measured again."""
    folder.mkdir(parents=True, exist_ok=True)
    devices = ("--stage-ms", f"{STAGE_MS:g}", "--stage-slope-ms", f"{SLOPE_MS:g}", "--draft-ms", f"{DRAFT_MS:g}")
    length = ("--num-prompts", f"{PROMPTS}", "--max-tokens", f"{TOKENS}")
    gauge = ("--shards", f"{GAUGE}", "--latency-ms", f"{GAUGE_MS:g}", "--schemes", "plain")
    bench(folder / "gauge.json", *gauge, *devices, *length)
    for shards in SHARDS:
        words = ("--shards", f"{shards}", "--latency-ms", LATENCIES_MS, "--schemes", ",".join(SCHEMES))
        bench(folder / f"{shards}.json", *words, *devices, *length, "--record", str(folder / f"{shards}.jsonl"))


def bench(out: Path, *words: str) -> None:
    if out.exists():
        return
    command = [sys.executable, "-m", "dsdnode.cli", "bench", "--json", "-q", "--ignore-eos", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LONGEST_S)
    if done.returncode:
        raise SystemExit(done.returncode)
    out.write_text(done.stdout)


# --- predicting ---------------------------------------------------------------------------------------------------


def handling_ms(folder: Path) -> float:
    """Of a hop: what plain decoding took beyond its stages."""
    [plain] = json.loads((folder / "gauge.json").read_text())["schemes"]
    beyond_ms = 1e3 / float(plain["tokens_per_second"]) - GAUGE * (STAGE_MS + SLOPE_MS)
    return beyond_ms / (GAUGE + 1) - GAUGE_MS


def predicted(shards: int, latency_ms: float, scheme: str, handling: float, trace: Path) -> float:
    window, draft_max = SCHEMES[scheme]
    fed_ms = DRAFT_MS * FED_SHARE
    regions = tuple(f"stage {i}" for i in range(shards))
    scenario = Scenario(
        peers=(
            Group(
                "shard", shards, stages=shards, regions=regions, fixed_ms=STAGE_MS, position_ms=SLOPE_MS,
                max_sessions=2,
            ),
            Group("drafter", regions=("owner",), fixed_ms=DRAFT_MS - fed_ms, position_ms=fed_ms),
        ),
        links=NetworkTerms(latency_ms, handling_ms=handling, between={"owner-owner": LinkTerms(0.0)}),
        pair=Pair(layers=LAYERS, trace=str(trace)),
        load=LoadTerms(requests=PROMPTS, replay=True, regions=("owner",)),
        policies=Policies(window=window, draft_max=draft_max),
    )  # fmt: skip
    speeds = simulate(scenario, seed=1).reply_tokens_per_second
    assert speeds is not None
    return speeds.p50


def figures(folder: Path) -> list[Figure]:
    handling, found = handling_ms(folder), []
    print(f"handling of a message: {handling:.2f} ms", file=sys.stderr)
    for shards in SHARDS:
        for cell in json.loads((folder / f"{shards}.json").read_text())["cells"]:
            for one in cell["schemes"]:
                where = shards, cell["latency_ms"], one["scheme"]
                speed = predicted(*where, handling, folder / f"{shards}.jsonl")
                found.append(Figure(*where, one["tokens_per_second"], speed))
    return found


# --- telling ------------------------------------------------------------------------------------------------------


def table(found: list[Figure]) -> str:
    """A row a configuration: measured, predicted and how far off for each scheme."""
    rows: dict[tuple[int, float], list[Any]] = {}
    for one in found:
        text = f"{one.measured:.2f} {one.predicted:.2f} {100 * one.error:+.1f} %"
        rows.setdefault((one.shards, one.latency_ms), []).append(text)
    columns = ("SHARDS", "LATENCY MS", *(f"{name}: MEASURED, PREDICTED" for name in SCHEMES))
    return str(render.table(columns, [(*cell, *texts) for cell, texts in rows.items()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--measure", type=Path, metavar="DIR", help="bench (some 15 minutes); its figures and traces go there"
    )
    how.add_argument("--from", type=Path, dest="folder", metavar="DIR", help="where they are already")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    found = figures(arguments.measure or arguments.folder)
    print(table(found))
    sizes = sorted(abs(one.error) for one in found)
    print(f"{len(sizes)} figures: median error {100 * statistics.median(sizes):.1f} %, worst {100 * sizes[-1]:.1f} %")


if __name__ == "__main__":
    main()
