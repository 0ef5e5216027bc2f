"""`dsdnode sim`: the same node in another world."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from dsdnode.cli import render
from dsdnode.cli.options import common_options, json_option, load


@click.group(epilog="\b\nExample:\n  dsdnode sim run configs/sim/lan.toml")
def sim() -> None:
    """Simulate a swarm: the production node on simulated machines and links, in virtual time."""


@sim.command("run", epilog="\b\nExample:\n  dsdnode sim run configs/sim/wan.toml --seed 7 --json --plot wan.svg")
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Another one: other luck.")
@click.option("--plot", metavar="FILE", type=click.Path(path_type=Path), help="Draw it, as SVG or PNG.")
@json_option
@common_options
def sim_run(scenario: Path, seed: int, plot: Path | None, as_json: bool, **flags: Any) -> None:
    """Run a scenario and report: times, throughput, acceptance, windows, network, losses."""
    load(flags, log_level="error")
    from dsdnode.sim import report
    from dsdnode.sim.scenario import read_scenario
    from dsdnode.sim.simulate import simulate

    result = simulate(read_scenario(scenario), seed)
    if plot is not None:
        from dsdnode.sim.plot import draw

        draw(result, plot)
    click.echo(report.as_json(result) if as_json else summary(result))


@sim.command(
    "sweep",
    epilog="\b\nExample:\n  dsdnode sim sweep configs/sim/lan.toml --set links.latency_ms=1,10,50"
    " --set policies.window=fixed,throughput --out results.jsonl",
)
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option(
    "--set", "axes", multiple=True, metavar="KEY=V[,V...]", help="A parameter and its values; repeatable: a grid."
)
@click.option("--seeds", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Runs of each cell.")
@click.option("--out", type=click.Path(path_type=Path), help="Results, a line each; what is there is not run again.")
@click.option("--jobs", type=click.IntRange(1, 1024), help="Processes (one a core).")
@json_option
@common_options
def sim_sweep(
    scenario: Path, axes: tuple[str, ...], seeds: int, out: Path | None, jobs: int | None, as_json: bool, **flags: Any
) -> None:
    """Run a scenario over a grid of parameters, on all cores; a sweep that was broken off goes on where it was."""
    load(flags, log_level="error")
    from dsdnode.cli.progress import BarProgress, LineProgress
    from dsdnode.sim import sweep

    todo = sweep.cells(scenario, [sweep.parse_axis(axis) for axis in axes], seeds)
    out = out or scenario.with_suffix(".results.jsonl")
    num_known = len({cell.key for cell in todo} & sweep.read_results(out).keys())
    with BarProgress() if sys.stderr.isatty() else LineProgress() as progress:
        progress.begin(len(todo) - num_known)
        results = list(sweep.run(todo, out, jobs or sweep.default_jobs(), progress.step))
    if as_json:
        render.print_json([{key: value for key, value in one.items() if key != "key"} for one in results])
    else:
        click.echo(sweep_table(results))


def sweep_table(results: list[dict[str, Any]]) -> str:
    """A row for each combination, means over its seeds."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for one in results:
        rows.setdefault(json.dumps(one["set"], sort_keys=True), []).append(one)
    names = list(results[0]["set"]) if results else []
    lines = []
    for ones in sorted(rows.values(), key=lambda ones: json.dumps(ones[0]["set"])):
        good = [one for one in ones if "error" not in one]
        figures = (
            _mean(one["tokens_per_second"] for one in good),
            _mean((one["reply_tokens_per_second"] or {}).get("p50") for one in good),
            _mean((one["time_to_first_token_s"] or {}).get("p50") for one in good),
            _mean((one["latency_s"] or {}).get("p99") for one in good),
            _mean(one["acceptance_rate"] for one in good),
            sum(one["lost"] + one["stuck"] for one in good),
            ones[-1].get("error"),
        )
        lines.append((*(ones[0]["set"][name] for name in names), len(ones), *figures))
    columns = (*names, "RUNS", "TOK/S", "OF A REPLY", "FIRST S", "P99 S", "ACCEPTED", "LOST", "ERROR")
    return render.table(columns, lines)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def summary(result: dict[str, Any]) -> str:
    """The report in a screenful."""
    lines = [
        f"{result['scenario']}, seed {result['seed']}: {result['peers']} peers, "
        f"{result['simulated_s']:.0f} s of their time",
        f"{result['completed']} of {result['requests']} replies ({result['lost']} lost, {result['stuck']} stuck), "
        f"{result['tokens']} tokens, {_number(result['tokens_per_second'])} tok/s in all",
        "",
        render.table(("", "MEAN", "P50", "P95", "P99"), _spreads(result)),
        "",
    ]
    if result["drafted"]:
        lines.append(
            f"accepted {100 * (result['acceptance_rate'] or 0):.0f} % of the drafts judged, "
            f"{_number(result['tokens_per_pass'])} tokens a pass, {result['wasted_drafts']} drafts wasted"
        )
    plans = result["windows"]["tokens_by_plan"]
    if plans:
        shares = sorted(plans.items(), key=lambda item: -item[1])[:6]
        total = sum(plans.values()) or 1
        lines.append("plans: " + ", ".join(f"{name} {100 * num / total:.0f} %" for name, num in shares))
    network = result["network"]
    if "verify_wait_s_per_token" in network:
        lines.append(
            f"network: {1e3 * network['verify_wait_s_per_token']:.1f} ms and "
            f"{network['verify_bytes_per_token'] / 1e3:.1f} kB a token between stages"
        )
    columns = ("GROUP", "MEMBERS", "UP", "BUSY", "POSITIONS A DECODE", "MB SENT")
    rows = (
        (
            group["group"],
            group["members"],
            group["up"],
            f"{100 * group['utilisation']:.1f} %",
            group["positions_per_decode"],
            group["bytes_sent"] / 1e6,
        )
        for group in result["groups"]
    )
    lines += ["", render.table(columns, rows)]
    lines += [f"error: {num} x {text}" for text, num in list(result["errors"].items())[:5]]
    return "\n".join(lines)


def _spreads(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    names = {
        "time_to_first_token_s": "first token, s",
        "time_per_output_token_s": "a token, s",
        "latency_s": "whole reply, s",
        "reply_tokens_per_second": "tok/s of a reply",
    }
    rows: list[tuple[Any, ...]] = []
    for key, title in names.items():
        values = result[key]
        if values is not None:
            rows.append((title, *(f"{values[name]:.3g}" for name in ("mean", "p50", "p95", "p99"))))
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
