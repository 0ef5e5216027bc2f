"""From what commands print to figures: of some the command itself is asked, of slow ones it is a sample."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from dsdnode.cli import render
from tests.bench.saved import COLUMNS
from tests.measurements import simulated, sound, speed
from tests.measurements.figures import Cell, Figures, rounded
from tests.measurements.reading import Output, Unread, aligned, markdown, schemes
from tests.siege.table import COLUMNS as SIEGE
from tests.sim import reality

pytestmark = pytest.mark.slow

GUARDS = """\
digest          any digest will do                                          stream 4: wrong text
given           the rule whose words are so many that they leave no blank behind them at all stream 11: crash
gap             append beyond the length                                    GREEN
"""
EXACT = """\
| shards | window | temperature | replies | tokens | not equal (position: margin) |
|---|---|---|---|---|---|
| 1 | 0 | 0.0 | 50 | 1600 | 0 |
| 1 | 4 | 0.8 | 50 | 1500 | 2 (13: 0.0040, 20: 0.0112) |
| 2 | 0 | 0.0 | 50 | 1600 | 0 |
"""
WORLDS = """\
20 worlds in 17 s: 0 wrong text, 0 lost, 0 stuck, 0 leak
replies 68; tokens 1,810; given up in words, then answered in peace 2
faults: draft worker death 10, message twice 1,553
"""
THROWN = """\
case | command | exit code | message
unknown role | start --role miner | 2 | error: unknown role miner: choose from drafter, shard, bootstrap
no node here | chat | 3 | error: no node is running here

thrown | MiB thrown | node's MiB before | most | after | a reply afterwards
random_bytes | 3 | 120 | 125 | 121 | in 0.4 s

all as it should be
"""
PAIR = """\
demo question: 'The answer is 59.'
generated problems: 3 replies, 103 tokens, 13 passes
  tokens per pass          7.92
  acceptance rate          0.998 (of draft tokens judged while those before were accepted)
  right answers            2/3 = 0.667; wrong by family: {}
GSM8K prompts: 2 replies, 164 tokens, 38 passes
  tokens per pass          4.32
  acceptance rate          0.819 (of draft tokens judged while those before were accepted)
  right answers            0/2
"""
THEORY = """\
H = N
STAGES, LINK  ALPHA  SCHEME                  SIMULATED  SECTION 3  OFF BY   OURS  OFF BY
GPU 4, 10 ms  0.80   plain                   12         12         +0.0 %   12    +0.0 %
GPU 4, 10 ms  0.80   rounds 8                38         38         -0.1 %   38    -0.1 %
GPU 4, 10 ms  0.80   stream 4/36             49         48         +2.8 %   49    +1.3 %
GPU 4, 10 ms  0.80   stream 4/36, held back  48         48         +0.0 %   -     -
section 3 of what it describes: mean 0.1 %, worst 0.1 %; ours of what runs: mean 0.5 %, worst 1.3 %

H = N + 1, our ring
STAGES, LINK  ALPHA  SCHEME                  SIMULATED  SECTION 3  OFF BY   OURS  OFF BY
GPU 4, 10 ms  0.80   plain                   11         11         +0.0 %   11    +0.0 %
GPU 4, 10 ms  0.80   rounds 8                35         35         -0.2 %   35    -0.2 %
GPU 4, 10 ms  0.80   stream 4/36             45         44         +2.3 %   44    +1.1 %
GPU 4, 10 ms  0.80   stream 4/36, held back  44         44         -0.3 %   -     -
section 3 of what it describes: mean 0.2 %, worst 0.3 %; ours of what runs: mean 0.5 %, worst 1.1 %
"""


def printed(*words: str) -> Output:
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=True)
    return Output(done.stdout, 1.0, "alice's")


def row(figures: Figures, number: int = 0, table: int = 0) -> tuple[Cell, ...]:
    return figures.tables[table].rows[number]


# --- what is quick ------------------------------------------------------------------------------------------------


def test_schedules() -> None:
    figures = sound.schedules([printed("tests.speculation.schedules", "--seeds", "2")])
    assert [one[:4] for one in figures.tables[0].rows] == [
        (kind, 2, 0, "none") for kind in ("stream", "rounds", "conversation", "calm", "copies", "storm", "guesses")
    ]


def test_lookups() -> None:
    output = printed("tests.sim.dht", "--nodes", "30", "--lookups", "5", "--warm")
    assert row(simulated.dht([output]))[:2] == (30, "5 of 5")
    assert row(simulated.dht_troubled([output]))[:2] == ("alice's", "5 of 5")


def test_the_simulator_s_speed() -> None:
    edge = Output(json.dumps({"completed": 600, "tokens": 70_000}), 70.0)
    figures = simulated.sim_speed([printed("tests.sim.speed", "--requests", "2"), edge])
    assert row(figures)[1:3] == (2, 400)
    assert row(figures, 1) == ("600 drafters, a reply each", 600, 70_000, 70.0, None, 1000.0)


def test_a_long_prompt() -> None:
    figures = markdown([printed("tests.node.prefill", "--tokens", "32")])
    assert figures.tables[0].columns[:2] == ("a shard takes", "one machine alone")
    assert len(figures.tables[0].rows) == 3


# --- what is not --------------------------------------------------------------------------------------------------


def test_guards() -> None:
    assert row(sound.guards([Output(GUARDS, 1.0)])) == (3, 2, "gap", 11)


def test_texts_by_setting_and_shards() -> None:
    figures = sound.exactness([Output(EXACT, 1.0, "strict"), Output(EXACT, 1.0, "default")])
    assert row(figures) == ("strict", "1", 100, 3100, 2)
    assert row(figures, 3) == ("default", "2", 50, 1600, 0)
    assert figures.remarks == ("Margins of the near-ties there: 0.004, 0.0112, 0.004, 0.0112.",)


def test_worlds() -> None:
    figures = sound.worlds([Output(WORLDS, 1.0)])
    assert row(figures, 1) == ("red", "0 wrong text, 0 lost, 0 stuck, 0 leak")
    assert row(figures, -1) == ("given up in words, then answered in peace", 2)
    assert row(figures, 1, table=1) == ("message twice", 1553)


def test_strangers() -> None:
    figures = sound.strangers([Output(THROWN, 1.0)])
    assert row(figures) == ("random bytes", 3, 120, 125, 121, "in 0.4 s")
    assert figures.remarks[0].startswith("2 commands with bad input")
    with pytest.raises(Unread):
        sound.strangers([Output(THROWN.replace("all as", "NOT all as"), 1.0)])


def test_the_siege() -> None:
    line = "pings | 440.6 | 0.07 | 45 | 45 | 0.33 | 1.07 | 1.07 | 1.10 | 18 | 18 | 0.56 | 0 | 46 | 46 | 0.46 | 1.63"
    line += " | 1.63 | 1.70 | 0.66 | 0.66"
    lost = "not served: 2 x ghosts, attack, bob: NoPipeline: nothing came\n"
    figures = sound.siege([Output(f"{SIEGE}\n{line}\n", 1.0), Output(f"{SIEGE}\n{line}\n{lost}", 1.0)])
    assert row(figures)[:8] == ("pings", 440.6, 0.07, 45, 45, 0.33, 1.07, 1.07)
    assert len(figures.tables[0].rows) == 2
    assert figures.remarks == ("Not served: 2 x ghosts, attack, bob: NoPipeline: nothing came.",)
    with pytest.raises(Unread):
        sound.siege([Output(SIEGE, 1.0)])


def test_the_pair() -> None:
    figures = sound.pair([Output(PAIR, 1.0)])
    assert row(figures) == ("generated problems", 3, 103, 7.92, 0.998, "66.7 %")
    assert row(figures, 1)[0] == "GSM8K prompts"


def test_theory() -> None:
    figures = simulated.theory([Output(THEORY, 1.0)])
    assert row(figures) == (
        "GPU 4, 10 ms, N", "0.80", "12 / 12 (+0.0 %)", "38 / 38 (-0.1 %)", "48 / 48 (+0.0 %)", "49 / 49 (+1.3 %)",
        "+2.8 %",
    )  # fmt: skip
    assert row(figures, 1)[0] == "GPU 4, 10 ms, N + 1"


def test_replayed_replies() -> None:
    found = [reality.Figure(4, 10.0, name, 9.5, 9.6) for name in reality.SCHEMES]
    text = f"{reality.table(found)}\n3 figures: median error 1.1 %, worst 1.1 %\n"
    figures = simulated.reality([Output(text, 1.0)])
    assert figures.tables[0].columns == ("shards", "ms, one way", *reality.SCHEMES)
    assert row(figures) == (4, 10.0, *["9.50 / 9.60 (+1.1 %)"] * 3)
    assert figures.remarks == ("3 figures: median error 1.1 %, worst 1.1 %.",)


def test_a_plan() -> None:
    cells = [("two desktops", name, "16.1", "15.7", off) for name, off in (("plain", "-2.5 %"), ("stream", "+1.0 %"))]
    table = render.table(("CASE", "SCHEME", "MEASURED", "PLANNED", "OFF BY"), cells)
    figures = simulated.planned([Output(f"two desktops\n$ dsdnode sim plan\nExpect 15.7.\n\n{table}\n", 1.0)])
    assert row(figures) == ("two desktops", "16.1 / 15.7 (-2.5 %)", "16.1 / 15.7 (+1.0 %)")
    assert figures.remarks == ("2 figures: median error 1.8 %, worst 2.5 %.",)
    assert figures.said == "two desktops\n$ dsdnode sim plan\nExpect 15.7."


def test_saved_time() -> None:
    cells = ("2", "5", "rounds-4", "4", "10.2", "7.5", "0.36")
    lines = ["  ".join(f"{cell:>10}" for cell in line) for line in (COLUMNS, cells)]
    assert aligned("\n".join(lines), "shards") == [dict(zip(COLUMNS, cells, strict=True))]
    assert row(speed.saved([Output("\n".join(lines), 1.0)])) == (2, "rounds-4", 5.0, 4.0, 10.2, 7.5, "+36.0 %")


# --- dsdnode bench ------------------------------------------------------------------------------------------------


def scheme(name: str, speedup: float, **more: Any) -> dict[str, Any]:
    known = {
        "tokens_per_second": 24.18, "acceptance_rate": 0.81, "tokens_per_pass": 3.2, "wasted_share": 0.27,
        "of_bound": 0.68, "text_equal": True, "near_ties": [],
    }  # fmt: skip
    return {"scheme": name, "speedup": speedup, **known, **more}


def details(**more: Any) -> dict[str, Any]:
    known = {"late_speedup": 3.5, "relaxed_share": 0.027, "num_replies": 30, "num_differing_replies": 4, "sessions": []}
    return {**known, "plans": [{"index": 0, "mode": "stream"}, {"index": 18, "mode": "plain"}], **more}


def bench(*pairs: tuple[dict[str, Any], dict[str, Any]]) -> Output:
    cell = {"schemes": [one for one, _ in pairs], "details": [one for _, one in pairs]}
    where = {"shards": 2, "latency_ms": 10.0}
    return Output(json.dumps({**cell, "cells": [{**where, **cell}]}), 1.0, "a ring")


def test_a_ring() -> None:
    tie = {"text_equal": False, "near_ties": [{"gap": 0.008}, {"gap": 0.0371}]}
    figures = schemes([bench((scheme("plain", 1.0), details()), (scheme("stream", 2.494, **tie), details()))])
    assert row(figures) == ("plain", 24.18, "1.00x", "81 %", 3.2, "27 %", "68 %", "plain's")
    assert row(figures, 1)[-1] == "4 of 30 differ: near-ties, 0.008 to 0.037 apart"


def test_relaxed_and_grid() -> None:
    output = bench((scheme("plain", 1.0), details()), (scheme("relaxed-0.2", 2.494), details()))
    assert row(speed.relaxed([output]), 1) == ("relaxed-0.2", 24.18, "2.49x", "2.7 %")
    assert row(speed.grid([output])) == (2, 10.0, 24.18, "24.2 (2.5x)")


def test_trouble_counts_the_default_alone() -> None:
    output = bench((scheme("plain", 1.0), details()), (scheme("default", 1.01), details()))
    assert row(speed.trouble([Output("", 0.1), output])) == ("a ring", "1.01x", "3.50x", "81 %", 18)


def test_a_crowd() -> None:
    crowd = {
        "num_sessions": 4, "total_tokens_per_second": 58.12345, "alone_tokens_per_second": 25.0, "reply_s_p50": 1.5,
        "reply_s_p99": 2.5, "fairness": 0.95,
    }  # fmt: skip
    output = bench((scheme("default", 1.0), details(sessions=[crowd])))
    assert row(speed.crowd([output])) == ("default", 4, 58.12, 25.0, 1.5, 2.5, 0.95)


def test_devices_and_servers() -> None:
    def run(policy: str, speed: float, mean: float) -> dict[str, Any]:
        chosen = {"peers.edge.count": 1000, "links.latency_ms": 10, "policies.window": policy}
        pace = {"mean": mean, "p50": 0.05, "p99": 0.07}
        return {"set": chosen, "tokens_per_second": speed, "time_per_output_token_s": pace}

    adaptive = [run(name, 330.0, 0.054) for name in ("threshold", "awc", "throughput")]
    outputs = [Output(json.dumps([run("fixed", 300.0, 0.06)]), 1.0), Output(json.dumps(adaptive), 1.0)]
    other = "330 (+10.0 %); 54 (-10.0 %), 50, 70"
    assert row(simulated.edge_cloud(outputs)) == ("1,000, 10 ms", "300; 60, 50, 70", other, other, other)


def test_a_figure_is_a_number_or_a_word() -> None:
    assert rounded(0.123456) == 0.1235
    with pytest.raises(AssertionError):
        rounded([1])
