"""`dsdnode sim`: the same node in another world."""

from __future__ import annotations

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
