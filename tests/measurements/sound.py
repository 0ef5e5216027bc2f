"""Is it right, does it survive: texts, schedules, random worlds, deaths, strangers, architectures."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from tests.measurements.figures import Cell, Figures, table
from tests.measurements.measurement import Chapter, Measurement, Step
from tests.measurements.reading import Output, Unread, found, markdown, markdown_tables, number
from tests.siege.attacks import ATTACKS
from tests.siege.table import COLUMNS


def demo(outputs: Sequence[Output]) -> Figures:
    [output] = outputs
    found(r"The answer is \d+", output.text)
    return Figures(
        (table("what | s", [["a bootstrap, 3 shards and a drafter up, one reply, all down", output.seconds]]),)
    )


def pair(outputs: Sequence[Output]) -> Figures:
    [output] = outputs
    replies = re.findall(r"^(.+ p\w+): (\d+) replies, (\d+) tokens", output.text, re.MULTILINE)
    passes = re.findall(r"tokens per pass +([\d.]+)", output.text)
    rates = re.findall(r"acceptance rate +([\d.]+)", output.text)
    right = re.findall(r"right answers +(\d+)/(\d+)", output.text)
    if not len(replies) == len(passes) == len(rates) == len(right):
        raise Unread("not the figures of two sets of prompts")
    rows = [
        [name, int(num), int(tokens), float(per_pass), float(rate), f"{100 * int(good) / int(of):.1f} %"]
        for (name, num, tokens), per_pass, rate, (good, of) in zip(replies, passes, rates, right, strict=True)
    ]
    return Figures((table("prompts | replies | tokens | tokens a pass | accepted | right answers", rows),))


def exactness(outputs: Sequence[Output]) -> Figures:
    """Of each setting and number of shards: how many texts part from the whole model's."""
    counts: dict[tuple[str, str], list[int]] = {}
    margins = []
    for output in outputs:
        for shards, _, _, replies, tokens, unequal in next(markdown_tables(output.text)).rows:
            count = counts.setdefault((output.label, str(shards)), [0, 0, 0])
            found_here = (int(str(replies)), int(str(tokens)), int(str(unequal).partition(" ")[0]))
            count[:] = [sum(both) for both in zip(count, found_here, strict=True)]
            margins += [f"{float(one):.3g}" for one in re.findall(r": ([\d.]+)", str(unequal))]
    rows: list[list[Cell]] = [[*key, *count] for key, count in counts.items()]
    remarks = (f"Margins of the near-ties there: {', '.join(margins)}.",) if margins else ()
    return Figures((table("setting | shards | replies | tokens | not equal", rows),), remarks)


def schedules(outputs: Sequence[Output]) -> Figures:
    rows: list[list[Cell]] = []
    for kind, num, red, sorts, counts in re.findall(
        r"^(\w+): (\d+) schedules, (\d+) red \((.*?)\); (\{.*\})$", outputs[0].text, re.MULTILINE
    ):
        totals = ast.literal_eval(counts)
        rows.append([kind, int(num), int(red), sorts, *(totals[name] for name in ("tokens", "routes", "nacks"))])
    if not rows:
        raise Unread("no kind of schedules")
    return Figures((table("kind | schedules | red | of what sort | tokens | routes | NACKs", rows),))


def guards(outputs: Sequence[Output]) -> Figures:
    lines = outputs[0].text.strip().splitlines()
    shown = [re.search(r" (stream|rounds|conversation|calm|storm) (\d+): (.+)$", line) for line in lines]
    green = [line.split()[0] for line, sign in zip(lines, shown, strict=True) if sign is None]
    last = max((int(sign[2]) for sign in shown if sign), default=None)
    columns = "guards taken out, one after the other | red | green | the last is red at seed"
    return Figures((table(columns, [[len(lines), len(lines) - len(green), ", ".join(green) or "none", last]]),))


def ten(outputs: Sequence[Output]) -> Figures:
    (seconds,) = found(r"([\d.]+) s after the last ready line", outputs[0].text)
    return Figures(
        (table("what | s", [["every node knows every provider, after the last ready line", float(seconds)]]),)
    )


def overhead(outputs: Sequence[Output]) -> Figures:
    row = found(r"^(\d+) passes of .* p50 ([\d.]+) ms, p99 ([\d.]+) ms; .* p50 ([\d.]+) ms", outputs[0].text)
    columns = "passes | a hop beyond compute, p50, ms | p99, ms | an engine's own time, p50, ms"
    return Figures((table(columns, [list(map(number, row))]),))


def strangers(outputs: Sequence[Output]) -> Figures:
    text = outputs[0].text
    found(r"^all as it should be$", text)
    typed, _, thrown = text.partition("\nthrown | ")
    num = sum(line.count(" | ") >= 3 for line in typed.splitlines()[1:])
    columns, *lines = ("thrown | " + thrown).strip().splitlines()
    rows: list[list[Cell]] = [
        [name.replace("_", " "), *map(number, sizes), said]
        for name, *sizes, said in (line.split(" | ") for line in lines if line.count(" | ") == columns.count(" | "))
    ]
    remark = f"{num} commands with bad input: each ended with the message and the exit code that it should."
    return Figures((table(columns, rows),), (remark,))


def siege(outputs: Sequence[Output]) -> Figures:
    rows: list[list[Cell]] = []
    remarks: list[str] = []
    for output in outputs:
        lines = [line for line in output.text.splitlines() if line.count(" | ") == COLUMNS.count(" | ")]
        for name, *cells in (line.split(" | ") for line in lines if line != COLUMNS):
            rows.append([name, *map(number, cells)])
        remarks += [f"Not served: {one}." for one in re.findall(r"^not served: (.*)$", output.text, re.MULTILINE)]
    if not rows:
        raise Unread("no attack")
    return Figures((table(COLUMNS, rows),), tuple(remarks))


def worlds(outputs: Sequence[Output]) -> Figures:
    text = outputs[0].text
    num, seconds, red = found(r"^(\d+) worlds in (\d+) s: (.*)$", text)
    totals = [one.rpartition(" ") for one in found(r"^(replies .*)$", text)[0].split("; ")]
    faults = [one.rpartition(" ") for one in found(r"^faults: (.*)$", text)[0].split(", ")]
    checked: list[list[Cell]] = [["worlds", int(num)], ["red", red], ["seconds of this machine", int(seconds)]]
    checked += [[name, number(value)] for name, _, value in totals]
    troubles: list[list[Cell]] = [[name, number(value)] for name, _, value in faults]
    return Figures((table("what | seen", checked), table("trouble | times", troubles)))


SOUND = Chapter(
    "Right texts, and survival",
    "",
    (
        Measurement(
            "demo",
            "The demo",
            "The second call on a machine. The first also compiles llama.cpp.",
            (Step('dsdnode demo --prompt "Ben has 34 stickers. Mia gives Ben 25 more. How many now?"'),),
            minutes=0.2,
            read=demo,
        ),
        Measurement(
            "pair",
            "The demo pair",
            """The pair alone, through llama.cpp, greedy, rounds of 8: right answers, and how well the draft
            model drafts. GSM8K is beyond this pair; its prompts only measure acceptance.""",
            (Step("python scripts/train/evaluate.py --gsm8k {gsm8k}"),),
            minutes=8,
            read=pair,
        ),
        Measurement(
            "exactness",
            "The text is the whole model's",
            """Real nodes, 1 to 4 shards, windows 0, 1, 4 and 8, temperatures 0 and 0.8, f32 states, against
            the whole model decoded alone.""",
            (
                Step("python -m tests.node.exactness --strict", "strict"),
                Step("python -m tests.node.exactness", "default"),
            ),
            minutes=25,
            read=exactness,
        ),
        Measurement(
            "texts",
            "The text of a real model",
            """Gemma 3 270M in Q4_K_M, a random mixture of experts in Q4_K and a random model in Q6_K; 40 prompts
            (English, German, Chinese, code), 40 tokens each, greedy, f32 states. The draft model is the target without
            some of its layers. Each text beside that of the whole model alone in the same setting, one token at a time;
            where they differ, the gaps in logits between the whole model's first and second choice. A window of 8 is
            nine positions in a block: in the strict setting one kernel computes blocks of all sizes.""",
            (Step("python -m tests.node.real_texts --strict"), Step("python -m tests.node.real_texts")),
            minutes=90,
            read=markdown,
        ),
        Measurement(
            "ten",
            "Ten daemons find one another",
            "Started in any order, each told of one other.",
            (Step("pytest -s tests/node/test_ten.py"),),
            minutes=0.5,
            read=ten,
        ),
        Measurement(
            "recovery",
            "Deaths in the middle of a reply",
            """Real daemons, killed, or stopped as a machine that is gone without a word is for others. The
            pause is the longest silence at the client; the next reply begins while what died is still in
            the records.""",
            (Step("python -m tests.node.recovery"),),
            minutes=2,
            read=markdown,
        ),
        Measurement(
            "nemesis",
            "A nemesis among daemons",
            """Two drafters, two replicas of each of two layer ranges, three users who ask without pause, f32 on the
            wire. Daemons and workers are killed and stopped, links cut or silent, a disk filled. A pause is the
            longest silence of a reply. Afterwards, in peace, a thousand replies: what each daemon takes of memory,
            threads and descriptors, those of links apart.""",
            (Step("python -m tests.node.nemesis --minutes 15 --seed 1"),),
            minutes=30,
            read=markdown,
        ),
        Measurement(
            "overhead",
            "A hop beyond the engine's compute",
            "3 shards on loopback, f16 states of 4,096 values.",
            (Step("python -m tests.node.overhead"),),
            minutes=1,
            read=overhead,
        ),
        Measurement(
            "strangers",
            "Bad input, and strangers at a port",
            """Every kind of bad input typed at the command line; then garbage, floods and endless frames
            thrown at the port of a shard, and after each a reply through it. Sizes are MiB.""",
            (Step("python -m tests.cli.bad_input"),),
            minutes=4,
            read=strangers,
        ),
        Measurement(
            "siege",
            "One hostile peer beside four honest users",
            """Network namespaces joined by a router, a user in each with a daemon that hosts half of the demo model,
            two draft, too; one user lives in the attacker's /24. Each attack for 60 s, then peace beside a load
            that takes as much of a core. The attacker has a low priority. p50 and p99 of all that was asked
            by the others, the neighbour's apart. It takes root.""",
            tuple(Step(f"python -m tests.siege {name}") for name in ATTACKS),
            minutes=30,
            read=siege,
        ),
        Measurement(
            "architectures",
            "Supported architectures",
            """Random models with the real layer counts, cut into 1, 2, 3 shards and as many as there can be: the
            largest difference of the logits to the whole model, for prefill, blocks and after rollbacks,
            in one and several sequences.

            Those with running states in the strict setting. Refused by name, with the reason: minicpm3, baichuan and
            the 64 layers of command-r and exaone4, the 46 of gemma2, the 62 of gemma3 (constants from the number of
            layers), gemma3n and gemma4 with inputs of each layer (more than one hidden state), mamba, rwkv6 and rwkv7
            (not proven), and whatever is not in `dsdnode/engine/gguf_arch.py`. A table of an earlier commit lacks
            those that have come since.""",
            (Step("python -m tests.engine.exactness_matrix"),),
            minutes=30,
            read=markdown,
        ),
    ),
)
BUGS = Chapter(
    "Hunting bugs",
    "",
    (
        Measurement(
            "worlds",
            "Random worlds of whole nodes",
            """Each seed draws a swarm (model, cuts, replicas, machines, links, clocks up to a year apart),
            one to three people with conversations, a window policy or plans that make no sense, and
            troubles. All along every text is compared with the model decoding alone. In the end nobody
            may be stuck, and no sequence, session, place or task left. Three in ten of those killed take
            their machine along: connections to it stay and swallow what is sent.""",
            (Step("python -m tests.sim.worlds --seeds 10000"),),
            minutes=25,
            read=worlds,
        ),
        Measurement(
            "schedules",
            "Random schedules of the two machines",
            """Session and stages alone, in five kinds of schedules: replies by rounds, streamed and hedged
            ones, conversations that go on or back, networks that lose one message at most, and such that
            lose much and then nothing. Work for nothing is red too.""",
            (Step("python -m tests.speculation.schedules --seeds 2000"),),
            minutes=12,
            read=schedules,
        ),
        Measurement(
            "guards",
            "The same without a guard",
            """Each guard of the protocol is taken out: the schedules must turn red.
            `tests/speculation/guards.txt` lists what shows first. Two guards are second lines of defence (a
            verdict's route behind its epoch, the new epoch after two timeouts behind the NACK): these show
            when the first line is out as well.""",
            (Step("python -m tests.speculation.schedules --seeds 3000 --mutate all"),),
            minutes=30,
            read=guards,
        ),
    ),
)
