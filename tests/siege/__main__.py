"""Four honest users, one hostile peer, one attack after the other: `python -m tests.siege [NAME ...] [--seconds 60]`.

Each in a network of their own (one user in the attacker's /24), joined by a router: namespaces of this machine, so it
takes root. Every user runs a daemon that hosts half of the demo model, two of them draft, too, and all ask one question
after another. After each attack, and when what was said in it is over, the same in peace, beside a load that takes as
much of a core as the attacker took. Prints a table and, below it, how replies ended that were not served. Exit code 1:
a text is another than in the beginning.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.nat.namespaces import why_not, within
from tests.nat.networks import networks
from tests.node.processes import STOP_TIMEOUT_S, Swarm, swarm
from tests.siege.attacks import ATTACKS, Done
from tests.siege.mallory import LIFE_S
from tests.siege.table import COLUMNS, Round
from tests.siege.user import QUESTIONS, Asked

HOSTS = {
    "alice": ("11.1.1.10",),
    "bob": ("12.2.2.10",),
    "carol": ("13.3.3.10",),
    "dave": ("14.4.4.10",),
    "mallory": ("14.4.4.66", "14.4.4.67", "14.4.4.68", "14.4.4.69"),
}
"""Addresses of the wide world: networks are counted there, and nobody reaches it from a namespace."""
LAYERS = {"alice": "0:4", "bob": "4:8", "carol": "0:4", "dave": "4:8"}
DRAFT = {"alice", "bob"}
"""The others ask whoever drafts; these are asked first at home."""


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
    assert line, f"{process.args!r} ended"
    return line


@contextlib.contextmanager
def _process(place: str, *words: str, log: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A module of ours at a host, to the end of its input."""
    command = (*within(place), sys.executable, "-m", *words)
    with log.open("w") if log is not None else contextlib.nullcontext() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
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
            roles = ("--role", "shard", "--layers", layers, *(("--role", "drafter") if name in DRAFT else ()))
            listen = f"tcp://{HOSTS[name][0]}:0"
            common = ("--threads", "1", "--wire", "f32", "--name", name)
            daemon = made.start(name, *roles, *common, *join, listen=listen, within=within(places[name]))
            joins[name] = daemon.join
        users = {
            name: stack.enter_context(_process(places[name], "tests.siege.user", join, log=folder / f"user-{name}.log"))
            for name, join in joins.items()
        }
        made_town = Town(made, places, joins, users, {})
        while len(made_town.texts) < len(QUESTIONS):
            for asked in made_town.ask(1)["alice"]:
                assert not asked.error, asked
                made_town.texts[asked.question] = asked.text
        yield made_town


def besieged(there: Town, name: str, seconds: float) -> Round:
    with there.attack(name) as process:
        attacked = there.ask(seconds)
        process.stdin.close()
        done = msgspec.json.decode(_line(process), type=Done)
    time.sleep(LIFE_S)
    with there.load(done.core):
        peace = there.ask(seconds)
    return Round(name, done, attacked, peace, there.texts)


@contextlib.contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """That one, or one for the moment."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ATTACKS)}; none: all of them")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each attack, and of each peace")
    parser.add_argument("--folder", type=Path, help="where logs are kept, and what each user asked, a line each")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in ATTACKS]:
        parser.error(f"no such attack: {', '.join(unknown)}")
    if reason := why_not():
        parser.error(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # namespaces do not end with their maker
    failures: Counter[str] = Counter()
    wrong = 0
    with _folder(options.folder) as folder, town(folder) as there:
        print(COLUMNS, flush=True)
        for name in options.names or ATTACKS:
            one = besieged(there, name, options.seconds)
            print(one.row, flush=True)
            with (folder / "asked.jsonl").open("a") as file:
                file.writelines(f"{line}\n" for line in one.lines())
            failures.update(one.failures)
            wrong += one.num_wrong
    for failure, num in failures.items():
        print(f"not served: {num} x {failure}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
