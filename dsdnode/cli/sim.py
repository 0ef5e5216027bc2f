"""`dsdnode sim`: the same node in another world."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dsdnode.cli import render
from dsdnode.cli.options import PATH, Number, common_options, join_options, json_option, load
from dsdnode.errors import BadInput

if TYPE_CHECKING:
    from dsdnode.sim.report import Report
    from dsdnode.sim.sweep import Row


@click.group(epilog="\b\nExample:\n  dsdnode sim run configs/sim/lan.toml")
def sim() -> None:
    """Simulate a swarm.

    The production node on simulated machines and links, in virtual time."""


@sim.command("run", epilog="\b\nExample:\n  dsdnode sim run configs/sim/wan.toml --seed 7 --json --plot wan.svg")
@click.argument("scenario", type=PATH)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Another one: other luck.")
@click.option("--plot", metavar="FILE", type=PATH, help="Draw it (.svg, .png, .pdf).")
@json_option
@common_options
def sim_run(scenario: Path, seed: int, plot: Path | None, as_json: bool, **flags: Any) -> None:
    """Run a scenario and report: times, throughput, acceptance, windows, network, losses."""
    load(flags, log_level="error")
    from dsdnode import pictures
    from dsdnode.sim import plot as charts
    from dsdnode.sim import report
    from dsdnode.sim.scenario import read_scenario
    from dsdnode.sim.simulate import simulate

    if plot is not None:
        pictures.check(plot)
    wanted = read_scenario(scenario)
    with _progress() as progress:
        progress.begin(wanted.load.requests)
        progress.cell("simulating")
        result = simulate(wanted, seed, progress.step)
    if plot is not None:
        charts.draw(result, plot)
    click.echo(report.as_json(result) if as_json else summary(result))


@sim.command(
    "sweep",
    epilog="\b\nExample:\n  dsdnode sim sweep configs/sim/lan.toml --set links.latency_ms=1,10,50"
    " \\\n    --set policies.window=fixed,throughput --out results.jsonl",
)
@click.argument("scenario", type=PATH)
@click.option(
    "--set", "axes", multiple=True, metavar="KEY=V[,V...]", help="A parameter and its values; repeatable: a grid."
)
@click.option("--seeds", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Runs of each cell.")
@click.option("--out", type=PATH, help="Results, a line each; what is there is not run again.")
@click.option("--jobs", type=click.IntRange(1, 1024), help="Processes (one a core).")
@click.option("--plot", metavar="FILE", type=PATH, help="Draw it (.svg, .png, .pdf).")
@json_option
@common_options
def sim_sweep(
    scenario: Path,
    axes: tuple[str, ...],
    seeds: int,
    out: Path | None,
    jobs: int | None,
    plot: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Run a scenario over a grid of parameters, on all cores; a sweep that was broken off goes on where it was."""
    load(flags, log_level="error")
    from dsdnode import pictures
    from dsdnode.sim import plot as charts
    from dsdnode.sim import sweep
    from dsdnode.sim.workers import num_cores

    if plot is not None:
        pictures.check(plot)
    todo = sweep.cells(scenario, [sweep.parse_axis(axis) for axis in axes], seeds)
    out = out or scenario.with_suffix(".results.jsonl")
    num_known = len({cell.key for cell in todo} & sweep.read_results(out).keys())
    with _progress() as progress:
        progress.begin(len(todo) - num_known)
        results = list(sweep.run(todo, out, jobs or num_cores(), progress.step))
    rows = sweep.rows_of(results)
    if plot is not None:
        charts.draw_sweep(rows, plot)
    if as_json:
        render.print_json([one.as_json() for one in results])
    else:
        click.echo(sweep_table(rows))


_MS = Number(0, 60_000)


def _swarm_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `plan` is told of a swarm, unless it looks for itself."""
    options = (
        ("--stages", click.IntRange(1, 64), 4, "Shards that the model is cut into."),
        ("--latency-ms", Number(0, 500), 10.0, "Of a link, one way."),
        ("--jitter-ms", _MS, 0.0, "A link takes up to so much more or less."),
        ("--bandwidth-mbit", Number(0, 1e6), 0.0, "Of each peer, each way (0: no limit)."),
        ("--stage-ms", _MS, 14.0, "A stage takes so long for a block ..."),
        ("--stage-slope-ms", _MS, 6.0, "... and so long for each position in it."),
        ("--draft-ms", _MS, 5.0, "The drafter takes so long for a token."),
        ("--state-bytes", click.IntRange(0, 1 << 30), 8192, "Hidden states of a position (width x 2 in f16)."),
        ("--layers", click.IntRange(1, 4096), 32, "Of the model."),
    )
    for name, kind, default, text in reversed(options):
        function = click.option(name, type=kind, default=default, show_default=True, help=text)(function)
    return function


@sim.command(
    "plan",
    epilog="\b\nExample:\n  dsdnode sim plan --stages 4 --latency-ms 30 --stage-ms 10 --alone 3"
    "\n  dsdnode sim plan --join dsd://192.0.2.7:29170/KEY --my-draft-ms 6",
)
@_swarm_options
@click.option(
    "--acceptance",
    type=Number(0, 1),
    default=0.8,
    show_default=True,
    help="Share of the drafts that are right.",
)
@click.option(
    "--trace",
    default="",
    metavar="FILE",
    help="Recorded replies of the pair (bench --record) in place of --acceptance.",
)
@click.option("--users", type=click.IntRange(1, 64), default=1, show_default=True, help="Replies at once.")
@click.option("--alone", type=Number(0, 1e6, min_open=True), help="Tokens a second that you get without a swarm.")
@click.option("--my-draft-ms", type=_MS, help="This machine's time for a draft token.")
@click.option("--my-stage-ms", type=_MS, help="This machine's time for a block, had it all layers ...")
@click.option("--my-stage-slope-ms", type=_MS, default=0.0, help="... and for each position in it.")
@join_options
@json_option
@common_options
def sim_plan(as_json: bool, **flags: Any) -> None:
    """Say in plain words what to expect of a swarm, from a few figures or from the live one (--join)."""
    told = {name: flags.pop(name) for name in (*_OF_A_SWARM, *_OF_THE_QUESTION)}
    settings = load(flags, log_level="error")
    from dsdnode.sim import plan
    from dsdnode.sim.question import Machine
    from dsdnode.sim.words import words
    from dsdnode.sim.workers import num_cores

    if told["my_stage_slope_ms"] and told["my_stage_ms"] is None:
        raise BadInput("--my-stage-slope-ms goes with --my-stage-ms")
    question = _live_swarm(settings, told) if settings["join"] else _told_swarm(told)
    machine = Machine(told["my_draft_ms"], told["my_stage_ms"], told["my_stage_slope_ms"])
    question = replace(question, users=told["users"], alone=told["alone"], mine=machine)
    with _progress() as progress:
        progress.begin(plan.num_runs(question))
        progress.cell("simulating")
        found = plan.answer(question, num_cores(), progress.step)
    render.print_json(found) if as_json else click.echo(words(question, found))


_OF_A_SWARM = (
    *("stages", "latency_ms", "jitter_ms", "bandwidth_mbit", "stage_ms", "stage_slope_ms", "draft_ms", "state_bytes"),
    "layers",
)
_OF_THE_QUESTION = ("acceptance", "trace", "users", "alone", "my_draft_ms", "my_stage_ms", "my_stage_slope_ms")


def _live_swarm(settings: Any, told: dict[str, Any]) -> Any:
    """Raises BadInput when the same is told and looked for."""
    from dsdnode.sim.live import ask_swarm
    from dsdnode.sim.scenario import Pair

    source = click.get_current_context().get_parameter_source
    typed = ["--" + name.replace("_", "-") for name in _OF_A_SWARM if source(name) is ParameterSource.COMMANDLINE]
    if typed:
        raise BadInput(f"the swarm of --join is looked at as it is: leave out {', '.join(typed)}")
    pair = Pair(acceptance=told["acceptance"], trace=told["trace"])
    return asyncio.run(ask_swarm(settings["join"], settings["swarm_key"], pair))


def _told_swarm(told: dict[str, Any]) -> Any:
    from dsdnode.sim.question import HANDLING_MS, uniform
    from dsdnode.sim.scenario import NetworkTerms, Pair

    links = NetworkTerms(
        told["latency_ms"], told["jitter_ms"], bandwidth_mbit=told["bandwidth_mbit"], handling_ms=HANDLING_MS
    )
    pair = Pair(told["layers"], told["state_bytes"], told["acceptance"], trace=told["trace"])
    return uniform(told["stages"], told["stage_ms"], told["stage_slope_ms"], told["draft_ms"], links, pair)


def _progress() -> Any:
    from dsdnode.cli.progress import BarProgress, LineProgress

    return BarProgress() if sys.stderr.isatty() else LineProgress()


def sweep_table(rows: list[Row]) -> str:
    """A line for each combination, means over its seeds."""
    names = list(rows[0].set) if rows else []
    columns = (*names, "RUNS", "TOK/S", "OF A REPLY", "FIRST S", "P99 S", "ACCEPTED", "LOST", "ERROR")
    lines = []
    for row in rows:
        speeds = row.tokens_per_second, row.reply_tokens_per_second
        others = row.first_token_s, row.latency_p99_s, row.acceptance_rate, row.num_lost, row.error
        lines.append((*(row.set[name] for name in names), row.num_runs, *speeds, *others))
    return render.table(columns, lines)


def summary(result: Report) -> str:
    """The report in a screenful."""
    lines = [
        f"{result.scenario}, seed {result.seed}: {result.peers} peers, {result.simulated_s:.0f} s of their time",
        f"{result.completed} of {result.requests} replies ({result.lost} lost, {result.stuck} stuck), "
        f"{result.tokens} tokens, {_number(result.tokens_per_second)} tok/s in all",
        "",
        render.table(("", "MEAN", "P50", "P95", "P99"), _spreads(result)),
        "",
    ]
    if result.drafted:
        lines.append(
            f"accepted {100 * (result.acceptance_rate or 0):.0f} % of the drafts judged, "
            f"{_number(result.tokens_per_pass)} tokens a pass, {result.wasted_drafts} drafts wasted"
        )
    plans = result.windows.tokens_by_plan
    if plans:
        shares = sorted(plans.items(), key=lambda item: -item[1])[:6]
        total = sum(plans.values()) or 1
        lines.append("plans: " + ", ".join(f"{name} {100 * num / total:.0f} %" for name, num in shares))
    wait_s, size_bytes = result.network.verify_wait_s_per_token, result.network.verify_bytes_per_token
    if wait_s is not None and size_bytes is not None:
        lines.append(f"network: {1e3 * wait_s:.1f} ms and {size_bytes / 1e3:.1f} kB a token between stages")
    columns = ("GROUP", "MEMBERS", "UP", "BUSY", "POSITIONS A DECODE", "MB SENT")
    rows = []
    for one in result.groups:
        busy, sent_mb = f"{100 * one.utilisation:.1f} %", one.bytes_sent / 1e6
        rows.append((one.group, one.members, one.up, busy, one.positions_per_decode, sent_mb))
    lines += ["", render.table(columns, rows)]
    lines += [f"error: {num} x {text}" for text, num in list(result.errors.items())[:5]]
    return "\n".join(lines)


def _spreads(result: Report) -> list[tuple[str, ...]]:
    spreads = {
        "first token, s": result.time_to_first_token_s,
        "a token, s": result.time_per_output_token_s,
        "whole reply, s": result.latency_s,
        "tok/s of a reply": result.reply_tokens_per_second,
    }
    return [
        (title, *(f"{value:.3g}" for value in (one.mean, one.p50, one.p95, one.p99)))
        for title, one in spreads.items()
        if one is not None
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
