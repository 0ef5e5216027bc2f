"""A swarm in which something goes wrong: each peer in a network of its own, its daemon real, the user at a terminal."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.nat.namespaces import within
from tests.nat.networks import networks
from tests.node.processes import STOP_TIMEOUT_S, Daemon, Swarm, run, swarm
from tests.troubles.terminal import Terminal, terminal

HOSTS = {
    "alice": "11.1.1.10",
    "boot": "12.2.2.10",
    "dora": "13.3.3.10",
    "dan": "14.4.4.10",
    "sam": "15.5.5.10",
    "sue": "16.6.6.10",
    "mallory": "17.7.7.10",
}
PORT = 29170
QUESTION = "Sara picks 6 baskets with 12 apples each. She eats 5 apples. How many apples are left?"
PASS_MS = "150"
"""Of each shard: undrafted, a token takes a third of a second, so that there is time for trouble."""
SOME = 8
"""Characters of a reply, then it has begun."""
BEGIN_S = 40.0
DRAIN_S = 45.0
"""A daemon that is told to stop ends the replies that go on, for half a minute at most."""
OVER_S = 150.0
"""No wait that ends takes so long."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the user saw. Times in seconds since the trouble began; `first_s` None: no word, it was over before one."""

    first_s: float | None
    first_words: str
    end_s: float | None
    code: int | None
    before: str
    """Text of the reply when the trouble began."""
    text: str
    """In the end."""
    last_words: str
    screen: str

    @property
    def kept(self) -> bool:
        return self.text.startswith(self.before)


@dataclass
class Scene:
    """`places`: namespaces by host."""

    made: Swarm
    places: Mapping[str, str]
    words: dict[str, tuple[str, ...]] = field(default_factory=dict)
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    peers: dict[str, str] = field(default_factory=dict)
    """Short ids by host."""
    num_users: int = 0

    def start(self, name: str, *words: str) -> Daemon:
        """As it was started before, if nothing is said."""
        self.words[name] = words or self.words[name]
        listen = f"tcp://{HOSTS[name]}:{PORT}"
        return self.made.start(name, *self.words[name], listen=listen, within=within(self.places[name]))

    def ring(self, *more: str, drafters: tuple[str, ...] = ("dora",), shard: tuple[str, ...] = ()) -> None:
        """Dora drafts, sam and sue are her stages. `more` for all, `shard` for sam and sue."""
        self.start("boot", "--role", "bootstrap", *more)
        common = ("--join", self.join, "--threads", "1", *more)
        for name in drafters:
            self.start(name, "--role", "drafter", *common)
        for name, layers in (("sam", "0:4"), ("sue", "4:8")):
            self.start(name, "--role", "shard", "--layers", layers, *common, "--emulate-ms", PASS_MS, "0", *shard)
        for name, daemon in self.made.daemons.items():
            self.peers[name] = daemon.ready["peer_id"][:12]
        end_s = now() + BEGIN_S
        while not self._is_known():
            assert now() < end_s, "they do not find each other"
            time.sleep(0.5)

    def _is_known(self) -> bool:
        """Has everybody been announced?"""
        models = json.loads(run("models", "--json", "--data-dir", str(self.made.daemons["boot"].data_dir)).stdout)
        return bool(models) and models[0]["complete"] and models[0]["drafters"] == len(self.made.daemons) - 3

    @property
    def join(self) -> str:
        return self.made.daemons["boot"].join

    def kill(self, *names: str) -> None:
        for name in names:
            self.made.daemons[name].kill()

    def stop(self, *names: str) -> None:
        """They say goodbye."""
        for name in names:
            self.made.daemons[name].process.terminate()
        for name in names:
            self.made.daemons[name].process.wait(DRAIN_S)

    def ip(self, name: str, *words: str) -> None:
        subprocess.run(["ip", "-n", self.places[name], *words], check=True)

    def cut(self, one: str, other: str) -> None:
        for here, there in ((one, other), (other, one)):
            self.ip(here, "route", "add", "blackhole", f"{HOSTS[there]}/32")

    def user(self, command: str, *words: str, join: str = "") -> Terminal:
        """`command`: run or chat."""
        self.num_users += 1
        folder = self.made.folder / f"user{self.num_users}"
        asked = (QUESTION,) if command == "run" else ()
        said = (command, *asked, "--join", join or self.join, "--draft-max", "0", "--wire", "f32", *words)
        return self.stack.enter_context(terminal(folder, *said, within=within(self.places["alice"])))

    def reply(self, command: str = "run", *words: str) -> Terminal:
        """One that has begun."""
        user = self.user(command, *words)
        if command == "chat":
            assert user.wait_for(lambda screen: "Ctrl-D" in screen, BEGIN_S), user.screen()
            user.type(QUESTION + "\n")
        assert user.wait_for(lambda screen: len(_text(screen)) >= SOME, BEGIN_S), user.screen()
        return user

    def person(self, *words: str) -> str:
        """Somebody of people.py, at mallory's host; what they say once they have begun."""
        command = [*within(self.places["mallory"]), sys.executable, "-m", "tests.troubles.people", *words]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.stack.callback(_end, process)
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line, f"{words} ended"
        return line

    def watch(self, user: Terminal, since_s: float, *, chat: bool = False) -> Seen:
        """To its end. In a chat that is the prompt after the reply."""
        before = _text(user.screen(since_s))
        if chat:
            user.wait_for(lambda screen: "error:" in screen, OVER_S)
            user.type("/bye\n")
        code = user.wait(OVER_S if not chat else STOP_TIMEOUT_S)
        shown_before = len(_words(user.screen(since_s)))
        first_s = user.first_s(lambda screen: len(_words(screen)) > shown_before, since_s)
        words = _words(user.screen())[shown_before:]
        errors_s = user.first_s(lambda screen: "error:" in screen, since_s) if chat else user.ended_s
        return Seen(
            None if first_s is None else first_s - since_s,
            words[0] if words else "",
            errors_s - since_s if errors_s else None,
            code,
            before,
            _text(user.screen()),
            words[-1] if words else "",
            user.screen(),
        )


def _words(screen: str) -> list[str]:
    """Of ours: what is waited for, and errors. (Another line than what a reply may say.)"""
    return [line for line in screen.splitlines() if line.startswith(("[", "error:"))]


def _text(screen: str) -> str:
    """Of the reply alone, as it was before it was broken by words of ours."""
    shown = screen.rpartition(QUESTION)[2] if QUESTION in screen else screen
    lines = [line for line in shown.splitlines() if not line.startswith(("[", "error:", ">"))]
    return "".join(line for line in lines if " tok · " not in line and "warning" not in line)


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


@contextlib.contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    with networks({host: (address,) for host, address in HOSTS.items()}) as places, swarm(folder) as made:
        there = Scene(made, places)
        with there.stack:
            yield there


def now() -> float:
    return time.monotonic()
