"""The simulator: what it predicts and how near it comes, theory, the DHT at scale, many devices and few servers."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tests.measurements.figures import Cell, Figures, table
from tests.measurements.measurement import Chapter, Measurement, Step
from tests.measurements.reading import Output, aligned, change, found, number

EDGE_CLOUD = "dsdnode sim sweep configs/sim/edge_cloud.toml"
POLICIES = ("fixed", "threshold", "awc", "throughput")


def planned(outputs: Sequence[Output]) -> Figures:
    """A row a case, a column a scheme: measured / planned; and what the plan said."""
    text = outputs[0].text
    rows: dict[str, dict[str, str]] = {}
    errors = []
    for row in aligned(text, "CASE"):
        errors.append(abs(float(row["OFF BY"].removesuffix(" %"))))
        spelled = f"{row['MEASURED']} / {row['PLANNED']} ({row['OFF BY']})"
        rows.setdefault(row["CASE"], {})[row["SCHEME"]] = spelled
    names = list(next(iter(rows.values())))
    cells: list[list[Cell]] = [[case, *(columns[name] for name in names)] for case, columns in rows.items()]
    remark = f"{len(errors)} figures: median error {statistics.median(errors):.1f} %, worst {max(errors):.1f} %."
    said = text.partition("\nCASE ")[0].strip()
    return Figures((table(" | ".join(["case", *names]), cells),), (remark,), said)


def reality(outputs: Sequence[Output]) -> Figures:
    text = outputs[0].text
    rows: list[list[Cell]] = []
    names: list[str] = []
    for row in aligned(text, "SHARDS"):
        names = [name.partition(":" if name.count(":") < 2 else ": ")[0] for name in list(row)[2:]]
        rows.append([int(row["SHARDS"]), float(row["LATENCY MS"]), *map(_against, list(row.values())[2:])])
    (remark,) = found(r"^(\d+ figures: .*)$", text)
    return Figures((table(" | ".join(["shards", "ms, one way", *names]), rows),), (f"{remark}.",))


def _against(cell: str) -> str:
    measured, predicted, off = cell.split(" ", 2)
    return f"{measured} / {predicted} ({off})"


def theory(outputs: Sequence[Output]) -> Figures:
    """A row a setting: simulated / formula (off by)."""
    text = outputs[0].text
    rows: list[list[Cell]] = []
    for links, part in zip(("N", "N + 1"), text.split("H = N + 1, our ring"), strict=True):
        settings: dict[tuple[str, str], dict[str, Mapping[str, str]]] = {}
        for row in aligned(part, "STAGES, LINK"):
            kind = "held back" if row["SCHEME"].endswith("held back") else row["SCHEME"].split()[0]
            settings.setdefault((row["STAGES, LINK"], row["ALPHA"]), {})[kind] = row
        for (name, alpha), schemes in settings.items():
            published = [_by(schemes[kind], "SECTION 3") for kind in ("plain", "rounds", "held back")]
            stream = schemes["stream"]
            rows.append([f"{name}, {links}", alpha, *published, _by(stream, "OURS"), stream["OFF BY"]])
    columns = (
        "stages, one way, links | alpha | plain | rounds | stream, corrections held back | stream as it is | the same, "
    )
    remarks = [line for line in text.splitlines() if line.startswith("section 3 of what it describes")]
    heads = ("Links N", "Links N + 1")
    shown = tuple(f"{head}: {line}." for head, line in zip(heads, remarks, strict=True))
    return Figures((table(columns + "against section 3's formula", rows),), shown)


def _by(row: Mapping[str, str], formula: str) -> str:
    off = "OFF BY" if formula == "SECTION 3" else "OFF BY 2"
    return f"{row['SIMULATED']} / {row[formula]} ({row[off]})"


def dht(outputs: Sequence[Output]) -> Figures:
    rows: list[list[Cell]] = []
    for output in outputs:
        one = json.loads(output.text)
        took, asked = one["took_s"], one["asked"]
        rows.append([
            one["nodes"], _found(one), asked["mean"], asked["p99"], took["p50"], took["p99"], one["cpu_s"],
            one["messages_per_cpu_s"], one["peak_mb"],
        ])  # fmt: skip
    columns = (
        "nodes | lookups that found | requests a lookup, mean | p99 | p50, s | p99, s | CPU time, s | messages a CPU s"
    )
    return Figures((table(f"{columns} | MB", rows),))


def dht_troubled(outputs: Sequence[Output]) -> Figures:
    rows: list[list[Cell]] = []
    for output in outputs:
        one = json.loads(output.text)
        rows.append([output.label, _found(one), one["took_s"]["p50"], one["took_s"]["p99"]])
    return Figures((table("who is there | lookups that found | p50, s | p99, s", rows),))


def _found(one: Mapping[str, Any]) -> str:
    return f"{round(one['found'] * one['lookups']):,} of {one['lookups']:,}"


def sim_speed(outputs: Sequence[Output]) -> Figures:
    busy, edge = outputs
    row = found(r"^(\d+) replies, (\d+) tokens, (\d+) messages in .*: ([\d.]+) s of a core", busy.text)
    replies, tokens, messages, cpu_s = map(number, row)
    drafters = json.loads(edge.text)
    return Figures((
        table("what | replies | tokens | s of a core | messages a second | tokens a second", [
            ["50 people at once, 4 drafters, 4 shards", replies, tokens, cpu_s, messages / cpu_s, tokens / cpu_s],
            ["600 drafters, a reply each", drafters["completed"], drafters["tokens"], edge.seconds, None,
             drafters["tokens"] / edge.seconds],
        ]),
    ))  # fmt: skip


def edge_cloud(outputs: Sequence[Output]) -> Figures:
    """A row a number of drafters and a latency: tokens per second in all; time per token: mean, p50, p99."""
    runs = [one for output in outputs for one in json.loads(output.text)]
    by_cell: dict[tuple[int, float], dict[str, Mapping[str, Any]]] = {}
    for one in runs:
        cell = one["set"]["peers.edge.count"], one["set"]["links.latency_ms"]
        by_cell.setdefault(cell, {})[one["set"]["policies.window"]] = one
    rows: list[list[Cell]] = []
    for (drafters, latency_ms), policies in sorted(by_cell.items()):
        base = policies["fixed"]
        rows.append([f"{drafters:,}, {latency_ms} ms", *(_pace(policies[name], base) for name in POLICIES)])
    columns = " | ".join(["drafters, one way", "rounds of 4", *(f"`{name}`" for name in POLICIES[1:])])
    return Figures((table(columns, rows),))


def _pace(one: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    speed, pace = one["tokens_per_second"], one["time_per_output_token_s"]
    figures = [f"{1e3 * pace[name]:.3g}" for name in ("mean", "p50", "p99")]
    if one is base:
        return f"{speed:.0f}; {', '.join(figures)}"
    mean = f"{figures[0]} ({change(pace['mean'], base['time_per_output_token_s']['mean'])})"
    return f"{speed:.0f} ({change(speed, base['tokens_per_second'])}); {', '.join([mean, *figures[1:]])}"


def _sweeps(cloud: str, counts: Sequence[int], replies: int) -> tuple[Step, ...]:
    """Everybody who drafts has a user: rounds of 4, and the policies that adapt."""
    return tuple(
        Step(
            f"{EDGE_CLOUD} {cloud}--set peers.edge.count={count} --set load.users={count} "
            f"--set load.requests={count * replies} --set links.latency_ms=10,30 --set policies.window={windows} "
            f"--set policies.draft_max={most} --out {{work}}/{count}-{most}.jsonl --json"
        )
        for count in counts
        for windows, most in (("fixed", 4), ("threshold,awc,throughput", 12))
    )


PREDICTED = Chapter(
    "What a swarm would give you",
    """`dsdnode sim plan` and `dsdnode sim run` run the production node on a clock that jumps, over simulated links and
    engines. What their predictions rest on is told in
    [theory.md](theory.md#10-what-the-simulators-predictions-rest-on).""",
    (
        Measurement(
            "planned",
            "`sim plan` against `bench`",
            "Three real-life cases, tokens per second of the same replies: measured / planned.",
            (Step("python -m tests.sim.planned --measure {work}/cases {gsm8k}"),),
            minutes=8,
            read=planned,
        ),
        Measurement(
            "reality",
            "Recorded replies replayed",
            """One by one, 12 configurations (10 ms + 2 ms a position a stage, 3 ms a draft token): tokens
            per second, measured / predicted. What handling a message takes is gauged in another swarm.""",
            (Step("python -m tests.sim.reality --measure {work}/cells"),),
            minutes=25,
            read=reality,
        ),
        Measurement(
            "sim-speed",
            "How fast it simulates",
            "On one core.",
            (Step("python -m tests.sim.speed"), Step("dsdnode sim run configs/sim/edge_cloud.toml --json")),
            minutes=3,
            read=sim_speed,
        ),
    ),
)
THEORY = Chapter(
    "Against theory",
    "",
    (
        Measurement(
            "theory",
            "The formulas and the simulated node",
            """Each scheme at its own best setting by the formulas, 8 replies of 1,000 tokens, acceptance
            alpha drawn position by position. GPU stages take 9.7 + 0.3 ms a position (draft 3 ms), CPU
            stages 14 + 6 ms (draft 5 ms). A pass crosses N links where the owner sits beside the first
            stage, N + 1 in our ring. Simulated tokens per second / what the formula says (off by). The
            stream has two formulas ([theory.md](theory.md#4-the-stream-as-it-is-and-the-protocol)):
            section 3's, for an owner that holds its corrections back, and the one that describes what
            really runs, by which `throughput` decides.""",
            (Step("python -m tests.sim.theory"),),
            minutes=15,
            read=theory,
        ),
    ),
)
DHT = Chapter(
    "The DHT at scale",
    """Discovery and RPC as they are in production, on simulated links: round trips of 10 to 300 ms between 8
    regions, every node in an IP network of its own, lookups of models with a single living provider within 5 s. A
    request is two messages.""",
    (
        Measurement(
            "dht",
            "Lookups in swarms of 100 to 10,000",
            """Tables as after long acquaintance, but no connections yet: a first call to a peer takes 5.6
            round trips, up to 1.7 s; while one takes more than 0.4 s others are asked.""",
            tuple(Step(f"python -m tests.sim.dht --nodes {num} --warm") for num in (100, 300, 1000, 3000, 10000)),
            minutes=6,
            read=dht,
        ),
        Measurement(
            "dht-troubled",
            "Half of 500 dead, and Sybils",
            """Half of the nodes end at once, lookups from then on. Without `--warm` the nodes really join,
            one batch after the other, and live for 200 s.""",
            (
                Step("python -m tests.sim.dht --nodes 500 --kill 0.5 --lookups 2000", "joined; processes killed"),
                Step("python -m tests.sim.dht --nodes 500 --kill 0.5 --lookups 2000 --gone", "joined; machines gone"),
                Step("python -m tests.sim.dht --nodes 500 --kill 0.5 --warm", "warm tables; processes killed"),
                Step("python -m tests.sim.dht --nodes 500 --kill 0.5 --warm --gone", "warm tables; machines gone"),
                Step(
                    "python -m tests.sim.dht --nodes 150 --sybils 20",
                    "nobody dead, 20 Sybils of 2 networks nearer to the key than anybody else",
                ),
            ),
            minutes=12,
            read=dht_troubled,
        ),
    ),
)
EDGE = Chapter(
    "Many devices, few servers",
    """`configs/sim/edge_cloud.toml`: drafters with a user each, and targets with the whole model, as in arXiv
    2511.21669. Tokens per second in all; time per token (mean, p50, p99) in ms. Published for AWC against static
    windows: up to +9.7 % and -10.7 %.""",
    (
        Measurement(
            "edge-one",
            "One target and its share of the drafters",
            "Two replies each.",
            _sweeps("--set peers.cloud.count=1 ", (30, 50), 2),
            minutes=4,
            read=edge_cloud,
        ),
        Measurement(
            "edge-all",
            "All 20 targets and all drafters",
            """One reply each: the prompts that come all at once and the last replies to end decide how many
            tokens a second there are in all.""",
            _sweeps("", (600, 1000), 1),
            minutes=25,
            read=edge_cloud,
        ),
    ),
)
