"""A laptop is carried from one home into another while a reply goes on: as client, as owner, as stage.

It leaves without a word, and comes into a home of another kind at once, or after some time without any network. All
others stay where they are, behind routers that nobody gets through. Daemons and commands are real; the text is compared
with what the same question brings where nobody moves.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from dsdnode.config import DEFAULT_LISTEN
from tests.nat.homes import Member, until_reached
from tests.nat.lab import Host, Lab, lab
from tests.nat.namespaces import within
from tests.node.processes import COMMAND, Swarm, run, swarm
from tests.troubles.terminal import Terminal, terminal

ROLES = {"client": "client", "owner": "drafter", "stage": "shard-4-8"}
OFF_S = (0.0, 10.0, 45.0, 90.0)
HOMES = ("prc", "symf")
"""From which, and into which."""
ELSEWHERE = "cgn"
ID_DIGITS = 12
PATIENCE_S = 60.0
"""Of a reply (config.py). Who is away for longer has ended it."""
PASS_MS = "150"
"""Of each shard: undrafted, a token takes a third of a second, so that there is time to move."""
QUESTION = "Sara picks 6 baskets with 12 apples each. She eats 5 apples. How many apples are left?"
SOME = 8
"""Characters of a reply, then it has begun."""
BEGIN_S = 60.0
LOOK_S = 0.25
ON_ITS_WAY_S = 0.5
OVER_S = 200.0
"""No wait that ends takes so long."""
NUM_AT_ONCE = 2
COLUMNS = (
    "| who moves | off s | goes on after s | the end | text | first words of ours | as it should be |\n"
    "|---|---|---|---|---|---|---|"
)


class Told(msgspec.Struct, frozen=True):
    row: str
    wrong: str
    screen: str


@dataclass
class Scene:
    """Some are public, and relay; the others are at home."""

    town: Lab
    people: Swarm
    folder: Path
    hosts: dict[str, Host] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)
    num_users: int = 0

    def start(self, name: str, kind: str, *words: str, command: Sequence[str] = COMMAND) -> None:
        host = self.hosts[name] = self.town.home(kind)
        join = ("--join", self.join) if self.members else ()
        begun_s, place = time.monotonic(), within(host.namespace)
        daemon = self.people.start(name, "-v", *words, *join, listen=DEFAULT_LISTEN, within=place, command=command)
        self.members.append(Member(daemon, kind, begun_s))
        assert daemon.join

    @property
    def join(self) -> str:
        return self.members[0].daemon.join

    def relay(self, name: str, command: Sequence[str] = COMMAND) -> None:
        self.start(name, "public", "--role", "bootstrap", command=command)

    def pipeline(self, kind: str) -> None:
        """The client, and all but the first stage, are in homes of that kind."""
        for name, layers, home in (("shard-0-4", "0:4", ELSEWHERE), ("shard-4-8", "4:8", kind)):
            words = ("--role", "shard", "--layers", layers, "--threads", "1", "--emulate-ms", PASS_MS, "0")
            self.start(name, home, *words)
        self.start("drafter", kind, "--role", "drafter", "--threads", "1")
        self.hosts["client"] = self.town.home(kind)
        asyncio.run(until_reached(self.members))

    def until_reached_by(self, *relays: str) -> None:
        """Until everybody has been announced, and every member at home is reached by way of these alone."""
        end_s, names = time.monotonic() + BEGIN_S, {self.peer(one) for one in relays}
        while not (self._is_complete() and all(reached == names for reached in self._reached_by())):
            assert time.monotonic() < end_s, "they do not find each other"
            time.sleep(LOOK_S)

    def peer(self, name: str) -> str:
        return str(self.people.daemons[name].ready["peer_id"])[:ID_DIGITS]

    def _is_complete(self) -> bool:
        models = json.loads(run("models", "--json", "--data-dir", str(self.members[0].daemon.data_dir)).stdout)
        return bool(models) and models[0]["complete"] and models[0]["drafters"] == 1

    def _reached_by(self) -> list[set[str]]:
        told = [one.daemon.status()["reach"] for one in self.members if one.kind != "public"]
        return [set(re.findall("by way of the relay ([0-9a-f]+)", reach)) for reach in told]

    @contextmanager
    def user(self, command: str) -> Iterator[Terminal]:
        """`command`: run or chat."""
        self.num_users += 1
        asked = (QUESTION,) if command == "run" else ()
        words = (command, *asked, "--join", self.join, "--draft-max", "0", "--wire", "f32", "--seed", "7")
        place = within(self.hosts["client"].namespace)
        with terminal(self.folder / f"user{self.num_users}", *words, within=place) as user:
            if command == "chat":
                assert user.wait_for(lambda screen: "Ctrl-D" in screen, BEGIN_S), user.screen()
                user.type(QUESTION + "\n")
            yield user

    def move(self, who: str, home: Host, off_s: float) -> float:
        """When it has its new address."""
        host = self.hosts[who]
        self.town.unplug(host)
        time.sleep(off_s)
        self.town.plug(host, home)
        return time.monotonic()


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    with lab() as town, swarm(folder) as people:
        there = Scene(town, people, folder)
        yield there


def play(role: str, off_s: float, kinds: Sequence[str]) -> Told:
    with tempfile.TemporaryDirectory() as folder, scene(Path(folder)) as there:
        for name in ("rose", "bill"):
            there.relay(name)
        there.pipeline(kinds[0])
        there.until_reached_by("rose", "bill")
        home = there.town.home(kinds[1])
        with there.user("run") as user:
            assert user.wait(OVER_S) == 0, user.screen()
            undisturbed = text_of(user.screen())
        ends = off_s > PATIENCE_S
        with there.user("chat" if ends else "run") as user:
            assert user.wait_for(lambda screen: len(text_of(screen)) >= SOME, BEGIN_S), user.screen()
            there_s = there.move(ROLES[role], home, off_s)
            return (
                _watch_again(user, there_s, role, off_s, undisturbed)
                if ends
                else _watch(user, there_s, role, off_s, undisturbed)
            )


def _watch(user: Terminal, there_s: float, role: str, off_s: float, undisturbed: str) -> Told:
    """A command, to its end."""
    code = user.wait(OVER_S)
    text, wrong = text_of(user.screen()), []
    if code != 0:
        wrong.append(f"exit {code}")
    if text != undisturbed:
        wrong.append("another text")
    pause_s = pause_s_of(user, there_s)
    return _told(user, role, off_s, pause_s, f"exit {code}", "right" if text == undisturbed else "wrong", wrong)


def _watch_again(user: Terminal, there_s: float, role: str, off_s: float, undisturbed: str) -> Told:
    """A chat, whose reply is over when the laptop is back."""
    wrong, before = [], text_of(user.screen(there_s))
    if "error:" not in user.screen(there_s):
        wrong.append("the reply was not ended")
    if not before or not undisturbed.startswith(before):
        wrong.append("the text so far is wrong")
    asked_s = time.monotonic()
    user.type("/retry\n")
    user.wait_for(lambda screen: " tok · " in screen.rpartition("/retry")[2], OVER_S)
    text = text_of(user.screen().rpartition("/retry")[2])
    if text != undisturbed:
        wrong.append("another text")
    user.type("/bye\n")
    code = user.wait(BEGIN_S)
    first_s = user.first_s(lambda screen: bool(text_of(screen.rpartition("/retry")[2])), asked_s)
    pause_s = first_s - there_s if first_s is not None else None
    return _told(
        user, role, off_s, pause_s, "in words; /retry", "right" if text == undisturbed else "wrong", wrong, code
    )


def _told(
    user: Terminal,
    role: str,
    off_s: float,
    pause_s: float | None,
    end: str,
    text: str,
    wrong: Sequence[str],
    code: int | None = 0,
) -> Told:
    words = [line for line in user.screen().splitlines() if line.startswith(("[", "error:"))]
    told = "; ".join([*wrong, *([f"exit {code}"] if code else [])])
    cells = (role, f"{off_s:g}", "-" if pause_s is None else f"{pause_s:.1f}", end, text)
    row = " | ".join((*cells, words[0].replace("|", "/") if words else "-", told or "yes"))
    return Told(f"| {row} |", told, user.screen())


def pause_s_of(user: Terminal, there_s: float) -> float | None:
    """From the new address to the end of the longest silence that had begun by then, or soon after: what was on its way
    is shown yet."""
    texts = [(seen_s, text_of(user.screen(seen_s))) for seen_s in user.moments_s]
    shown = [seen_s for (_, before), (seen_s, text) in itertools.pairwise(texts) if text != before]
    silences = [
        (one - before, one) for before, one in itertools.pairwise(shown) if before - ON_ITS_WAY_S < there_s < one
    ]
    return max(silences)[1] - there_s if silences else None


def text_of(screen: str) -> str:
    """Of a reply, without words of ours, and what was typed."""
    shown = screen.rpartition(QUESTION)[2]
    lines = [line for line in shown.splitlines() if not line.startswith(("[", "error:", ">"))]
    return "".join(line for line in lines if " tok · " not in line and "warning" not in line)


async def _apart(role: str, off_s: float, kinds: Sequence[str], at_once: asyncio.Semaphore) -> Told:
    """In a process of its own: namespaces bear its number."""
    async with at_once:
        words = ("moves", "--here", "--roles", role, "--off", f"{off_s:g}", "--homes", ",".join(kinds))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.nat", *words, stdout=asyncio.subprocess.PIPE
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.terminate()
    lines = output.splitlines()
    if process.returncode or not lines:
        return Told(f"| {role} | {off_s:g} | - | - | - | - | it could not be played |", "not played", "")
    told = msgspec.json.decode(lines[-1], type=Told)
    print(told.row, flush=True)
    return told


async def play_all(roles: Sequence[str], offs_s: Sequence[float], kinds: Sequence[str]) -> list[Told]:
    at_once = asyncio.Semaphore(NUM_AT_ONCE)
    return await asyncio.gather(*(_apart(role, off_s, kinds, at_once) for off_s in offs_s for role in roles))


def main(roles: Sequence[str], offs_s: Sequence[float], kinds: Sequence[str], here: bool, screens: bool) -> int:
    """Exit code 1: something is not as it should be."""
    if here:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # namespaces do not end with their maker
        print(msgspec.json.encode(play(roles[0], offs_s[0], kinds)).decode(), flush=True)
        return 0
    print(COLUMNS, flush=True)
    told = asyncio.run(play_all(roles, offs_s, kinds))
    for one in told if screens else ():
        print(f"\n{one.row}\n{one.screen}")
    return int(any(one.wrong for one in told))
