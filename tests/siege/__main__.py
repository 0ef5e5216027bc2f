"""Four honest users, one hostile peer, one attack after the other: `python -m tests.siege [NAME ...] [--seconds 60]`.

Each in a network of their own (one user in the attacker's /24), joined by a router: namespaces of this machine, so it
takes root. Every user runs a daemon that drafts and hosts half of the demo model, and asks one question after another.
After each attack, and when what was said in it is over, the same in peace, beside a load that takes as much of a core
as the attacker took. Prints a table and, below it, how replies ended that were not served; exit code 1 if there are
any, or a text is another than in the beginning.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.node.processes import STOP_TIMEOUT_S, Swarm, swarm
from tests.siege.attacks import ATTACKS, Done
from tests.siege.mallory import LIFE_S
from tests.siege.networks import networks, why_not, within
from tests.siege.user import QUESTIONS, Asked

HOSTS = {
    "alice": ("11.1.1.10",),
    "bob": ("12.2.2.10",),
    "carol": ("13.3.3.10",),
    "dave": ("14.4.4.10",),
    "mallory": ("14.4.4.66", "14.4.4.67", "14.4.4.68", "14.4.4.69"),
}
"""Addresses of the wide world: networks are counted there, and nobody reaches it from a namespace."""
NEIGHBOUR = "dave"
LAYERS = {"alice": "0:4", "bob": "4:8", "carol": "0:4", "dave": "4:8"}
COLUMNS = (
    "attack | a second | of a core | served | asked | neighbour served | asked | texts right"
    " | p50, s | p99, s | neighbour p99, s | peace: served | asked | p50, s | p99, s | p99 to peace's"
)


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass
class Town:
    """`places`: namespaces by host; `users`: their processes by name; `texts`: what each question's answer is."""

    swarm: Swarm
    places: Mapping[str, str]
    joins: Mapping[str, str]
    users: Mapping[str, subprocess.Popen[str]]
    texts: dict[int, str]

    def ask(self, seconds: float) -> dict[str, list[Asked]]:
        """What each user asked in that time, all at once."""
        for user in self.users.values():
            print(seconds, file=user.stdin, flush=True)
        return {name: msgspec.json.decode(_line(user), type=list[Asked]) for name, user in self.users.items()}

    def is_right(self, asked: Asked) -> bool:
        return not asked.error and self.texts[asked.question] == asked.text

    @contextlib.contextmanager
    def attack(self, name: str) -> Iterator[subprocess.Popen[str]]:
        joins = [word for join in self.joins.values() for word in ("--join", join)]
        hosts = [word for host in HOSTS["mallory"] for word in ("--host", host)]
        with _process(self.places["mallory"], "tests.siege.attacks", name, *joins, *hosts) as process:
            assert _line(process) == "begun\n", f"{name} does not begin"
            yield process

    @contextlib.contextmanager
    def load(self, cores: float) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for index in range(math.ceil(cores)):
                share = min(1.0, cores - index)
                process = stack.enter_context(_process(self.places["mallory"], "tests.siege.load", f"{share:.2f}"))
                assert _line(process) == "begun\n"
            yield


def _line(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline()
    assert line, f"{process.args} ended"
    return line


@contextlib.contextmanager
def _process(place: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A module of ours at a host, to the end of its input."""
    command = (*within(place), sys.executable, "-m", *words)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stdout.close()


@contextlib.contextmanager
def town(folder: Path) -> Iterator[Town]:
    """The four users, each with a daemon that is ready, and what they are told in peace."""
    with networks(HOSTS) as places, swarm(folder) as made, contextlib.ExitStack() as stack:
        joins: dict[str, str] = {}
        for name, layers in LAYERS.items():
            join = ("--join", joins["alice"]) if joins else ()
            roles = ("--role", "drafter", "--role", "shard", "--layers", layers)
            listen = f"tcp://{HOSTS[name][0]}:0"
            common = ("--threads", "1", "--wire", "f32", "--name", name)
            daemon = made.start(name, *roles, *common, *join, listen=listen, within=within(places[name]))
            joins[name] = daemon.join
        users = {
            name: stack.enter_context(_process(places[name], "tests.siege.user", join)) for name, join in joins.items()
        }
        made_town = Town(made, places, joins, users, {})
        for asked in made_town.ask(1)["alice"]:
            made_town.texts.setdefault(asked.question, asked.text)
            assert not asked.error, asked
        assert len(made_town.texts) == len(QUESTIONS)
        yield made_town


@dataclass(frozen=True)
class Round:
    """An attack and the peace after it."""

    name: str
    done: Done
    attacked: Mapping[str, Sequence[Asked]]
    peace: Mapping[str, Sequence[Asked]]


def besieged(there: Town, name: str, seconds: float) -> Round:
    with there.attack(name) as process:
        attacked = there.ask(seconds)
        process.stdin.close()
        done = msgspec.json.decode(_line(process), type=Done)
    time.sleep(LIFE_S)
    with there.load(done.core):
        peace = there.ask(seconds)
    return Round(name, done, attacked, peace)


def row(there: Town, one: Round) -> str:
    """As COLUMNS says. Times are those of all replies of who is no neighbour, served or not."""
    others = [asked for name, told in one.attacked.items() if name != NEIGHBOUR for asked in told]
    beside = one.attacked[NEIGHBOUR]
    peace = [asked for told in one.peace.values() for asked in told]
    served = [asked for asked in (*others, *beside) if not asked.error]
    right = "all" if all(map(there.is_right, served)) else f"{sum(map(there.is_right, served))} of {len(served)}"
    took, took_beside, calm = ([asked.took_s for asked in told] for told in (others, beside, peace))
    worst, calm_worst = percentile(took, 0.99), percentile(calm, 0.99)
    cells = [
        one.name, f"{one.done.rate:.1f}", f"{one.done.core:.2f}", num_served(others), len(others),
        num_served(beside), len(beside), right, f"{percentile(took, 0.5):.2f}", f"{worst:.2f}",
        f"{percentile(took_beside, 0.99):.2f}", num_served(peace), len(peace), f"{percentile(calm, 0.5):.2f}",
        f"{calm_worst:.2f}", f"{worst / calm_worst:.2f}",
    ]  # fmt: skip
    return " | ".join(map(str, cells))


def num_served(told: Sequence[Asked]) -> int:
    return sum(not asked.error for asked in told)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ATTACKS)}; none: all of them")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each attack, and of each peace")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in ATTACKS]:
        parser.error(f"no such attack: {', '.join(unknown)}")
    if reason := why_not():
        parser.error(reason)
    failures: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, town(Path(folder)) as there:
        print(COLUMNS, flush=True)
        for name in options.names or ATTACKS:
            one = besieged(there, name, options.seconds)
            print(row(there, one), flush=True)
            for when, told in (("attack", one.attacked), ("peace", one.peace)):
                for user, replies in told.items():
                    failures.update(f"{name}, {when}, {user}: {asked.error}" for asked in replies if asked.error)
                    wrong = sum(not asked.error and not there.is_right(asked) for asked in replies)
                    failures[f"{name}, {when}, {user}: another text"] += wrong
    failures = +failures
    for failure, num in failures.items():
        print(f"not served: {num} x {failure}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
