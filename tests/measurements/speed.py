"""How fast: real daemons on one machine, links and slow devices emulated (`dsdnode bench`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.measurements.figures import Cell, Figures, table
from tests.measurements.measurement import Chapter, Measurement, Step
from tests.measurements.reading import Output, aligned, markdown, pairs, percent, schemes, text_of, times

CPU = "--stage-ms 14 --stage-slope-ms 6 --draft-ms 5"
FAST = "--stage-ms 10 --stage-slope-ms 0.3 --draft-ms 3"
GSM8K = "--prompts {gsm8k} --num-prompts 30 --json"


def relaxed(outputs: Sequence[Output]) -> Figures:
    rows = []
    for result, details in pairs(json.loads(outputs[0].text)):
        row = [
            result["scheme"],
            result["tokens_per_second"],
            times(result["speedup"]),
            percent(details["relaxed_share"], 1),
        ]
        rows.append(row)
    return Figures((table("scheme | tok/s | times plain | tokens relaxed", rows),))


def grid(outputs: Sequence[Output]) -> Figures:
    """A row a cell, a column a scheme."""
    cells = json.loads(outputs[0].text)["cells"]
    rows = [[cell["shards"], cell["latency_ms"], *map(_speed, cell["schemes"])] for cell in cells]
    names = [one["scheme"] for one in cells[0]["schemes"]]
    return Figures((table(" | ".join(["shards", "ms, one way", *names]), rows),))


def _speed(result: dict[str, Any]) -> Cell:
    speed, speedup = result["tokens_per_second"], result["speedup"]
    return speed if speedup in (None, 1) else f"{text_of(speed)} ({speedup:.1f}x)"


def trouble(outputs: Sequence[Output]) -> Figures:
    """Of the default policy: whole replies, and their second halves, by which it has adapted."""
    rows = []
    for output in (one for one in outputs if one.label):
        [(result, details)] = [pair for pair in pairs(json.loads(output.text)) if pair[0]["scheme"] == "default"]
        late, plans = times(details["late_speedup"]), details["plans"]
        plain = next((plan["index"] for plan in plans if plan["mode"] == "plain"), None)
        rows.append([output.label, times(result["speedup"]), late, percent(result["acceptance_rate"]), plain])
    columns = "ring | times plain | in the second half of a reply | accepted | plain from token"
    return Figures((table(columns, rows),))


def gemma(outputs: Sequence[Output]) -> Figures:
    """What cutting costs: of each number of shards, beside the whole model in one process."""
    rows = []
    for cell in json.loads(outputs[0].text)["cells"]:
        (plain, plain_details), (alone, _) = pairs(cell)
        cpu_ms, whole_ms = plain["cpu_ms_per_token"], alone["cpu_ms_per_token"]
        rows.append([
            cell["shards"], alone["tokens_per_second"], plain["tokens_per_second"], whole_ms, cpu_ms,
            plain_details["worker_cpu_ms_per_token"], f"{cpu_ms / whole_ms:.2f}",
        ])  # fmt: skip
    columns = "shards | whole, tok/s | shards, tok/s | whole, CPU ms a token | shards | of it layers | shards / whole"
    return Figures((table(columns, rows),))


def saved(outputs: Sequence[Output]) -> Figures:
    rows: list[list[Cell]] = []
    for row in aligned(outputs[-1].text, "shards"):
        off = f"{100 * float(row['off']):+.1f} %"
        numbers = [float(row[name]) for name in ("ms", "k", "saved ms", "formula ms")]
        rows.append([int(row["shards"]), row["scheme"], *numbers, off])
    return Figures((table("shards | scheme | ms, one way | k | saved, ms a token | formula | off by", rows),))


def crowd(outputs: Sequence[Output]) -> Figures:
    rows = [
        [
            result["scheme"], one["num_sessions"], one["total_tokens_per_second"], one["alone_tokens_per_second"],
            one["reply_s_p50"], one["reply_s_p99"], one["fairness"],
        ]
        for result, details in pairs(json.loads(outputs[0].text))
        for one in details["sessions"]
    ]  # fmt: skip
    columns = "scheme | replies at once | tok/s in all | one by one | a reply, s, p50 | p99 | fairness (Jain)"
    return Figures((table(columns, rows),))


def _ring(name: str, heading: str, command: str, minutes: float) -> Measurement:
    return Measurement(name, heading, "", (Step(f"dsdnode bench {command}"),), minutes, schemes)


SPEED = Chapter(
    "Speed",
    """Real daemons on one 2-core machine, links and slow devices emulated: a device that is emulated waits, it does
    not burn. Greedy, exact acceptance, f32 states, the demo pair; tokens per second are medians of the replies'.
    A bound is that of the published formulas ([theory.md](theory.md#3-speeds)) at the acceptance of that very
    run. The first 30 test prompts of GSM8K, or HumanEval's, which are out of this pair's domain.""",
    (
        _ring(
            "speed-cpu-4",
            "4 shards, 10 ms, CPU volunteers (14 + 6 ms a position, draft 5 ms)",
            f"--shards 4 --latency-ms 10 {CPU} --schemes plain,rounds-2,rounds-4,rounds-8,stream,default {GSM8K}",
            25,
        ),
        _ring(
            "speed-cpu-8",
            "8 shards, the same",
            f"--shards 8 --latency-ms 10 {CPU} --schemes plain,rounds-2,rounds-4,rounds-8,stream,default {GSM8K}",
            45,
        ),
        _ring(
            "speed-fast",
            "4 shards, 50 ms, fast stages (10 + 0.3 ms a position, draft 3 ms)",
            f"--shards 4 --latency-ms 50 {FAST} --schemes plain,rounds-8,rounds-16,stream,default {GSM8K}",
            30,
        ),
        _ring(
            "speed-fast-code",
            "The same on HumanEval, out of the pair's domain",
            f"--shards 4 --latency-ms 50 {FAST} --schemes plain,rounds-8,rounds-16,stream,default --ignore-eos "
            "--prompts {humaneval} --num-prompts 30 --json",
            40,
        ),
        _ring(
            "speed-links",
            "3 shards, 10 ms, nothing emulated but the links",
            f"--shards 3 --latency-ms 10 --schemes plain,rounds-4,rounds-8,rounds-16,stream,default {GSM8K}",
            8,
        ),
        Measurement(
            "speed-relaxed",
            "Relaxed acceptance: speed",
            "The ring of 4 fast shards at 50 ms. The text is not the target's any more.",
            (
                Step(
                    f"dsdnode bench --shards 4 --latency-ms 50 {FAST} "
                    f"--schemes plain,default,relaxed-0.2,relaxed-0.3,relaxed-0.5 {GSM8K}"
                ),
            ),
            minutes=25,
            read=relaxed,
        ),
        Measurement(
            "relaxed",
            "Relaxed acceptance: right answers",
            """Generated problems whose answers are known, rounds of 6. In brackets: solved by exact
            acceptance alone, and by relaxed acceptance alone.""",
            (Step("python -m tests.node.relaxed"),),
            minutes=10,
            read=markdown,
        ),
        Measurement(
            "grid",
            "A grid",
            """Nothing emulated but the links, 6 GSM8K prompts of up to 64 tokens a cell. At 0 and 2 ms all
            daemons of a ring share two cores, and blocks that turn out dead take time from the others.

            ![Tokens per second by shards, latency and scheme](../tests/bench/results/grid.svg)""",
            (
                Step(
                    "dsdnode bench --shards 2,4,8 --latency-ms 0,2,10,50,100 "
                    "--schemes plain,rounds-4,rounds-8,rounds-adaptive,stream,default "
                    "--prompts {gsm8k} --num-prompts 6 --max-tokens 64 --plot tests/bench/results/grid.svg --json"
                ),
            ),
            minutes=60,
            read=grid,
        ),
        Measurement(
            "trouble",
            "Where drafting does not pay, and where things change",
            """The default policy. It decodes plainly where drafting would cost more than it brings, and
            tries again now and then.""",
            (
                Step("python -m tests.bench.wrong_draft {work}/wrong.gguf"),
                Step(
                    f"dsdnode bench --shards 4 --latency-ms 10 {CPU} -md {{work}}/wrong.gguf --schemes plain,default "
                    "--num-prompts 6 --ignore-eos --json",
                    "CPU volunteers, a draft model that is always wrong",
                ),
                Step(
                    "dsdnode bench --shards 4 --latency-ms 10 --stage-ms 14 --stage-slope-ms 6 --draft-ms 200 "
                    "--schemes plain,default --num-prompts 6 --ignore-eos --json",
                    "CPU volunteers, a drafter of 200 ms a token",
                ),
                Step(
                    f"dsdnode bench --shards 4 --latency-ms 30 --jitter-ms 30 {FAST} --schemes plain,default "
                    "--num-prompts 6 --ignore-eos --json",
                    "fast stages, links of 30 ms with 30 ms of jitter",
                ),
                Step(
                    f"dsdnode bench --shards 4 --latency-ms 10 {CPU} --slow-down 2:5:50 --schemes plain,default "
                    "--num-prompts 6 --ignore-eos --json",
                    "CPU volunteers, a stage 5 times slower from token 50 on",
                ),
            ),
            minutes=25,
            read=trouble,
        ),
        Measurement(
            "saved",
            "Time saved on links",
            "A token's, against H t1 (k - 1) / k, with k tokens a pass.",
            (
                Step(
                    "dsdnode bench --shards 2,4,8 --latency-ms 0,10 --schemes rounds-1,rounds-3,rounds-7 --stage-ms 5 "
                    "--json"
                ),
                Step("python -m tests.bench.saved {work}/0.out"),
            ),
            minutes=12,
            read=saved,
        ),
        Measurement(
            "crowd",
            "Many replies at once",
            "4 shards, 10 ms, 10 + 2 ms a position, draft 1 ms.",
            (
                Step(
                    "dsdnode bench --shards 4 --latency-ms 10 --stage-ms 10 --stage-slope-ms 2 --draft-ms 1 "
                    "--schemes plain,default --sessions 1,4,16 --num-prompts 32 --json"
                ),
            ),
            minutes=15,
            read=crowd,
        ),
        Measurement(
            "gemma",
            "What cutting costs, of a real model",
            """Gemma 3 270M in Q4_K_M, 64 tokens of plain decoding after each of 4 prompts, no latency; beside it the
            whole model in one process. CPU of all processes, but for the client's and the links'.""",
            (
                Step(
                    "dsdnode bench -m {gemma} -md {gemma} --shards 1,2,3 --latency-ms 0 --schemes plain,alone "
                    "--num-prompts 4 --max-tokens 64 --ignore-eos --json"
                ),
            ),
            minutes=3,
            read=gemma,
        ),
        Measurement(
            "prefill",
            "A long prompt",
            """512 tokens to the first token, in virtual time: four shards at 10 ms, each a quarter of the
            model, against one machine with all of it.""",
            (Step("python -m tests.node.prefill"),),
            minutes=0.2,
            read=markdown,
        ),
        Measurement(
            "wire",
            "Types of hidden states",
            """The demo target in four shards: bytes of a token's states, and what rounding them does to the
            logits.""",
            (Step("python -m tests.engine.wire_error --gsm8k {gsm8k}"),),
            minutes=2,
            read=markdown,
        ),
    ),
)
