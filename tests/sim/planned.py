"""What `dsdnode sim plan` says in three real-life cases, and what `dsdnode bench` measures there.

`python -m tests.sim.planned --measure DIR gsm8k.jsonl` benches (some 5 minutes) and compares; `--from DIR` reads what
is there. The plan replays the replies that plain decoding gave in the same run.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from dsdnode.cli import render
from dsdnode.sim import plan
from dsdnode.sim.question import HANDLING_MS, Machine, Question, uniform
from dsdnode.sim.scenario import NetworkTerms, Pair
from dsdnode.sim.words import words
from dsdnode.sim.workers import num_cores
from tests.sim.reality import LAYERS, bench

MODES = {"plain": "plain", "rounds-adaptive": "rounds", "stream": "stream"}
PROMPTS, TOKENS = 3, 80
"""Few, for eight laptops make two tokens a second. In replies of that length these three are accepted alike, so that
their median is no matter of luck, and no near-tie changes their text from scheme to scheme."""


@dataclass(frozen=True, slots=True)
class Case:
    """A swarm, and who thinks of joining it; times in ms. `alone`: tokens per second without a swarm."""

    name: str
    stages: int
    latency_ms: float
    stage_ms: float
    slope_ms: float
    draft_ms: float
    alone: float
    mine: Machine
    users: int = 1

    @property
    def words(self) -> list[str]:
        """As both commands spell it, but for the number of shards."""
        numbers = (self.latency_ms, self.stage_ms, self.slope_ms, self.draft_ms)
        names = ("--latency-ms", "--stage-ms", "--stage-slope-ms", "--draft-ms")
        return [word for name, number in zip(names, numbers, strict=True) for word in (name, f"{number:g}")]

    @property
    def command(self) -> str:
        told = {
            "--alone": self.alone,
            "--users": self.users if self.users > 1 else None,
            "--my-draft-ms": self.mine.draft_ms,
            "--my-stage-ms": self.mine.fixed_ms,
            "--my-stage-slope-ms": self.mine.slope_ms or None,
        }
        words = [word for name, value in told.items() if value is not None for word in (name, f"{value:g}")]
        swarm = ["--stages", f"{self.stages}", "--layers", f"{LAYERS}", *self.words]
        return " ".join(["dsdnode sim plan", *swarm, *words, "--trace replies.jsonl"])


CASES = (
    Case("two desktops at home, and a third one", 2, 1, 25, 3, 6, 2, Machine(6, 50, 6)),
    Case("four friends in one country, and a laptop that can only draft", 4, 20, 14, 6, 5, 4, Machine(8)),
    Case("eight laptops on one continent, four users, one laptop more", 8, 40, 14, 6, 5, 3, Machine(5, 112, 48), 4),
)


def measure(folder: Path, prompts: Path) -> None:
    """The cases that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(CASES):
        command = [*case.words, "--shards", f"{case.stages}", "--schemes", ",".join((*MODES, "default"))]
        command += ["--prompts", str(prompts), "--num-prompts", f"{PROMPTS}", "--max-tokens", f"{TOKENS}"]
        bench(folder / f"{number}.json", *command, "--record", str(folder / f"{number}.jsonl"))


def planned(case: Case, pair: Pair) -> tuple[Question, plan.Answer]:
    """What the case's command answers, of the model that was measured."""
    links = NetworkTerms(case.latency_ms, handling_ms=HANDLING_MS)
    question = uniform(case.stages, case.stage_ms, case.slope_ms, case.draft_ms, links, pair)
    question = replace(question, alone=case.alone, users=case.users, mine=case.mine)
    return question, plan.answer(question, num_cores())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--measure", nargs=2, type=Path, metavar=("DIR", "PROMPTS"))
    how.add_argument("--from", type=Path, dest="folder", metavar="DIR")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
    folder = arguments.measure[0] if arguments.measure else arguments.folder
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    rows = []
    for number, case in enumerate(CASES):
        question, found = planned(case, Pair(LAYERS, trace=str(folder / f"{number}.jsonl")))
        print(f"{case.name}\n$ {case.command}\n{words(question, found)}\n")
        expected = [*(found.speeds[mode] for mode in MODES.values()), found.default]
        schemes = json.loads((folder / f"{number}.json").read_text())["schemes"]
        for one, speed in zip(schemes, expected, strict=True):
            measured = one["tokens_per_second"]
            rows.append(
                (case.name, one["scheme"], f"{measured:.3g}", f"{speed:.3g}", f"{100 * (speed / measured - 1):+.1f} %")
            )
    print(render.table(("CASE", "SCHEME", "MEASURED", "PLANNED", "OFF BY"), rows))


if __name__ == "__main__":
    main()
