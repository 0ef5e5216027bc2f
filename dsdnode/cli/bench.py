"""`dsdnode bench`: the laboratory. A swarm on this machine, links and devices as one likes, schemes side by side."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsdnode.cli import control, render
from dsdnode.cli.options import PATH, Number, common_options, json_option, load
from dsdnode.cli.settings import ENV_PREFIX
from dsdnode.errors import BadInput
from dsdnode.node.status import NodeStatus

if TYPE_CHECKING:
    from dsdnode.bench.config import BenchConfig, SlowDown
    from dsdnode.bench.run import Cell

MAX_SHARDS = 64
MAX_MS = 60_000.0


@click.command(epilog="\b\nExample:\n  dsdnode bench --shards 4 --latency-ms 50 --stage-ms 10 --plot speeds.svg")
@click.option(
    "--schemes",
    default="plain,rounds-4,rounds-8,default",
    show_default=True,
    metavar="NAMES",
    help="plain, alone (no swarm), rounds-K, rounds-adaptive, stream, hedged, relaxed-T, deferred-T, awc, default, "
    "stream:BLOCK:WINDOW; in turn, prompt by prompt, each compared with plain.",
)
@click.option(
    "--shards", default="3", show_default=True, metavar="N[,N...]", help="Shards of the target; several: a grid."
)
@click.option(
    "--latency-ms",
    default="10",
    show_default=True,
    metavar="MS[,MS...]",
    help="Of every link, one way; several: a grid. 10/50/10: one value a shard, for the links into it.",
)
@click.option(
    "--jitter-ms", default="0", metavar="MS", help="Each way takes up to so much more or less; or one a shard."
)
@click.option(
    "--bandwidth-mbit", default="0", metavar="MBIT", help="Of every connection, each way (0: no limit); or one a shard."
)
@click.option(
    "--loss", default="0", metavar="SHARE", help="Of TCP segments, 0.01 for 1 %: sent again later; or one a shard."
)
@click.option(
    "--stage-ms", metavar="MS", help="A decode of a shard takes at least so long ...; or one a shard (14/14/70)."
)
@click.option("--stage-slope-ms", metavar="MS", help="... and so much more for each position in it.")
@click.option(
    "--draft-ms",
    type=Number(0, MAX_MS),
    metavar="MS",
    help="A token of the draft model; a position that it is only fed costs 1/16.",
)
@click.option(
    "--slow-down",
    metavar="SHARD:FACTOR:TOKEN",
    help="From token TOKEN of each reply on, shard SHARD (from 0) is slower.",
)
@click.option(
    "--prompts",
    type=PATH,
    metavar="FILE",
    help='JSON lines with "question" (GSM8K) or "prompt" (HumanEval); else generated problems.',
)
@click.option(
    "--num-prompts", default=8, show_default=True, type=click.IntRange(1, 100_000), metavar="N", help="The first N."
)
@click.option(
    "--prompt-tokens", type=click.IntRange(1, 1500), metavar="N", help="Make every prompt exactly N tokens long."
)
@click.option(
    "--max-tokens", default=128, show_default=True, type=click.IntRange(1, 1024), metavar="N", help="Of each reply."
)
@click.option("--ignore-eos", is_flag=True, help="Replies do not end before that.")
@click.option("--sessions", default="1", show_default=True, metavar="N[,N...]", help="Also so many replies at once.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**31),
    metavar="N",
    help="Of sampling, jitter, losses, problems.",
)
@click.option(
    "--wire",
    default="f32",
    show_default=True,
    metavar="f32|f16|q8",
    help="Type of hidden states; several: every scheme in each.",
)
@click.option("--temperature", default=0.0, show_default=True, type=Number(0, 10), metavar="T", help="0 is greedy.")
@click.option(
    "-t", "--threads", default=1, show_default=True, type=click.IntRange(1, 256), metavar="N", help="Of each engine."
)
@click.option("-m", "--model", type=PATH, metavar="PATH", help="Target (the bundled demo target).")
@click.option("-md", "--model-draft", type=PATH, metavar="PATH", help="Draft model (the bundled one).")
@click.option("--plot", type=PATH, metavar="FILE", help="Draw the figures (.svg, .png, .pdf).")
@click.option(
    "--record",
    type=PATH,
    metavar="FILE",
    help="Write what the draft model makes of each token of plain's replies, for `dsdnode sim`.",
)
@json_option
@common_options
def bench(as_json: bool, plot: Path | None, **flags: Any) -> None:
    """Measure decoding schemes side by side on this machine. Real daemons; links and devices are emulated.

    A cell is a number of shards and a latency. Exit codes: 0 measured (see TEXT for equality), 1 a daemon or a reply
    failed, 2 wrong usage, 4 no pipeline, 5 a model is refused, 130 Ctrl-C. Whatever ends it, no daemon is left.
    """
    shared = {name: flags.pop(name) for name in ("config", "data_dir", "log_level", "log_format", "verbose", "quiet")}
    load(shared, log_level="error")
    from dsdnode import pictures
    from dsdnode.bench import chart, report, run

    config = _config(flags)
    if plot is not None:
        pictures.check(plot)
    with _progress() as progress:
        cells = run.bench(config, ENV_PREFIX, _status, progress)
    if plot is not None:
        chart.draw(cells, plot)
    if as_json:
        render.print_json(report.json_of(config, cells))
        return
    _print(cells)


async def _status(data_dir: Path) -> NodeStatus:
    return await control.ask(data_dir, "status", NodeStatus)


def _print(cells: Sequence[Cell]) -> None:
    from dsdnode.bench import report, run

    for cell in cells:
        click.echo(run.cell_name(cell.num_shards, cell.latency_ms))
        click.echo(render.table(report.COLUMNS, report.rows(cell)) + "\n")
        sessions = report.session_rows(cell)
        if sessions:
            click.echo(render.table(report.SESSION_COLUMNS, sessions) + "\n")
    if len(cells) > 1:
        click.echo(render.table(*report.grid_rows(cells)))


def _config(flags: dict[str, Any]) -> BenchConfig:
    """Raises BadInput naming the option."""
    from dsdnode.bench.config import BenchConfig
    from dsdnode.bench.schemes import parse_schemes

    shards = _numbers("--shards", flags["shards"], ",", 1, MAX_SHARDS, whole=True)
    sessions = _numbers("--sessions", flags["sessions"], ",", 1, MAX_SHARDS, whole=True)
    latencies = flags["latency_ms"].split(",")
    stage, slope = flags["stage_ms"], flags["stage_slope_ms"]
    return BenchConfig(
        schemes=parse_schemes(flags["schemes"], flags["wire"]),
        shards=tuple(dict.fromkeys(int(value) for value in shards)),
        latencies_ms=tuple(dict.fromkeys(_per_shard("--latency-ms", text, MAX_MS) for text in latencies)),
        jitter_ms=_per_shard("--jitter-ms", flags["jitter_ms"], MAX_MS),
        bandwidth_mbit=_per_shard("--bandwidth-mbit", flags["bandwidth_mbit"], 1e6),
        loss=_per_shard("--loss", flags["loss"], 0.9),
        stage_ms=None if stage is None else _per_shard("--stage-ms", stage, MAX_MS),
        stage_slope_ms=None if slope is None else _per_shard("--stage-slope-ms", slope, MAX_MS),
        draft_ms=flags["draft_ms"],
        prompts=flags["prompts"],
        num_prompts=flags["num_prompts"],
        prompt_tokens=flags["prompt_tokens"],
        max_tokens=flags["max_tokens"],
        ignore_eos=flags["ignore_eos"],
        sessions=tuple(dict.fromkeys(int(value) for value in sessions)),
        seed=flags["seed"],
        temperature=flags["temperature"],
        threads=flags["threads"],
        model=flags["model"],
        draft_model=flags["model_draft"],
        slow_down=_slow_down(flags["slow_down"]),
        record=flags["record"],
    )  # fmt: skip


def _per_shard(option: str, text: str, high: float) -> tuple[float, ...]:
    return _numbers(option, text, "/", 0, high)


def _numbers(option: str, text: str, separator: str, low: float, high: float, whole: bool = False) -> tuple[float, ...]:
    kind: Callable[[str], float] = int if whole else float
    values = []
    for part in text.split(separator):
        try:
            value = kind(part)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            what = "a whole number" if whole else "a number"
            raise BadInput(f"{option}: {part.strip()!r} is not {what} from {low:g} to {high:g}")
        values.append(value)
    return tuple(values)


def _slow_down(text: str | None) -> SlowDown | None:
    from dsdnode.bench.config import SlowDown

    if text is None:
        return None
    parts = text.split(":")
    if len(parts) != 3:
        raise BadInput(f"--slow-down is SHARD:FACTOR:TOKEN, as 2:5:50; not {text!r}")
    shard, factor, token = (
        _numbers("--slow-down", part, ":", 0, 1e6, whole)[0]
        for part, whole in zip(parts, (True, False, True), strict=True)
    )
    return SlowDown(int(shard), factor, int(token))


def _progress() -> Any:
    from dsdnode.cli.progress import BarProgress, LineProgress

    return BarProgress() if sys.stderr.isatty() else LineProgress()
